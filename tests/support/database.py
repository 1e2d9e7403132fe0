"""Databases for tests: a store over one small table, and connections that are watched and made to fail."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from app.clock import Timestamp
from app.db import sqlite
from app.db.connection import SchemaTarget, UnitConnection
from app.db.queries import Query, parse_query
from app.db.sqlite import SqliteConnectionFactory
from app.db.store import SqliteStore
from app.errors import StorageFailed
from app.metrics import Metrics

T = TypeVar("T")
Body = Callable[[UnitConnection], Awaitable[T]]

driver: Any = vars(sqlite)["driver"]
"""The driver that the service itself uses: never two SQLite libraries on one file in one process (fact 17)."""

NOW = Timestamp("2026-11-22T20:19:00.000000Z")
SCHEMA = "CREATE TABLE numbers (n INTEGER NOT NULL CONSTRAINT numbers_pk PRIMARY KEY, note TEXT);"

ADD = parse_query("numbers.add", "INSERT INTO numbers (n, note) VALUES (:n, :note) RETURNING n", engine="sqlite")
ALL = parse_query("numbers.all", "SELECT n FROM numbers ORDER BY n", engine="sqlite")
COUNT = parse_query("numbers.count", "SELECT COUNT(*) AS rows FROM numbers", engine="sqlite")


def raw_query(text: str, *, writes: bool = True, parameters: Sequence[str] = ()) -> Query:
    """Make a query as nobody should: without the loader, which would refuse it."""
    return Query("raw.query", text, frozenset(parameters), writes)


class WatchedConnection:
    """A driver's connection that keeps what was executed, and fails where it is told to."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.statements: list[str] = []
        self.faults: dict[str, int] = {}
        """SQLite's error code by the statement that is to fail with it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "row_factory":
            setattr(self._raw, name, value)
        else:
            super().__setattr__(name, value)

    def execute(self, text: str, *arguments: Any) -> Any:
        """Execute, unless this statement is to fail."""
        self.statements.append(text)
        if text in self.faults:
            raise driver_error(self.faults[text])
        return self._raw.execute(text, *arguments)


class WatchedFactory(SqliteConnectionFactory):
    """Opens watched connections; the first is the writer's."""

    def __init__(self, path: Path | None) -> None:
        super().__init__(path)
        self.opened: list[WatchedConnection] = []

    @property
    def writer_connection(self) -> WatchedConnection:
        """The connection that was opened first."""
        return self.opened[0]

    def _connect(self) -> Any:
        watched = WatchedConnection(super()._connect())
        self.opened.append(watched)
        return watched


def driver_error(code: int) -> Exception:
    """Make what the driver raises when SQLite answers with that code."""
    error: Exception = driver.OperationalError(f"SQLite answered {code}")
    error.sqlite_errorcode = code  # type: ignore[attr-defined]  # the driver sets it so
    return error


@dataclass
class Numbers:
    """An open store over the table `numbers`; a body gets the unit's connection itself."""

    store: SqliteStore[UnitConnection]
    factory: WatchedFactory
    failures: list[StorageFailed] = field(default_factory=list)

    async def write(self, body: Body[T]) -> T:
        """Run a unit that writes."""
        return await self.store.write(body)

    async def read(self, body: Body[T]) -> T:
        """Run a unit that reads."""
        return await self.store.read(body)

    async def add(self, *numbers: int) -> None:
        """Write numbers in one unit."""
        await self.store.write(insert(*numbers))

    async def there(self) -> list[int]:
        """Return the numbers that are committed."""
        return await self.store.read(numbers_in)

    async def on_writer(self, function: Callable[[Any], T]) -> T:
        """Call a function with the driver's connection in the writer's thread."""
        connection = self.store._connection
        assert connection is not None
        return await connection.run(function)

    @property
    def commits(self) -> int:
        """How many transactions of the writer were committed."""
        return self.factory.writer_connection.statements.count("COMMIT")


@asynccontextmanager
async def open_numbers(path: Path | None, *, readers: int = 2) -> AsyncIterator[Numbers]:
    """Open a store over the table `numbers`, on a file or in memory."""
    factory = WatchedFactory(path)
    failures: list[StorageFailed] = []
    store = SqliteStore(factory, _as_it_is, readers=readers, on_failure=failures.append, metrics=Metrics())
    async with store.open(_make_table):
        yield Numbers(store, factory, failures)


def insert(*numbers: int, note: str | None = None) -> Body[list[int]]:
    """Return a body that writes numbers and returns them."""

    async def body(unit: UnitConnection) -> list[int]:
        for number in numbers:
            await unit.fetch_one(ADD, n=number, note=note)
        return list(numbers)

    return body


def insert_then(number: int, act: Callable[[UnitConnection], Any]) -> Body[Any]:
    """Return a body that writes a number and then acts; what the act returns is awaited if it can be."""

    async def body(unit: UnitConnection) -> Any:
        await unit.fetch_one(ADD, n=number, note=None)
        outcome = act(unit)
        return await outcome if isinstance(outcome, Awaitable) else outcome

    return body


async def numbers_in(unit: UnitConnection) -> list[int]:
    """Return the numbers that a unit sees."""
    return [row["n"] for row in await unit.fetch_all(ALL)]


class Barrier:
    """Holds the thread that runs a body until the test lets it go on."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._go_on = threading.Event()

    def __call__(self, _unit: object = None) -> None:
        """Tell that the body is here, and wait; to be called in the body."""
        self._begun.set()
        assert self._go_on.wait(5), "nobody let the body go on"

    async def reached(self) -> None:
        """Wait in the test until the body is here."""
        assert await asyncio.to_thread(self._begun.wait, 5), "no body came here"

    def open(self) -> None:
        """Let the body go on."""
        self._go_on.set()


def connect(path: Path, *, busy_seconds: float = 0) -> sqlite3.Connection:
    """Open a file beside the store, as another program would, with the same library."""
    connection: sqlite3.Connection = driver.connect(str(path), isolation_level=None, timeout=busy_seconds)
    return connection


def _as_it_is(connection: UnitConnection) -> UnitConnection:
    return connection


async def _make_table(target: SchemaTarget) -> None:
    if not await target.applied():
        await target.apply(SCHEMA, version=1, name="numbers", checksum="", applied_at=NOW)
