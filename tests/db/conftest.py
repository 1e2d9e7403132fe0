"""Fixtures of the persistence layer: stores over the table `numbers`, and over the whole schema."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.db.records import ENGINES, Database, open_database
from tests.support.database import Numbers, open_numbers
from tests.support.postgres import postgres_server


@pytest.fixture(params=["file", "memory"])
async def numbers(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Numbers]:
    """A store, on a file and in memory in turn."""
    path = tmp_path / "numbers.db" if request.param == "file" else None
    async with open_numbers(path) as opened:
        yield opened


@pytest.fixture
async def on_file(tmp_path: Path) -> AsyncIterator[Numbers]:
    """A store on a file."""
    async with open_numbers(tmp_path / "numbers.db") as opened:
        yield opened


@pytest.fixture(params=ENGINES)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """The whole schema, on every engine in turn."""
    async with open_database(request.param, tmp_path) as opened:
        yield opened


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """A PostgreSQL server; that it cannot be started is a failure."""
    with postgres_server() as uri:
        yield uri
