"""The jobs table: the queue. Only the holder of a lease's token moves a leased job."""

import json
from collections.abc import Sequence
from typing import Any

from app.clock import Timestamp
from app.db.connection import Connection, Queries, Row
from app.domain.jobs import SUSPICIOUS_CRASHES, Job, JobCancelled, Lease, Leased, LeasedJob, LeaseHeld


class JobsRepository:
    """Queue entries of unfinished tasks. Who holds a lease is told with every word whether the task was cancelled."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self._connection = connection
        self._queries = queries

    async def add(self, task_id: str, *, stage: str, run_at: Timestamp) -> None:
        """Queue a task."""
        await self._connection.fetch_one(self._queries["jobs.add"], task_id=task_id, stage=stage, run_at=run_at)

    async def by_task(self, task_id: str) -> Job | None:
        """Return a task's queue entry; None once there is nothing more to do."""
        row = await self._connection.fetch_one(self._queries["jobs.by_task"], task_id=task_id)
        if row is None:
            return None
        return Job(
            task_id=row["task_id"],
            stage=row["stage"],
            run_at=row["run_at"],
            crashes=row["crashes"],
            worker=row["worker"],
            lease_expires_at=row["lease_expires_at"],
            cancel_by=row["cancel_by"],
        )

    async def heads(self, stages: Sequence[str]) -> dict[str, Timestamp]:
        """Return when the oldest waiting job of each of those stages falls due, or fell; a stage may have none."""
        query = self._queries["jobs.heads"]
        rows = await self._connection.fetch_all(query, stages_json=json.dumps(list(stages)))
        return {row["stage"]: row["run_at"] for row in rows if row["run_at"] is not None}

    async def next_waits_since(self, stages: Sequence[str]) -> dict[str, Timestamp]:
        """Return since when the job of each stage that is to run next waits there; in the future if it is not due."""
        query = self._queries["jobs.next_waits_since"]
        rows = await self._connection.fetch_all(query, stages_json=json.dumps(list(stages)))
        return {row["stage"]: row["since"] for row in rows if row["since"] is not None}

    async def waiting_since(self, stages: Sequence[str], *, until: Timestamp) -> dict[str, Timestamp]:
        """Return since when the job that waits longest at its stage could run; only where one waits since `until`."""
        query = self._queries["jobs.waiting_since"]
        rows = await self._connection.fetch_all(query, stages_json=json.dumps(list(stages)), moment=until)
        return {row["stage"]: row["since"] for row in rows if row["since"] is not None}

    async def claim(self, lease: Lease, *, stages: Sequence[str], now: Timestamp, limit: int) -> list[Leased]:
        """Lease the oldest due jobs of those stages, but none that may be what kills its worker."""
        return await self._lease("jobs.claim", lease, stages=stages, now=now, limit=limit)

    async def claim_suspect(self, lease: Lease, *, stages: Sequence[str], now: Timestamp) -> list[Leased]:
        """Lease the oldest due job of those stages that may be what kills its worker, if there is one."""
        return await self._lease("jobs.claim_suspect", lease, stages=stages, now=now)

    async def extend(self, task_id: str, lease_token: str, *, expires_at: Timestamp) -> LeaseHeld:
        """Hold a lease for longer."""
        return await self._move("jobs.extend", task_id, lease_token, lease_expires_at=expires_at)

    async def advance(self, task_id: str, lease_token: str, *, next_stage: str) -> LeaseHeld:
        """Give the lease up and queue the next stage; the task keeps its place in the queue."""
        return await self._move("jobs.advance", task_id, lease_token, next_stage=next_stage)

    async def postpone(self, task_id: str, lease_token: str, *, run_at: Timestamp) -> LeaseHeld:
        """Give the lease up and run again later."""
        return await self._move("jobs.postpone", task_id, lease_token, run_at=run_at)

    async def snooze(self, task_id: str, lease_token: str, *, run_at: Timestamp) -> LeaseHeld:
        """Give the lease up and run again later, as if the stage had not begun."""
        return await self._move("jobs.snooze", task_id, lease_token, run_at=run_at)

    async def release(self, task_id: str, lease_token: str, *, begins_anew: bool) -> LeaseHeld:
        """Give the lease up and run again now; with `begins_anew` as if the stage had not begun."""
        values = {"crashes": 0, "run_at": None, "begins_anew": int(begins_anew)}
        return await self._move("jobs.release", task_id, lease_token, **values)

    async def crash(self, task_id: str, lease_token: str, *, run_at: Timestamp | None) -> LeaseHeld:
        """Take the lease away and run again, now or then, with one crash more on the stage's account."""
        values = {"crashes": 1, "run_at": run_at, "begins_anew": 0}
        return await self._move("jobs.release", task_id, lease_token, **values)

    async def remove(self, task_id: str, lease_token: str) -> LeaseHeld:
        """There is nothing more to do."""
        return await self._move("jobs.remove", task_id, lease_token)

    async def cancel(self, task_id: str, *, cancel_by: Timestamp) -> JobCancelled:
        """Tell whoever works at a task to stop by then; the first deadline stands."""
        row = await self._connection.fetch_one(self._queries["jobs.cancel"], task_id=task_id, cancel_by=cancel_by)
        if row is None:
            return JobCancelled.NOT_THERE
        return JobCancelled.WAITS if row["lease_token"] is None else JobCancelled.RUNS

    async def remove_waiting(self, task_id: str) -> bool:
        """There is nothing more to do for a task that nobody works at; False if somebody does."""
        return await self._connection.fetch_one(self._queries["jobs.remove_waiting"], task_id=task_id) is not None

    async def leased_until(self, moment: Timestamp, *, limit: int) -> list[LeasedJob]:
        """Return jobs whose lease ends at that moment or before."""
        rows = await self._connection.fetch_all(self._queries["jobs.leased_until"], moment=moment, limit=limit)
        return [_leased(row) for row in rows]

    async def cancelled_until(self, moment: Timestamp, *, limit: int) -> list[LeasedJob]:
        """Return jobs that were cancelled and should have stopped at that moment or before."""
        rows = await self._connection.fetch_all(self._queries["jobs.cancelled_until"], moment=moment, limit=limit)
        return [_leased(row) for row in rows]

    async def make_due(self, task_id: str, *, now: Timestamp) -> bool:
        """Let a job that waits for its next attempt run now; False if it does not wait."""
        return await self._connection.fetch_one(self._queries["jobs.make_due"], task_id=task_id, now=now) is not None

    async def ahead(self, job: Job, *, limit: int) -> int:
        """Return how many due jobs of its stage come before a waiting one, counted no further than the limit."""
        row = await self._connection.fetch_one(
            self._queries["jobs.ahead"], task_id=job.task_id, stage=job.stage, run_at=job.run_at, limit=limit
        )
        return 0 if row is None else int(row["ahead"])

    async def unknown_stages(self, stages: Sequence[str]) -> dict[str, int]:
        """Return the stages of jobs that are none of those given, with how many tasks wait there."""
        query = self._queries["jobs.unknown_stages"]
        rows = await self._connection.fetch_all(query, stages_json=json.dumps(list(stages)))
        return {row["stage"]: row["tasks"] for row in rows}

    async def _lease(
        self, query: str, lease: Lease, *, stages: Sequence[str], now: Timestamp, **limits: int
    ) -> list[Leased]:
        rows = await self._connection.fetch_all(
            self._queries[query],
            lease_token=lease.token,
            worker=lease.worker,
            lease_expires_at=lease.expires_at,
            stages_json=json.dumps(list(stages)),
            suspicious=SUSPICIOUS_CRASHES,
            now=now,
            **limits,
        )
        return [
            Leased(
                task_id=row["task_id"],
                stage=row["stage"],
                stage_started_at=row["stage_started_at"],
                crashes=row["crashes"],
            )
            for row in rows
        ]

    async def _move(self, query: str, task_id: str, lease_token: str, **values: Any) -> LeaseHeld:
        row = await self._connection.fetch_one(self._queries[query], task_id=task_id, lease_token=lease_token, **values)
        if row is None:
            return LeaseHeld.LOST
        return LeaseHeld.HELD if row["cancel_by"] is None else LeaseHeld.CANCELLED


def _leased(row: Row) -> LeasedJob:
    return LeasedJob(
        task_id=row["task_id"],
        stage=row["stage"],
        lease_token=row["lease_token"],
        crashes=row["crashes"],
        is_cancelled=row["cancel_by"] is not None,
    )
