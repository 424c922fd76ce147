"""Opening log.db: settings, lock, schema, boots, epochs and their witness."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import msgspec
import pytest

from fluxedge.log import database
from fluxedge.log.body import Row
from fluxedge.log.database import Opened, Witness, connect, lock, open_log, read_witness, write_witness
from fluxedge.log.segments import Segment, append, create
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem
from tests.fluxedge.log.fake_clock import START_NS, FakeClock

CLOCK = FakeClock()


def reopen(state: Path, epoch_ns: int = START_NS) -> Opened:
    clock = FakeClock()
    clock.now_ns = epoch_ns
    opened = open_log(state / "log.db", state / "log.witness", clock)
    opened.connection.close()
    write_witness(state / "log.witness", state / "log.db", opened.epoch, opened.heads)  # as Log.close does
    return opened


def write(state: Path, epoch: int, first: int, count: int) -> None:
    """Put one row of `count` records into the lane of rounds."""
    connection = connect(state / "log.db")
    segment = Segment(Lane.ROUNDS, first, epoch, first, 0, first - 1)
    create(connection, segment)
    append(connection, segment, Row(epoch, Lane.ROUNDS, first, count, 1, 0, 0, b""), 0)
    connection.close()


def test_the_writer_is_safe_against_a_power_cut(tmp_path: Path) -> None:
    connection = connect(tmp_path / "log.db")
    asked = ("synchronous", "journal_mode", "page_size", "auto_vacuum", "wal_autocheckpoint", "secure_delete")
    found = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in asked}
    connection.close()
    assert found == {
        "synchronous": 2,  # FULL
        "journal_mode": "wal",
        "page_size": 1024,
        "auto_vacuum": 0,
        "wal_autocheckpoint": 1000,
        "secure_delete": 0,
    }


def test_settings_that_sqlite_does_not_take_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in ("synchronous = NORMAL", "journal_mode = DELETE"):
        name = broken.split()[0]
        pragmas = [broken if pragma.startswith(name) else pragma for pragma in database.WRITER_PRAGMAS]
        monkeypatch.setattr(database, "WRITER_PRAGMAS", pragmas)
        with pytest.raises(LinkProblem, match="WAL with FULL is needed"):
            connect(tmp_path / f"{name}.db")
        monkeypatch.undo()


def test_a_fresh_log_begins_an_epoch_of_unix_milliseconds(tmp_path: Path) -> None:
    opened = reopen(tmp_path)
    assert opened.epoch == START_NS // 10**6
    assert (opened.boot, opened.segments, opened.new_epoch_because) == (1, [], "")
    assert opened.heads == {Lane.ROUNDS: 0, Lane.EVENTS: 0}


def test_a_log_that_is_opened_again_goes_on(tmp_path: Path) -> None:
    first = reopen(tmp_path)
    write(tmp_path, first.epoch, 1, 25)
    second = reopen(tmp_path, START_NS + 10**15)
    assert (second.epoch, second.new_epoch_because) == (first.epoch, "")
    assert second.heads[Lane.ROUNDS] == 25
    assert second.boot == first.boot
    witness = read_witness(tmp_path / "log.witness")
    assert witness is not None
    assert witness.heads == {"rounds": 25, "events": 0}


def test_an_epoch_is_larger_than_the_one_before_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = reopen(tmp_path)
    monkeypatch.setattr(database, "machine_id", lambda: "another")
    second = reopen(tmp_path, 0)
    assert second.epoch == first.epoch + 1
    assert "another machine" in second.new_epoch_because
    assert reopen(tmp_path, 0).new_epoch_because == ""


def test_boots_are_counted_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boots = []
    for boot in ("a", "a", "b", "b", "c"):
        monkeypatch.setattr(database, "boot_id", lambda boot=boot: boot)
        boots.append(reopen(tmp_path).boot)
    assert boots == [1, 1, 2, 2, 3]


def test_a_log_that_was_rolled_back_begins_a_new_epoch(tmp_path: Path) -> None:
    first = reopen(tmp_path)
    write(tmp_path, first.epoch, 1, 10)
    backup = (tmp_path / "log.db").read_bytes()
    write(tmp_path, first.epoch, 11, 10)
    reopen(tmp_path)  # the witness sees 20
    (tmp_path / "log.db").write_bytes(backup)  # the same file, an older content
    second = reopen(tmp_path)
    assert second.epoch > first.epoch
    assert second.new_epoch_because == "rounds end at 10, their witness saw 20"
    assert second.heads[Lane.ROUNDS] == 0, "a new epoch counts from 1"


def test_a_state_folder_that_was_restored_whole_begins_a_new_epoch(tmp_path: Path) -> None:
    state, backup = tmp_path / "state", tmp_path / "backup"
    state.mkdir()
    first = reopen(state)
    write(state, first.epoch, 1, 10)
    reopen(state)
    shutil.copytree(state, backup)
    second = reopen(backup)
    assert second.epoch > first.epoch
    assert "copied or restored" in second.new_epoch_because


def test_a_log_older_than_its_witness_begins_a_new_epoch(tmp_path: Path) -> None:
    first = reopen(tmp_path)
    write_witness(tmp_path / "log.witness", tmp_path / "log.db", first.epoch + 50, {})
    second = reopen(tmp_path, 0)
    assert second.epoch == first.epoch + 51
    assert "older than its witness" in second.new_epoch_because


def test_a_log_that_is_gone_while_its_witness_is_not_begins_a_later_epoch(tmp_path: Path) -> None:
    first = reopen(tmp_path)
    (tmp_path / "log.db").unlink()
    second = reopen(tmp_path, 0)
    assert second.epoch == first.epoch + 1
    assert "gone" in second.new_epoch_because


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"\xff\xfe", b'{"epoch": "x"}', b"[]"])
def test_a_witness_that_is_missing_or_garbage_is_no_evidence(tmp_path: Path, content: bytes | None) -> None:
    first = reopen(tmp_path)
    path = tmp_path / "log.witness"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    second = reopen(tmp_path)
    assert (second.epoch, second.new_epoch_because) == (first.epoch, "")
    assert read_witness(path) is not None, "it is written again"


def test_a_witness_that_fell_behind_is_no_evidence(tmp_path: Path) -> None:
    first = reopen(tmp_path)
    old = Witness(first.epoch - 1, "somewhere", {"rounds": 10**9}, 1)
    (tmp_path / "log.witness").write_bytes(msgspec.json.encode(old))
    assert reopen(tmp_path).new_epoch_because == ""


def test_a_witness_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    reopen(tmp_path)
    before = (tmp_path / "log.witness").read_bytes()
    (tmp_path / "log.new").mkdir()
    write_witness(tmp_path / "log.witness", tmp_path / "log.db", 1, {})
    assert (tmp_path / "log.witness").read_bytes() == before


def test_a_newer_schema_is_refused_in_clear_words(tmp_path: Path) -> None:
    reopen(tmp_path)
    connection = connect(tmp_path / "log.db")
    connection.execute("UPDATE meta SET v = 99 WHERE k = 'schema'")
    connection.close()
    with pytest.raises(LinkProblem, match=r"has schema 99, this version of fluxedge knows 2") as caught:
        reopen(tmp_path)
    assert "another version" in caught.value.hint


def test_a_database_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "log.db")
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(LinkProblem, match="no log of fluxedge"):
        reopen(tmp_path)
    connection = sqlite3.connect(tmp_path / "log.db")
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    connection.close()


@pytest.mark.parametrize("damage", ["text", "header", "middle"])
def test_a_damaged_file_is_a_problem_and_no_traceback(tmp_path: Path, damage: str) -> None:
    reopen(tmp_path)
    path = tmp_path / "log.db"
    body = bytearray(path.read_bytes())
    if damage == "text":
        body = bytearray(b"this is no database at all, but long enough to look like one" * 100)
    elif damage == "header":
        body[0:16] = b"\0" * 16
    else:
        body[100:] = b"\xaa" * (len(body) - 100)
    path.write_bytes(body)
    with pytest.raises(LinkProblem) as caught:
        reopen(tmp_path)
    assert caught.value.code in ("log-damaged", "log-write-failed")
    assert caught.value.hint


def test_a_folder_that_does_not_exist_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(LinkProblem, match="unable to open"):
        reopen(tmp_path / "nowhere")
    with pytest.raises(LinkProblem, match="log-write-failed"):
        lock(tmp_path / "nowhere" / "log.lock")


def as_nobody(code: str, *arguments: object) -> str:
    """Run code in a process that root's rights do not help; return what it prints."""
    drop = "import os; os.getuid() or (os.setgroups([]), os.setgid(65534), os.setuid(65534))\n"
    head = "import sys; from pathlib import Path\nimport fluxedge.log.database as d\nd.migrations.tables()\n"
    text = f"{head}{drop}{textwrap.dedent(code)}"
    command = [sys.executable, "-c", text, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path.cwd()).stdout


TRY = """
from fluxedge.clock import SystemClock
from fluxedge.problems import LinkProblem
state = Path(sys.argv[1])
try:
    d.open_log(state / "log.db", state / "log.witness", SystemClock()).connection.close()
except LinkProblem as problem:
    print(problem.code, "|", problem.message, "|", problem.hint)
"""


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_folder_or_file_that_may_not_be_written_says_so(what: str) -> None:
    with tempfile.TemporaryDirectory() as name:  # tmp_path lies below a folder that only its owner may enter
        state = Path(name)
        if what == "file":
            reopen(state)
            (state / "log.db").chmod(0o444)
        state.chmod(0o777 if what == "file" else 0o555)
        told = as_nobody(TRY, state)
    assert told.startswith("log-write-failed")
    assert "Is the folder writable for the user" in told


def test_two_gateways_do_not_share_a_log(tmp_path: Path) -> None:
    first = lock(tmp_path / "log.lock")
    with pytest.raises(LinkProblem, match="another fluxedge is using"):
        lock(tmp_path / "log.lock")
    first.close()
    lock(tmp_path / "log.lock").close()


def test_what_the_witness_saw_and_the_log_has_not_is_told(tmp_path: Path) -> None:
    first = reopen(tmp_path)
    write(tmp_path, first.epoch, 1, 10)
    write_witness(tmp_path / "log.witness", tmp_path / "log.db", first.epoch, {Lane.ROUNDS: 25, Lane.EVENTS: 4})
    assert reopen(tmp_path).missing == [(first.epoch, Lane.ROUNDS, 11, 25), (first.epoch, Lane.EVENTS, 1, 4)]
    assert reopen(tmp_path).missing == []


def test_a_log_that_is_no_file_is_damage(tmp_path: Path) -> None:
    (tmp_path / "log.db").mkdir()
    with pytest.raises(LinkProblem, match="is no file") as caught:
        reopen(tmp_path)
    assert caught.value.code == "log-damaged"


def test_an_empty_file_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "log.db").touch()
    assert reopen(tmp_path).new_epoch_because == ""
    (tmp_path / "log.db").write_bytes(b"")
    assert "gone" in reopen(tmp_path).new_epoch_because


@pytest.mark.parametrize("page", [1, 2])
def test_a_look_at_a_log_changes_no_byte(tmp_path: Path, page: int) -> None:
    reopen(tmp_path)
    path = tmp_path / "log.db"
    body = bytearray(path.read_bytes())
    body[(page - 1) * 1024 + 100 : page * 1024] = b"\xaa" * 924
    path.write_bytes(body)
    with pytest.raises(LinkProblem):
        reopen(tmp_path)
    assert path.read_bytes() == body


def test_the_log_knows_under_which_name_it_was_sent(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    assert database.remembered_id(path) == ""
    reopen(tmp_path)
    assert database.remembered_id(path) == ""
    connection = connect(path)
    for name in ("gw-1", "gw-2"):
        database.remember_id(connection, name)
        assert database.remembered_id(path) == name
    connection.close()
    for content in (b"", b"garbage" * 999):
        path.write_bytes(content)
        assert database.remembered_id(path) == ""


def test_an_opening_that_fails_leaves_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(database.segments, "load", broken)
    with pytest.raises(LinkProblem, match="disk I/O error"):
        reopen(tmp_path)
    monkeypatch.undo()
    connection = sqlite3.connect(tmp_path / "log.db")
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    connection.close()
    assert reopen(tmp_path).boot == 1
