"""A shift: workers that run in the background of a test, handlers that wait at a gate, stores that fail when told."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest

from app.pipelines import Context, Pipeline, Stage
from app.unit import Store, UnitOfWork
from app.wakeups import Wakeups
from app.worker.worker import Worker
from tests.worker.desk import Desk

T = TypeVar("T")

PATIENCE_SECONDS = 10


@asynccontextmanager
async def running(*workers: Worker) -> AsyncIterator[None]:
    """Let workers run until the block ends; whatever waits for ever fails the test."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        tasks = [asyncio.create_task(worker.run()) for worker in workers]
        try:
            yield
        finally:
            for worker in workers:
                worker.stop()
            await asyncio.gather(*tasks)


class Gate:
    """A handler that tells that it has begun, and waits to be let on."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[Context] = asyncio.Queue()
        self.open = asyncio.Event()
        self.inside = 0
        self.most = 0

    async def __call__(self, context: Context) -> dict[str, Any]:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.begun.put_nowait(context)
        try:
            await self.open.wait()
        finally:
            self.inside -= 1
        return {}

    def pipeline(self) -> Pipeline:
        """Return a pipeline that has only this."""
        return Pipeline([Stage("parse", self)])


class ThreadGate:
    """The same for a plain handler, which nobody can stop; it tells whether it was told to."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.open = threading.Event()
        self.was_told: bool | None = None

    def __call__(self, context: Context) -> dict[str, Any]:
        self.begun.set()
        self.open.wait(PATIENCE_SECONDS)
        self.was_told = context.is_cancelled
        return {"late": 1}

    async def has_begun(self) -> None:
        """Return once the handler is inside."""
        assert await asyncio.to_thread(self.begun.wait, PATIENCE_SECONDS)


class NotedWakeups(Wakeups):
    """Wake-ups that note how long a worker wants to wait for work, and that it has held its leases."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: asyncio.Queue[float] = asyncio.Queue()
        self.has_beaten = asyncio.Event()

    async def wait_for_work(self, timeout_seconds: float) -> None:
        """Note it, and wait."""
        self.waits.put_nowait(timeout_seconds)
        await super().wait_for_work(timeout_seconds)

    async def wait_for_cancel(self, timeout_seconds: float) -> None:
        """Note that leases were held before, and wait."""
        self.has_beaten.set()
        await super().wait_for_cancel(timeout_seconds)


async def begin(worker: Worker, gate: Gate) -> "asyncio.Task[int]":
    """Let a worker claim once; return its step as soon as the handler is inside."""
    step = asyncio.create_task(worker.step())
    await gate.begun.get()
    return step


async def nothing_stuck(worker: Worker) -> None:
    """Wait until the threads that a worker gave up have ended."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while worker.slots.threads.stuck:
            await asyncio.sleep(0)


def told(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    """Return level and fields of what was logged under a name."""
    return [
        {"level": record.levelname} | getattr(record, "fields", {}) for record in caplog.records if record.msg == event
    ]


async def ended(desk: Desk, task_id: str) -> None:
    """Wait until a task has ended; the worker tells so after its commit."""
    with desk.wakeups.watch(task_id) as changed:
        while await desk.task_status(task_id) not in ("succeeded", "failed", "cancelled"):
            await changed.wait()


class FaultyStore:
    """A store that raises what lies in `faults`, one for each unit that writes, before it passes any on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.faults: list[Exception] = []
        self.after_write: Callable[[], None] = lambda: None

    async def write(self, body: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """Fail if told to, else write."""
        if self.faults:
            raise self.faults.pop(0)
        value = await self._store.write(body)
        self.after_write()
        return value

    async def read(self, body: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """Read."""
        return await self._store.read(body)
