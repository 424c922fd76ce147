"""The other parts of the bench: their data is the same in every run, and what is over budget is said to be so."""

from __future__ import annotations

import itertools

from bench import flash, mix, query, replay


def test_the_data_set_is_the_same_in_every_run_and_a_thousand_points_a_second() -> None:
    first, again = (list(itertools.islice(mix.seconds(3600), 3)) for _ in range(2))
    assert [[round_.raws for round_ in second] for second in first] == [[r.raws for r in second] for second in again]
    assert [sum(len(round_.raws) for round_ in second) for second in first] == [1000, 1000, 1000]
    assert all(a.raws != b.raws for a, b in zip(first[0], first[1], strict=True))


def test_its_stamps_lie_in_the_hour_it_says() -> None:
    rounds = [round_ for second in mix.seconds(3) for round_ in second]
    assert mix.START_NS % (3600 * 10**9) == 0
    assert all(0 <= round_.at_ns - mix.START_NS < 3 * 10**9 for round_ in rounds)
    assert all(round_.at_ns - mix.START_NS == round_.arrived_mono_ns for round_ in rounds)


def test_bytes_above_the_budget_are_told() -> None:
    kept = flash.Found("fluxedge", 1, 1000, block_bytes_per_point=17.9, history_bytes_per_point=0.9)
    over = flash.Found("fluxedge", 5, 1000, block_bytes_per_point=9.1, history_bytes_per_point=1.6)
    lines = "\n".join(flash.table([kept, over]))
    assert lines.count("OVER") == 2
    assert lines.count(" ok") == 2


def test_a_slow_replay_and_a_delayed_live_message_are_told() -> None:
    alone = replay.Found("live alone", 10, 0, 15_000, 5, 10.0, 1, 2, 0.1, 10**8)
    good = replay.Found("beside backlog", 10, 1.5e6, 15_000, 5, 12.0, 1, 2, 0.1, 10**8)
    slow = replay.Found("beside backlog", 10, 0.9e6, 15_000, 5, 21.0, 1, 2, 0.1, 10**8)
    assert [kept for *_, kept in replay.judged([alone, good])] == [True, True]
    assert [kept for *_, kept in replay.judged([alone, slow])] == [False, False]


def test_a_slow_query_is_told() -> None:
    found = query.Found(400, 101, 20, 30, 4.9, 6, 1, 2)
    assert [value > must for _, value, must, _ in query.judged(found)] == [True, False, False]
