"""SQLite: the only file that knows its drivers. Connections, pragmas, errors, units in the connection's own thread."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from app.clock import Timestamp
from app.db.connection import Row, UnitConnection
from app.db.driving import Result, drive, enter_unit
from app.db.queries import Query
from app.db.writer import Waiting
from app.errors import (
    CabinetError,
    ConstraintViolated,
    Defect,
    ParameterMismatch,
    QueryFailed,
    Refusal,
    StorageBusy,
    StorageFailed,
    StorageFull,
    TransactionLost,
    Unavailable,
    UnitClosed,
    WriteInRead,
)

try:
    from pysqlite3 import dbapi2 as driver
except ImportError:  # no wheel for this platform: the standard library's, see fact 17 of the WAL-reset bug
    import sqlite3 as driver

T = TypeVar("T")
MakeUnit = Callable[[UnitConnection], Any]

SQLITE_VERSION: str = driver.sqlite_version

BUSY_SECONDS = 5
"""How long a write waits for another process, such as `cabinet admin`, before the caller is told to come back."""

BATCH_SECONDS = 0.02
"""After this time a batch is committed, and the units that had no turn wait for the next."""

_PRAGMAS = (
    f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA mmap_size = 0",
    "PRAGMA synchronous = FULL",
    "PRAGMA wal_autocheckpoint = 0",
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA cache_size = -65536",
)
_NOT_IN_MIGRATIONS = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(BEGIN|COMMIT|END|ROLLBACK|SAVEPOINT|RELEASE|PRAGMA|ATTACH|DETACH|VACUUM)\b",
    re.IGNORECASE | re.DOTALL,
)
_READ_ONLY = 8
_FATAL = {
    _READ_ONLY: "read-only",
    10: "I/O error",
    11: "corrupt",
    14: "cannot open",
    15: "locking protocol",
    26: "no database",
}


class ThreadConnection(aiosqlite.Connection):
    """An aiosqlite connection that also runs whole functions in its thread."""

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call `function(raw_connection, *arguments)` in the connection's thread and return its result."""
        result: T = await self._execute(function, self._conn, *arguments)  # type: ignore[no-untyped-call]  # pinned
        return result


class SqliteConnectionFactory:
    """Opens connections to one SQLite file, or to one in-memory database if there is no path."""

    engine = "sqlite"

    def __init__(self, path: Path | None) -> None:
        self.path = path

    @asynccontextmanager
    async def writer(self) -> AsyncIterator[ThreadConnection]:
        """Open a connection that writes; it makes the file if there is none."""
        async with self._open() as connection:
            if self.path is not None:
                await connection.run(_enter_wal)
            yield connection

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[ThreadConnection]:
        """Open a connection that cannot write."""
        async with self._open() as connection:
            await connection.run(lambda raw: raw.execute("PRAGMA query_only = ON").fetchall())
            yield connection

    @asynccontextmanager
    async def schema_target(self) -> AsyncIterator["SqliteSchema"]:
        """Open the database to look at its schema or change it."""
        async with self.writer() as connection:
            yield SqliteSchema(connection)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[ThreadConnection]:
        try:
            connection = ThreadConnection(self._connect, 64)
            async with connection:
                yield connection
        except driver.Error as error:
            raise translate(error) from error

    def _connect(self) -> Any:
        if self.path is not None:
            self.path.touch(mode=0o600)  # the log and its index get the same mode
        raw = driver.connect(
            ":memory:" if self.path is None else str(self.path),
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
            timeout=BUSY_SECONDS,
        )
        try:
            raw.row_factory = driver.Row
            for pragma in _PRAGMAS:
                raw.execute(pragma).fetchall()
        except BaseException:
            raw.close()
            raise
        return raw


class SqliteUnit:
    """The connection as one unit of work sees it; it ends with the unit's body."""

    __slots__ = ("_open", "_raw", "_writes", "failure")

    def __init__(self, raw: Any, *, writes: bool) -> None:
        self._raw = raw
        self._writes = writes
        self._open = True
        self.failure: BaseException | None = None
        """What fails the unit even if its body swallowed it."""

    async def fetch_one(self, query: Query, /, **parameters: Any) -> Row | None:
        """Return the first row, or None if there is none."""
        rows = self._run(query, parameters)
        return rows[0] if rows else None

    async def fetch_all(self, query: Query, /, **parameters: Any) -> Sequence[Row]:
        """Return all rows."""
        return self._run(query, parameters)

    async def protect(self, body: Callable[[], Awaitable[T]]) -> T | Refusal:
        """Run a part of the unit in an inner savepoint: a Refusal undoes that part alone and is returned."""
        self._check_alive()
        self._raw.execute("SAVEPOINT inner")
        try:
            value: T | Refusal = await body()
        except Refusal as refusal:
            self._check_alive()
            self._raw.execute("ROLLBACK TO inner")
            value = refusal
        except BaseException as failure:
            self.failure = self.failure or failure
            raise
        self._raw.execute("RELEASE inner")
        return value

    def close(self) -> None:
        """End the unit; whatever still holds it can do nothing more."""
        self._open = False

    def _check_alive(self) -> None:
        if not self._open:
            raise UnitClosed
        if not self._raw.in_transaction:
            raise TransactionLost

    def _run(self, query: Query, parameters: dict[str, Any]) -> list[Row]:
        self._check_alive()
        if parameters.keys() != query.parameters:
            raise ParameterMismatch(f"{query.name} takes {sorted(query.parameters)}, given {sorted(parameters)}")
        if query.writes and not self._writes:
            raise WriteInRead
        try:
            rows: list[Row] = self._raw.execute(query.text, parameters).fetchall()
        except driver.Error as error:
            failure = translate(error, query.name) if self._writes or not _is_read_only(error) else WriteInRead()
            if isinstance(failure, StorageFailed):
                self.failure = failure
            raise failure from error
        return rows


class SqliteSchema:
    """The schema of one SQLite database, while it is being looked at or changed."""

    def __init__(self, connection: ThreadConnection) -> None:
        self._connection = connection

    async def applied(self) -> Sequence[Row]:
        """Return version, name and checksum of every applied migration, in order."""
        return await self._connection.run(_applied)

    async def apply(self, script: str, *, version: int, name: str, checksum: str, applied_at: Timestamp) -> bool:
        """Run a migration and write its ledger row in one immediate transaction."""
        row = (version, name, checksum, applied_at)
        try:
            return await asyncio.shield(self._connection.run(_migrate, script, row))
        except driver.Error as error:
            raise translate(error, name) from error


def run_batch(raw: Any, make_unit: MakeUnit, batch: Sequence[Waiting]) -> list[Result]:
    """Execute units in one transaction, a savepoint each, and COMMIT; runs in the writer's thread.

    The list is shorter than the batch when time was up. Raises if the transaction was lost or not committed: then no
    unit of the batch has left a trace, unless it is StorageFailed, which leaves that unknown.
    """
    results: list[Result] = []
    end = time.monotonic() + BATCH_SECONDS
    try:
        raw.execute("BEGIN IMMEDIATE")
        for waiting in batch:
            has_left = waiting.done.done()
            results.append(Result() if has_left else waiting.context.run(_run_in_savepoint, raw, make_unit, waiting))
            if time.monotonic() > end:
                break
        raw.execute("COMMIT")
    except BaseException as failure:
        _abandon(raw)
        if isinstance(failure, driver.Error):
            raise translate(failure, "the transaction") from failure
        raise
    return results


def run_read(raw: Any, make_unit: MakeUnit, body: Callable[[Any], Awaitable[Any]]) -> Result:
    """Execute one unit that only reads on a snapshot of its own; runs in a reader's thread."""
    try:
        raw.execute("BEGIN")
        result = _run_body(raw, make_unit, body, writes=False)
        _raise_fatal(result)
        raw.execute("COMMIT")
    except BaseException as failure:
        _abandon(raw)
        if isinstance(failure, driver.Error):
            raise translate(failure, "the snapshot") from failure
        raise
    return result


def checkpoint(raw: Any, mode: str) -> tuple[bool, int]:
    """Copy the log into the database file: whether somebody was in the way, and how many pages the log holds.

    `mode` is PASSIVE or TRUNCATE. Runs in the writer's thread; raises StorageFull, StorageFailed or StorageBusy.
    """
    try:
        busy, pages, _ = raw.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    except driver.Error as error:
        raise translate(error, "the checkpoint") from error
    return bool(busy), pages


def translate(error: Exception, where: str = "the database") -> CabinetError:
    """Return what a driver's error means here; messages hold names of tables and columns, never values."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    match code & 0xFF:
        case 13:
            return StorageFull()
        case 5 | 6:
            return StorageBusy()
        case 19:
            kind, _, rule = str(error).partition(" constraint failed")
            return ConstraintViolated(kind, rule.removeprefix(": ") or where)
        case fatal if fatal in _FATAL:
            return StorageFailed(f"The database failed ({_FATAL[fatal]}); whether the request was stored is unknown.")
        case _:
            return QueryFailed(f"{where}: {error}")


def _is_read_only(error: Exception) -> bool:
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF == _READ_ONLY


def _run_in_savepoint(raw: Any, make_unit: MakeUnit, waiting: Waiting) -> Result:
    raw.execute("SAVEPOINT unit")
    result = _run_body(raw, make_unit, waiting.body, writes=waiting.writes)
    _raise_fatal(result)
    if not raw.in_transaction:
        raise _lost(result.failure) from result.failure
    if result.failure is not None:
        raw.execute("ROLLBACK TO unit")
    raw.execute("RELEASE unit")
    return result


def _raise_fatal(result: Result) -> None:
    if isinstance(result.failure, StorageFailed):
        raise result.failure


def _lost(cause: BaseException | None) -> CabinetError:
    return cause if isinstance(cause, Unavailable) else TransactionLost()


def _run_body(raw: Any, make_unit: MakeUnit, body: Callable[[Any], Awaitable[Any]], *, writes: bool) -> Result:
    enter_unit()
    unit = SqliteUnit(raw, writes=writes)
    try:
        value = drive(_coroutine(body, make_unit(unit)))
        return Result(value=value, failure=unit.failure)
    except BaseException as failure:  # whatever a body does, it fails alone and the thread lives
        return Result(failure=unit.failure or failure)
    finally:
        unit.close()


async def _coroutine_of(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _coroutine(body: Callable[[Any], Awaitable[Any]], unit: Any) -> Coroutine[Any, Any, Any]:
    awaitable = body(unit)
    return awaitable if isinstance(awaitable, Coroutine) else _coroutine_of(awaitable)


def _abandon(raw: Any) -> None:
    if not raw.in_transaction:
        return
    try:
        raw.execute("ROLLBACK")
    except driver.Error as error:
        raise StorageFailed from error


def _enter_wal(raw: Any) -> None:
    mode = raw.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise Defect(f"SQLite answered journal_mode {mode!r} instead of 'wal'; is this a network file system?")


def _applied(raw: Any) -> list[Row]:
    if not raw.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_migrations'").fetchall():
        return []
    rows: list[Row] = raw.execute("SELECT version, name, checksum FROM schema_migrations ORDER BY version").fetchall()
    return rows


def _migrate(raw: Any, script: str, row: tuple[int, str, str, Timestamp]) -> bool:
    statements = split_statements(script)
    if any(_NOT_IN_MIGRATIONS.match(statement) for statement in statements):
        raise Defect("it says BEGIN, COMMIT, PRAGMA or the like; a migration runs inside one transaction.")
    raw.execute("BEGIN IMMEDIATE")
    try:
        raw.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER NOT NULL CONSTRAINT schema_migrations_pk"
            " PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at TEXT NOT NULL)"
        )
        is_new = not raw.execute("SELECT 1 FROM schema_migrations WHERE version = ?", row[:1]).fetchall()
        if is_new:
            for statement in statements:
                raw.execute(statement).fetchall()
            raw.execute("INSERT INTO schema_migrations VALUES (?, ?, ?, ?)", row)
        raw.execute("COMMIT")
    except BaseException:
        _abandon(raw)
        raise
    return is_new


def split_statements(script: str) -> list[str]:
    """Split a script into its statements; semicolons in literals, comments and triggers do not split."""
    statements, pending = [], ""
    for piece in script.split(";"):
        pending += piece + ";"
        if driver.complete_statement(pending):
            statements.append(pending.strip())
            pending = ""
    if pending.strip(" \n\t;"):
        statements.append(pending.rstrip(";").strip())
    return statements
