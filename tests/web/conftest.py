"""Fixtures of the web's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.web.shop import Shop, open_shop


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """Open a shop in which nobody works but by hand."""
    async with open_shop(tmp_path) as opened:
        yield opened


@pytest.fixture
async def busy(tmp_path: Path) -> AsyncIterator[Shop]:
    """Open a shop whose embedded worker runs."""
    async with open_shop(tmp_path, works=True) as opened:
        yield opened
