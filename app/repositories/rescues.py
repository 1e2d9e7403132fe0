"""The rescues table: the wishes to rescue many dead letters, and how far workers have come with each."""

from app.clock import Timestamp
from app.db.connection import Connection, Queries, Row
from app.domain.dead_letters import DeadLetterFilter, Rescue, RescueStatus, RescueTerms


class RescuesRepository:
    """Rescues of many; one that has ended never moves again."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self._connection = connection
        self._queries = queries

    async def add(self, rescue: Rescue) -> None:
        """Write a new wish down."""
        await self._connection.fetch_one(
            self._queries["rescues.add"],
            id=rescue.id,
            created_by=rescue.created_by,
            created_at=rescue.created_at,
            reason=rescue.reason,
            stage=rescue.wanted.stage,
            error_kind=rescue.wanted.error_kind,
            signature=rescue.wanted.signature,
            from_stage=rescue.terms.from_stage,
            confirm_side_effects=int(rescue.terms.confirm_side_effects),
            matched=rescue.matched,
        )

    async def by_id(self, rescue_id: str) -> Rescue | None:
        """Return one rescue."""
        row = await self._connection.fetch_one(self._queries["rescues.by_id"], id=rescue_id)
        return None if row is None else _rescue(row)

    async def page(self, *, before: str, limit: int) -> list[Rescue]:
        """Return the newest rescues whose id lies before the given one."""
        rows = await self._connection.fetch_all(self._queries["rescues.page"], before=before, limit=limit)
        return [_rescue(row) for row in rows]

    async def next_running(self) -> Rescue | None:
        """Return the oldest rescue that is not done."""
        row = await self._connection.fetch_one(self._queries["rescues.next_running"])
        return None if row is None else _rescue(row)

    async def count_running(self) -> int:
        """Return how many rescues are not done."""
        row = await self._connection.fetch_one(self._queries["rescues.count_running"])
        return 0 if row is None else int(row["running"])

    async def advance(self, rescue_id: str, *, rescued: int, skipped: int, last_task_id: str) -> bool:
        """Count what was done, and remember the last task that was looked at."""
        query = self._queries["rescues.advance"]
        row = await self._connection.fetch_one(
            query, id=rescue_id, rescued=rescued, skipped=skipped, last_task_id=last_task_id
        )
        return row is not None

    async def finish(self, rescue_id: str, *, status: RescueStatus, now: Timestamp) -> bool:
        """End a running rescue; False if it had ended before."""
        query = self._queries["rescues.finish"]
        return await self._connection.fetch_one(query, id=rescue_id, status=status, now=now) is not None


def _rescue(row: Row) -> Rescue:
    return Rescue(
        id=row["id"],
        created_by=row["created_by"],
        created_at=row["created_at"],
        reason=row["reason"],
        wanted=DeadLetterFilter(stage=row["stage"], error_kind=row["error_kind"], signature=row["signature"]),
        terms=RescueTerms(from_stage=row["from_stage"], confirm_side_effects=bool(row["confirm_side_effects"])),
        status=RescueStatus(row["status"]),
        matched=row["matched"],
        rescued=row["rescued"],
        skipped=row["skipped"],
        last_task_id=row["last_task_id"],
        ended_at=row["ended_at"],
    )
