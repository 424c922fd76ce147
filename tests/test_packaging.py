"""What the Debian package says about itself is true: versions, what is bundled, licences, the unit and its folders."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

from fluxedge import apply
from fluxedge.cli import main as command_line
from fluxedge.config import sources
from fluxedge.config.load import Layout, load

ROOT = Path(__file__).resolve().parents[1]
DEBIAN = ROOT / "debian"
LOCKED = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (DEBIAN / "wheels.lock").read_text(), re.MULTILINE))
UNIT = (ROOT / "systemd" / "fluxedge.service").read_text()


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_package_has_the_version_of_the_program() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert (DEBIAN / "changelog").read_text().startswith(f"fluxedge ({version}) ")


def test_what_is_bundled_is_what_the_program_needs() -> None:
    needed: set[str] = set()
    wanted = ["fluxedge"]
    while wanted:
        for line in importlib.metadata.requires(wanted.pop()) or []:
            text, _, marker = line.partition(";")
            found = re.match(r"[A-Za-z0-9._-]+", text)
            assert found is not None
            name = plain(found[0])
            if "extra" in marker or "platform" in marker or "python" in marker or name in needed:
                continue
            needed.add(name)
            wanted.append(name)
    assert needed <= set(LOCKED)


def test_every_wheel_is_locked_for_every_python_and_architecture() -> None:
    text = (DEBIAN / "wheels.lock").read_text()
    for name in LOCKED:
        entry = text.split(f"\n{name}==")[1].split("\n\n")[0]
        entry = re.split(r"\n[a-z0-9-]+==", entry)[0]
        assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry)) in (1, 2, 4), name


def test_every_bundle_has_its_licence() -> None:
    text = (DEBIAN / "copyright").read_text()
    stanzas = {plain(name) for name in re.findall(r"^Files: wheels/\*/([A-Za-z0-9_]+)-\*", text, re.MULTILINE)}
    assert stanzas == set(LOCKED)
    used = {name for line in re.findall(r"^License: (.*)$", text, re.MULTILINE) for name in line.split(" or ")}
    written = set(re.findall(r"^License: (.*)\n ", text, re.MULTILINE))
    assert used == written


def test_the_folders_of_the_package_are_those_that_the_program_reads() -> None:
    made = set(re.findall(r"^etc/fluxedge/(\w+)", (DEBIAN / "fluxedge.dirs").read_text(), re.MULTILINE))
    made |= set(
        re.findall(r"^d /etc/fluxedge/(\w+)", (ROOT / "systemd" / "fluxedge.tmpfiles").read_text(), re.MULTILINE)
    )
    assert made == set(sources.FOLDERS)
    assert f"drivers/*.toml {str(sources.PACKAGED_DRIVERS)[1:]}" in (DEBIAN / "fluxedge.install").read_text()


def test_the_shipped_main_file_is_safe_and_its_options_exist(tmp_path: Path) -> None:
    text = (DEBIAN / "fluxedge.toml").read_text()
    assert tomllib.loads(text) == {"gateway": {}, "log": {}, "api": {}}
    everything = re.sub(r"^# (?=\[|\w+ +=|\w+ *= )", "", text, flags=re.MULTILINE)
    (tmp_path / "fluxedge.toml").write_text(everything)
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "cloud").write_text("secret")
    (tmp_path / "credentials" / "cloud").chmod(0o600)
    loaded = load(Layout(tmp_path), apply.findings)
    assert loaded.mistakes == ()
    assert set(loaded.config.uplinks) == {"cloud"}


def test_the_unit_does_not_restart_on_the_exit_code_of_a_bad_configuration() -> None:
    assert f"RestartPreventExitStatus={command_line.BAD_CONFIG}\n" in UNIT
