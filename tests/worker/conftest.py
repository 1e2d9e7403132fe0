"""What tests of the queue and the worker share: the desk at which they begin, and the log as it is written."""

import io
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from app.log import configure
from tests.worker.desk import Desk, open_desk


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """An open queue on a file of its own."""
    async with open_desk(tmp_path) as opened:
        yield opened


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The log as it is written, in JSON."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure("info", json_lines=True, stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
