"""The pipeline_states table; each move is one UPDATE that names the state it leaves (design §6)."""

from collections import defaultdict

from app.clock import Timestamp
from app.db.connection import Connection, Queries, Row
from app.domain.pipeline import PipelineState, StateStatus


class PipelineStatesRepository:
    """Where each task stands. A move returns None or False if the task was not where the move begins."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self._connection = connection
        self._queries = queries

    async def add(self, task_id: str, *, stage: str, now: Timestamp) -> None:
        """Put a new task at its first stage."""
        await self._connection.fetch_one(self._queries["pipeline_states.add"], task_id=task_id, stage=stage, now=now)

    async def by_task(self, task_id: str) -> PipelineState | None:
        """Return where the task stands."""
        row = await self._connection.fetch_one(self._queries["pipeline_states.by_task"], task_id=task_id)
        return None if row is None else _state(row)

    async def claim(self, task_id: str, *, stage: str, now: Timestamp) -> int | None:
        """Begin an attempt and return its number, from 1."""
        query = self._queries["pipeline_states.claim"]
        row = await self._connection.fetch_one(query, task_id=task_id, stage=stage, now=now)
        return None if row is None else int(row["attempt"])

    async def advance(self, task_id: str, *, stage: str, next_stage: str, now: Timestamp) -> bool:
        """The stage succeeded: queue the next one."""
        query = self._queries["pipeline_states.advance"]
        row = await self._connection.fetch_one(query, task_id=task_id, stage=stage, next_stage=next_stage, now=now)
        return row is not None

    async def finish(self, task_id: str, *, stage: str, now: Timestamp) -> bool:
        """The last stage succeeded."""
        query = self._queries["pipeline_states.finish"]
        return await self._connection.fetch_one(query, task_id=task_id, stage=stage, now=now) is not None

    async def fail(self, task_id: str, *, stage: str, error_kind: str, now: Timestamp) -> bool:
        """The attempt failed and another follows."""
        query = self._queries["pipeline_states.fail"]
        row = await self._connection.fetch_one(query, task_id=task_id, stage=stage, error_kind=error_kind, now=now)
        return row is not None

    async def give_up(self, task_id: str, *, stage: str, error_kind: str, now: Timestamp) -> bool:
        """No attempt follows: a dead letter."""
        query = self._queries["pipeline_states.give_up"]
        row = await self._connection.fetch_one(query, task_id=task_id, stage=stage, error_kind=error_kind, now=now)
        return row is not None

    async def release(self, task_id: str, *, stage: str, now: Timestamp) -> bool:
        """The attempt was given back or its worker was lost; it is not counted."""
        query = self._queries["pipeline_states.release"]
        return await self._connection.fetch_one(query, task_id=task_id, stage=stage, now=now) is not None

    async def rescue(self, task_id: str, *, died_at: str, stage: str, now: Timestamp) -> bool:
        """Queue a dead letter of the stage `died_at` again, at a stage."""
        query = self._queries["pipeline_states.rescue"]
        row = await self._connection.fetch_one(query, task_id=task_id, died_at=died_at, stage=stage, now=now)
        return row is not None

    async def cancel(self, task_id: str, *, now: Timestamp) -> bool:
        """End a task that had not ended."""
        query = self._queries["pipeline_states.cancel"]
        return await self._connection.fetch_one(query, task_id=task_id, now=now) is not None

    async def count_active(self) -> dict[str, dict[StateStatus, int]]:
        """Return how many tasks stand where, by stage and status, without those that have ended."""
        counts: defaultdict[str, dict[StateStatus, int]] = defaultdict(dict)
        for row in await self._connection.fetch_all(self._queries["pipeline_states.count_active"]):
            counts[row["stage"]][StateStatus(row["status"])] = row["tasks"]
        return dict(counts)

    async def prune(self, ids_json: str) -> None:
        """Delete those of tasks that are being pruned."""
        await self._connection.fetch_all(self._queries["pipeline_states.prune"], ids_json=ids_json)


def _state(row: Row) -> PipelineState:
    return PipelineState(
        task_id=row["task_id"],
        stage=row["stage"],
        status=StateStatus(row["status"]),
        attempt=row["attempt"],
        last_error_kind=row["last_error_kind"],
        is_terminal=bool(row["is_terminal"]),
        updated_at=row["updated_at"],
    )
