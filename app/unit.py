"""The unit of work: one transaction's repositories, handed to one function; and the port that runs such functions."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from app.clock import Clock, Timestamp
from app.db.connection import Queries, UnitConnection
from app.errors import Refusal
from app.repositories.access_requests import AccessRequestsRepository
from app.repositories.attempt_minutes import AttemptMinutesRepository
from app.repositories.attempts import AttemptsRepository
from app.repositories.audit_events import AuditEventsRepository
from app.repositories.audit_seals import AuditSealsRepository
from app.repositories.dead_letters import DeadLettersRepository
from app.repositories.jobs import JobsRepository
from app.repositories.nonces import NoncesRepository
from app.repositories.outputs import OutputsRepository
from app.repositories.pauses import PausesRepository
from app.repositories.pipeline_states import PipelineStatesRepository
from app.repositories.probes import ProbesRepository
from app.repositories.pruned_folders import PrunedFoldersRepository
from app.repositories.rescues import RescuesRepository
from app.repositories.signing_keys import SigningKeysRepository
from app.repositories.tasks import TasksRepository
from app.repositories.users import UsersRepository
from app.repositories.workers import WorkersRepository

T = TypeVar("T")


class UnitOfWork:
    """What a body gets: repositories that share one connection and one transaction. A body changes nothing else."""

    __slots__ = (
        "_connection", "_now", "access_requests", "attempt_minutes", "attempts", "audit_events", "audit_seals",
        "dead_letters", "jobs", "nonces", "outputs", "pauses", "pipeline_states", "probes", "pruned_folders",
        "rescues", "signing_keys", "tasks", "users", "workers",
    )  # fmt: skip

    def __init__(self, connection: UnitConnection, queries: Queries, clock: Clock) -> None:
        self._connection = connection
        self._now = clock.now()
        self.access_requests = AccessRequestsRepository(connection, queries)
        self.attempt_minutes = AttemptMinutesRepository(connection, queries)
        self.attempts = AttemptsRepository(connection, queries)
        self.audit_events = AuditEventsRepository(connection, queries)
        self.audit_seals = AuditSealsRepository(connection, queries)
        self.dead_letters = DeadLettersRepository(connection, queries)
        self.jobs = JobsRepository(connection, queries)
        self.nonces = NoncesRepository(connection, queries)
        self.outputs = OutputsRepository(connection, queries)
        self.pauses = PausesRepository(connection, queries)
        self.pipeline_states = PipelineStatesRepository(connection, queries)
        self.probes = ProbesRepository(connection, queries)
        self.pruned_folders = PrunedFoldersRepository(connection, queries)
        self.rescues = RescuesRepository(connection, queries)
        self.signing_keys = SigningKeysRepository(connection, queries)
        self.tasks = TasksRepository(connection, queries)
        self.users = UsersRepository(connection, queries)
        self.workers = WorkersRepository(connection, queries)

    def now(self) -> Timestamp:
        """Return the one present of this unit."""
        return self._now

    async def protect(self, body: Callable[[], Awaitable[T]]) -> T | Refusal:
        """Run a part of the unit so that a Refusal undoes that part alone; the refusal is returned, not raised."""
        return await self._connection.protect(body)


class Store(Protocol):
    """Runs units of work. Only mistakes raise NestedUnit or ForeignAwait; what a body raises reaches the caller."""

    async def write(self, body: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """Commit what the body did and return its value, or leave no trace and raise."""
        ...

    async def read(self, body: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """Return what the body read from one snapshot; a body that writes fails."""
        ...
