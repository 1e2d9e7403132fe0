"""The attempt_minutes table: how attempts have ended, minute by minute."""

from app.clock import Timestamp
from app.db.connection import Connection, Queries
from app.domain.jobs import AttemptOutcome, MinuteOfAttempts

_MINUTE = len("2026-11-22T20:19")


class AttemptMinutesRepository:
    """Counts by minute, stage and outcome."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self._connection = connection
        self._queries = queries

    async def count(
        self, *, stage: str, worker: str, outcome: AttemptOutcome, milliseconds: int | None, now: Timestamp
    ) -> None:
        """Count an attempt that ends now; `milliseconds` is None if nobody knows how long it took."""
        await self._connection.fetch_one(
            self._queries["attempt_minutes.count"],
            minute=now[:_MINUTE],
            stage=stage,
            outcome=outcome,
            worker=worker,
            timed=int(milliseconds is not None),
            milliseconds=milliseconds or 0,
        )

    async def since(self, moment: Timestamp) -> list[MinuteOfAttempts]:
        """Return the counts of that moment's minute and all after it."""
        rows = await self._connection.fetch_all(self._queries["attempt_minutes.since"], minute=moment[:_MINUTE])
        return [
            MinuteOfAttempts(
                minute=f"{row['minute']}:00Z",
                stage=row["stage"],
                outcome=AttemptOutcome(row["outcome"]),
                attempts=int(row["attempts"]),
                timed=int(row["timed"]),
                milliseconds=int(row["milliseconds"]),
                longest_milliseconds=int(row["longest_milliseconds"]),
            )
            for row in rows
        ]

    async def prune(self, before: Timestamp) -> None:
        """Forget the minutes before that moment's."""
        await self._connection.fetch_all(self._queries["attempt_minutes.prune"], minute=before[:_MINUTE])
