"""The pauses table: stages of which no attempt begins."""

from app.clock import Timestamp
from app.db.connection import Connection, Queries
from app.domain.control import Pause


class PausesRepository:
    """One row for each stage that is paused, and one for all of them together."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self._connection = connection
        self._queries = queries

    async def pause(self, stage: str, *, reason: str, paused_by: str, now: Timestamp) -> None:
        """Pause a stage; a pause that is there already stays as it is."""
        query = self._queries["pauses.pause"]
        await self._connection.fetch_one(query, stage=stage, reason=reason, paused_by=paused_by, paused_at=now)

    async def resume(self, stage: str) -> bool:
        """Take a pause away; False if there was none."""
        return await self._connection.fetch_one(self._queries["pauses.resume"], stage=stage) is not None

    async def all(self) -> dict[str, Pause]:
        """Return all pauses by stage."""
        rows = await self._connection.fetch_all(self._queries["pauses.all"])
        return {
            row["stage"]: Pause(
                stage=row["stage"],
                reason=row["reason"],
                paused_by=row["paused_by"],
                paused_at=row["paused_at"],
                subject=row["subject"],
            )
            for row in rows
        }

    async def stages(self) -> frozenset[str]:
        """Return the names of what is paused."""
        return frozenset(row["stage"] for row in await self._connection.fetch_all(self._queries["pauses.stages"]))
