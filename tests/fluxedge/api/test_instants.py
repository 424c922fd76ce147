from __future__ import annotations

import datetime

import pytest

from fluxedge.api.instants import instant_ns

NOW_NS = 1_800_000_000 * 10**9


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1h", 1_800_000_000 - 3600),
        ("90s", 1_800_000_000 - 90),
        ("2026-03-01T12:00:00+08:00", 1_772_337_600),
        ("2026-03-01T04:00:00.25Z", 1_772_337_600.25),
        (" 2026-03-01T04:00:00+00:00 ", 1_772_337_600),
    ],
)
def test_an_age_or_a_moment_is_an_instant(text: str, seconds: float) -> None:
    assert instant_ns(text, NOW_NS) == round(seconds * 1000) * 10**6


def test_a_time_without_offset_is_local() -> None:
    local = datetime.datetime(2026, 3, 1).astimezone()
    assert instant_ns("2026-03-01", NOW_NS) == round(local.timestamp()) * 10**9


@pytest.mark.parametrize("text", ["", "yesterday", "5", "2026-13-01", "-1h"])
def test_anything_else_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="is no time; write") as caught:
        instant_ns(text, NOW_NS)
    assert f'"{text}"' in str(caught.value)
