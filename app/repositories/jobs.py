"""The jobs table: the queue. Only the holder of a lease's token moves a leased job."""

from app.clock import Timestamp
from app.db.connection import Connection, Queries
from app.domain.jobs import Lease, LeasedJob


class JobsRepository:
    """Queue entries of unfinished tasks. A move returns False or None if the lease was not held (any more)."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self._connection = connection
        self._queries = queries

    async def add(self, task_id: str, *, stage: str, run_at: Timestamp) -> None:
        """Queue a task."""
        await self._connection.fetch_one(self._queries["jobs.add"], task_id=task_id, stage=stage, run_at=run_at)

    async def claim(self, lease: Lease, *, stages_json: str, now: Timestamp, limit: int) -> list[tuple[str, str]]:
        """Lease the oldest due jobs of those stages; return task ids and stages."""
        rows = await self._connection.fetch_all(
            self._queries["jobs.claim"],
            lease_token=lease.token,
            worker=lease.worker,
            lease_expires_at=lease.expires_at,
            stages_json=stages_json,
            now=now,
            limit=limit,
        )
        return [(row["task_id"], row["stage"]) for row in rows]

    async def extend(self, task_id: str, lease_token: str, *, expires_at: Timestamp) -> bool:
        """Hold a lease for longer."""
        query = self._queries["jobs.extend"]
        row = await self._connection.fetch_one(
            query, task_id=task_id, lease_token=lease_token, lease_expires_at=expires_at
        )
        return row is not None

    async def advance(self, task_id: str, lease_token: str, *, next_stage: str) -> bool:
        """Give the lease up and queue the next stage; the task keeps its place in the queue."""
        query = self._queries["jobs.advance"]
        row = await self._connection.fetch_one(query, task_id=task_id, lease_token=lease_token, next_stage=next_stage)
        return row is not None

    async def postpone(self, task_id: str, lease_token: str, *, run_at: Timestamp) -> bool:
        """Give the lease up and run again later."""
        query = self._queries["jobs.postpone"]
        row = await self._connection.fetch_one(query, task_id=task_id, lease_token=lease_token, run_at=run_at)
        return row is not None

    async def release(self, task_id: str, lease_token: str, *, crashes: int) -> bool:
        """Give the lease up and run again now, with so many crashes more on the stage's account."""
        query = self._queries["jobs.release"]
        row = await self._connection.fetch_one(query, task_id=task_id, lease_token=lease_token, crashes=crashes)
        return row is not None

    async def remove(self, task_id: str, lease_token: str) -> bool:
        """There is nothing more to do."""
        query = self._queries["jobs.remove"]
        return await self._connection.fetch_one(query, task_id=task_id, lease_token=lease_token) is not None

    async def leased_until(self, moment: Timestamp, *, limit: int) -> list[LeasedJob]:
        """Return jobs whose lease ends at that moment or before."""
        rows = await self._connection.fetch_all(self._queries["jobs.leased_until"], moment=moment, limit=limit)
        return [
            LeasedJob(
                task_id=row["task_id"], stage=row["stage"], lease_token=row["lease_token"], crashes=row["crashes"]
            )
            for row in rows
        ]

    async def make_due(self, task_id: str, *, now: Timestamp) -> bool:
        """Let a job that waits for its next attempt run now; False if it does not wait."""
        return await self._connection.fetch_one(self._queries["jobs.make_due"], task_id=task_id, now=now) is not None

    async def next_due(self, *, now: Timestamp) -> Timestamp | None:
        """Return when the next waiting job falls due."""
        row = await self._connection.fetch_one(self._queries["jobs.next_due"], now=now)
        return None if row is None else row["run_at"]

    async def unknown_stages(self, *, stages_json: str) -> dict[str, int]:
        """Return the stages of jobs that are none of those given, with how many tasks wait there."""
        rows = await self._connection.fetch_all(self._queries["jobs.unknown_stages"], stages_json=stages_json)
        return {row["stage"]: row["tasks"] for row in rows}
