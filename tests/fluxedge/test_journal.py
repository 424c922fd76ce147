"""Log lines and what systemd is told: fields that can be searched for, and no-ops without systemd."""

from __future__ import annotations

import logging
import typing

import pytest

from fluxedge import journal


class FakeJournal:
    """Stands for systemd.journal: its handler keeps what it is given, as the real one sends it."""

    def __init__(self) -> None:
        self.records: list[logging.LogRecord] = []
        outer = self

        class JournalHandler(logging.Handler):
            def __init__(self, **fields: str) -> None:
                super().__init__()
                outer.fields = fields

            def emit(self, record: logging.LogRecord) -> None:
                outer.records.append(record)

        self.fields: dict[str, str] = {}
        self.JournalHandler = JournalHandler


class FakeDaemon:
    def __init__(self) -> None:
        self.said: list[str] = []

    def notify(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def _logging_is_put_back() -> typing.Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], level = before
    root.setLevel(level)


def test_a_line_about_a_device_can_be_searched_for_by_its_name() -> None:
    assert journal.fields("device:meter-1", "no-reply") == {
        "FLUXEDGE_ITEM": "device:meter-1",
        "FLUXEDGE_DEVICE": "meter-1",
        "FLUXEDGE_CODE": "no-reply",
    }


def test_an_item_without_a_name_has_no_field_of_its_kind() -> None:
    assert journal.fields("log") == {"FLUXEDGE_ITEM": "log"}


def test_a_configuration_item_keeps_its_own_colon() -> None:
    assert journal.fields("config:device:bad")["FLUXEDGE_CONFIG"] == "device:bad"


@pytest.mark.usefixtures("_logging_is_put_back")
def test_under_systemd_lines_go_to_the_journal_with_their_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeJournal()
    monkeypatch.setattr(journal, "_journal", fake)
    monkeypatch.setenv("JOURNAL_STREAM", "8:1234")
    journal.set_up()
    logging.getLogger("fluxedge").warning("silent", extra=journal.fields("device:m1", "no-reply"))
    (record,) = fake.records
    assert record.__dict__["FLUXEDGE_DEVICE"] == "m1"
    assert fake.fields == {"SYSLOG_IDENTIFIER": "fluxedge"}


@pytest.mark.usefixtures("_logging_is_put_back")
def test_elsewhere_lines_are_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    journal.set_up()
    logging.getLogger("fluxedge").warning("silent", extra=journal.fields("device:m1"))
    assert capsys.readouterr().err.endswith("WARNING  silent\n")


def test_systemd_is_told_what_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = FakeDaemon()
    monkeypatch.setattr(journal, "_daemon", daemon)
    journal.notify("READY=1")
    assert daemon.said == ["READY=1"]


def test_without_systemd_telling_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_daemon", None)
    journal.notify("READY=1")


def test_the_watchdogs_interval_comes_from_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert journal.watchdog_s() == 30.0
    monkeypatch.delenv("WATCHDOG_USEC")
    assert journal.watchdog_s() == 0.0
