"""The attempts table: the history of every execution of a stage."""

from app.clock import Timestamp
from app.db.connection import Connection, Queries, Row
from app.domain.jobs import Attempt, AttemptOutcome, Claim, Failure, ProgressTold


class AttemptsRepository:
    """Executions of stages; an attempt is ended once."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self._connection = connection
        self._queries = queries

    async def begin(self, claim: Claim, *, worker: str, now: Timestamp) -> None:
        """Write down that an attempt has begun."""
        await self._connection.fetch_one(
            self._queries["attempts.begin"],
            task_id=claim.task_id,
            lease_token=claim.lease_token,
            stage=claim.stage,
            attempt=claim.attempt,
            worker=worker,
            started_at=now,
        )

    async def end(
        self,
        task_id: str,
        lease_token: str,
        *,
        outcome: AttemptOutcome,
        failure: Failure | None,
        milliseconds: int | None,
        now: Timestamp,
    ) -> tuple[str, str] | None:
        """Write down how an attempt ended and how long it took; return its stage and worker, None if it had ended."""
        row = await self._connection.fetch_one(
            self._queries["attempts.end"],
            task_id=task_id,
            lease_token=lease_token,
            ended_at=now,
            outcome=outcome,
            error_kind=None if failure is None else failure.kind,
            error_message=None if failure is None else failure.message,
            traceback=None if failure is None else failure.traceback,
            milliseconds=milliseconds,
        )
        return None if row is None else (row["stage"], row["worker"])

    async def of_task(self, task_id: str, *, before: str, limit: int) -> list[Attempt]:
        """Return the newest attempts of a task whose id lies before the given one."""
        query = self._queries["attempts.of_task"]
        rows = await self._connection.fetch_all(query, task_id=task_id, before=before, limit=limit)
        return [_attempt(row) for row in rows]

    async def tell_progress(self, claim: Claim, *, permille: int, message: str, now: Timestamp) -> bool:
        """Write down how far an attempt has come, in thousandths; False if it has ended."""
        row = await self._connection.fetch_one(
            self._queries["attempts.tell_progress"],
            task_id=claim.task_id,
            lease_token=claim.lease_token,
            permille=permille,
            message=message,
            now=now,
        )
        return row is not None

    async def forget_snoozes(self, task_id: str, *, keep: int) -> None:
        """Keep only so many of a task's snoozed attempts, the newest."""
        await self._connection.fetch_all(self._queries["attempts.forget_snoozes"], task_id=task_id, keep=keep)

    async def prune(self, ids_json: str) -> None:
        """Delete those of tasks that are being pruned."""
        await self._connection.fetch_all(self._queries["attempts.prune"], ids_json=ids_json)


def progress_of(row: Row) -> ProgressTold | None:
    """Return the progress that a row holds, if any was told."""
    if row["progress_at"] is None:
        return None
    return ProgressTold(
        fraction=row["progress_permille"] / 1000, message=row["progress_message"], told_at=row["progress_at"]
    )


def _attempt(row: Row) -> Attempt:
    return Attempt(
        id=row["lease_token"],
        task_id=row["task_id"],
        stage=row["stage"],
        attempt=row["attempt"],
        worker=row["worker"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        outcome=None if row["outcome"] is None else AttemptOutcome(row["outcome"]),
        error_kind=row["error_kind"],
        error_message=row["error_message"],
        traceback=row["traceback"],
        milliseconds=row["milliseconds"],
        progress=progress_of(row),
    )
