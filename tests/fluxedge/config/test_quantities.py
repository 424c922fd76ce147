from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxedge.config.quantities import Bytes, Seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("1s", 1), ("1.5 s", 1.5), ("5m", 300), ("5min", 300), ("24h", 86400), ("2d", 172800)],
)
def test_a_duration_is_a_number_with_a_unit(text: str, seconds: float) -> None:
    assert Seconds.parse(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("7B", 7), ("1kB", 1000), ("64KiB", 65536), ("4 GiB", 2**32), ("1TiB", 2**40), ("30TB", 30 * 10**12)],
)
def test_a_size_is_a_number_with_a_unit(text: str, size: int) -> None:
    assert Bytes.parse(text) == size


@pytest.mark.parametrize("value", [5, 1.5, True, None, "", "5", "s", "-1s", "1 week", "1s ", "1e3s", ["1s"]])
def test_anything_else_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ValueError, match='write a string with a unit such as "250ms"'):
        Seconds.parse(value)
    with pytest.raises(ValueError, match='write a string with a unit such as "64KiB"'):
        Bytes.parse(value)


@given(st.integers(0, 10**7))
def test_what_is_shown_means_the_same(number: int) -> None:
    assert Seconds.parse(str(Seconds(number))) == number
    assert Bytes.parse(str(Bytes(number))) == number
    assert Seconds.parse(str(Seconds(number / 1000))) == pytest.approx(number / 1000)
