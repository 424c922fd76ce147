"""The child: questions in, frames out; small, and gone with its standard input."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fluxedge.log.history.query import Question, Reading, Refused
from fluxedge.log.history.reader import DATA, END, FRAME, NONE, Answerer
from tests.fluxedge.log.conftest import OpenLog
from tests.fluxedge.log.history.reference import BASE_NS, HOUR, fill, rounds

ASKED = Question("raw", ("b.temp",), BASE_NS - 9 * HOUR, BASE_NS + 9 * HOUR, BASE_NS + 9 * HOUR)


def frames(data: bytes) -> list[tuple[bytes, bytes]]:
    found = []
    while data:
        kind, length = FRAME.unpack_from(data)
        found.append((kind, data[FRAME.size : FRAME.size + length]))
        data = data[FRAME.size + length :]
    return found


async def log_of(open_log: OpenLog, count: int = 50) -> Path:
    rng = random.Random(1)
    log = open_log()
    await fill(log, rounds(rng, count), rng)
    return log.path.parent


async def test_an_answer_is_frames_of_lines_and_an_end(open_log: OpenLog) -> None:
    state = await log_of(open_log)
    out = bytearray()
    answerer = Answerer(state, out.extend)
    answerer.answer(msgspec.json.encode(ASKED))
    *data, end = frames(bytes(out))
    assert {kind for kind, _ in data} == {DATA}
    assert end == (END, b"")
    lines = [json.loads(line) for _, payload in data for line in payload.splitlines()]
    assert list(lines[0]) == ["head"]
    assert lines[-1]["end"]["rows"] == len(lines) - 2 > 0
    answerer.close()


async def test_a_refusal_says_why_and_the_next_question_is_answered(open_log: OpenLog) -> None:
    state = await log_of(open_log)
    out = bytearray()
    answerer = Answerer(state, out.extend)
    answerer.answer(msgspec.json.encode(msgspec.structs.replace(ASKED, points=("b.nix",))))
    ((kind, payload),) = frames(bytes(out))
    assert kind == NONE
    assert json.loads(payload)["code"] == "not-found"
    answerer.answer(msgspec.json.encode(ASKED))
    assert frames(bytes(out))[-1] == (END, b"")
    answerer.close()


async def test_too_little_memory_is_a_refusal(open_log: OpenLog, monkeypatch: pytest.MonkeyPatch) -> None:
    state = await log_of(open_log)

    def greedy(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Reading, "answer", greedy)
    out = bytearray()
    answerer = Answerer(state, out.extend)
    answerer.answer(msgspec.json.encode(ASKED))
    assert "memory" in json.loads(frames(bytes(out))[0][1])["text"]


async def test_a_log_that_was_replaced_is_opened_anew(open_log: OpenLog, tmp_path: Path) -> None:
    state = await log_of(open_log, 10)
    out = bytearray()
    answerer = Answerer(state, out.extend)
    answerer.answer(msgspec.json.encode(ASKED))
    for name in ("log.db", "log.db-wal", "log.db-shm"):
        (state / name).unlink(missing_ok=True)
    out.clear()
    answerer.answer(msgspec.json.encode(ASKED))
    assert "there is no log" in json.loads(frames(bytes(out))[0][1])["text"]
    with pytest.raises(Refused):
        Reading(state)


async def test_the_process_answers_until_its_input_ends_and_does_not_load_the_daemon(open_log: OpenLog) -> None:
    state = await log_of(open_log)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "fluxedge.log.history.reader", str(state)],
        input=(msgspec.json.encode(ASKED) + b"\n") * 2,
        capture_output=True,
        timeout=20,
        check=True,
    )
    assert [kind for kind, _ in frames(done.stdout)].count(END) == 2
    assert done.stderr == b""


def test_the_child_does_not_load_the_daemon() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, fluxedge.log.history.reader; print(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    ).stdout.split()
    heavy = {"asyncio", "aiohttp", "aiosqlite", "gmqtt", "fluxedge.log.store", "fluxedge.config", "fluxedge.app"}
    assert heavy.isdisjoint(loaded)
