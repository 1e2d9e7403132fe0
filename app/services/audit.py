"""Audit: keeping a decision, in the very unit that carries it out."""

from collections.abc import Mapping
from typing import Any

from app.domain.audit import Action, Author, Deed, TargetKind
from app.unit import UnitOfWork


async def record(
    work: UnitOfWork,
    author: Author,
    action: Action,
    target: tuple[TargetKind, str],
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str | None = None,
) -> None:
    """Keep that somebody did something to a target; `before` and `after` hold no payload and no secret."""
    deed = Deed(
        author=author,
        action=action,
        target_kind=target[0],
        target_id=target[1],
        before=before,
        after=after,
        reason=reason,
    )
    await work.audit_events.add(deed, at=work.now())
