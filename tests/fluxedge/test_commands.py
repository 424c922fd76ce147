"""Commands on a real log and pipeline; the wire is scripted and looks at the disk when it is reached."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import typing
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxedge import commands, permissions
from fluxedge.columns import Value, json_value
from fluxedge.commands import PAYLOAD_BYTES, Commander, Request, Result, decode
from fluxedge.config.quantities import Bytes
from fluxedge.config.structs import (
    DeviceCfg,
    DriverCfg,
    LogCfg,
    ModbusOptionsCfg,
    ModbusPointCfg,
    SimulatorOptionsCfg,
    SimulatorPointCfg,
)
from fluxedge.latest import Latest
from fluxedge.log import Log
from fluxedge.log.body import Row, records
from fluxedge.model import Event, Lane
from fluxedge.permissions import Principal
from fluxedge.pipeline import Pipeline
from fluxedge.problems import ConfigProblem, DeviceProblem, LinkProblem, Problem, ProblemBook
from fluxedge.protocols import PROTOCOLS
from fluxedge.spi import Protocol, Written
from fluxedge.tasks import TaskOwner
from tests.fluxedge.log.fake_clock import FakeClock

ADMIN = Principal("peer", "uid 0 (root)", "admin")
VIEWER = Principal("tcp", "somebody", "viewer")
CLOUD = Principal("uplink", "uplink cloud", "uplink", ("pump.*",))


class Wire:
    """A poller and a protocol at once: what reaches it is written."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self.sent: list[tuple[str, Value]] = []
        self.intents_seen: list[list[tuple[str, object]]] = []  # (key, result) on the disk when the wire was reached
        self.outcome: Written | BaseException | None = None  # None: it never answers
        self.down: Problem | None = None
        self.pending: list[asyncio.Future[Written]] = []
        self.patient: list[bool] = []

    def refusal(self, device: str, *, patient: bool = False) -> Problem | None:
        return None if patient else self.down

    def order(
        self, device: str, point: str, value: Value, deadline_s: float, *, patient: bool = False
    ) -> asyncio.Future[Written]:
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            self.intents_seen.append(connection.execute("SELECT key, result FROM intents").fetchall())
        self.sent.append((point, value))
        self.patient.append(patient)
        done: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        outcome = self.outcome
        if isinstance(outcome, BaseException):
            done.set_exception(outcome)
        elif outcome is not None:
            done.set_result(outcome)
        else:
            self.pending.append(done)
        return done

    def encode(self, point: str, value: Value) -> Value:
        if point == "broken":
            raise ConfigProblem("command-refused", "broken: it is not writable")
        return value


class Desk:
    """A commander with everything behind it; can be started again on the same state."""

    def __init__(self, state: Path) -> None:
        self.clock = FakeClock()
        self.log = Log(state, LogCfg(free_space_bytes=Bytes(0)), self.clock)
        self.problems = ProblemBook(self.clock.wall_ns)
        self.pipeline = Pipeline(self.log, Latest(), self.clock, self.problems, 0.05)
        self.escaped: list[BaseException] = []
        self.owner = TaskOwner(lambda _, error: self.escaped.append(error))
        self.wire = Wire(state / "log.db")
        self.wire.outcome = Written(1, 1, True, 0)
        self.devices: dict[str, Protocol] = {"pump": typing.cast(Protocol, self.wire)}
        self.commander = Commander(self._find, self.pipeline, self.log, self.clock, self.owner.spawn)
        self.open = threading.Event()  # of the disk
        self.open.set()
        self.broken = False
        self._honest = self.log._writer._transact
        self.log._writer._transact = self._transact  # type: ignore[method-assign]

    def _transact(self, job: typing.Any) -> typing.Any:
        assert self.open.wait(20)
        if self.broken:
            raise sqlite3.OperationalError("disk I/O error")
        return self._honest(job)

    def _find(self, device: str) -> tuple[Wire, Protocol] | None:
        protocol = self.devices.get(device)
        return (self.wire, protocol) if protocol is not None else None

    async def start(self) -> Desk:
        self.owner.spawn(self.pipeline.run(), "pipeline")
        await self.commander.recover()
        return self

    async def ask(self, value: object = 1, who: Principal = ADMIN, **more: typing.Any) -> Result:
        request = Request(**{"device": "pump", "point": "speed", "value": value} | more)
        return await asyncio.wait_for(self.commander.run(who, request), 10)

    async def stop(self, *, kill: bool = False) -> None:
        self.broken = False
        self.open.set()
        if not kill:
            await self.commander.close()
            self.pipeline.stop()
        await asyncio.sleep(0 if kill else 0.1)
        await self.owner.close()
        await self.log.close()
        assert self.escaped == []

    async def events(self) -> list[Event]:
        def take(rows: list[Row], groups: typing.Any) -> list[Event]:
            return [typing.cast(Event, record.body) for row in rows for record in records(row, groups)]

        return await self.log.read(self.log.epoch, Lane.EVENTS, 1, 10**9, take)

    def intents(self) -> dict[str, object]:
        with contextlib.closing(sqlite3.connect(f"file:{self.wire.database}?mode=ro", uri=True)) as connection:
            return dict(connection.execute("SELECT key, result FROM intents"))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    made = await Desk(tmp_path).start()
    yield made
    await made.stop()


async def test_the_intent_is_on_the_disk_before_the_wire_and_the_result_before_the_answer(desk: Desk) -> None:
    result = await desk.ask(key="k1")
    assert (result.state, result.read_back, result.before) == ("done", 1, 0)
    assert desk.wire.intents_seen == [[("k1", None)]]
    stored = typing.cast(bytes, desk.intents()["k1"])
    assert msgspec.json.decode(stored, type=Result) == result
    assert [event.kind for event in await desk.events()] == ["command-intent", "command-result"]
    intent, outcome = await desk.events()
    assert intent.data == {"key": "k1", "point": "speed", "value": 1, "raw": 1, "by": "uid 0 (root)"}
    assert outcome.data == {
        "key": "k1", "point": "speed", "state": "done", "value": 1, "read_back": 1, "before": 0, "by": "uid 0 (root)",
    }  # fmt: skip


@pytest.mark.parametrize("value", [0, False, "", 0.0])
async def test_values_that_are_false_are_values_everywhere(desk: Desk, value: Value) -> None:
    desk.wire.outcome = Written(value, value, True, value)
    result = await desk.ask(value)
    assert desk.wire.sent == [("speed", value)]
    for event in await desk.events():
        assert event.data["value"] == value
        assert type(event.data["value"]) is type(value)
    assert (result.value, result.read_back, result.before) == (value, value, value)


async def test_large_integers_and_bytes_travel_as_text(desk: Desk) -> None:
    desk.wire.outcome = Written(2**63, b"\0\xff", True, -(2**60))
    result = await desk.ask(2**63)
    assert (result.value, result.read_back, result.before) == (str(2**63), "AP8=", str(-(2**60)))
    assert [event.data["value"] for event in await desk.events()] == [str(2**63)] * 2


@pytest.mark.parametrize(
    ("who", "more", "why"),
    [
        (VIEWER, {}, "somebody may not command"),
        (CLOUD, {"device": "boiler"}, "uplink cloud may not command boiler.speed"),
        (ADMIN, {"device": "boiler"}, "there is no device 'boiler'"),
        (ADMIN, {"point": "broken"}, "broken: it is not writable"),
        (ADMIN, {"expires_ms": 1}, "expired before it could be sent"),
    ],
)
async def test_a_command_that_is_refused_leaves_an_event_and_no_intent(
    desk: Desk, who: Principal, more: dict[str, typing.Any], why: str
) -> None:
    result = await desk.ask(who=who, key="k1", **more)
    assert (result.state, result.code, result.message) == ("refused", "command-refused", why)
    assert desk.wire.sent == []
    await desk.ask()  # commits what is there
    assert "k1" not in desk.intents()
    assert (await desk.events())[0].data["state"] == "refused"
    assert desk.commander.counts["refused"] == 1
    assert (await desk.ask(key="k1")).state == "done"  # a key that reached nothing may be used again


async def test_a_device_that_cannot_be_reached_costs_no_intent_unless_the_command_may_wait(desk: Desk) -> None:
    desk.wire.down = Problem("command-refused", "pump is offline")
    assert (await desk.ask()).message == "pump is offline"
    assert desk.intents() == {}
    assert (await desk.ask(wait=True)).state == "done"
    assert desk.wire.patient == [True]


async def test_an_uplink_may_command_what_it_lists(desk: Desk) -> None:
    assert (await desk.ask(who=CLOUD)).state == "done"


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Written(1, 1, True), "done"),
        (Written(1, 2, False), "sent"),
        (Written(1, None, False), "sent"),
        (DeviceProblem("illegal-value", "too much", alive=True), "failed"),
        (DeviceProblem("no-reply", "silence"), "unknown"),
        (DeviceProblem("bug", "KeyError"), "unknown"),
        (LinkProblem("link-down", "gone"), "unknown"),
        (Problem("command-unknown", "interrupted"), "unknown"),
        (Problem("command-refused", "expired before it could be sent"), "refused"),
    ],
)
async def test_the_state_says_what_is_known(desk: Desk, outcome: Written | Problem, state: str) -> None:
    desk.wire.outcome = outcome
    result = await desk.ask(key="k1")
    assert result.state == state
    assert desk.commander.counts[state] == 1
    assert desk.intents()["k1"] is not None
    assert await desk.ask(key="k1") == result
    assert len(desk.wire.sent) == 1


async def test_a_key_is_written_once_however_often_and_however_soon_it_is_repeated(desk: Desk) -> None:
    results = await asyncio.gather(*(desk.ask(key="k1") for _ in range(20)))
    assert len(desk.wire.sent) == 1
    assert all(result == results[0] for result in results)


async def test_a_key_of_another_command_is_refused(desk: Desk) -> None:
    await desk.ask(1, key="k1")
    for other in ({"value": 2}, {"value": True}, {"value": 1, "point": "mode"}):
        result = await desk.ask(**other, key="k1")
        assert (result.state, result.message) == ("refused", "the key 'k1' was used for another command")
    assert (await desk.ask(1.0, key="k1")).state == "done"  # the same number
    assert len(desk.wire.sent) == 1


async def test_who_may_not_command_learns_nothing_of_other_peoples_keys(desk: Desk) -> None:
    await desk.ask(key="k1")
    assert (await desk.ask(key="k1", who=VIEWER)).state == "refused"


async def test_a_caller_who_gives_up_does_not_stop_his_command(desk: Desk) -> None:
    desk.open.clear()
    asking = asyncio.get_running_loop().create_task(desk.ask(key="k1"))
    await asyncio.sleep(0.02)
    asking.cancel()
    await asyncio.wait([asking])
    desk.open.set()
    assert (await desk.ask(key="k1")).state == "done"
    assert len(desk.wire.sent) == 1
    assert desk.intents()["k1"] is not None


async def test_what_cannot_be_stored_is_not_sent(desk: Desk) -> None:
    desk.broken = True
    result = await desk.ask(key="k1")
    assert (result.state, "cannot be stored" in result.message) == ("refused", True)
    assert desk.wire.sent == []


async def test_an_intent_that_takes_too_long_to_store_is_not_sent(desk: Desk) -> None:
    desk.open.clear()
    result = await desk.ask(timeout_ms=30)
    assert (result.state, result.message) == ("refused", "expired before its intent was on the disk")
    desk.open.set()
    await asyncio.sleep(0.1)
    assert desk.wire.sent == []


async def test_a_device_that_changes_while_the_intent_is_stored_is_not_written(desk: Desk) -> None:
    desk.open.clear()
    asking = asyncio.get_running_loop().create_task(desk.ask())
    await asyncio.sleep(0.02)
    desk.devices["pump"] = typing.cast(Protocol, Wire(desk.wire.database))
    desk.open.set()
    result = await asking
    assert (result.state, result.message) == ("refused", "device-removed: the configuration of pump changed")
    assert desk.wire.sent == []


async def test_the_number_of_commands_under_way_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "IN_FLIGHT", 3)
    desk.wire.outcome = None
    running = [asyncio.get_running_loop().create_task(desk.ask(key=f"k{i}")) for i in range(3)]
    await asyncio.sleep(0.1)
    assert (await desk.ask()).message == "3 commands are under way; try again"
    for done in desk.wire.pending:
        done.set_result(Written(1, 1, True))
    assert {result.state for result in await asyncio.gather(*running)} == {"done"}


async def test_a_stop_in_the_middle_of_a_command_answers_unknown(tmp_path: Path) -> None:
    desk = await Desk(tmp_path).start()
    desk.wire.outcome = None
    asking = asyncio.get_running_loop().create_task(desk.ask(key="k1"))
    await asyncio.sleep(0.1)
    await desk.stop(kill=True)
    assert (await asking).state == "unknown"


async def test_a_command_without_a_result_is_unknown_after_a_restart_and_never_sent_again(tmp_path: Path) -> None:
    desk = await Desk(tmp_path).start()
    desk.wire.outcome = None
    asking = asyncio.get_running_loop().create_task(desk.ask(key="k1"))
    await asyncio.sleep(0.1)
    assert len(desk.wire.sent) == 1
    await desk.stop(kill=True)
    await asking
    for _ in range(2):  # also after another restart
        again = await Desk(tmp_path).start()
        result = await again.ask(key="k1")
        assert (result.state, result.code) == ("unknown", "command-unknown")
        assert again.wire.sent == []
        await asyncio.sleep(0.1)
        assert again.intents()["k1"] is not None
        await again.stop()


async def test_a_key_is_remembered_over_a_restart(tmp_path: Path) -> None:
    desk = await Desk(tmp_path).start()
    first = await desk.ask(key="k1")
    await desk.stop()
    again = await Desk(tmp_path).start()
    assert await again.ask(key="k1") == first
    assert again.wire.sent == []
    assert again.commander.counts["done"] == 0
    await again.stop()


async def test_a_key_that_memory_forgot_is_found_in_the_log(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "REMEMBERED", 3)
    first = await desk.ask(key="k0")
    for i in range(1, 6):
        await desk.ask(key=f"k{i}")
    assert len(desk.wire.sent) == 6
    assert await desk.ask(key="k0") == first
    assert len(desk.wire.sent) == 6


async def test_what_another_version_stored_does_not_stop_the_start(desk: Desk) -> None:
    rows = [("k1", b'{"device":"pump","colour":"red"}', None), ("k2", b"{", b"{"), ("k3", b'{"device":"a"}', None)]
    with contextlib.closing(sqlite3.connect(desk.wire.database)) as connection, connection:
        connection.executemany("INSERT INTO intents (key, at_ms, request, result) VALUES (?, 4e12, ?, ?)", rows)
    await desk.commander.recover()
    assert desk.commander.counts["unknown"] == 2
    for key, _, _ in rows:
        assert (await desk.ask(key=key)).state == "refused"  # nobody knows what it was used for
    assert desk.wire.sent == []


async def test_bytes_of_a_damaged_log_do_not_stop_the_start(desk: Desk) -> None:
    rows = [("k1", b"\xff\xfe{", None), ("k2", b'{"device":"\xff"}', None), ("k3", b"[" * 5000, b'{"key":"\xff"}')]
    with contextlib.closing(sqlite3.connect(desk.wire.database)) as connection, connection:
        connection.executemany("INSERT INTO intents (key, at_ms, request, result) VALUES (?, 4e12, ?, ?)", rows)
    await desk.commander.recover()
    assert {(await desk.ask(key=key)).state for key, _, _ in rows} == {"refused"}


async def test_commands_that_cannot_be_read_do_not_stop_the_start(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def damaged(_: object) -> typing.Any:
        raise LinkProblem("log-damaged", "x") from sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(desk.log, "look", damaged)
    await desk.commander.recover()
    assert (await desk.ask(key="k1")).state == "refused", "it may have been carried out before"


async def test_a_command_that_is_under_way_is_not_taken_for_an_interrupted_one(desk: Desk) -> None:
    desk.wire.outcome = None
    asked = asyncio.ensure_future(desk.ask(key="live"))
    while not desk.wire.pending:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    with contextlib.closing(sqlite3.connect(desk.wire.database)) as connection, connection:
        asked_before = b'{"device":"pump","point":"speed","value":1}'
        connection.execute("INSERT INTO intents VALUES ('salvaged', 1, ?, NULL)", (asked_before,))
    await desk.commander.recover()  # as when a damaged log was salvaged
    assert desk.commander.counts["unknown"] == 1
    desk.wire.pending[0].set_result(Written(1, 1, True, 0))
    assert (await asked).state == "done"
    assert (await desk.ask(key="salvaged")).state == "unknown"


async def test_any_number_of_interrupted_commands_is_answered_at_the_start(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "PAGE", 3)
    keys = [f"k{i:02}" for i in range(10)]
    asked = b'{"device":"pump","point":"speed","value":1}'
    with contextlib.closing(sqlite3.connect(desk.wire.database)) as connection, connection:
        connection.executemany("INSERT INTO intents VALUES (?, 1, ?, NULL)", [(key, asked) for key in keys])
    await desk.commander.recover()
    assert desk.commander.counts["unknown"] == 10
    assert {(await desk.ask(key=key)).state for key in keys} == {"unknown"}
    assert desk.wire.sent == []


async def test_an_interrupted_command_that_memory_forgot_is_not_sent_again(desk: Desk) -> None:
    with contextlib.closing(sqlite3.connect(desk.wire.database)) as connection, connection:
        asked = b'{"device":"pump","point":"speed","value":1}'
        connection.execute("INSERT INTO intents VALUES ('k1', 1, ?, NULL)", (asked,))
    assert (await desk.ask(key="k1")).state == "unknown"
    assert desk.wire.sent == []


async def test_repeated_refusals_are_one_event_and_a_count(desk: Desk) -> None:
    for i in range(500):
        result = await desk.ask(i, point="broken", key=f"k{i}")
        assert result.message == "broken: it is not writable"
    await desk.ask(who=VIEWER)
    assert desk.commander.counts["refused"] == 501
    await desk.commander.close()
    await desk.pipeline.submit("audit", "gateway", urgent=True)
    told = [event for event in await desk.events() if event.kind == "command-result"]
    assert [(e.data["by"], e.data.get("n", 1)) for e in told] == [
        ("uid 0 (root)", 1), ("somebody", 1), ("uid 0 (root)", 499),
    ]  # fmt: skip
    assert told[2].data["key"] == "k499"


async def test_one_principal_cannot_give_commands_without_end_and_takes_nothing_from_others(desk: Desk) -> None:
    asking = [desk.ask(i, key=f"k{i}") for i in range(permissions.COMMANDS_BURST + 30)]
    results = await asyncio.gather(*asking)
    refused = [result for result in results if result.state == "refused"]
    assert 20 <= len(refused) <= 30  # some of the second's fifty may have come meanwhile
    assert {result.code for result in refused} == {"command-refused"}
    assert {result.message for result in refused} == {"too many commands: uid 0 (root) may give 50 a second"}
    assert len(desk.wire.sent) == len(results) - len(refused)
    assert (await desk.ask(who=CLOUD)).state == "done"
    assert await desk.ask(0, key="k0") == results[0]  # the answer to a repetition is free
    await asyncio.sleep(0.05)
    assert (await desk.ask(results.index(refused[0]), key=refused[0].key)).state == "done"


async def test_commands_that_are_refused_anyway_take_nothing_from_the_allowance(desk: Desk) -> None:
    for _ in range(permissions.COMMANDS_BURST + 100):
        await desk.ask(point="broken")
    assert (await desk.ask()).state == "done"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"device":"\xff","point":"p","value":1}',
        b'{"device":"d","point":"p"}',
        b'{"device":"d","point":"p","value":null}',
        b'{"device":"d","point":"p","value":[1]}',
        b'{"device":"d","point":"p","value":{"a":1}}',
        b'{"device":"d","point":"p","value":1e999}',
        b'{"device":"d","point":"p","value":NaN}',
        b'{"device":"d","point":"p","value":' + b"9" * 30 + b"}",
        b'{"device":"d","point":"p","value":' + b"9" * 5000 + b"}",
        b'{"device":"d","point":"p","value":-' + b"9" * 20 + b"}",
        b'{"device":"d","point":"p","value":"' + b"x" * 1001 + b'"}',
        b'{"device":"d","point":"p","value":1,"colour":"red"}',
        b'{"device":"d","point":"p","value":1,"timeout_ms":0}',
        b'{"device":"d","point":"p","value":1,"timeout_ms":99999999999}',
        b'{"device":"d","point":"p","value":1,"expires_ms":-1}',
        b'{"device":"d","point":"p","value":1,"key":1}',
        b'{"device":"","point":"p","value":1}',
        b'{"device":"' + b"d" * 200 + b'","point":"p","value":1}',
        b"[" * 15_000,
        b'{"device":' + b"[" * 15_000,
        b'{"a":' * 3_000,
        b" " * (PAYLOAD_BYTES + 1),
    ],
    ids=range(27),
)
def test_a_hostile_payload_is_refused(payload: bytes) -> None:
    with pytest.raises(Problem) as caught:
        decode(payload)
    assert caught.value.code == "command-refused"
    assert len(caught.value.message) < 500


@given(st.binary(max_size=200))
def test_no_bytes_whatever_raise_anything_else(payload: bytes) -> None:
    with contextlib.suppress(Problem):
        decode(payload)


TYPES = [
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "string",
    "bytes", "bcd16", "bcd32", "bcd64",
]  # fmt: skip


def _modbus() -> Protocol:
    points = {}
    for i, kind in enumerate(TYPES):
        length = 8 if kind in ("string", "bytes") else None
        at = f"co:{i}" if kind == "bool" else f"hr:{8 * i}"
        more = {"enum": {"0": "off", "1": "on"}} if kind == "uint16" else {}
        points[kind] = ModbusPointCfg(at=at, type=kind, length=length, write=True, **more)
        if kind not in ("bool", "string", "bytes", "uint16"):
            points[f"{kind}-scaled"] = ModbusPointCfg(
                at=f"hr:{1000 + 8 * i}", type=kind, write=True, scale=0.1, offset=-3.0
            )
    driver = DriverCfg(id="d", name="d", protocol="modbus", source="s", points=points, options=ModbusOptionsCfg())
    return PROTOCOLS["modbus"][0]("m", DeviceCfg(driver="d"), driver, framing="tcp", timeout_s=1.0)


def _simulator() -> Protocol:
    kinds = typing.get_args(typing.get_type_hints(SimulatorPointCfg)["type"])
    points = {kind: SimulatorPointCfg(wave="constant", type=kind, write=True, scale=1.0) for kind in kinds}
    options = SimulatorOptionsCfg()
    driver = DriverCfg(id="d", name="d", protocol="simulator", source="s", points=points, options=options)
    return PROTOCOLS["simulator"][0]("m", DeviceCfg(driver="d"), driver, framing="", timeout_s=0.0)


NUMBERS = st.one_of(
    st.integers(-(2**63), 2**64 - 1), st.floats(), st.booleans(), st.text(max_size=20), st.sampled_from([2**63, -0.0])
)


@pytest.mark.parametrize("protocol", [_modbus(), _simulator()], ids=["modbus", "simulator"])
@given(value=NUMBERS)
def test_whatever_a_caller_asks_for_is_encoded_or_refused(protocol: Protocol, value: Value) -> None:
    for group in protocol.groups:
        for name in group.names:
            with contextlib.suppress(ConfigProblem):
                raw = protocol.encode(name, value)
                assert msgspec.msgpack.encode(json_value(raw)) is not None
