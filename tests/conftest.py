"""Fixtures that many tests share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.house import House, open_house


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A whole service in this process, on a file of its own, with nobody working."""
    async with open_house(tmp_path) as opened:
        yield opened
