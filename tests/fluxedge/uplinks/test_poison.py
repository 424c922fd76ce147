"""A record that kills the connection is found and set aside; a bad link, and a broker that takes nothing, are not."""

from __future__ import annotations

import json
import math
import random
import typing
from pathlib import Path

import pytest

from fluxedge.config.quantities import Bytes
from fluxedge.log import Batch
from fluxedge.model import Lane
from fluxedge.uplinks.delivery import Delivery
from fluxedge.uplinks.poison import Piece, State, Suspicion
from tests.fluxedge.log.fake_clock import event_of
from tests.fluxedge.scripted_broker import Peer, Published, ScriptedBroker, until
from tests.fluxedge.uplinks.road import Road

ROUNDS = "fluxedge/gw/rounds"


def piece(lo: int, hi: int, lane: Lane = Lane.ROUNDS, row: int = 0) -> Piece:
    return Piece(9, lane, lo, hi, row)


# --- the table --------------------------------------------------------------------------------------------------------


def suspected(*pieces: Piece) -> Suspicion:
    """Return the state after two deaths with the same pieces under way."""
    suspicion = Suspicion()
    assert suspicion.died(list(pieces)) is None
    assert suspicion.state is State.FREE
    assert suspicion.died(list(pieces)) is None
    assert suspicion.state is State.TESTING
    assert suspicion.suspect == pieces[0]
    return suspicion


def test_two_deaths_with_the_same_oldest_record_make_it_a_suspect() -> None:
    suspected(piece(5, 8), piece(9, 12))


def test_a_death_with_nothing_under_way_changes_nothing() -> None:
    suspicion = Suspicion()
    for _ in range(5):
        assert suspicion.died([]) is None
    assert suspicion.state is State.FREE
    suspicion = suspected(piece(5, 8))
    suspicion.died([])
    assert (suspicion.state, suspicion.suspect) == (State.TESTING, piece(5, 8))


@pytest.mark.parametrize(
    "other", [piece(9, 12), piece(5, 8, Lane.EVENTS), piece(5, 8, row=3), Piece(8, Lane.ROUNDS, 5, 8)]
)
def test_deaths_with_different_oldest_records_are_a_bad_link(other: Piece) -> None:
    suspicion = Suspicion()
    for _ in range(5):
        suspicion.died([piece(5, 8)])
        suspicion.died([other])
    assert suspicion.state is State.FREE


def test_a_record_that_is_under_way_again_behind_younger_ones_is_blamed_too() -> None:
    """Each session begins with what is live, of which every broken connection makes some: its events."""
    suspicion = Suspicion()
    suspicion.died([piece(7, 7, Lane.EVENTS), piece(5, 8)])
    suspicion.died([piece(9, 9, Lane.EVENTS), piece(6, 8, Lane.EVENTS), piece(5, 8)])
    assert suspicion.state is State.TESTING


def test_who_is_acknowledged_alone_is_innocent() -> None:
    suspicion = suspected(piece(5, 8), piece(9, 12))
    assert suspicion.passed(piece(5, 8)) is None
    assert suspicion.suspect == piece(9, 12)
    assert suspicion.passed(piece(9, 12)) is None
    assert (suspicion.state, suspicion.suspect) == (State.FREE, None)


def test_a_suspect_that_had_to_be_cut_goes_on_with_its_rest() -> None:
    suspicion = suspected(piece(5, 8))
    assert suspicion.passed(piece(5, 6)) is None
    assert suspicion.suspect == piece(7, 8)


def test_several_records_are_split_in_halves() -> None:
    suspicion = suspected(piece(1, 8))
    assert suspicion.died([piece(1, 8)]) is None
    assert suspicion.suspect == piece(1, 4)
    suspicion.passed(piece(1, 4))  # then it must be in the other half, which is split at once
    assert suspicion.suspect == piece(5, 6)


def test_a_single_record_is_set_aside_when_others_go_through() -> None:
    suspicion = suspected(piece(1, 2))
    suspicion.died([piece(1, 2)])
    suspicion.passed(piece(1, 1))
    assert suspicion.died([piece(2, 2)]) == Piece(9, Lane.ROUNDS, 2, 2, guilty=True)
    assert suspicion.state is State.FREE


def test_a_single_record_needs_a_control_before_it_is_set_aside() -> None:
    suspicion = suspected(piece(3, 3), piece(4, 4))
    assert suspicion.died([piece(3, 3)]) is None
    assert suspicion.state is State.CONTROL
    guilty = suspicion.passed(piece(77, 77))
    assert guilty is not None
    assert (guilty.lo, guilty.hi) == (3, 3)
    assert suspicion.suspect == piece(4, 4)


def test_a_peer_that_takes_no_control_either_makes_nobody_guilty() -> None:
    suspicion = suspected(piece(3, 3))
    suspicion.died([piece(3, 3)])
    assert suspicion.died([piece(77, 77)]) is None
    assert (suspicion.state, suspicion.suspect) == (State.FREE, None)


def test_what_goes_through_in_another_lane_is_no_control() -> None:
    suspicion = suspected(piece(3, 3, Lane.EVENTS), piece(3, 3))
    suspicion.passed(piece(3, 3, Lane.EVENTS))
    suspicion.died([piece(3, 3)])
    assert suspicion.state is State.CONTROL


def test_a_row_of_the_quarantine_is_never_split() -> None:
    suspicion = suspected(piece(1, 8, row=4))
    suspicion.died([piece(1, 8, row=4)])
    assert suspicion.state is State.CONTROL
    guilty = suspicion.passed(piece(77, 77))
    assert guilty is not None
    assert guilty.row == 4


def test_a_suspect_that_is_gone_is_left() -> None:
    suspicion = suspected(piece(1, 8), piece(9, 9))
    suspicion.gone()
    assert suspicion.suspect == piece(9, 9)
    suspicion.gone()
    assert suspicion.state is State.FREE


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 100, 999, 1000])
def test_any_one_record_is_found_in_few_connections(count: int) -> None:
    rng = random.Random(count)
    for poison in {1, count, *(rng.randint(1, count) for _ in range(20))}:
        suspicion = suspected(piece(1, count))
        deaths = 0
        guilty = None
        while guilty is None:
            suspect = suspicion.suspect
            assert suspect is not None
            sent = piece(999_999, 999_999) if suspicion.state is State.CONTROL else suspect
            if sent.lo <= poison <= sent.hi:
                deaths += 1
                guilty = suspicion.died([sent])
            else:
                guilty = suspicion.passed(sent)
        assert (guilty.lo, guilty.hi) == (poison, poison)
        assert deaths <= math.ceil(math.log2(count)) + 2


def test_several_poisonous_records_are_all_found() -> None:
    rng = random.Random(7)
    for _ in range(50):
        count = rng.randint(2, 300)
        poison = set(rng.sample(range(1, count + 1), min(count, rng.randint(1, 5))))
        suspicion, found = suspected(piece(1, count)), set()
        for _ in range(500):
            suspect = suspicion.suspect
            if suspect is None:
                break
            sent = piece(999_999, 999_999) if suspicion.state is State.CONTROL else suspect
            guilty = suspicion.died([sent]) if poison & set(range(sent.lo, sent.hi + 1)) else suspicion.passed(sent)
            if guilty is not None:
                found.add(guilty.lo)
        assert found == poison


# --- on a broker ------------------------------------------------------------------------------------------------------


def seqs(published: Published) -> list[int]:
    return [record["seq"] for record in json.loads(published.payload)["records"]]


def killing(*poison: int) -> typing.Callable[[Peer, Published], None]:
    """Return a broker's behaviour: whoever publishes one of these rounds loses his connection."""

    def look(peer: Peer, published: Published) -> None:
        if published.topic == ROUNDS and set(poison) & set(seqs(published)):
            peer.drop()

    return look


async def quarantined(road: Road) -> list[tuple[int, int, str]]:
    await road.log.save_cursors()
    return await road.log.look(lambda c: c.execute("SELECT lo, hi, reason FROM quarantine ORDER BY lo").fetchall())


@pytest.mark.parametrize("message_bytes", [1, 4096])
async def test_the_record_that_kills_the_connection_is_set_aside_and_all_others_arrive(
    tmp_path: Path, message_bytes: int
) -> None:
    async with ScriptedBroker(on_publish=killing(37)) as broker:
        road = Road(tmp_path, [broker.port], message_bytes=Bytes(message_bytes))
        await road.commit(100)
        await until(lambda: road.delivered == 99, 20)
        assert [row[:2] for row in await quarantined(road)] == [(37, 37)]
        assert [standing.code for standing in road.problems] == ["record-refused"]
        assert not next(iter(road.log.cursors.of("cloud", Lane.ROUNDS)))[1].intersect(1, 100)
        await road.close()
    arrived = {seq for p in broker.records(ROUNDS) if 37 not in seqs(p) for seq in seqs(p)}
    assert arrived == set(range(1, 101)) - {37}
    assert len(broker.connects) <= 2 + math.ceil(math.log2(100)) + 2 + 1


async def test_on_a_quiet_site_a_record_that_was_delivered_before_is_the_control(tmp_path: Path) -> None:
    async with ScriptedBroker(on_publish=killing(9, 10)) as broker:
        road = Road(tmp_path, [broker.port])
        await road.commit(8)
        await until(lambda: road.delivered == 8)
        await road.commit(2)  # nothing comes behind them
        await until(lambda: road.forwarder.counters.refused == 2, 20)
        assert [row[:2] for row in await quarantined(road)] == [(9, 9), (10, 10)]
        assert len(broker.connects) <= 2 + 2 * (math.ceil(math.log2(2)) + 2)
        assert road.delivered == 8, "what goes once more is not counted"
        await road.close()


async def test_what_was_refused_is_no_control(tmp_path: Path) -> None:
    """After a restart nothing but the log tells what the peer has had."""
    async with ScriptedBroker(on_publish=killing(9, 10)) as broker:
        road = Road(tmp_path, [broker.port])
        for count in (8, 1):
            await road.commit(count)
            await until(lambda count=count: road.delivered == 8 and road.forwarder.counters.refused >= count % 8, 20)  # type: ignore[misc]
        await road.close()
        road = Road(tmp_path, [broker.port])
        await road.commit(1)
        await until(lambda: road.forwarder.counters.refused == 1, 20)
        assert [row[:2] for row in await quarantined(road)] == [(9, 9), (10, 10)]
        await road.close()


@pytest.mark.parametrize("order", ["live-first", "strict"])
async def test_the_first_record_of_a_lane_waits_for_another_one_while_the_other_lane_goes_on(
    tmp_path: Path, order: str
) -> None:
    async with ScriptedBroker(on_publish=killing(1)) as broker:
        road = Road(tmp_path, [broker.port], order=order)
        await road.commit(1)
        await until(lambda: road.forwarder._suspicion.state is State.CONTROL, 20)
        for number in range(1, 6):
            batch = Batch()
            road.log.add_event(batch, event_of())
            await road.log.commit(batch)
            await until(lambda number=number: road.delivered == number)  # type: ignore[misc]
        connects = len(broker.connects)
        assert connects <= 4
        await road.commit(1)
        await until(lambda: road.delivered == 6 and road.forwarder.counters.refused == 1)
        assert [row[:2] for row in await quarantined(road)] == [(1, 1)]
        assert len(broker.connects) == connects
        await road.close()


async def test_a_suspect_that_is_dropped_while_its_lane_is_held_holds_it_no_longer(tmp_path: Path) -> None:
    async with ScriptedBroker(on_publish=killing(1)) as broker:
        road = Road(tmp_path, [broker.port])
        await road.commit(1)
        await until(lambda: road.forwarder._suspicion.state is State.CONTROL, 20)
        road.log.lose("cloud", road.log.epoch, Lane.ROUNDS, 1, 1, "dropped")
        await road.commit(2)
        await until(lambda: road.delivered == 2)
        assert road.forwarder._suspicion.state is State.FREE
        await road.close()


async def test_two_records_that_kill_are_both_found_while_others_keep_coming(tmp_path: Path) -> None:
    async with ScriptedBroker(on_publish=killing(12, 60)) as broker:
        road = Road(tmp_path, [broker.port])
        await road.commit(100)
        while road.forwarder.counters.refused < 2:
            await road.commit(1)
            await until(lambda: True)
        head = road.log.heads[Lane.ROUNDS]
        await until(lambda: road.delivered == head - 2, 20)
        assert [row[:2] for row in await quarantined(road)] == [(12, 12), (60, 60)]
        await road.close()


async def test_a_broker_that_drops_whoever_publishes_to_the_topic_costs_no_record(tmp_path: Path) -> None:
    """AWS IoT ends the connection where others refuse: nothing of it may go to the quarantine."""

    def drop_all(peer: Peer, published: Published) -> None:
        if published.topic == ROUNDS:
            peer.drop()

    async with ScriptedBroker(on_publish=drop_all) as broker:
        road = Road(tmp_path, [broker.port])
        await road.commit(50)
        for connects in range(5, 40, 5):
            await until(lambda connects=connects: len(broker.connects) >= connects)  # type: ignore[misc]
            await road.commit(1)
        assert await quarantined(road) == []
        head = road.log.heads[Lane.ROUNDS]
        broker.on_publish = None
        await until(lambda: road.delivered == head, 20)
        await road.close()


@pytest.mark.parametrize("seed", range(4))
async def test_a_link_that_flaps_sets_nothing_aside(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    left = rng.randint(0, 6)

    def flap(peer: Peer, _published: Published) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            left = rng.randint(0, 6)
            peer.drop()

    async with ScriptedBroker(on_publish=flap) as broker:
        road = Road(tmp_path, [broker.port], message_bytes=Bytes(300))
        await road.commit(60)
        await until(lambda: road.delivered >= 60, 20)
        assert await quarantined(road) == []
        assert len(broker.connects) > 5
        await road.close()


async def test_a_broker_that_hangs_sets_nothing_aside(tmp_path: Path) -> None:
    """It takes the connection, acknowledges nothing and is gone again: not even our status was answered."""
    async with ScriptedBroker(acks=False) as broker:
        road = Road(tmp_path, [broker.port])
        await road.commit(5)
        for connects in range(1, 12):
            await until(lambda connects=connects: len(broker.connects) >= connects)  # type: ignore[misc]
            broker.peer.drop()
        assert await quarantined(road) == []
        broker.acks = True
        broker.peer.drop()
        await until(lambda: road.delivered == 5)
        await road.close()


@pytest.mark.parametrize("reason", [0x8B, 0x89, 0x97, 0x98])
async def test_an_end_that_has_a_reason_of_its_own_blames_no_record(tmp_path: Path, reason: int) -> None:
    def end(peer: Peer, published: Published) -> None:
        if published.topic == ROUNDS:
            peer.disconnect(reason)

    async with ScriptedBroker(on_publish=end) as broker:
        road = Road(tmp_path, [broker.port])
        await road.commit(5)
        await until(lambda: len(broker.connects) >= 12)
        assert road.forwarder._suspicion.state is State.FREE
        assert await quarantined(road) == []
        broker.on_publish = None
        await until(lambda: road.delivered == 5)
        await road.close()


@pytest.mark.parametrize("reason", [0x81, 0x82])
async def test_a_broker_that_says_malformed_means_what_it_was_sent(tmp_path: Path, reason: int) -> None:
    def end(peer: Peer, published: Published) -> None:
        if published.topic == ROUNDS and 3 in seqs(published):
            peer.disconnect(reason)

    async with ScriptedBroker(on_publish=end) as broker:
        road = Road(tmp_path, [broker.port])
        await road.commit(8)
        await until(lambda: road.delivered == 7, 20)
        assert [row[:2] for row in await quarantined(road)] == [(3, 3)]
        await road.close()


async def test_pauses_while_a_suspect_is_tested_are_short(tmp_path: Path) -> None:
    async with ScriptedBroker(on_publish=killing(37)) as broker:
        road = Road(tmp_path, [broker.port])
        await road.commit(100)
        await until(lambda: road.delivered == 99, 20)
        assert max(road.pauses[2:]) <= 3.0  # live records wait for it
        await road.close()


async def test_a_defect_while_a_record_is_set_aside_does_not_end_the_uplink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ScriptedBroker(on_publish=killing(5)) as broker:
        road = Road(tmp_path, [broker.port], message_bytes=Bytes(1))
        defects = []

        async def broken(_self: object, found: Piece) -> None:
            monkeypatch.undo()
            defects.append(found)
            raise KeyError("defect")

        monkeypatch.setattr(Delivery, "set_aside", broken)
        await road.commit(9)
        await until(lambda: road.delivered == 8 and road.forwarder.counters.refused == 1, 20)
        assert len(defects) == 1
        assert [row[:2] for row in await quarantined(road)] == [(5, 5)]
        await road.close()
