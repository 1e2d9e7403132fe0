"""Units of work on SQLite: executed in their connection's own thread, many in one transaction (design §3)."""

import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from app.db.connection import Row, UnitConnection
from app.db.driving import Result, drive, enter_unit
from app.db.queries import Query
from app.db.sqlite import READ_ONLY, DriverError, abandon, translate
from app.db.writer import Committed, Waiting
from app.errors import (
    CabinetError,
    ParameterMismatch,
    Refusal,
    StorageFailed,
    TransactionLost,
    Unavailable,
    UnitClosed,
    WriteInRead,
)

T = TypeVar("T")
MakeUnit = Callable[[UnitConnection], Any]

BATCH_SECONDS = 0.02
"""After this time a batch is committed, and the units that had no turn wait for the next."""


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
        except GeneratorExit:  # the body suspended and is being ended: drive says so
            raise
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
        except DriverError as error:
            failure = translate(error, query.name) if self._writes or not _is_read_only(error) else WriteInRead()
            if isinstance(failure, StorageFailed):
                self.failure = failure
            raise failure from error
        return rows


def run_batch(raw: Any, make_unit: MakeUnit, batch: Sequence[Waiting]) -> Committed:
    """Execute units in one transaction, a savepoint each, and COMMIT; runs in the writer's thread.

    There are fewer results than units when time was up. Raises if the transaction was lost or not committed: then no
    unit of the batch has left a trace, unless it is StorageFailed, which leaves that unknown.
    """
    results: list[Result] = []
    ended_at: list[float] = []
    try:
        raw.execute("BEGIN IMMEDIATE")
        began_at = time.monotonic()
        for waiting in batch:
            has_left = waiting.done.done()
            results.append(Result() if has_left else waiting.context.run(_run_in_savepoint, raw, make_unit, waiting))
            ended_at.append(time.monotonic())
            if ended_at[-1] - began_at > BATCH_SECONDS:
                break
        raw.execute("COMMIT")
    except BaseException as failure:
        abandon(raw)
        if isinstance(failure, DriverError):
            raise translate(failure, "the transaction") from failure
        raise
    return Committed(results, began_at, ended_at, time.monotonic() - ended_at[-1])


def run_read(raw: Any, make_unit: MakeUnit, body: Callable[[Any], Awaitable[Any]]) -> Result:
    """Execute one unit that only reads on a snapshot of its own; runs in a reader's thread."""
    try:
        raw.execute("BEGIN")
        result = _run_body(raw, make_unit, body, writes=False)
        _raise_fatal(result)
        raw.execute("COMMIT")
    except BaseException as failure:
        abandon(raw)
        if isinstance(failure, DriverError):
            raise translate(failure, "the snapshot") from failure
        raise
    return result


def _is_read_only(error: Exception) -> bool:
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF == READ_ONLY


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
