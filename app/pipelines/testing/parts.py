"""What a simulation is made of: the service's container in memory, and a worker that is led by the hand."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

from app.clock import Clock
from app.domain.audit import Author
from app.domain.jobs import Claim
from app.domain.retention import Retention
from app.domain.users import Role
from app.errors import StoreClosed
from app.ids import new_id
from app.main import Container
from app.pipelines import Pipeline
from app.security.actor import Actor
from app.services import users
from app.services.queue import Claimed
from app.settings import Settings
from app.unit import Store, UnitOfWork
from app.worker.options import WorkerOptions
from app.worker.worker import Worker

LOST_SECONDS = 30.0
"""How much time passes until it is noticed that a worker is lost."""

SLOTS = 256
"""How many attempts are claimed at once."""

_LEASE_SECONDS = 315_360_000.0
_NEVER = Retention(task_seconds=None, dead_letter_seconds=None, key_seconds=None)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Service:
    """A service in memory that nobody works for yet, and somebody who may do everything with its tasks."""

    container: Container
    store: Store
    actor: Actor
    artifacts_dir: Path


class OneByOne:
    """The store as a worker sees it: what it claims is handed out one by one, in the order of the tasks' creation.

    So handlers run one after the other, which a worker's own would do in no certain order. A worker that `is_lost` can
    say nothing more once it has claimed.
    """

    def __init__(self, store: Store, *, is_lost: bool) -> None:
        self._store = store
        self._is_lost = is_lost
        self.expects_claim = False
        """Whether the next word is a claim."""
        self.waiting: list[Claim] = []
        self.handed_out: list[Claim] = []

    async def write(self, body: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """Pass a unit on."""
        if self.expects_claim:
            self.expects_claim = False
            return cast("T", await self._claim(body))
        if self._is_lost:
            raise StoreClosed("This worker is lost.")
        return await self._store.write(body)

    async def read(self, body: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """Pass a unit on."""
        return await self._store.read(body)

    async def _claim(self, body: Callable[[UnitOfWork], Awaitable[Any]]) -> Claimed:
        if not self.waiting:
            claimed: Claimed = await self._store.write(body)
            self.waiting = sorted(claimed.claims, key=lambda claim: claim.task_id)
        first, self.waiting = self.waiting[:1], self.waiting[1:]
        self.handed_out += first
        return Claimed(first, None)


class LedWorker:
    """A worker that claims all that is due when it is told to, and makes one attempt after the other."""

    def __init__(self, service: Service, pipeline: Pipeline, *, chance: float, is_lost: bool = False) -> None:
        options = WorkerOptions(
            name="lost" if is_lost else "simulation",
            artifacts_dir=service.artifacts_dir,
            concurrency=SLOTS,
            lease_seconds=LOST_SECONDS if is_lost else _LEASE_SECONDS,
            poll_seconds=1.0,
            grace_seconds=0.0,
            retention=_NEVER,
        )
        wakeups = service.container.wakeups
        self._store = OneByOne(service.store, is_lost=is_lost)
        self._worker = Worker(
            self._store,
            pipeline,
            wakeups,
            options,
            metrics=service.container.metrics,
            chance=lambda: chance,
            monotonic=time.monotonic,
        )

    async def step(self) -> list[Claim]:
        """Make an attempt of all that is due, and return which those were."""
        self._store.handed_out = []
        await self._make_an_attempt()
        while self._store.waiting:
            await self._make_an_attempt()
        return self._store.handed_out

    async def keep_leases(self) -> None:
        """Say that the worker lives, stop what was cancelled, and take back what other workers have lost."""
        await self._worker.upkeep.keep_leases_once()

    async def _make_an_attempt(self) -> None:
        self._store.expects_claim = True
        await self._worker.step()
        self._store.expects_claim = False  # without a free slot it has not claimed


@asynccontextmanager
async def open_service(pipeline: Pipeline, clock: Clock) -> AsyncIterator[Service]:
    """Open a service in memory; the folder of its tasks is temporary."""
    with TemporaryDirectory(prefix="simulation-", ignore_cleanup_errors=True) as folder:
        settings = Settings(app_env="test", use_sqlite=False, artifacts_dir=Path(folder))
        container = Container(settings, pipeline=pipeline, clock=clock)
        async with container.open_beside():
            actor = await container.store.write(_add_admin)
            yield Service(container, container.store, actor, settings.artifacts_dir)


async def _add_admin(work: UnitOfWork) -> Actor:
    author = Author(user_id=None, subject="local:simulation")
    user = await users.add(work, author, user_id=new_id(), subject="simulation", role=Role.SUPER_ADMIN, scopes=None)
    return Actor(id=user.id, subject=user.subject, role=user.role, scopes=user.scopes)
