"""Problems: counted, kept once, told on change only."""

from __future__ import annotations

import pytest

from fluxedge.problems import CODES, DeviceProblem, LinkProblem, Problem, ProblemBook, Standing


class Told:
    """A book with a clock that the test moves and a listener that remembers."""

    def __init__(self) -> None:
        self.now_ns = 100
        self.changes: list[tuple[str, str, str]] = []
        self.book = ProblemBook(lambda: self.now_ns)
        self.book.listeners.append(self._hear)

    def _hear(self, change: str, item: str, standing: Standing) -> None:
        self.changes.append((change, item, standing.code))


def silence(text: str = "no answer within 1 s") -> DeviceProblem:
    return DeviceProblem("no-reply", text)


def test_a_problem_is_told_once_however_often_it_happens() -> None:
    told = Told()
    for _ in range(5):
        told.now_ns += 10
        told.book.report("device:m1", silence())
    assert told.changes == [("raised", "device:m1", "no-reply")]
    (standing,) = told.book
    assert (standing.since_ns, standing.last_ns, standing.count) == (110, 150, 5)


def test_the_latest_words_stand() -> None:
    told = Told()
    told.book.report("device:m1", silence())
    told.book.report("device:m1", silence("no answer within 2 s"))
    assert [standing.message for standing in told.book] == ["no answer within 2 s"]


def test_what_is_cleared_is_told_and_begins_anew() -> None:
    told = Told()
    told.book.report("device:m1", silence())
    told.book.report("device:m1", None)
    told.now_ns = 900
    told.book.report("device:m1", silence())
    assert [change for change, _, _ in told.changes] == ["raised", "cleared", "raised"]
    (standing,) = told.book
    assert (standing.since_ns, standing.count) == (900, 1)


def test_clearing_what_does_not_stand_is_not_told() -> None:
    told = Told()
    told.book.clear("device:m1")
    told.book.report("device:m1", None)
    assert told.changes == []


def test_codes_of_one_item_stand_beside_each_other_and_go_one_by_one() -> None:
    told = Told()
    told.book.report("log", LinkProblem("log-write-failed", "x"))
    told.book.report("log", Problem("log-full", "y"))
    told.book.clear("log", "log-full")
    assert [standing.code for standing in told.book.of("log")] == ["log-write-failed"]
    assert told.book.stands("log", "log-write-failed")
    assert not told.book.stands("log", "log-full")


def test_items_do_not_touch_each_other() -> None:
    told = Told()
    told.book.report("device:m1", silence())
    told.book.report("device:m2", silence())
    told.book.clear("device:m1")
    assert [standing.item for standing in told.book] == ["device:m2"]


def test_every_occurrence_counts_for_the_metrics() -> None:
    told = Told()
    told.book.report("device:m1", silence())
    told.book.report("device:m2", silence())
    told.book.clear("device:m1")
    assert told.book.raised_total["no-reply"] == 2


def test_the_oldest_problem_comes_first() -> None:
    told = Told()
    told.book.report("device:b", silence())
    told.now_ns += 1
    told.book.report("device:a", silence())
    assert [standing.item for standing in told.book] == ["device:b", "device:a"]


def test_a_code_that_is_not_in_the_table_cannot_be_raised() -> None:
    with pytest.raises(ValueError, match="no-such-code"):
        Problem("no-such-code", "x")


def test_codes_are_stable_names_with_a_sentence() -> None:
    for code, sentence in CODES.items():
        assert code == code.lower().replace("_", "-")
        assert sentence.endswith(".")


def test_looking_again_at_what_stands_is_no_occurrence_but_has_the_latest_words() -> None:
    told = Told()
    for free in (9, 8, 7):
        told.now_ns += 10
        told.book.hold("log", Problem("disk-low", f"{free} MiB are free"))
    (standing,) = told.book
    assert (standing.message, standing.count, standing.since_ns, standing.last_ns) == ("7 MiB are free", 1, 110, 130)
    assert told.book.raised_total["disk-low"] == 1
    assert told.changes == [("raised", "log", "disk-low")]
