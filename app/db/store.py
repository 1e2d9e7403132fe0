"""The store on SQLite: one writer, a few readers, a timer that checkpoints, and their opening and closing."""

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from app.db.connection import SchemaTarget, UnitConnection
from app.db.driving import Result, refuse_nested
from app.db.sqlite import SqliteConnectionFactory, SqliteSchema, ThreadConnection, checkpoint
from app.db.sqlite_units import run_batch, run_read
from app.db.writer import Committed, Waiting, Writer
from app.errors import CabinetError, StorageFailed, StoreClosed, WriterBusy
from app.log import event
from app.metrics import Metrics

T = TypeVar("T")
Unit = TypeVar("Unit")

CHECKPOINT_SECONDS = 1.0
"""How often the log is copied into the database file, if there was a commit since."""

READ_QUEUE_LIMIT = 1_000
"""How many units may wait for a reader."""

_log = logging.getLogger(__name__)


class SqliteStore(Generic[Unit]):
    """Runs units of work on one SQLite database; `make_unit` turns a connection into what a body gets.

    `on_failure` is called when the engine has failed and the process should end. Until it is opened and after it is
    closed, every unit is refused with StoreClosed.
    """

    def __init__(
        self,
        factory: SqliteConnectionFactory,
        make_unit: Callable[[UnitConnection], Unit],
        *,
        readers: int,
        on_failure: Callable[[StorageFailed], None],
        metrics: Metrics,
    ) -> None:
        self._factory = factory
        self._make_unit = make_unit
        self._reader_count = 0 if factory.path is None else readers
        self._on_failure = on_failure
        self._metrics = metrics
        self._connection: ThreadConnection | None = None
        self._writer: Writer | None = None
        self._readers: asyncio.LifoQueue[ThreadConnection] = asyncio.LifoQueue()
        self._readers_waited_for = 0
        self._has_committed = False
        self._place: tuple[int, int] | None = None

    @asynccontextmanager
    async def open(
        self, prepare: Callable[[SchemaTarget], Awaitable[None]], *, owns: bool = True
    ) -> AsyncIterator["SqliteStore[Unit]"]:
        """Open the database, let `prepare` see to its schema, and serve units until the block ends.

        At the end the units that wait are finished. Only who `owns` the file copies the log into it: at the start, now
        and then, and at the end (fact 17).
        """
        async with AsyncExitStack() as stack:
            self._connection = await stack.enter_async_context(self._factory.writer())
            await prepare(SqliteSchema(self._connection))
            self._place = _place_of(self._factory.path)
            if owns:
                await self._checkpoint("TRUNCATE")
                stack.push_async_callback(self._try_checkpoint, "TRUNCATE")
            for _ in range(self._reader_count):
                self._readers.put_nowait(await stack.enter_async_context(self._factory.reader()))
            self._writer = Writer(self._run_batch, on_failure=self._on_failure, metrics=self._metrics)
            stack.push_async_callback(self._writer.close)
            if owns:
                timer = asyncio.create_task(self._checkpoint_now_and_then(), name="checkpoints")
                stack.push_async_callback(_stop, timer)
            try:
                yield self
            finally:
                writer, self._writer = self._writer, None
                await writer.close()
                for _ in range(self._reader_count):  # units that wait for a reader come first
                    await self._readers.get()

    @property
    def waiting(self) -> dict[str, int]:
        """How many units wait for a connection, by kind."""
        return {"write": 0 if self._writer is None else self._writer.waiting, "read": self._readers_waited_for}

    async def write(self, body: Callable[[Unit], Awaitable[T]]) -> T:
        """Commit what the body did and return its value, or leave no trace and raise."""
        if self._writer is None:
            raise StoreClosed
        return await self._writer.submit(body)

    async def read(self, body: Callable[[Unit], Awaitable[T]]) -> T:
        """Return what the body read from one snapshot; a body that writes fails."""
        if self._writer is None:
            raise StoreClosed
        if self._reader_count == 0:
            return await self._writer.submit(body, writes=False)
        refuse_nested()
        value: T = _value(await self._read_on_some_reader(body))
        return value

    async def _read_on_some_reader(self, body: Callable[[Unit], Awaitable[Any]]) -> Result:
        if self._readers_waited_for >= READ_QUEUE_LIMIT:
            raise WriterBusy
        self._readers_waited_for += 1
        since = time.monotonic()
        try:
            reader = await self._readers.get()
        finally:
            self._readers_waited_for -= 1
        began_at = time.monotonic()
        try:
            context = contextvars.copy_context()
            return await reader.run(lambda raw: context.run(run_read, raw, self._make_unit, body))
        except StorageFailed as failure:
            self._on_failure(failure)
            raise
        finally:
            self._readers.put_nowait(reader)
            self._metrics.unit_ended("read", waited_seconds=began_at - since, run_seconds=time.monotonic() - began_at)

    async def _run_batch(self, batch: Sequence[Waiting]) -> Committed:
        if self._connection is None:
            raise StoreClosed
        self._check_place()
        self._has_committed = True
        return await self._connection.run(run_batch, self._make_unit, batch)

    def _check_place(self) -> None:
        """Raise StorageFailed if the file that is open is no longer the one that a restart would open."""
        if _place_of(self._factory.path) != self._place:
            raise StorageFailed("The database file was removed or replaced under the service; nothing was stored.")

    async def _checkpoint_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(CHECKPOINT_SECONDS)
            if self._has_committed:
                self._has_committed = False
                await self._try_checkpoint("PASSIVE")

    async def _try_checkpoint(self, mode: str) -> None:
        try:
            await self._checkpoint(mode)
        except StorageFailed as failure:
            self._on_failure(failure)
        except CabinetError as error:
            event(_log, logging.WARNING, "checkpoint_failed", mode=mode, reason=error.message)

    async def _checkpoint(self, mode: str) -> None:
        if self._connection is not None and self._factory.path is not None:
            is_busy, pages = await self._connection.run(checkpoint, mode)
            event(_log, logging.DEBUG, "checkpoint", mode=mode, busy=is_busy, pages=pages)


def _place_of(path: Path | None) -> tuple[int, int] | None:
    """Return what tells a file from all others; None for no file."""
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return None if found is None else (found.st_dev, found.st_ino)


def _value(result: Result) -> Any:
    error = result.error()
    if error is not None:
        raise error
    return result.value


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
