"""The writer: waiting units become one transaction, a savepoint each, with one COMMIT to disk for all (design §3)."""

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from app.db.driving import Result, refuse_nested
from app.errors import CabinetError, StorageFailed, StoreClosed, WriterBusy
from app.metrics import Metrics

T = TypeVar("T")
Body = Callable[[Any], Awaitable[Any]]

QUEUE_LIMIT = 1_000
"""How many units may wait for the writer; beyond it callers are told to come back."""

BATCH_LIMIT = 128
"""How many units share one transaction at most."""


@dataclass(slots=True)
class Waiting:
    """One unit that waits for its turn, in its caller's context."""

    body: Body
    done: asyncio.Future[Any]
    context: contextvars.Context
    writes: bool
    since: float
    """When it began to wait, as `time.monotonic` tells."""


@dataclass(frozen=True, slots=True)
class Committed:
    """A transaction that is on disk: the results of the first units of its batch, and when what happened.

    `ended_at` has the moment at which each unit's body had ended; the next one began then. All as `time.monotonic`.
    """

    results: Sequence[Result]
    began_at: float
    ended_at: Sequence[float]
    commit_seconds: float


RunBatch = Callable[[Sequence[Waiting]], Awaitable[Committed]]


class Writer:
    """A queue of units in front of one connection.

    `run_batch` executes some units in one transaction; the answers it returns belong to the first units of the batch,
    the others had no time and wait on. `on_failure` is called once, when the engine has failed in a way that leaves
    the outcome unknown.
    """

    def __init__(self, run_batch: RunBatch, *, on_failure: Callable[[StorageFailed], None], metrics: Metrics) -> None:
        self._run_batch = run_batch
        self._metrics = metrics
        self._on_failure = on_failure
        self._queue: deque[Waiting] = deque()
        self._wanted = asyncio.Event()
        self._stopped: Exception | None = None
        self._pump = asyncio.create_task(self._drain(), name="writer")

    async def submit(self, body: Callable[[Any], Awaitable[T]], *, writes: bool = True) -> T:
        """Return the body's value once it is committed, or raise what it raised; then it has left no trace.

        A caller that is cancelled before its unit has begun leaves no trace either.
        """
        refuse_nested()
        if self._stopped is not None:
            raise self._stopped
        if len(self._queue) >= QUEUE_LIMIT:
            raise WriterBusy
        done = asyncio.get_running_loop().create_future()
        self._queue.append(Waiting(body, done, contextvars.copy_context(), writes, time.monotonic()))
        self._wanted.set()
        value: T = await done
        return value

    @property
    def waiting(self) -> int:
        """How many units wait for their turn."""
        return len(self._queue)

    async def close(self) -> None:
        """Take no more units, finish those that wait, and stop."""
        self._stopped = self._stopped or StoreClosed()
        self._wanted.set()
        await asyncio.shield(self._pump)

    async def _drain(self) -> None:
        while self._queue or self._stopped is None:
            batch = self._next_batch()
            if batch:
                await self._serve(batch)
            else:
                self._wanted.clear()
                await self._uncancelled(asyncio.ensure_future(self._wanted.wait()))

    async def _uncancelled(self, future: asyncio.Future[T]) -> T:
        """Wait to the end; being cancelled means to close, so that everybody who waits is still answered."""
        while not future.done():
            try:
                await asyncio.wait({future})
            except asyncio.CancelledError:
                self._stopped = self._stopped or StoreClosed()
                self._wanted.set()
        return future.result()

    def _next_batch(self) -> list[Waiting]:
        batch: list[Waiting] = []
        while self._queue and len(batch) < BATCH_LIMIT:
            waiting = self._queue.popleft()
            if not waiting.done.done():
                batch.append(waiting)
        return batch

    async def _serve(self, batch: list[Waiting]) -> None:
        try:
            committed = await self._uncancelled(asyncio.ensure_future(self._run_batch(batch)))
        except Exception as failure:  # nobody's work is there, or whether it is there is unknown
            self._metrics.batch_failed(failure.code if isinstance(failure, CabinetError) else CabinetError.code)
            if isinstance(failure, StorageFailed):
                self._fail(failure)
            for waiting in batch:
                _answer(waiting.done, Result(failure=failure))
            return
        for waiting, result in zip(batch, committed.results, strict=False):
            _answer(waiting.done, result)
        self._queue.extendleft(reversed(batch[len(committed.results) :]))
        self._measure(batch, committed)

    def _measure(self, batch: Sequence[Waiting], committed: Committed) -> None:
        self._metrics.batch_committed(len(committed.results), commit_seconds=committed.commit_seconds)
        began_at = committed.began_at
        for waiting, ended_at in zip(batch, committed.ended_at, strict=False):
            kind = "write" if waiting.writes else "read"
            self._metrics.unit_ended(kind, waited_seconds=began_at - waiting.since, run_seconds=ended_at - began_at)
            began_at = ended_at

    def _fail(self, failure: StorageFailed) -> None:
        self._stopped = failure
        while self._queue:
            _answer(self._queue.popleft().done, Result(failure=failure))
        self._on_failure(failure)


def _answer(done: asyncio.Future[Any], result: Result) -> None:
    if done.done():  # its caller has left
        return
    error = result.error()
    if error is None:
        done.set_result(result.value)
    else:
        done.set_exception(error)
