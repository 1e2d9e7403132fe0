"""A shift: workers that run in the background of a test, handlers that wait at a gate, stores that fail when told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from app.pipelines import Context, Pipeline, Stage
from app.unit import Store, UnitOfWork
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


async def ended(desk: Desk, task_id: str) -> None:
    """Wait until a task has ended; the worker tells so after its commit."""
    with desk.wakeups.watch(task_id) as changed:
        while await desk.task_status(task_id) not in ("succeeded", "failed"):
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
