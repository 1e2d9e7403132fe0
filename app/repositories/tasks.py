"""The tasks table, and the idempotency_keys table that names its rows."""

from typing import Any

from app.clock import Timestamp
from app.db.connection import Connection, Queries, Row
from app.domain.idempotency import IdempotencyKey
from app.domain.pipeline import PipelineState, StateStatus, TaskStanding
from app.domain.retention import AgedKey, AgedTask
from app.domain.tasks import CreateTask, Task, TaskFilter, TaskPayload, TaskStatus
from app.repositories.attempts import progress_of


class TasksRepository:
    """Accepted work, and the keys under which callers named it."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self._connection = connection
        self._queries = queries

    async def store_idempotency_key(
        self, *, actor_id: str, command: CreateTask, created_at: Timestamp
    ) -> IdempotencyKey:
        """Claim the key for the command's task; if it is taken, count a replay and return whose it is."""
        row = await self._connection.fetch_one(
            self._queries["idempotency_keys.store"],
            actor_id=actor_id,
            idem_key=command.idem_key,
            task_id=command.task_id,
            created_at=created_at,
            fingerprint=command.fingerprint,
        )
        if row is None:
            raise LookupError("an insert that returns gave no row")
        return _key(row)

    async def find_by_actor_and_idempotency_key(self, actor_id: str, idem_key: str) -> Task | None:
        """Return the task that the actor created under that key."""
        query = self._queries["idempotency_keys.find"]
        row = await self._connection.fetch_one(query, actor_id=actor_id, idem_key=idem_key)
        return None if row is None else await self.by_id(row["task_id"])

    async def add(self, *, command: CreateTask, created_by: str, created_at: Timestamp) -> Task:
        """Store a new, open task."""
        await self._connection.fetch_one(
            self._queries["tasks.add"],
            id=command.task_id,
            created_by=created_by,
            created_at=created_at,
            reference=command.reference,
            first_stage=command.first_stage,
            payload_json=command.payload_json,
        )
        return Task(
            id=command.task_id,
            created_by=created_by,
            status=TaskStatus.OPEN,
            reference=command.reference,
            first_stage=command.first_stage,
            created_at=created_at,
            updated_at=created_at,
        )

    async def by_id(self, task_id: str) -> Task | None:
        """Return the task of that id."""
        row = await self._connection.fetch_one(self._queries["tasks.by_id"], id=task_id)
        return None if row is None else _task(row)

    async def standing(self, task_id: str) -> TaskStanding | None:
        """Return the task of that id and where it stands in the pipeline."""
        row = await self._connection.fetch_one(self._queries["tasks.standing"], id=task_id)
        return None if row is None else _standing(row)

    async def payload(self, task_id: str) -> TaskPayload | None:
        """Return what the caller sent."""
        row = await self._connection.fetch_one(self._queries["tasks.payload"], id=task_id)
        return None if row is None else TaskPayload(reference=row["reference"], json=row["payload_json"])

    async def page(self, wanted: TaskFilter, *, before: str, limit: int) -> list[TaskStanding]:
        """Return the newest tasks that pass the filter and whose id lies before the given one."""
        parameters: dict[str, Any] = {
            "status": wanted.status,
            "stage": wanted.stage,
            "created_by": wanted.created_by,
            "reference": wanted.reference,
        }
        query = self._queries[_page_query(wanted)]
        rows = await self._connection.fetch_all(query, before=before, limit=limit, **parameters)
        return [_standing(row) for row in rows]

    async def start(self, task_id: str, *, now: Timestamp) -> bool:
        """Move an open task to running; False if it was not open."""
        return await self._connection.fetch_one(self._queries["tasks.start"], id=task_id, now=now) is not None

    async def finish(self, task_id: str, *, now: Timestamp) -> bool:
        """Move a running task to succeeded; False if it was not running."""
        return await self._connection.fetch_one(self._queries["tasks.finish"], id=task_id, now=now) is not None

    async def fail(self, task_id: str, *, now: Timestamp) -> bool:
        """Move a running task to failed; False if it was not running."""
        return await self._connection.fetch_one(self._queries["tasks.fail"], id=task_id, now=now) is not None

    async def rescue(self, task_id: str, *, now: Timestamp) -> bool:
        """Move a failed task back to running; False if it had not failed."""
        return await self._connection.fetch_one(self._queries["tasks.rescue"], id=task_id, now=now) is not None

    async def cancel(self, task_id: str, *, now: Timestamp) -> bool:
        """Move an open or running task to cancelled; False if it was neither."""
        return await self._connection.fetch_one(self._queries["tasks.cancel"], id=task_id, now=now) is not None

    async def count_by_status(self) -> dict[TaskStatus, int]:
        """Return how many tasks there are of each status."""
        rows = await self._connection.fetch_all(self._queries["tasks.count_by_status"])
        return {TaskStatus(row["status"]): row["tasks"] for row in rows}

    async def oldest(self, *, after: str, limit: int) -> list[AgedTask]:
        """Return the oldest tasks whose id lies after the given one, with what decides whether they may be pruned."""
        rows = await self._connection.fetch_all(self._queries["tasks.oldest"], after=after, limit=limit)
        return [
            AgedTask(
                id=row["id"],
                status=TaskStatus(row["status"]),
                created_at=row["created_at"],
                updated_at=row["updated_at"],
                has_key=bool(row["has_key"]),
            )
            for row in rows
        ]

    async def oldest_keys(self, *, after: str, limit: int) -> list[AgedKey]:
        """Return the idempotency keys of the oldest tasks after the given one."""
        rows = await self._connection.fetch_all(self._queries["idempotency_keys.oldest"], after=after, limit=limit)
        return [
            AgedKey(
                task_id=row["task_id"],
                created_at=row["created_at"],
                task_status=None if row["status"] is None else TaskStatus(row["status"]),
            )
            for row in rows
        ]

    async def prune_keys(self, ids_json: str) -> None:
        """Delete the idempotency keys of some tasks."""
        await self._connection.fetch_all(self._queries["idempotency_keys.prune"], ids_json=ids_json)

    async def prune(self, ids_json: str) -> None:
        """Delete tasks of which nothing else is left."""
        await self._connection.fetch_all(self._queries["tasks.prune"], ids_json=ids_json)


def _page_query(wanted: TaskFilter) -> str:
    if wanted.reference is not None:
        return "tasks.page_of_reference"
    if wanted.created_by is not None:
        return "tasks.page_of_creator"
    if wanted.status is not None:
        return "tasks.page_of_status"
    return "tasks.page"


def _task(row: Row) -> Task:
    return Task(
        id=row["id"],
        created_by=row["created_by"],
        status=TaskStatus(row["status"]),
        reference=row["reference"],
        first_stage=row["first_stage"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _standing(row: Row) -> TaskStanding:
    state = PipelineState(
        task_id=row["id"],
        stage=row["stage"],
        status=StateStatus(row["state_status"]),
        attempt=row["attempt"],
        last_error_kind=row["last_error_kind"],
        is_terminal=bool(row["is_terminal"]),
        updated_at=row["state_updated_at"],
    )
    return TaskStanding(
        task=_task(row), state=state, run_at=row["run_at"], cancel_by=row["cancel_by"], progress=progress_of(row)
    )


def _key(row: Row) -> IdempotencyKey:
    return IdempotencyKey(
        actor_id=row["actor_id"],
        idem_key=row["idem_key"],
        task_id=row["task_id"],
        fingerprint=row["fingerprint"],
        created_at=row["created_at"],
    )
