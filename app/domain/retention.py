"""Retention: how long what has ended is kept, and what may be deleted (design §5: no task is pruned before its key)."""

from dataclasses import dataclass

from app.clock import Timestamp, seconds_between
from app.domain.tasks import TaskStatus

KEY_MINIMUM_SECONDS = 86_400.0
"""No idempotency key is pruned before this time has passed, whatever else is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long things are kept, in seconds; None keeps them for ever.

    `task_seconds` is for tasks that succeeded or were cancelled, `dead_letter_seconds` for those that failed, both from
    their end; `key_seconds` for idempotency keys, from the create.
    """

    task_seconds: float | None
    dead_letter_seconds: float | None
    key_seconds: float | None

    def __post_init__(self) -> None:
        """Refuse to forget a key while its caller may still try again."""
        if self.key_seconds is not None and self.key_seconds < KEY_MINIMUM_SECONDS:
            raise ValueError(f"an idempotency key is kept for at least {KEY_MINIMUM_SECONDS:g} seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgedTask:
    """A task as pruning sees it; `updated_at` is its end if it has ended."""

    id: str
    status: TaskStatus
    created_at: Timestamp
    updated_at: Timestamp
    has_key: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AgedKey:
    """An idempotency key as pruning sees it; `task_status` is None if its task is gone."""

    task_id: str
    created_at: Timestamp
    task_status: TaskStatus | None


def may_prune_key(key: AgedKey, retention: Retention, *, now: Timestamp) -> bool:
    """Tell whether a key may go: it is old enough, and its task has ended."""
    has_ended = key.task_status is None or key.task_status.is_ended
    return has_ended and _is_over(key.created_at, retention.key_seconds, now)


def may_prune_task(task: AgedTask, retention: Retention, *, now: Timestamp) -> bool:
    """Tell whether a task may go: it ended long enough ago, and no key names it any more."""
    if task.has_key or not task.status.is_ended:
        return False
    kept_seconds = retention.dead_letter_seconds if task.status is TaskStatus.FAILED else retention.task_seconds
    return _is_over(task.updated_at, kept_seconds, now)


def _is_over(since: Timestamp, kept_seconds: float | None, now: Timestamp) -> bool:
    return kept_seconds is not None and seconds_between(since, now) >= kept_seconds
