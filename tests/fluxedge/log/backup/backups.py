"""A gateway's two directories with something in each, and short ways to save and restore them."""

from __future__ import annotations

import io
import sqlite3
import tarfile
from pathlib import Path

from fluxedge.log import Batch, Log
from fluxedge.log.backup.archive import Checked, Manifest, check
from fluxedge.log.backup.restoring import plan, restore
from fluxedge.log.backup.saving import Wanted, save
from fluxedge.model import Lane
from tests.fluxedge.log.fake_clock import event_of, group_of, round_of

R, E = Lane.ROUNDS, Lane.EVENTS
GROUP = group_of("Hs")


def site(folder: Path) -> Path:
    """Make a configuration directory."""
    for name, text in {
        "fluxedge.toml": '[gateway]\nid = "gw"\n', "devices/一号.toml": "# hall\n", "credentials/broker": "hunter2\n",
        "devices/" + "deep/" * 30 + "note.toml": "# far\n",
    }.items():  # fmt: skip
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def leave_state(state: Path) -> None:
    """Put what a gateway keeps beside its log into a state directory."""
    (state / "gateway-id").write_text("gw-1234\n")
    for name in ("last-good/config.json", "site/devices/x.toml"):
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).write_text(name)
    day(state / "history" / "2026-05-29.db", 3)


def day(path: Path, value: int) -> None:
    """Make a history file that holds one number."""
    path.parent.mkdir(exist_ok=True)
    connection = sqlite3.connect(path)
    connection.executescript(f"CREATE TABLE IF NOT EXISTS t (a); DELETE FROM t; INSERT INTO t VALUES ({value});")
    connection.close()


async def fill(log: Log, count: int, *, events: int = 1) -> None:
    """Commit some rounds, each in a batch of its own, and events."""
    for number in range(count):
        batch = Batch()
        log.add_round(batch, round_of(GROUP, number, "x" * 50))
        for _ in range(events):
            log.add_event(batch, event_of())
        await log.commit(batch)


def saved(wanted: Wanted, path: Path) -> Manifest:
    """Save to a file."""
    with path.open("wb") as file:
        return save(file, wanted, path.parent, 1_780_000_000_000_000)


def checked(path: Path) -> Checked:
    """Check a file; it stays open as long as the result is used."""
    return check(io.BytesIO(path.read_bytes()))


def put_back(path: Path, config: Path, state: Path) -> list[Path]:
    """Restore a file."""
    found = checked(path)
    return restore(found, plan(found, config, state))


def tar(*members: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    """Return a tar of these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as made:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                made.addfile(member, io.BytesIO(bytes(member.size)))
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                made.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()
