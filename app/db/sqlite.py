"""SQLite: the only file that knows its drivers. Connections, pragmas, errors and the schema."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from app.clock import Timestamp
from app.db.connection import Row
from app.db.ownership import share
from app.errors import (
    CabinetError,
    ConstraintViolated,
    Defect,
    QueryFailed,
    StartFault,
    StorageBusy,
    StorageFailed,
    StorageFull,
)

try:
    from pysqlite3 import dbapi2
except ImportError:  # no wheel for this platform: the standard library's, see fact 17 of the WAL-reset bug
    import sqlite3 as dbapi2

driver: Any = dbapi2
"""The SQLite of this process; there are never two on one file (fact 17)."""

DriverError: type[Exception] = driver.Error

T = TypeVar("T")

SQLITE_VERSION: str = driver.sqlite_version

BUSY_SECONDS = 5
"""How long a write waits for another process, such as `cabinet admin`, before the caller is told to come back."""

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
READ_ONLY = 8
_FATAL = {
    READ_ONLY: "read-only",
    10: "I/O error",
    11: "corrupt",
    14: "cannot open",
    15: "locking protocol",
    26: "no database",
}


class ThreadConnection(aiosqlite.Connection):
    """An aiosqlite connection that also runs whole functions in its thread."""

    async def until_ended(self) -> None:
        """Wait for the thread's end: after a connection that failed nothing else does, and the loop must outlive it."""
        await asyncio.to_thread(self._thread.join)

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
                with self._opening():
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
        with nullcontext() if self.path is None else share(self.path):
            connection = ThreadConnection(self._connect, 64)
            try:
                with self._opening():
                    await connection
                try:
                    yield connection
                finally:
                    await connection.close()
            finally:
                await connection.until_ended()

    @contextmanager
    def _opening(self) -> Iterator[None]:
        try:
            yield
        except (driver.Error, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise StartFault(f"{self.path} cannot be opened as a database: {reason}.") from error

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


def abandon(raw: Any) -> None:
    """Roll back what is left of a transaction, if anything is; StorageFailed if even that fails."""
    if not raw.in_transaction:
        return
    try:
        raw.execute("ROLLBACK")
    except driver.Error as error:
        raise StorageFailed from error


def _enter_wal(raw: Any) -> None:
    mode = raw.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StartFault(f"SQLite answered journal_mode {mode!r}, not 'wal'; DB_PATH must lie on a local file system.")


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
        abandon(raw)
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
