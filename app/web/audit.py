"""GET /v1/audit-events: the shape of its query, its command, and how an event is shown."""

import json
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from app.domain.audit import NEWEST_SEQ, Action, AuditEvent, EventFilter, Verdict
from app.services.audit_trail import ListEvents
from app.services.pages import PageCommand
from app.web.incoming import Incoming
from app.web.schemas import PAGE_LIMIT, Identifier, Query

TARGET_LIMIT = 255
"""Characters of what an event may be about."""

Position = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,18}$")]
Target = Annotated[str, StringConstraints(min_length=1, max_length=TARGET_LIMIT, pattern=r"^[^\x00-\x1f\x7f]*$")]


class EventsQuery(Query):
    """Which events; the cursor is an event's id."""

    cursor: Position = str(NEWEST_SEQ)
    limit: Annotated[int, Field(ge=1, le=PAGE_LIMIT)] = 50
    actor_id: Identifier | None = None
    action: Action | None = None
    target_id: Target | None = None
    outcome: Verdict | None = None


def list_events(incoming: Incoming) -> ListEvents:
    """Read which events are wanted."""
    query = incoming.query(EventsQuery)
    return ListEvents(
        page=PageCommand(before=query.cursor, limit=query.limit),
        wanted=EventFilter(
            actor_id=query.actor_id, action=query.action, target_id=query.target_id, outcome=query.outcome
        ),
    )


def event(outcome: AuditEvent) -> dict[str, Any]:
    """Show an event."""
    return {
        "id": str(outcome.seq),
        "at": outcome.at,
        "actor": {"id": outcome.actor_id, "subject": outcome.subject},
        "action": outcome.action,
        "target": {"kind": outcome.target_kind, "id": outcome.target_id},
        "before": _from_json(outcome.before_json),
        "after": _from_json(outcome.after_json),
        "reason": outcome.reason,
        "request_id": outcome.request_id,
        "outcome": outcome.outcome,
        "code": outcome.code,
        "occurrences": outcome.occurrences,
    }


def _from_json(text: str | None) -> Any:
    return None if text is None else json.loads(text)
