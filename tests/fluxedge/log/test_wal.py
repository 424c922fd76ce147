"""The end of the WAL: what SQLite passes over in silence is noticed, and a new epoch begins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fluxedge.log import wal
from fluxedge.log.database import Opened, open_log, write_witness
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem
from tests.fluxedge.log.fake_clock import FakeClock

FRAME = 24 + 1024
CHILD = """
import os, sys
from pathlib import Path
from fluxedge.log.body import Row
from fluxedge.log.database import open_log
from fluxedge.log.segments import Segment, append, create
from fluxedge.model import Lane
from fluxedge.problems import LinkProblem
from tests.fluxedge.log.fake_clock import FakeClock
state = Path(sys.argv[1])
opened = open_log(state / "log.db", state / "log.witness", FakeClock())
segment = Segment(Lane.ROUNDS, 1, opened.epoch, 1, 0, 0)
create(opened.connection, segment)
for seq in range(1, 31):
    append(opened.connection, segment, Row(opened.epoch, Lane.ROUNDS, seq, 1, 1, 0, 0, bytes(200)), 0)
os._exit(0)
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Leave a log of thirty commits in the WAL behind, as kill -9 does."""
    subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], check=True)
    assert wal.size_of(tmp_path / "log.db") > 30 * FRAME
    return tmp_path


def reopen(state: Path) -> Opened:
    opened = open_log(state / "log.db", state / "log.witness", FakeClock())
    opened.connection.close()
    write_witness(state / "log.witness", state / "log.db", opened.epoch, opened.heads)  # as Log.close does
    return opened


def change(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def test_a_log_that_was_killed_goes_on_in_its_epoch(state: Path) -> None:
    opened = reopen(state)
    assert (opened.new_epoch_because, opened.heads[Lane.ROUNDS]) == ("", 30)


def test_a_commit_that_was_cut_short_is_no_damage(state: Path) -> None:
    path = state / "log.db-wal"
    with path.open("ab") as file:  # frames without the last one of their commit, and a torn one
        salts = path.read_bytes()[16:24]
        file.write((b"\0\0\0\1" + b"\0\0\0\0" + salts).ljust(FRAME, b"\7") + b"\0\0\0\1")
    opened = reopen(state)
    assert (opened.new_epoch_because, opened.heads[Lane.ROUNDS]) == ("", 30)


def test_frames_of_an_earlier_round_through_the_file_are_no_damage(state: Path) -> None:
    with (state / "log.db-wal").open("ab") as file:
        file.write((b"\0\0\0\1" + b"\0\0\0\7" + b"othersal").ljust(FRAME, b"\7") * 5)
    assert reopen(state).new_epoch_because == ""


def test_a_flipped_byte_in_the_wal_begins_a_new_epoch(state: Path) -> None:
    frames = (wal.size_of(state / "log.db") - 32) // FRAME
    change(state / "log.db-wal", 32 + (frames - 8) * FRAME + 24 + 700, b"\xa5\x5a\xa5")
    opened = reopen(state)
    assert "the end of the log was lost" in opened.new_epoch_because
    assert "commits at the end of its WAL are damaged" in opened.new_epoch_because
    assert opened.heads[Lane.ROUNDS] == 0


def test_a_damaged_header_of_the_wal_begins_a_new_epoch(tmp_path: Path) -> None:
    first = reopen(tmp_path)  # folds the schema in
    subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], check=True)
    change(tmp_path / "log.db-wal", 17, b"\xff\xfe")
    opened = reopen(tmp_path)
    assert opened.epoch > first.epoch
    assert opened.new_epoch_because == "the end of the log was lost: the header of its WAL is damaged"


def test_a_log_that_is_in_a_damaged_wal_as_a_whole_is_damaged_and_not_written_over(state: Path) -> None:
    change(state / "log.db-wal", 17, b"\xff\xfe")
    before = (state / "log.db-wal").read_bytes()
    with pytest.raises(LinkProblem, match="its first pages are damaged"):
        reopen(state)
    assert (state / "log.db-wal").read_bytes() == before


@pytest.mark.parametrize("kept", [0, 32 + 5 * FRAME, None])
def test_a_wal_that_is_missing_or_shorter_than_the_witness_saw_it_begins_a_new_epoch(
    tmp_path: Path, kept: int | None
) -> None:
    first = reopen(tmp_path)  # folds the WAL in
    subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], check=True)
    path = tmp_path / "log.db-wal"
    witness_bytes = wal.size_of(tmp_path / "log.db")
    write_witness(tmp_path / "log.witness", tmp_path / "log.db", first.epoch, {Lane.ROUNDS: 0, Lane.EVENTS: 0})
    if kept is None:
        path.unlink()
    else:
        with path.open("r+b") as file:
            file.truncate(kept)
    opened = reopen(tmp_path)
    assert opened.epoch > first.epoch
    assert f"{witness_bytes - (kept or 0)} bytes of its WAL are missing" in opened.new_epoch_because


def test_no_wal_has_no_end(tmp_path: Path) -> None:
    assert (wal.size_of(tmp_path / "log.db"), wal.broken_end(tmp_path / "log.db")) == (0, "")


LOCKS = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 128)  # what SQLite asks for before it cuts the index short
"""


def test_looking_at_a_log_that_is_open_gives_up_no_lock(state: Path) -> None:
    opened = open_log(state / "log.db", state / "log.witness", FakeClock())
    try:
        assert wal.broken_end(state / "log.db") == ""
        command = [sys.executable, "-c", LOCKS, str(state / "log.db-shm")]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        opened.connection.close()
    assert "BlockingIOError" in refused.stderr
