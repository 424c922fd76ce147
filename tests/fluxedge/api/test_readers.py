from __future__ import annotations

import contextlib

import pytest

from fluxedge.api.errors import ApiError
from fluxedge.api.readers import MOST, Readers


def test_one_reader_too_many_is_told_to_come_back() -> None:
    readers = Readers()
    with contextlib.ExitStack() as reading:
        for _ in range(MOST):
            reading.enter_context(readers.one())
        with pytest.raises(ApiError) as caught, readers.one():
            pass
        assert (caught.value.status, caught.value.answer.code) == (503, "too-many")


def test_a_reader_that_fails_gives_its_place_back() -> None:
    readers = Readers()
    for _ in range(2 * MOST):
        with pytest.raises(OSError, match="disk"), readers.one():
            raise OSError("disk")
