"""`fluxedge doctor`: with a gateway that runs, without one, and what leaves the machine."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import tarfile
from pathlib import Path

import click
import pytest

from fluxedge.cli import doctor as module
from fluxedge.cli.doctor import lines
from fluxedge.doctor.findings import bad, note, ok
from tests.fluxedge.api.running import Running
from tests.fluxedge.cli.conftest import verb
from tests.fluxedge.cli.sites import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "site").mkdir()
    return Folder(tmp_path / "site")


def subjects(output: str, verdict: str) -> list[str]:
    """Return the subjects of findings of a kind in the JSON output."""
    findings = [finding for found in json.loads(output)["findings"].values() for finding in found]
    return [finding["subject"] for finding in findings if finding["verdict"] == verdict]


async def test_a_stopped_gateway_without_anything_is_a_list_and_exit_code_1(folder: Folder) -> None:
    done = await verb("doctor", *folder.options)
    assert done.exit_code == 1
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert "Software\n" in done.stdout
    assert "it does not run: no socket at" in done.stdout
    assert " bad\n" in done.stdout


async def test_a_running_gateway_is_told_from_a_stopped_one(run: Running, folder: Folder) -> None:
    folder.write("fluxedge.toml", "")
    done = await verb("doctor", *folder.options, "--socket", str(run.socket), "--json")
    assert "gateway" in subjects(done.stdout, "ok")
    assert "devices" in subjects(done.stdout, "ok")
    found = json.loads(done.stdout)
    assert found["ok"] is (found["counts"]["bad"] == 0)
    assert done.exit_code == (0 if found["ok"] else 1)


async def test_the_socket_of_the_configuration_is_asked(run: Running, folder: Folder) -> None:
    folder.write("fluxedge.toml", f'[api]\nsocket = "{run.socket}"\n')
    done = await verb("doctor", "--config", str(folder.etc), "--json")
    assert "gateway" in subjects(done.stdout, "ok")


async def test_a_user_without_a_gateway_of_his_own_asks_about_the_installed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed, own = tmp_path / "installed", tmp_path / "home" / ".local/state/fluxedge"
    installed.mkdir()
    monkeypatch.setattr(module.places, "STATE", installed)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert module._state(None) == installed
    assert module._state(tmp_path) == tmp_path
    own.mkdir(parents=True)
    assert module._state(None) == own


async def test_it_changes_nothing_and_opens_neither_the_log_nor_a_serial_port(run: Running, folder: Folder) -> None:
    names = [folder.state / name for name in ("log.db", "log.db-wal", "log.db-shm", "log.lock", "ttyUSB0")]
    for path in names:
        os.mkfifo(path)  # whoever opened one would wait for ever
    folder.write("fluxedge.toml", "")
    folder.write("devices/a.toml", f'[devices.m]\ndriver = "eastron-sdm120"\nchannel = "serial://{names[-1]}"\n')
    before = {path: path.lstat() for path in [folder.state, *folder.state.rglob("*")]}
    done = await asyncio.wait_for(verb("doctor", *folder.options, "--socket", str(run.socket), "--json"), 60)
    assert [subject.split("-")[0] for subject in subjects(done.stdout, "bad")] == ["port serial"]
    after = {path: path.lstat() for path in [folder.state, *folder.state.rglob("*")]}
    assert [(path, s.st_mtime_ns, s.st_size) for path, s in before.items()] == [
        (path, s.st_mtime_ns, s.st_size) for path, s in after.items()
    ]
    assert list(run.gateway.problems) == []


# --- the bundle -------------------------------------------------------------------------------------------------------

SECRETS = {
    "in-the-credential-77": "the credential's content",
    "written-in-place-of-a-name": "a password written where its name belongs",
    "inurl-p%40ss/word": "in a broker's URL",
    "inurl-p@ss/word": "... decoded",
    "user-as-access-token-99": "a user name that is a token",
    "secret-of-an-unknown-key": "behind a key that does not exist",
    "a-very-long-token-" + "x" * 60: "that messages cut short",
    "MC4CAQAwBQYDK2VwBCIEIPrivateKeyBytes": "a private key",
    "in-a-broken-file-5": "in a file that is no TOML",
    "old-secret-in-last-good": "in what was applied last",
    "channel-password-1": "in a channel's URL",
}
BROKEN = 'password = "in-a-broken-file-5"\n[devices.x\n'


def hostile(folder: Folder) -> None:
    """Put secrets wherever a user could have put one."""
    folder.write(
        "fluxedge.toml",
        f"""
        [uplinks.good]
        url = "mqtts://127.0.0.1:1"
        username = "user-as-access-token-99"
        password = "broker"
        [uplinks.good.tls]
        certificate = "own.crt"
        key = "own.key"
        [uplinks.inplace]
        url = "mqtt://127.0.0.1:1"
        username = "ann"
        password = "written-in-place-of-a-name"
        [uplinks.inurl]
        url = "mqtt://ann:inurl-p%40ss/word@127.0.0.1:1"
        [uplinks.unknown]
        url = "mqtt://127.0.0.1:1"
        token = "secret-of-an-unknown-key"
        [uplinks.long]
        url = "mqtt://127.0.0.1:1"
        password = "{"a-very-long-token-" + "x" * 60}"
        format = "{"a-very-long-token-" + "x" * 60}"
        """,
    )
    folder.write("credentials/broker", "in-the-credential-77\n")
    key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIPrivateKeyBytes\n-----END PRIVATE KEY-----\n"
    folder.write("credentials/own.key", key)
    folder.write("credentials/own.crt", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    folder.write("devices/broken.toml", BROKEN)
    folder.write(
        "devices/c.toml",
        """
        [devices.m]
        driver = "eastron-sdm120"
        channel = "tcp://ann:channel-password-1@127.0.0.1:1"
        label = "in-the-credential-77"
        """,
    )
    last_good = folder.state / "last-good" / "config.json"
    last_good.parent.mkdir()
    table = {"url": "mqtt://127.0.0.1:1", "username": "a", "password": "old-secret-in-last-good"}
    items = {"uplink:inplace": {"file": "fluxedge.toml", "table": table}}
    last_good.write_text(json.dumps({"format": 1, "items": items}))


def unpacked(path: Path) -> dict[str, str]:
    found = {}
    with tarfile.open(path) as archive:
        for entry in archive:
            file = archive.extractfile(entry)
            assert file is not None
            found[entry.name.partition("/")[2]] = file.read().decode()
    return found


async def test_no_secret_of_a_hostile_configuration_gets_into_the_bundle(folder: Folder, tmp_path: Path) -> None:
    hostile(folder)
    shown = await verb("check", *folder.options)
    assert "written-in-place-of-a-name" in shown.stdout  # the mistakes themselves do show it
    file = tmp_path / "bundle.tar.gz"
    done = await verb("doctor", *folder.options, "--bundle", str(file))
    assert done.exit_code == 1
    found = unpacked(file)
    assert {"README.txt", "report.txt", "report.json", "config.json"} <= set(found)
    for name, text in found.items():
        for secret, what in SECRETS.items():
            for form in (secret, json.dumps(secret)[1:-1], secret[:12]):
                assert form not in text, f"{name}: {what}"
    assert "is not the name of a credential" in found["report.txt"] or "no credential" in found["report.txt"]


async def test_a_bundle_of_a_running_gateway_has_what_whoever_helps_needs(
    run: Running, folder: Folder, tmp_path: Path
) -> None:
    folder.write("fluxedge.toml", "")
    file = tmp_path / "bundle.tar.gz"
    done = await verb("doctor", *folder.options, "--socket", str(run.socket), "--bundle", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert f"Written: {file}" in done.stdout
    found = unpacked(file)
    wanted = {"version", "status", "problems", "devices", "channels", "uplinks", "queue", "config", "report"}
    assert {f"{name}.json" for name in wanted} <= set(found)
    assert json.loads(found["status.json"])["gateway"]["id"] == "gw-test"
    assert json.loads(found["config.json"])["devices"]["boiler-1"]["driver"] == "boiler"
    assert "fluxedge_" in found["metrics.txt"]
    assert "hunter2" not in "".join(found.values())
    assert "answers" not in json.loads(found["report.json"])["facts"]["daemon"]


async def test_what_a_stopped_gateway_cannot_say_is_listed_as_left_out(folder: Folder, tmp_path: Path) -> None:
    folder.write("fluxedge.toml", "")
    file = tmp_path / "bundle.tar.gz"
    await verb("doctor", *folder.options, "--bundle", str(file))
    readme = unpacked(file)["README.txt"]
    assert "  status.json      the gateway did not say: no socket at" in readme
    assert "  metrics.txt      the gateway did not say:" in readme


async def test_a_bundle_that_cannot_be_written_says_why(folder: Folder, tmp_path: Path) -> None:
    done = await verb("doctor", *folder.options, "--bundle", str(tmp_path / "none" / "b.tar.gz"))
    assert done.exit_code == 1
    assert "No such file or directory" in done.stderr


# --- what it looks like -----------------------------------------------------------------------------------------------

LONG = "a sentence that goes on for so long that no terminal of eighty columns could show it in one line of its own"
FOUND = {
    "Disk": [ok("disk", "20 GiB are free"), note("wear", LONG, LONG)],
    "Buses": [bad("port a-channel-with-a-long-name", "there is none", "Plug it in.")],
}


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_no_line_is_longer_than_the_terminal(columns: int) -> None:
    shown = [click.unstyle(line) for line in lines(FOUND, columns)]
    assert max(map(len, shown)) <= columns
    assert " ".join(" ".join(shown).replace("->", "").split()).count(LONG) == 2  # nothing of text and remedy is lost


def test_elsewhere_than_on_a_terminal_a_finding_is_one_line() -> None:
    shown = [click.unstyle(line) for line in lines(FOUND, 0)]
    assert f"  note  wear                  {LONG}" in shown
    assert any(line.strip() == f"-> {LONG}" for line in shown)


def test_a_long_subject_has_a_line_of_its_own_and_texts_stay_aligned() -> None:
    shown = [click.unstyle(line) for line in lines(FOUND, 80)]
    at = shown.index("  bad   port a-channel-with-a-long-name")
    assert shown[at + 1].index("there") == next(line for line in shown if "20 GiB" in line).index("20 GiB")


def test_what_files_and_peers_wrote_cannot_steer_the_terminal() -> None:
    (heading, line, _) = lines({"Disk": [bad("a\x1b[2J", "b\x1b]0;title\x07\r\nc", "")]}, 0)
    assert "\x1b[2J" not in line
    assert "\x07" not in line
    assert "\r" not in line
    assert heading


def test_the_width_is_the_terminals_within_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.width() == 0  # under test no terminal reads
    monkeypatch.setattr(module.sys.stdout, "isatty", lambda: True)
    for columns, wide in ((20, 40), (80, 80), (300, 120)):
        monkeypatch.setattr(shutil, "get_terminal_size", lambda columns=columns: os.terminal_size((columns, 24)))
        assert module.width() == wide
