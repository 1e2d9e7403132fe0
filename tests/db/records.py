"""The whole schema on each engine, and rows to begin a test with: what the repositories' conformance suite stands on.

A further engine is a further name in ENGINES and a further case in `open_database`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from app.clock import Timestamp, later
from app.db.connection import SchemaTarget
from app.db.migrations import MigrationsRunner, load_migrations
from app.db.queries import load_queries, parse_query
from app.db.sqlite import SqliteConnectionFactory
from app.db.store import SqliteStore
from app.domain.jobs import Claim, Lease
from app.domain.tasks import CreateTask
from app.domain.users import Role, User
from app.ids import new_id
from app.main import SQL
from app.metrics import Metrics
from app.unit import Store, UnitOfWork
from tests.support.clocks import HandClock
from tests.support.database import NOW

T = TypeVar("T")

ENGINES = ("file", "memory")
"""Where the conformance suite runs."""

QUERIES = load_queries(SQL / "queries", engine="sqlite")
STAGES = ("parse", "photos", "publish", "export", "cleanup")
LAST = "ffffffff-ffff-7fff-bfff-ffffffffffff"
"""A key that every id lies before."""

FIRST = ""
"""A key that every id lies after."""

AFTER = later(NOW, 60)
MINE, OTHERS = new_id(), new_id()
"""Two leases' tokens."""


@dataclass(frozen=True, slots=True)
class Database:
    """A store over the whole schema."""

    store: Store
    dialect: str

    async def write(self, body: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """Run a unit that writes."""
        return await self.store.write(body)

    async def read(self, body: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """Run a unit that reads."""
        return await self.store.read(body)

    async def rows(self, text: str, **parameters: Any) -> list[dict[str, Any]]:
        """Run one statement in a unit of its own; it goes past the repositories, to set or see what they hide."""
        query = parse_query("test.rows", text, engine=self.dialect)

        async def body(work: UnitOfWork) -> list[dict[str, Any]]:
            found: Any = await work._connection.fetch_all(query, **parameters)
            return [dict(row) for row in found]

        return await self.store.write(body)

    async def user(self, subject: str = "alice@example.com", role: Role = Role.USER) -> User:
        """Make a user."""
        user = a_user(subject, role)
        assert await self.store.write(lambda work: work.users.add(user))
        return user

    async def task(self, user: User | None = None, *, reference: str | None = None, run_at: Timestamp = NOW) -> str:
        """Make an open task with its pipeline state and its job, and return its id."""
        owner = user or await self.user(f"{new_id()}@example.com")
        command = a_command(reference=reference)

        async def body(work: UnitOfWork) -> None:
            await work.tasks.add(command=command, created_by=owner.id, created_at=NOW)
            await work.pipeline_states.add(command.task_id, stage=command.first_stage, now=NOW)
            await work.jobs.add(command.task_id, stage=command.first_stage, run_at=run_at)

        await self.store.write(body)
        return command.task_id

    async def lease(
        self, token: str = MINE, *, stages: Sequence[str] = STAGES, now: Timestamp = NOW, limit: int = 10
    ) -> list[tuple[str, str, Timestamp]]:
        """Claim jobs; return tasks, stages, and since when each is at its stage."""
        lease = Lease(token=token, worker="worker-1", expires_at=later(now, 30))
        leased = await self.store.write(lambda work: work.jobs.claim(lease, stages=stages, now=now, limit=limit))
        return [(job.task_id, job.stage, job.stage_started_at) for job in leased]

    async def begin(self, task_id: str, token: str = MINE, *, stage: str = "parse", now: Timestamp = NOW) -> None:
        """Write down that an attempt at a task has begun."""
        claim = a_claim(task_id, token, stage=stage)
        await self.store.write(lambda work: work.attempts.begin(claim, worker="worker-1", now=now))


@asynccontextmanager
async def open_database(engine: str, folder: Path) -> AsyncIterator[Database]:
    """Open a store over the whole schema on one of ENGINES."""
    factory = SqliteConnectionFactory(folder / "cabinet.db" if engine == "file" else None)
    make_unit = partial(UnitOfWork, queries=QUERIES, clock=HandClock())
    store: SqliteStore[UnitOfWork] = SqliteStore(
        factory, make_unit, readers=1, on_failure=_unexpected, metrics=Metrics()
    )
    async with store.open(_migrate):
        yield Database(store, factory.engine)


def a_user(subject: str = "alice@example.com", role: Role = Role.USER, *, is_active: bool = True) -> User:
    """Make a user that is stored nowhere."""
    return User(
        id=new_id(),
        subject=subject,
        role=role,
        scopes=frozenset({"tasks.create", "tasks.read"}),
        is_active=is_active,
        created_at=NOW,
        updated_at=NOW,
    )


def a_command(*, key: str = "key", reference: str | None = None, payload: dict[str, Any] | None = None) -> CreateTask:
    """Make a command to create a task."""
    return CreateTask.of(
        task_id=new_id(), idem_key=key, reference=reference, payload=payload or {}, first_stage="parse"
    )


def a_claim(task_id: str, token: str = MINE, *, stage: str = "parse") -> Claim:
    """Make a claim on a task, which nobody has checked."""
    return Claim(
        task_id=task_id,
        stage=stage,
        attempt=1,
        lease_token=token,
        claimed_at=NOW,
        stage_started_at=NOW,
        crashes=0,
        reference=None,
        payload_json="{}",
        outputs_json={},
    )


async def _migrate(target: SchemaTarget) -> None:
    await MigrationsRunner(load_migrations(SQL / "migrations", engine="sqlite"), clock=HandClock()).apply(target)


def _unexpected(failure: Exception) -> None:
    raise failure
