"""What cannot be read, and where directories are; whole files are in test_load."""

from __future__ import annotations

import os
import re
import typing
from pathlib import Path

import pytest

from fluxedge.config import last_good
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


def test_a_name_that_is_not_utf8_is_a_mistake_and_what_is_remembered_can_be_written(site: Site) -> None:
    for folder in ("devices", "drivers", "credentials"):
        (site.folder / folder).mkdir(exist_ok=True)
        path = os.fsencode(site.folder / folder) + b"/\xff\xfe.toml"
        with open(path, "wb") as file:
            file.write(b'[devices.a]\ndriver = "waves"\n')
    loaded = site.load()
    found = {mistake.file: (mistake.message, mistake.hint) for mistake in loaded.mistakes}
    words = ("the file's name is not UTF-8, so that nothing can name it", "Rename it.")
    assert found == {f"{folder}/\\xff\\xfe.toml": words for folder in ("devices", "drivers", "credentials")}
    assert "device:a" not in loaded.items
    last_good.remember(site.layout, loaded)


def test_a_file_with_thousands_of_mistakes_is_told_in_a_hundred(site: Site) -> None:
    site.write("devices/a.toml", "".join(f"[devices.m{i}]\nx = 1\n" for i in range(300)))
    told = [mistake for mistake in site.load().mistakes if mistake.file == "devices/a.toml"]
    assert len(told) == 101
    assert re.fullmatch(r"and \d+ more mistakes", told[-1].message)
