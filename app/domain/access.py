"""Access requests: a subject asks to become a user and is answered once (design §6)."""

from dataclasses import dataclass
from enum import StrEnum

from app.clock import Timestamp

REASON_LIMIT = 1_000
"""Characters of the reason that somebody gives for asking."""

PENDING_LIMIT = 1_000
"""How many requests may wait for an answer at once; beyond it nobody can ask."""


class AccessStatus(StrEnum):
    """Where an access request stands."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRequest:
    """A subject asking to become a user."""

    id: str
    requested_by: str
    reason: str | None
    public_key: str | None
    status: AccessStatus
    requested_at: Timestamp
    resolved_at: Timestamp | None
    resolved_by: str | None
