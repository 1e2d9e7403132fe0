"""Tasks: accepted work, and the command that makes one (design §1, §5)."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from app.clock import Timestamp
from app.domain.idempotency import canonical_json, fingerprint, whole_numbers
from app.errors import Refusal

REFERENCE_LIMIT = 255
"""Characters of the caller's own name for a task."""


class TaskStatus(StrEnum):
    """Where a task stands as a whole."""

    OPEN = "open"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_ended(self) -> bool:
        """Nothing more happens by itself."""
        return self in _ENDED


_ENDED = frozenset({TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One piece of accepted work. `first_stage` is where it began, so that a replayed answer never changes."""

    id: str
    created_by: str
    status: TaskStatus
    reference: str | None
    first_stage: str
    created_at: Timestamp
    updated_at: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPayload:
    """What the caller sent: a name of their own, and the work as JSON."""

    reference: str | None
    json: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Which tasks a list shows; None filters nothing."""

    status: TaskStatus | None = None
    stage: str | None = None
    created_by: str | None = None
    reference: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateTask:
    """The command to accept one piece of work, validated. `task_id` is the id it gets if it is the first of its key."""

    task_id: str
    idem_key: str
    reference: str | None
    payload_json: str
    first_stage: str
    fingerprint: str
    refusal: Refusal | None = None
    """Why the pipeline does not take the payload; a key that names a task already is answered all the same."""

    @classmethod
    def of(
        cls,
        *,
        task_id: str,
        idem_key: str,
        reference: str | None,
        payload: dict[str, Any],
        first_stage: str,
        refusal: Refusal | None = None,
    ) -> "CreateTask":
        """Make the command; its fingerprint covers everything that the caller chose.

        Raises ValueError if the payload holds NaN, an infinity or half a surrogate pair.
        """
        payload_json = canonical_json(payload)
        payload_meant = canonical_json(whole_numbers(payload)) if ".0" in payload_json else payload_json
        meant = f'{{"payload":{payload_meant},"reference":{canonical_json(reference)}}}'
        return cls(
            task_id=task_id,
            idem_key=idem_key,
            reference=reference,
            payload_json=payload_json,
            first_stage=first_stage,
            fingerprint=fingerprint(meant),
            refusal=refusal,
        )
