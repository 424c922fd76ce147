"""Records of the quarantine that an operator wants to be sent once more."""

from __future__ import annotations

import asyncio
import json
import typing
from pathlib import Path

from fluxedge.log import Batch, quarantine
from fluxedge.log.damage import LogFault
from fluxedge.model import Group, Lane, Point
from fluxedge.problems import LinkProblem, Refused
from fluxedge.spi import Message
from tests.conftest import Mosquitto
from tests.fluxedge.scripted_broker import Peer as BrokerPeer
from tests.fluxedge.scripted_broker import Published, ScriptedBroker, until
from tests.fluxedge.uplinks.peer import DOWN, Bench, Outcome, Peer, accept
from tests.fluxedge.uplinks.road import Road
from tests.system.consumer import Consumer

TEXT = Group("m", "texts", (Point("t", "s"),))


def refuse_poison(message: Message) -> Outcome:
    return Refused({message.lo: "payload format invalid"}) if b"poison" in message.payload else None


async def rows(bench: Bench | Road) -> list[tuple[typing.Any, ...]]:
    await bench.log.save_cursors()
    return await bench.log.look(
        lambda c: c.execute("SELECT lo, hi, tries, again, reason FROM quarantine ORDER BY id").fetchall()
    )


async def mark_all(bench: Bench | Road) -> None:
    await bench.log.save_cursors()
    numbers = [kept.id for kept in await bench.log.look(quarantine.page)]
    await bench.log.write(lambda c: quarantine.mark(c, numbers))


async def refused(bench: Bench, *texts: str) -> Peer:
    """Return the peer of an uplink that has had records refused."""
    peer = Peer(refuse_poison)
    bench.start(peer)
    await bench.commit(*texts)
    await bench.delivered()
    return peer


async def test_a_marked_record_is_sent_as_it_was_and_its_row_goes_when_it_is_acknowledged(bench: Bench) -> None:
    peer = await refused(bench, "a", "poison", "b")
    (payload,) = [m.payload for m in peer.sent if b"poison" in m.payload]
    await mark_all(bench)
    peer.answer = accept
    bench.forwarder.retry_quarantine()
    await until(lambda: len(peer.sent) == 4)
    again = peer.sent[-1]
    assert (again.lo, again.hi, again.payload, again.historical) == (2, 2, payload, True)
    for _ in range(200):
        if not await rows(bench):
            break
    assert await rows(bench) == []
    assert len(peer.sessions) == 1


async def test_refused_records_stand_as_a_problem_until_the_last_of_them_is_delivered(bench: Bench) -> None:
    peer = await refused(bench, "poison", "poison two")
    await mark_all(bench)
    peer.answer = lambda message: None if message.lo == 1 else Refused({message.lo: "no"})
    bench.forwarder.retry_quarantine()
    await until(lambda: len(peer.sent) == 4 and not bench.forwarder._retries._outcomes)
    assert [row[:4] for row in await rows(bench)] == [(2, 2, 2, 0)]
    assert bench.standing() == {"record-refused"}
    peer.answer = accept
    await mark_all(bench)
    bench.forwarder.retry_quarantine()
    await until(lambda: bench.standing() == set())


async def test_what_was_refused_a_moment_ago_and_is_not_in_the_table_yet_stands(bench: Bench) -> None:
    peer = await refused(bench, "poison")
    await mark_all(bench)
    peer.answer = accept
    bench.log.aside.append(("cloud", 1, Lane.ROUNDS, 9, 9, "no", 5, "", b"x"))
    bench.forwarder.retry_quarantine()
    await until(lambda: len(peer.sent) == 2 and not bench.forwarder._retries._outcomes)
    await bench.forwarder.rows_gone()
    assert bench.standing() == {"record-refused"}
    bench.log.aside.clear()
    await bench.forwarder.rows_gone()
    assert bench.standing() == set()


async def test_what_nobody_marked_is_not_sent(bench: Bench) -> None:
    peer = await refused(bench, "a", "poison")
    await bench.log.save_cursors()
    bench.forwarder.retry_quarantine()
    peer.sessions[0].die(DOWN)
    await until(lambda: len(peer.sessions) == 2)
    await bench.commit("b")
    await bench.delivered()
    assert peer.seqs() == [1, 2, 3]
    assert await rows(bench) == [(2, 2, 1, 0, "payload format invalid")]


async def test_a_record_that_is_refused_again_stays_and_is_not_tried_for_ever(bench: Bench) -> None:
    peer = await refused(bench, "poison", "poison two")
    await mark_all(bench)
    bench.forwarder.retry_quarantine()
    await until(lambda: len(peer.sent) == 4)
    await until(lambda: not bench.forwarder._retries._outcomes)
    assert await rows(bench) == [(seq, seq, 2, 0, "payload format invalid") for seq in (1, 2)]
    bench.forwarder.retry_quarantine()
    await bench.commit("fine")
    await bench.delivered()
    assert len(peer.sent) == 5


async def test_rows_that_were_marked_while_nobody_was_connected_go_with_the_next_session(bench: Bench) -> None:
    peer = await refused(bench, "poison")
    bench.pauses.go.clear()
    peer.answer = accept
    peer.sessions[0].die(DOWN)
    await mark_all(bench)
    bench.forwarder.retry_quarantine()
    bench.pauses.go.set()
    await until(lambda: len(peer.sent) == 2)
    await until(lambda: not bench.forwarder._retries._outcomes)
    assert await rows(bench) == []


async def test_a_row_whose_session_ended_before_its_acknowledgement_is_sent_again(bench: Bench) -> None:
    peer = await refused(bench, "poison")
    await mark_all(bench)
    told: list[Message] = []

    def silent(message: Message) -> Outcome:
        told.append(message)
        raise LookupError

    peer.answer = silent
    bench.forwarder.retry_quarantine()
    await until(lambda: told)
    assert (await rows(bench))[0][:4] == (1, 1, 1, 1)
    peer.answer = accept
    peer.sessions[0].die(DOWN)
    await until(lambda: len(peer.sent) == 3)
    await until(lambda: not bench.forwarder._retries._outcomes)
    assert await rows(bench) == []


async def test_another_uplinks_rows_are_left_alone(bench: Bench) -> None:
    await refused(bench, "poison")
    other = Peer()
    bench.start(other, "other", start="newest")
    await mark_all(bench)
    bench.forwarder.retry_quarantine()
    await bench.commit("fine")
    await bench.delivered("other")
    assert other.seqs() == [2]


async def test_live_records_go_on_while_rows_are_sent_again(bench: Bench) -> None:
    peer = await refused(bench, *["poison"] * 20)
    await mark_all(bench)
    peer.answer = accept
    bench.forwarder.retry_quarantine()
    await bench.commit("live")
    await bench.delivered()
    await until(lambda: len(peer.sent) == 41)
    await until(lambda: not bench.forwarder._retries._outcomes)
    assert await rows(bench) == []


async def test_a_row_that_still_kills_the_connection_is_given_up_again(tmp_path: Path) -> None:
    def kill(peer: BrokerPeer, published: Published) -> None:
        if published.topic.endswith("rounds") and 3 in [r["seq"] for r in json.loads(published.payload)["records"]]:
            peer.drop()

    async with ScriptedBroker(on_publish=kill) as broker:
        road = Road(tmp_path, [broker.port])
        await road.commit(6)
        await until(lambda: road.delivered == 5, 20)
        await mark_all(road)
        connects = len(broker.connects)
        road.forwarder.retry_quarantine()
        await until(lambda: len(broker.connects) > connects)
        while (await rows(road))[0][3]:  # again
            await road.commit(1)
        assert [(lo, hi, tries, again) for lo, hi, tries, again, _ in await rows(road)] == [(3, 3, 2, 0)]
        head = road.log.heads[Lane.ROUNDS]
        await until(lambda: not next(iter(road.log.cursors.of("cloud", Lane.ROUNDS)))[1].intersect(1, head))
        await road.close()


async def test_a_quarantine_that_cannot_be_read_does_not_stop_what_is_live(bench: Bench) -> None:
    peer = Peer()
    bench.start(peer)
    await until(lambda: peer.sessions)
    bench.query("ALTER TABLE quarantine RENAME TO lost")
    bench.forwarder.retry_quarantine()
    await bench.commit("live")
    await bench.delivered()
    assert len(peer.sessions) == 1
    bench.query("ALTER TABLE lost RENAME TO quarantine")


async def test_an_outcome_that_cannot_be_written_is_written_later(bench: Bench) -> None:
    peer = await refused(bench, "poison")
    await mark_all(bench)
    peer.answer = accept
    write, failing = bench.log.write, True

    async def maybe(job: typing.Any) -> typing.Any:
        if failing:
            raise LogFault("log-write-failed", "full")
        return await write(job)

    bench.log.write = maybe  # type: ignore[method-assign]
    bench.forwarder.retry_quarantine()
    await until(lambda: len(peer.sent) == 2)
    await bench.commit("live")
    await bench.delivered()
    assert (await rows(bench))[0][:4] == (1, 1, 1, 1)
    bench.forwarder.retry_quarantine()
    await bench.commit("live")
    await bench.delivered()
    assert peer.seqs() == [1, 1, 2, 3]  # not sent once more meanwhile
    failing = False
    await bench.commit("live")
    await until(lambda: not bench.forwarder._retries._outcomes)
    assert await rows(bench) == []


async def test_rows_that_a_peer_without_a_named_limit_finds_too_large_cost_one_connection(bench: Bench) -> None:
    peer = await refused(bench, *["poison" + "x" * 3000] * 20, "poison")
    await mark_all(bench)

    def limited(message: Message) -> Outcome:
        if len(message.payload) > 3000:
            return LinkProblem("uplink-throttled", "packet too large", advice="smaller-messages")
        return None

    peer.answer = limited
    bench.forwarder.retry_quarantine()
    while any(row[3] for row in await rows(bench)):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert [row[:4] for row in await rows(bench)] == [(seq, seq, 2, 0) for seq in range(1, 21)]
    assert len(peer.sessions) == 2


# --- on a broker ------------------------------------------------------------------------------------------------------


async def unmarked(road: Road) -> list[tuple[typing.Any, ...]]:
    """Return the rows when none of them is to be sent any more."""
    while any(row[3] for row in await rows(road)):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return [row[:4] for row in await rows(road)]


async def enlarge(road: Road, text: str) -> None:
    batch = Batch()
    road.log.add_round(batch, TEXT.round((text,), road.clock.wall_ns(), road.clock.mono_ns()))
    await road.log.commit(batch)


async def test_a_real_broker_gets_what_it_had_found_too_large_when_its_limit_is_raised(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path, ("max_packet_size 1000",)).start()
    road = Road(tmp_path, [broker.port])
    await enlarge(road, "x" * 2000)
    await enlarge(road, "small")
    await until(lambda: road.delivered == 1 and road.forwarder.counters.refused == 1)
    await mark_all(road)
    road.forwarder.retry_quarantine()
    assert await unmarked(road) == [(1, 1, 2, 0)]
    assert road.forwarder.counters.sessions == 1, "what is too large costs no connection"

    broker.stop()
    unlimited = Mosquitto(tmp_path, port=broker.port).start()
    consumer = Consumer(broker.port, ("fluxedge/gw/rounds",))
    try:
        await mark_all(road)
        road.forwarder.retry_quarantine()
        await until(lambda: consumer.payloads, 20)
        assert await unmarked(road) == []
        assert b"x" * 2000 in consumer.payloads[0][1]
    finally:
        consumer.close()
        await road.close()
        unlimited.close()
        broker.close()


async def test_a_row_that_a_broker_without_a_named_limit_finds_too_large_goes_back_at_once(tmp_path: Path) -> None:
    async with ScriptedBroker() as broker:
        broker.code_of = lambda published: 0x99 if published.topic.endswith("rounds") else 0
        road = Road(tmp_path, [broker.port])
        await road.commit(3)
        await until(lambda: road.forwarder.counters.refused == 3)
        broker.code_of = lambda published: 0x95 if published.topic.endswith("rounds") else 0
        await mark_all(road)
        connects = len(broker.connects)
        road.forwarder.retry_quarantine()
        await until(lambda: len(broker.connects) == connects + 1)
        assert await unmarked(road) == [(1, 3, 2, 0)]
        broker.code_of = None
        await road.commit(1)
        await until(lambda: road.delivered == 1)
        assert len(broker.connects) == connects + 1
        await road.close()
