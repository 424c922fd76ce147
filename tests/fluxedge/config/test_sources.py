"""What cannot be read, and where directories are; whole files are in test_load."""

from __future__ import annotations

import os
import typing
from pathlib import Path

import pytest

from fluxedge.config.sources import Layout, SourceFile, shipped_driver_dirs

if typing.TYPE_CHECKING:
    from tests.fluxedge.config.conftest import Site


def test_in_a_checkout_the_shipped_drivers_are_beside_the_package() -> None:
    directories = shipped_driver_dirs()
    assert [directory.name for directory in directories] == ["drivers"]


def test_the_standard_layout_knows_systemds_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/fluxedge.service")
    layout = Layout.standard(Path("/etc/fluxedge"), Path("/var/lib/fluxedge"))
    assert layout.credential_dirs == (Path("/etc/fluxedge/credentials"), Path("/run/credentials/fluxedge.service"))
    assert layout.layers == (Path("/etc/fluxedge"), Path("/var/lib/fluxedge/site"))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    layout = Layout.standard(Path("/etc/fluxedge"), None)
    assert (layout.credential_dirs, layout.layers) == ((Path("/etc/fluxedge/credentials"),), (Path("/etc/fluxedge"),))


def test_a_key_that_is_not_there_has_the_line_of_its_table() -> None:
    source = SourceFile("a.toml", "[a]\nx = 1\n[a.b]\ny = 2\n")
    assert [source.line(path) for path in [("a", "x"), ("a", "z"), ("a", "b", "z", 0), ("q",), ()]] == [2, 1, 3, 1, 1]


def test_what_the_system_refuses_to_read_is_a_mistake(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = site.write("devices/a.toml", "")
    read_bytes = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path == broken:
            raise PermissionError(13, "Permission denied")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert [mistake.text() for mistake in site.load().mistakes] == [
        "devices/a.toml: cannot be read: Permission denied — Let the user fluxedge read it."
    ]


def test_a_pipe_in_the_place_of_a_file_does_not_stop_the_loader(site: Site) -> None:
    (site.folder / "devices").mkdir()
    os.mkfifo(site.folder / "devices" / "a.toml")
    assert [mistake.message for mistake in site.load().mistakes] == [
        "is neither a file nor a directory; a file is wanted"
    ]


def test_files_of_the_site_are_named_in_full(site: Site) -> None:
    folder = site.state / "site" / "devices"
    folder.mkdir(parents=True)
    (folder / "web.toml").write_text("[devices.m1]\nx = 1\n")
    assert {mistake.file for mistake in site.load().mistakes} == {str(folder / "web.toml")}


def test_a_driver_cannot_be_named_by_a_path(site: Site) -> None:
    site.write("outside.toml", 'name = "x"\nprotocol = "host"\nsource = "none"\npoints.a.metric = "cpu"\n')
    site.write("devices/a.toml", f'[devices.m1]\ndriver = "../{site.folder.name}/outside"\n')
    assert [mistake.path for mistake in site.load().mistakes] == ["devices.m1.driver"]
