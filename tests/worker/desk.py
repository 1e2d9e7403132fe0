"""A queue on a real file with a clock that is moved by hand; whole tables are read, so that nothing changes unseen."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from app.db.queries import parse_query
from app.domain.dead_letters import RescueTerms
from app.domain.jobs import Claim
from app.domain.pipeline import PipelineShape, TaskStanding
from app.domain.retention import Retention
from app.domain.retry import RetryPolicy
from app.domain.scopes import DEFAULT_SCOPES
from app.domain.tasks import CreateTask
from app.domain.users import Role
from app.ids import new_id
from app.main import Container
from app.pipelines import Pipeline
from app.security.actor import Actor
from app.services import leases, queue, tasks, users
from app.services.leases import Crashes, TakenBack
from app.services.queue import ClaimWork
from app.services.tasks import CancelTask, RetryTask
from app.unit import Store, UnitOfWork
from app.wakeups import Wakeups
from app.worker.options import WorkerOptions
from app.worker.worker import Worker
from tests.support.clocks import HandClock, HandSeconds
from tests.support.house import LOCAL, STAGES, house_settings, quiet_pipeline

T = TypeVar("T")

TABLES = (
    "tasks", "pipeline_states", "jobs", "attempts", "outputs", "idempotency_keys", "dead_letters", "attempt_minutes",
)  # fmt: skip

KEEP = Retention(task_seconds=None, dead_letter_seconds=None, key_seconds=None)
"""Nothing is ever pruned."""

SHAPE = PipelineShape(stages=STAGES, side_effects=frozenset())


class Desk:
    """An open store, an admin who may do everything with tasks, and the words that a worker says to the queue."""

    def __init__(self, container: Container, clock: HandClock, actor: Actor) -> None:
        self.container = container
        self.store = container.store
        self.clock = clock
        self.actor = actor
        self.artifacts_dir = container.settings.artifacts_dir
        self.seconds = HandSeconds()
        self.wakeups = container.wakeups
        self.metrics = container.metrics

    async def add_task(self, *, stage: str = STAGES[0], payload: dict[str, Any] | None = None, **more: str) -> str:
        """Accept a task through the service and return its id."""
        command = CreateTask.of(
            task_id=new_id(),
            idem_key=new_id(),
            reference=more.get("reference"),
            payload=payload or {},
            first_stage=stage,
        )
        created = await self.store.write(lambda work: tasks.create(work, self.actor, command))
        return created.task.id

    async def claim(
        self, limit: int = 1, *, stages: Sequence[str] = STAGES, worker: str = "one", lease_seconds: float = 30
    ) -> list[Claim]:
        """Claim as a worker does."""
        command = ClaimWork(
            worker=worker,
            lease_token=new_id(),
            lease_seconds=lease_seconds,
            room=dict.fromkeys(stages, limit),
            limit=limit,
        )
        claimed = await self.store.write(lambda work: queue.claim(work, command))
        return list(claimed.claims)

    async def take_back(
        self, *, chance: float = 0.0, policies: Mapping[str, RetryPolicy] | None = None
    ) -> list[TakenBack]:
        """Take back leases that have run out, as a living worker does."""
        crashes = Crashes(policies or {}, lambda: chance)
        return await self.store.write(lambda work: leases.take_back(work, crashes))

    async def take_back_all(self, *, chance: float = 0.0) -> list[TakenBack]:
        """Take back all leases, as the owner of a file does whose predecessor is dead."""
        crashes = Crashes({}, lambda: chance)
        return await self.store.write(lambda work: leases.take_back_all(work, crashes))

    async def retry(
        self, task_id: str, *, override: bool = False, shape: PipelineShape = SHAPE, **terms: Any
    ) -> TaskStanding:
        """Let a task be tried again, or rescue it."""
        command = RetryTask(
            task_id=task_id, override_dead_letter=override, reason="mended", terms=RescueTerms(**terms), shape=shape
        )
        return await self.store.write(lambda work: tasks.retry(work, self.actor, command))

    async def cancel(self, task_id: str, *, grace_seconds: float = 30) -> TaskStanding:
        """Cancel a task."""
        command = CancelTask(task_id=task_id, reason=None, grace_seconds=grace_seconds)
        return await self.store.write(lambda work: tasks.cancel(work, self.actor, command))

    async def claimed_task(self) -> Claim:
        """Accept a task and claim it."""
        await self.add_task()
        [claim] = await self.claim()
        return claim

    async def say(self, body: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """Run a unit that writes."""
        return await self.store.write(body)

    async def rows(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Run SQL of the test's own in a unit and return its rows."""
        query = parse_query("tests.own", sql, engine="sqlite")

        async def body(work: UnitOfWork) -> list[tuple[Any, ...]]:
            found: Any = await work._connection.fetch_all(query, **parameters)
            return [tuple(row) for row in found]

        return await self.store.write(body)

    async def one(self, sql: str, **parameters: Any) -> tuple[Any, ...]:
        """Return the only row."""
        [row] = await self.rows(sql, **parameters)
        return row

    async def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return all rows of the tables that tasks have."""
        return {table: await self.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES}

    async def state(self, task_id: str) -> tuple[Any, ...]:
        """Return stage, status and attempt of a task's pipeline state."""
        return await self.one("SELECT stage, status, attempt FROM pipeline_states WHERE task_id = :id", id=task_id)

    async def task_status(self, task_id: str) -> str:
        """Return the status of a task as a whole."""
        [status] = await self.one("SELECT status FROM tasks WHERE id = :id", id=task_id)
        return str(status)

    async def history(self, task_id: str) -> list[tuple[Any, ...]]:
        """Return stage, number, outcome and kind of error of a task's attempts, the oldest first."""
        return await self.rows(
            "SELECT stage, attempt, outcome, error_kind FROM attempts WHERE task_id = :id ORDER BY lease_token",
            id=task_id,
        )

    async def run_at(self, task_id: str) -> str:
        """Return when the task's job is due."""
        [run_at] = await self.one("SELECT run_at FROM jobs WHERE task_id = :id", id=task_id)
        return str(run_at)

    def worker(
        self,
        pipeline: Pipeline | None = None,
        *,
        name: str = "one",
        store: Store | None = None,
        wakeups: Wakeups | None = None,
        chance: float = 0.5,
        concurrency: int = 1,
        poll_seconds: float = 3_600,
        lease_seconds: float = 30,
        grace_seconds: float = 60,
        retention: Retention = KEEP,
    ) -> Worker:
        """Make a worker; it polls so rarely that only a wake-up moves it."""
        options = WorkerOptions(
            name=name,
            artifacts_dir=self.artifacts_dir,
            concurrency=concurrency,
            lease_seconds=lease_seconds,
            poll_seconds=poll_seconds,
            grace_seconds=grace_seconds,
            retention=retention,
        )
        return Worker(
            store or self.store,
            pipeline or quiet_pipeline(),
            wakeups or self.wakeups,
            options,
            metrics=self.metrics,
            chance=lambda: chance,
            monotonic=self.seconds,
        )


@asynccontextmanager
async def open_desk(folder: Path) -> AsyncIterator[Desk]:
    """Open a queue with nobody working at it."""
    clock = HandClock()
    container = Container(house_settings(folder), pipeline=quiet_pipeline(), clock=clock)
    async with container.open_beside():
        user = await container.store.write(
            lambda work: users.add(work, LOCAL, user_id=new_id(), subject="root", role=Role.SUPER_ADMIN, scopes=None)
        )
        actor = Actor(id=user.id, subject="root", role=Role.SUPER_ADMIN, scopes=DEFAULT_SCOPES[Role.SUPER_ADMIN])
        yield Desk(container, clock, actor)
