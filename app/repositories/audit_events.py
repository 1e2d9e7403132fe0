"""The audit_events table."""

import json
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from app.clock import Timestamp
from app.db.connection import Connection, Queries, Row
from app.domain.audit import Action, AuditEvent, Deed, EventFilter, Verdict
from app.errors import Defect


class AuditEventsRepository:
    """What was decided, and by whom; rows are only ever added."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self._connection = connection
        self._queries = queries

    async def add(self, deed: Deed, *, at: Timestamp) -> None:
        """Keep a deed."""
        # every create comes here, and the driver takes longer over an enum than over its value
        kept = await self._connection.fetch_one(
            self._queries["audit_events.add"],
            at=at,
            actor_id=deed.author.user_id,
            subject=deed.author.subject,
            action=deed.action.value,
            target_kind=deed.target_kind.value,
            target_id=deed.target_id,
            before_json=_to_json(deed.before),
            after_json=_to_json(deed.after),
            reason=deed.reason,
            request_id=deed.author.request_id,
            outcome=deed.verdict.value,
            code=deed.code,
            occurrences=deed.occurrences,
        )
        if kept is None:
            raise Defect("The database took an event and kept none: somebody has put a trigger on audit_events.")

    async def final_after(self, position: tuple[int, int], *, limit: int) -> list[AuditEvent]:
        """Return the first events after a position among which no further one can appear."""
        xact, seq = position
        query = self._queries["audit_events.final"]
        return [_event(row) for row in await self._connection.fetch_all(query, xact=xact, seq=seq, limit=limit)]

    async def between(self, after: tuple[int, int], until: tuple[int, int], *, limit: int) -> list[AuditEvent]:
        """Return the first events after a position, up to and with another."""
        rows = await self._connection.fetch_all(
            self._queries["audit_events.between"],
            after_xact=after[0],
            after_seq=after[1],
            until_xact=until[0],
            until_seq=until[1],
            limit=limit,
        )
        return [_event(row) for row in rows]

    async def count_after(self, position: tuple[int, int]) -> tuple[int, Timestamp | None]:
        """Return how many events come after a position, and the time of the oldest."""
        xact, seq = position
        row = await self._connection.fetch_one(self._queries["audit_events.count_after"], xact=xact, seq=seq)
        return (0, None) if row is None else (row["events"], row["oldest_at"])

    async def page(self, wanted: EventFilter, *, before: int, limit: int) -> list[AuditEvent]:
        """Return the newest events that pass the filter and whose `seq` lies before the given one."""
        parameters: dict[str, Any] = {
            "actor_id": wanted.actor_id,
            "action": wanted.action,
            "target_id": wanted.target_id,
            "outcome": wanted.outcome,
        }
        query = self._queries[_page_query(wanted)]
        return [
            _event(row) for row in await self._connection.fetch_all(query, before=before, limit=limit, **parameters)
        ]


def _page_query(wanted: EventFilter) -> str:
    """Return the query that walks the fewest events: few are about one thing, few denied, few no creates."""
    if wanted.target_id is not None:
        return "audit_events.page_of_target"
    if wanted.outcome is Verdict.DENIED:
        return "audit_events.page_of_denied"
    if wanted.action not in (None, Action.TASK_CREATED):
        return "audit_events.page_of_action"
    if wanted.actor_id is not None:
        return "audit_events.page_of_actor"
    return "audit_events.page"


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def _to_json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else _encode(value)


_columns = itemgetter(*AuditEvent._fields)


def _event(row: Row) -> AuditEvent:
    return AuditEvent._make(_columns(row))
