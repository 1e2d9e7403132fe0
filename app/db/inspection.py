"""Inspection: looking at a database file without changing it, beside whoever serves it or with nobody there."""

import fcntl
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from contextvars import copy_context
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from app.clock import Timestamp, to_timestamp
from app.db.backups import STEPS_BETWEEN_LOOKS, code_of
from app.db.connection import Row, UnitConnection
from app.db.sqlite import DriverError, driver, split_statements
from app.db.sqlite_units import run_read
from app.errors import Defect

T = TypeVar("T")
Unit = TypeVar("Unit")

BUSY_SECONDS = 1.0
"""How long to wait for another program that lets nobody read; a service never does that."""

_INTERRUPTED = 9
_COMMENT = re.compile(r"--[^\n]*")
_TRIGGER = re.compile(r"CREATE TRIGGER (\w+) ")
_PRAGMAS = (
    "PRAGMA query_only = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA mmap_size = 0",
)


@contextmanager
def open_unchanged(path: Path) -> Iterator[Any]:
    """Open a database that is there and yield the driver's connection; its file and its log stay byte by byte.

    The connection could write, if `query_only` did not forbid it: on one that could not, integrity_check leaves CHECK
    constraints out. The last connection that closes copies the log into the file. If there is a log, a second
    connection, which cannot do that, is therefore closed after it.
    """
    with ExitStack() as stack:
        if log_of(path).exists():
            guard = stack.enter_context(closing(_connect(path, mode="ro")))
            guard.execute("SELECT 1 FROM sqlite_master").fetchone()
        yield stack.enter_context(closing(_connect(path, mode="rw")))


def log_of(path: Path) -> Path:
    """Return where the log of a database lies: what was committed and not copied into the file yet."""
    return path.with_name(path.name + "-wal")


def owner_of(path: Path) -> str | None:
    """Return the pid, as it stands in the lock, of the process that owns a file; None if nobody does.

    Asking shares a free lock for some microseconds; a service that starts in that moment is refused.
    """
    with _shared(path.with_name(path.name + ".lock")) as lock:
        return None if lock is None else os.read(lock, 20).decode(errors="replace") or "unknown"


def owned_since(path: Path) -> Timestamp | None:
    """Return when a process last took hold of a file, which it may have let go since; None if none ever did."""
    try:
        written_at = path.with_name(path.name + ".lock").stat().st_mtime
    except FileNotFoundError:
        return None
    return to_timestamp(datetime.fromtimestamp(written_at, UTC))


@contextmanager
def unless_restored(path: Path) -> Iterator[bool]:
    """Keep restores away from a file that somebody has opened before; yields False if one is under way.

    Where nobody has, there is no lock to share and none is made: SQLite's own locks make a restore wait.
    """
    with _shared(path.with_name(path.name + ".use")) as lock:
        yield lock is None


def damage(raw: Any, *, limit: int) -> list[str]:
    """Read the whole database; return at most so many lines about what is wrong with it, none if it is whole."""
    try:
        rows = raw.execute(f"PRAGMA integrity_check({limit})").fetchall()
        lines = [line for row in rows for line in str(row[0]).splitlines() if line != "ok"]
        if lines:  # a walk along the references would end at the first page that cannot be read
            return lines[:limit]
        orphans = raw.execute("PRAGMA foreign_key_check").fetchmany(limit)
    except DriverError as error:
        if code_of(error) == _INTERRUPTED:
            raise KeyboardInterrupt from error
        raise
    return [f"a row of {row[0]} names one of {row[2]} that is not there" for row in orphans]


def strange_triggers(raw: Any, scripts: Iterable[str]) -> list[str]:
    """Return the names of triggers that the scripts make and that are gone or changed, and of all others."""
    meant = {}
    for statement in (_tidy(each) for script in scripts for each in split_statements(script)):
        if found := _TRIGGER.match(statement):
            meant[found[1]] = statement
    there = {
        name: _tidy(text) for name, text in raw.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
    }
    return sorted(name for name in meant.keys() | there.keys() if meant.get(name) != there.get(name))


def read_unit(raw: Any, make_unit: Callable[[UnitConnection], Unit], body: Callable[[Unit], Awaitable[T]]) -> T:
    """Return what a body reads from one snapshot, in this thread and without an event loop."""
    result = copy_context().run(run_read, raw, make_unit, body)
    if (error := result.error()) is not None:
        raise error
    value: T = result.value
    return value


class InspectedSchema:
    """The schema of a database that is only looked at."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    async def applied(self) -> Sequence[Row]:
        """Return version, name and checksum of every applied migration, in order; none if there is no ledger yet."""
        if not self._raw.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_migrations'").fetchall():
            return []
        rows: list[Row] = self._raw.execute(
            "SELECT version, name, checksum FROM schema_migrations ORDER BY version"
        ).fetchall()
        return rows

    async def apply(self, script: str, **ledger: Any) -> bool:  # noqa: ARG002 the port's signature
        """Refuse: who looks changes nothing."""
        raise Defect(f"Migration {ledger['name']} was about to be applied by something that only looks.")


@contextmanager
def _shared(path: Path) -> Iterator[int | None]:
    """Share a lock, if there is one; yields its descriptor only if somebody else holds it alone."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield None
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        held: int | None = lock
    else:
        held = None
    try:
        yield held
    finally:
        os.close(lock)


def _tidy(statement: str) -> str:
    return " ".join(_COMMENT.sub(" ", statement).split()).rstrip("; ")


def _connect(path: Path, *, mode: str) -> Any:
    raw = driver.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        timeout=BUSY_SECONDS,
        cached_statements=32,
    )
    try:
        raw.row_factory = driver.Row
        raw.set_progress_handler(lambda: False, STEPS_BETWEEN_LOOKS)  # Python looks at Ctrl-C in it
        for pragma in _PRAGMAS:
            raw.execute(pragma).fetchall()
    except BaseException:
        raw.close()
        raise
    return raw
