"""The outputs table: what stages handed on."""

import json
from collections.abc import Sequence

from app.clock import Timestamp
from app.db.connection import Connection, Queries
from app.domain.jobs import Output


class OutputsRepository:
    """One row for each stage of a task that succeeded."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self._connection = connection
        self._queries = queries

    async def put(self, task_id: str, *, stage: str, value_json: str, now: Timestamp) -> None:
        """Keep what a stage handed on."""
        query = self._queries["outputs.put"]
        await self._connection.fetch_one(query, task_id=task_id, stage=stage, value_json=value_json, created_at=now)

    async def of_task(self, task_id: str) -> list[Output]:
        """Return what the stages of a task handed on, in the order in which they ended."""
        rows = await self._connection.fetch_all(self._queries["outputs.of_task"], task_id=task_id)
        return [Output(stage=row["stage"], value_json=row["value_json"], created_at=row["created_at"]) for row in rows]

    async def drop_stages(self, task_id: str, stages: Sequence[str]) -> None:
        """Forget what some stages of a task handed on: they run again."""
        stages_json = json.dumps(list(stages))
        await self._connection.fetch_all(self._queries["outputs.drop_stages"], task_id=task_id, stages_json=stages_json)

    async def prune(self, ids_json: str) -> None:
        """Delete those of tasks that are being pruned."""
        await self._connection.fetch_all(self._queries["outputs.prune"], ids_json=ids_json)
