"""The dead_letters table: what ended for good, with the signature that groups it."""

from collections.abc import Mapping

from app.clock import Timestamp
from app.db.connection import Connection, Queries, Row
from app.domain.dead_letters import DeadLetter, DeadLetterFilter, DeadLetterGroup, Signature


class DeadLettersRepository:
    """One row for each task that is a dead letter."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self._connection = connection
        self._queries = queries

    async def add(self, letter: DeadLetter) -> None:
        """Write down what a task died of."""
        await self._connection.fetch_one(
            self._queries["dead_letters.add"],
            task_id=letter.task_id,
            stage=letter.stage,
            error_kind=letter.error_kind,
            error_message=letter.error_message,
            signature=letter.signature.name,
            pattern=letter.signature.pattern,
            died_at=letter.died_at,
        )

    async def by_task(self, task_id: str) -> DeadLetter | None:
        """Return what a task died of."""
        row = await self._connection.fetch_one(self._queries["dead_letters.by_task"], task_id=task_id)
        return None if row is None else _letter(row)

    async def remove(self, task_id: str) -> bool:
        """The task is a dead letter no more."""
        return await self._connection.fetch_one(self._queries["dead_letters.remove"], task_id=task_id) is not None

    async def page(self, wanted: DeadLetterFilter, *, before: str, limit: int) -> list[DeadLetter]:
        """Return dead letters that pass a filter, the newest tasks first, whose task lies before the given one."""
        query = "dead_letters.page" if wanted.signature is None else "dead_letters.page_of_signature"
        rows = await self._connection.fetch_all(self._queries[query], before=before, limit=limit, **_terms(wanted))
        return [_letter(row) for row in rows]

    async def groups(self, *, stage: str | None, error_kind: str | None, limit: int) -> list[DeadLetterGroup]:
        """Return the groups of dead letters, the largest first."""
        query = self._queries["dead_letters.groups"]
        rows = await self._connection.fetch_all(query, stage=stage, error_kind=error_kind, limit=limit)
        return [
            DeadLetterGroup(
                count=row["letters"], first_seen=row["first_seen"], last_seen=row["last_seen"], sample=_letter(row)
            )
            for row in rows
        ]

    async def count_by_stage(self, wanted: DeadLetterFilter, *, until: Timestamp) -> dict[str, int]:
        """Return how many dead letters pass a filter and had died by then, by stage."""
        query = self._queries["dead_letters.count_by_stage"]
        rows = await self._connection.fetch_all(query, until=until, **_terms(wanted))
        return {row["stage"]: row["letters"] for row in rows}

    async def next_to_rescue(
        self, wanted: DeadLetterFilter, *, after: str, until: Timestamp, limit: int
    ) -> list[DeadLetter]:
        """Return the dead letters that pass a filter and had died by then, the oldest tasks after the given one."""
        query = "dead_letters.next_to_rescue" if wanted.signature is None else "dead_letters.next_of_signature"
        terms = _terms(wanted)
        rows = await self._connection.fetch_all(self._queries[query], after=after, until=until, limit=limit, **terms)
        return [_letter(row) for row in rows]

    async def prune(self, ids_json: str) -> None:
        """Delete those of tasks that are being pruned."""
        await self._connection.fetch_all(self._queries["dead_letters.prune"], ids_json=ids_json)


def _terms(wanted: DeadLetterFilter) -> Mapping[str, str | None]:
    return {"stage": wanted.stage, "error_kind": wanted.error_kind, "signature": wanted.signature}


def _letter(row: Row) -> DeadLetter:
    return DeadLetter(
        task_id=row["task_id"],
        stage=row["stage"],
        error_kind=row["error_kind"],
        error_message=row["error_message"],
        signature=Signature(name=row["signature"], pattern=row["pattern"]),
        died_at=row["died_at"],
    )
