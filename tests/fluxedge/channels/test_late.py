"""Late replies: pure bookkeeping, instants given."""

from __future__ import annotations

import math

from fluxedge.channels.late import SUSPECTS_MAX, LateReplies

UNIT, OTHER = 7, 8


def test_without_a_missed_answer_nothing_is_suspect() -> None:
    assert not LateReplies().possible(UNIT, 9, 100.0)


def test_an_answer_of_the_missed_length_from_the_same_unit_could_be_late() -> None:
    late = LateReplies()
    late.missed(UNIT, 9, 1.0, 100.0)
    assert late.possible(UNIT, 9, 100.5)
    assert not late.possible(UNIT, 25, 100.5)
    assert not late.possible(OTHER, 9, 100.5)


def test_a_full_timeout_of_silence_settles_it() -> None:
    late = LateReplies()
    late.missed(UNIT, 9, 1.0, 100.0)
    assert not late.possible(UNIT, 9, 101.0)
    assert not late.possible(UNIT, 9, 100.5), "settled stays settled"


def test_stray_bytes_begin_the_silence_anew() -> None:
    late = LateReplies()
    late.missed(UNIT, 9, 1.0, 100.0)
    late.heard_stray(100.8)
    assert late.possible(UNIT, 9, 101.5)
    assert not late.possible(UNIT, 9, 101.8)


def test_an_answer_of_another_length_settles_it() -> None:
    late = LateReplies()
    late.missed(UNIT, 9, 1.0, 100.0)
    late.answered(UNIT, 25, 100.1)
    assert not late.possible(UNIT, 9, 100.2)


def test_an_answer_of_another_unit_settles_nothing() -> None:
    late = LateReplies()
    late.missed(UNIT, 9, 1.0, 100.0)
    late.answered(OTHER, 25, 100.1)
    assert late.possible(UNIT, 9, 100.2)


def test_a_suspect_answer_keeps_the_next_one_suspect() -> None:
    late = LateReplies()
    late.missed(UNIT, 9, 1.0, 100.0)
    late.answered(UNIT, 9, 100.9)
    assert late.possible(UNIT, 9, 101.8), "each answer may be that of the request before"


def test_several_missed_lengths_are_all_remembered() -> None:
    late = LateReplies()
    late.missed(UNIT, 9, 1.0, 100.0)
    late.missed(UNIT, 25, 1.0, 100.1)
    assert late.possible(UNIT, 9, 100.2)
    assert late.possible(UNIT, 25, 100.2)


def test_after_some_suspect_answers_in_a_row_the_silence_is_waited_out() -> None:
    late = LateReplies()
    late.missed(UNIT, 9, 1.0, 100.0)
    for k in range(SUSPECTS_MAX):
        assert late.quarantine_until_s(UNIT, 9) == -math.inf
        late.answered(UNIT, 9, 100.1 + k / 10)
    assert late.quarantine_until_s(UNIT, 9) == 100.1 + (SUSPECTS_MAX - 1) / 10 + 1.0
    assert late.quarantine_until_s(UNIT, 25) == -math.inf, "another length settles it without waiting"
    assert late.quarantine_until_s(OTHER, 9) == -math.inf
