"""Migrations: every older schema is brought up whole, with a copy kept, or stays as it was."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
import typing
from pathlib import Path

import pytest

from fluxedge.clock import boot_id, machine_id
from fluxedge.log import migrations
from fluxedge.log.database import SCHEMA, Opened, connect, open_log, read_witness, write_witness
from fluxedge.model import OPEN_END, Lane
from fluxedge.problems import LinkProblem
from tests.fluxedge.log.fake_clock import FakeClock

HERE = Path(__file__).parent
EPOCH = 1_700_000_000_000
QUARANTINED = [
    ("up", EPOCH, 0, 5, 5, "0x99", 1000, b"[1]"),
    ("up", EPOCH, 0, 9, 11, "0x90", 500, b"[2]"),
    ("other", EPOCH, 1, 5, 5, "0x99", 1000, b"\x00\xff"),
]


def schema_1(state: Path) -> Path:
    """Make a log as a gateway of schema 1 left it behind."""
    path = state / "log.db"
    connection = connect(path)
    connection.executescript((HERE / "schema_1.sql").read_text())
    meta = {"schema": 1, "epoch": EPOCH, "machine": machine_id(), "boot": 3, "boot_id": boot_id(), "opened_ms": 7}
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    connection.execute("INSERT INTO segments (lane, number, epoch, first, created_ms) VALUES (0, 1, ?, 1, 5)", (EPOCH,))
    connection.execute(
        "CREATE TABLE rounds_001 (seq INTEGER PRIMARY KEY, n INTEGER NOT NULL, boot INTEGER NOT NULL, mono_ms INTEGER"
        " NOT NULL, from_ns INTEGER NOT NULL, to_ns INTEGER NOT NULL, codec INTEGER NOT NULL, crc INTEGER NOT NULL,"
        " body BLOB NOT NULL) STRICT"
    )
    connection.execute("INSERT INTO rounds_001 VALUES (1, 30, 3, 0, 0, 0, 0, 0, x'01')")
    connection.execute("INSERT INTO todo VALUES ('up', ?, 0, 12, ?)", (EPOCH, OPEN_END))
    connection.executemany("INSERT INTO quarantine VALUES (?, ?, ?, ?, ?, ?, ?, ?)", QUARANTINED)
    connection.execute("INSERT INTO intents VALUES ('k', 1, x'7B7D', NULL)")
    connection.execute("INSERT INTO clock VALUES (3, 1, 2, 'ntp')")
    connection.execute("INSERT INTO state VALUES ('a', x'00')")
    connection.close()
    write_witness(state / "log.witness", path, EPOCH, {Lane.ROUNDS: 30, Lane.EVENTS: 0}, 3)
    return path


def opened(state: Path) -> Opened:
    found = open_log(state / "log.db", state / "log.witness", FakeClock())
    found.connection.close()
    write_witness(state / "log.witness", state / "log.db", found.epoch, found.heads)
    return found


def rows(path: Path, question: str) -> list[tuple[typing.Any, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(question).fetchall()
    finally:
        connection.close()


def shape(path: Path) -> dict[str, object]:
    """Return what each table of a file looks like, however its SQL is laid out."""
    names = [name for (name,) in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")]
    listed = {name: rest for _, name, _, *rest in rows(path, "PRAGMA table_list")}
    return {
        name: (
            rows(path, f"PRAGMA table_xinfo({name})"),
            [found[2:] for found in rows(path, f"PRAGMA index_list({name})")],
            listed[name],
        )
        for name in names
        if not name.startswith(("rounds_", "events_"))
    }


def test_a_log_of_schema_1_goes_on_with_everything_that_it_held(tmp_path: Path) -> None:
    path = schema_1(tmp_path)
    found = opened(tmp_path)
    assert (found.epoch, found.new_epoch_because, found.boot) == (EPOCH, "", 3)
    assert found.heads[Lane.ROUNDS] == 30
    asked = "SELECT uplink, epoch, lane, lo, hi, reason, at_ms, payload FROM quarantine ORDER BY uplink, lo"
    assert rows(path, asked) == sorted(QUARANTINED)
    assert rows(path, "SELECT DISTINCT content_type, tries, again FROM quarantine") == [("application/json", 1, 0)]
    assert rows(path, "SELECT lo, hi FROM todo") == [(12, OPEN_END)]
    assert rows(path, "SELECT key, result FROM intents") == [("k", None)]
    assert rows(path, "SELECT * FROM clock") == [(3, 1, 2, "ntp")]
    assert rows(path, "SELECT seq, n FROM rounds_001") == [(1, 30)]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_an_older_log_ends_with_the_tables_of_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    opened(tmp_path / "new")
    path = schema_1(tmp_path)
    opened(tmp_path)
    assert shape(path) == shape(tmp_path / "new" / "log.db")


def test_every_schema_before_this_one_has_a_step() -> None:
    assert sorted(migrations.STEPS) == list(range(1, SCHEMA))


def test_a_copy_of_the_log_as_it_was_is_kept_and_the_one_before_goes(tmp_path: Path) -> None:
    path = schema_1(tmp_path)
    (tmp_path / "log.schema-0.db").write_bytes(b"of long ago")
    before = rows(path, "SELECT * FROM quarantine")
    found = opened(tmp_path)
    kept = tmp_path / "log.schema-1.db"
    assert str(kept) in found.migrated
    assert [file.name for file in tmp_path.glob("log.schema*")] == [kept.name]
    assert rows(kept, "SELECT v FROM meta WHERE k = 'schema'") == [(1,)]
    assert rows(kept, "SELECT * FROM quarantine") == before
    assert opened(tmp_path).migrated == ""
    assert kept.exists()


def test_what_is_still_in_the_wal_is_in_the_copy_and_in_the_log(tmp_path: Path) -> None:
    path = schema_1(tmp_path)
    code = (
        "import os, sys; from pathlib import Path; from fluxedge.log.database import connect\n"
        "c = connect(Path(sys.argv[1])); c.execute(\"INSERT INTO state VALUES ('late', x'01')\"); os._exit(1)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 1
    assert (tmp_path / "log.db-wal").stat().st_size > 0
    found = opened(tmp_path)
    assert (found.epoch, found.new_epoch_because) == (EPOCH, "")
    for file in (path, tmp_path / "log.schema-1.db"):
        assert ("late",) in rows(file, "SELECT k FROM state")


def test_a_copy_that_is_put_back_is_taken_for_a_restored_log(tmp_path: Path) -> None:
    path = schema_1(tmp_path)
    opened(tmp_path)
    (tmp_path / "log.schema-1.db").rename(path)
    found = opened(tmp_path)
    assert found.epoch > EPOCH
    assert "restored" in found.new_epoch_because


def test_no_room_for_a_copy_does_not_stop_the_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema_1(tmp_path)
    monkeypatch.setattr(migrations, "ROOM_BYTES", 2**62)
    found = opened(tmp_path)
    assert "no copy was kept: the disk has no room" in found.migrated
    assert list(tmp_path.glob("log.schema*")) == []
    assert found.heads[Lane.ROUNDS] == 30


def test_a_copy_that_takes_too_long_does_not_stop_the_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema_1(tmp_path)
    monkeypatch.setattr(migrations, "COPY_S", -1.0)
    monkeypatch.setattr(migrations, "_COPIED_AT_ONCE", 1)
    (tmp_path / "log.schema-0.db").write_bytes(b"of long ago")
    assert "took longer" in opened(tmp_path).migrated
    assert [file.name for file in tmp_path.glob("log.schema*")] == ["log.schema-0.db"], "the old one is all there is"


def test_a_copy_that_cannot_be_written_does_not_stop_the_gateway(tmp_path: Path) -> None:
    schema_1(tmp_path)
    (tmp_path / "log.schema.new").mkdir()
    assert "no copy was kept" in opened(tmp_path).migrated


def test_a_newer_schema_is_refused_and_no_byte_of_it_is_touched(tmp_path: Path) -> None:
    path = schema_1(tmp_path)
    code = (
        "import os, sys; from pathlib import Path; from fluxedge.log.database import connect\n"
        "c = connect(Path(sys.argv[1])); c.execute(\"UPDATE meta SET v = 99 WHERE k = 'schema'\"); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    files = [path, tmp_path / "log.db-wal", tmp_path / "log.witness"]
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]
    with pytest.raises(LinkProblem, match=f"has schema 99, this version of fluxedge knows {SCHEMA}") as caught:
        opened(tmp_path)
    assert caught.value.code == "log-write-failed"
    assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in files] == before


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE meta SET v = 0 WHERE k = 'schema'",
        "UPDATE meta SET v = -1 WHERE k = 'schema'",
        "UPDATE meta SET v = 'two' WHERE k = 'schema'",
        "UPDATE meta SET v = 2 WHERE k = 'schema'",  # it has not its tables
        "DROP TABLE quarantine",
        "CREATE TABLE compacted (epoch INTEGER)",
        "DROP TABLE meta",
    ],
)
def test_a_schema_that_is_unknown_or_half_there_is_damage(tmp_path: Path, change: str) -> None:
    path = schema_1(tmp_path)
    connection = connect(path)
    connection.execute(change)
    connection.close()
    with pytest.raises(LinkProblem) as caught:
        opened(tmp_path)
    assert caught.value.code == "log-damaged"
    assert "quarantine_1" not in {name for (name,) in rows(path, "SELECT name FROM sqlite_master")}


SLOWLY = """
import os, signal, sys
from pathlib import Path
from fluxedge.clock import SystemClock
from fluxedge.log import database, migrations

stop, state = int(sys.argv[1]), Path(sys.argv[2])
class Dying:
    def __init__(self, connection):
        self.connection, self.count = connection, 0
    def __getattr__(self, name):
        return getattr(self.connection, name)
    def execute(self, text, *more):
        self.count += 1
        if self.count > stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.connection.execute(text, *more)
    def backup(self, *args, **more):
        return self.connection.backup(*args, **more)

migrations.bring_up(Dying(database.connect(state / "log.db")), state / "log.db")
"""


def test_kill_9_at_any_statement_leaves_schema_1_or_2_whole(tmp_path: Path) -> None:
    seen = set()
    for stop in range(18):
        state = tmp_path / str(stop)
        state.mkdir()
        path = schema_1(state)
        done = subprocess.run([sys.executable, "-c", SLOWLY, str(stop), str(state)], check=False, capture_output=True)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        ((schema,),) = rows(path, "SELECT v FROM meta WHERE k = 'schema'")
        seen.add((schema, done.returncode))
        assert len(rows(path, "SELECT * FROM quarantine")) == len(QUARANTINED)
        found = opened(state)
        assert (found.epoch, found.heads[Lane.ROUNDS]) == (EPOCH, 30)
        assert rows(path, "SELECT v FROM meta WHERE k = 'schema'") == [(SCHEMA,)]
    assert {(1, -signal.SIGKILL), (2, 0)} <= seen


def test_an_older_log_of_64_mib_opens_within_seconds(tmp_path: Path) -> None:
    path = schema_1(tmp_path)
    connection = connect(path)
    connection.execute("BEGIN")
    for seq in range(31, 31 + 64):
        connection.execute("INSERT INTO rounds_001 VALUES (?, 1, 3, 0, 0, 0, 0, 0, ?)", (seq, os.urandom(2**20)))
    connection.execute("COMMIT")
    connection.close()
    began_s = time.monotonic()
    opened(tmp_path)
    assert time.monotonic() - began_s < 10
    assert (tmp_path / "log.schema-1.db").stat().st_size > 64 * 2**20


def test_the_witness_remembers_the_boot_for_a_log_that_is_lost(tmp_path: Path) -> None:
    schema_1(tmp_path)
    opened(tmp_path)
    (tmp_path / "log.db").unlink()
    assert opened(tmp_path).boot == 3
    witness = read_witness(tmp_path / "log.witness")
    assert witness is not None
    assert (witness.boot, witness.boot_id) == (3, boot_id())


def test_a_disk_that_does_not_tell_its_room_costs_the_copy_and_not_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> typing.NoReturn:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(migrations.os, "statvfs", fail)
    with contextlib.closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        said = migrations.keep_copy(connection, tmp_path / "log.db", tmp_path / "log.schema-1.db")
    assert said == "no copy was kept: [Errno 5] Input/output error"
