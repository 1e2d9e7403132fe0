"""The pruned_folders table: folders of tasks that are gone, until they are gone from the disk too."""

import json
from collections.abc import Sequence

from app.clock import Timestamp
from app.db.connection import Connection, Queries


class PrunedFoldersRepository:
    """One row for each folder that is still to be removed."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self._connection = connection
        self._queries = queries

    async def add(self, task_id: str, *, now: Timestamp) -> None:
        """The task is gone, its folder is not yet."""
        await self._connection.fetch_one(self._queries["pruned_folders.add"], task_id=task_id, now=now)

    async def next(self, *, after: str, limit: int) -> list[str]:
        """Return tasks after the given one whose folder is still to be removed."""
        rows = await self._connection.fetch_all(self._queries["pruned_folders.next"], after=after, limit=limit)
        return [row["task_id"] for row in rows]

    async def remove(self, task_ids: Sequence[str]) -> None:
        """The folders of these tasks are gone."""
        await self._connection.fetch_all(self._queries["pruned_folders.remove"], ids_json=json.dumps(list(task_ids)))
