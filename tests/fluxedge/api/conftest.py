"""A running gateway with its API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fluxedge.api.running import Running, running


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Running]:  # type: ignore[misc]
    """Two simulated boilers, read and committed once."""
    async with running(tmp_path) as found:
        await found.first_round()
        yield found
