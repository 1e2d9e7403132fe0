"""Jobs: the queue entries of unfinished tasks, the claims on them, and the attempts they lead to (design §1, §6)."""

from dataclasses import dataclass
from enum import StrEnum

from app.clock import Timestamp

ERROR_MESSAGE_LIMIT = 2_000
"""Characters of an error's message that are kept."""

TRACEBACK_LIMIT = 8_000
"""Characters of a traceback that are kept: its end, where the error was raised."""

SUSPICIOUS_CRASHES = 2
"""So often a stage has lost its worker that it may be what kills it: a worker runs one such at a time.

Whoever runs beside the one that kills is not killed again and again with it, and does not end as a dead letter.
"""

SNOOZES_KEPT = 100
"""How many snoozed attempts of a task stay in its history."""


class AttemptOutcome(StrEnum):
    """How one execution of a stage ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SNOOZED = "snoozed"
    RELEASED = "released"
    LEASE_EXPIRED = "lease_expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A worker's time-limited right; one token may cover several tasks that were claimed together."""

    token: str
    worker: str
    expires_at: Timestamp


class LeaseHeld(StrEnum):
    """What the holder of a lease's token is told."""

    HELD = "held"
    LOST = "lost"
    CANCELLED = "cancelled"
    """Held, but the task was cancelled: it goes no further."""


class JobCancelled(StrEnum):
    """What there was to cancel of a task."""

    NOT_THERE = "not_there"
    WAITS = "waits"
    RUNS = "runs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The queue entry of an unfinished task; the lease's three fields are None while nobody holds it.

    `run_at` is when it falls due, or fell. `crashes` is how often its stage has lost its worker. `cancel_by` is
    when the lease is taken away, if somebody has cancelled the task while it runs.
    """

    task_id: str
    stage: str
    run_at: Timestamp
    crashes: int
    worker: str | None
    lease_expires_at: Timestamp | None
    cancel_by: Timestamp | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedJob:
    """A queue entry that somebody holds and is about to lose."""

    task_id: str
    stage: str
    lease_token: str
    crashes: int
    is_cancelled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A worker's right to one attempt, with all that the stage needs to run.

    `attempt` is the number of this attempt within its stage, the first is 1; `stage_started_at` is when the first one
    began, or the first after a snooze; `crashes` is how often the stage has lost its worker. `lease_token` fences:
    every later word about this attempt must carry it.
    """

    task_id: str
    stage: str
    attempt: int
    lease_token: str
    claimed_at: Timestamp
    stage_started_at: Timestamp
    crashes: int
    reference: str | None
    payload_json: str
    outputs_json: dict[str, str]

    @property
    def is_suspect(self) -> bool:
        """Whether this may be what kills its worker."""
        return self.crashes >= SUSPICIOUS_CRASHES


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressTold:
    """How far an attempt said that it had come: a fraction from 0 to 1, kept in thousandths."""

    fraction: float
    message: str
    told_at: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class MinuteOfAttempts:
    """The attempts of one stage that ended in one minute with one outcome, and how long they took.

    `timed` of them know how long they took; `milliseconds` is the sum over those, `longest_milliseconds` the longest.
    """

    minute: str
    stage: str
    outcome: AttemptOutcome
    attempts: int
    timed: int
    milliseconds: int
    longest_milliseconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Leased:
    """A job that was just leased, with what its row knows of the stage."""

    task_id: str
    stage: str
    stage_started_at: Timestamp
    crashes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One execution of a stage, as its history shows it; `ended_at` and `outcome` are None while it runs.

    `milliseconds` is how long it took; None if its worker was lost.
    """

    id: str
    task_id: str
    stage: str
    attempt: int
    worker: str
    started_at: Timestamp
    ended_at: Timestamp | None
    outcome: AttemptOutcome | None
    error_kind: str | None
    error_message: str | None
    traceback: str | None
    milliseconds: int | None
    progress: ProgressTold | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a stage handed on when it succeeded."""

    stage: str
    value_json: str
    created_at: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What went wrong in an attempt; `kind` is a lowercase word, `message` a sentence.

    `after_seconds` is what the stage asked to wait at least before another attempt.
    """

    kind: str
    message: str
    retryable: bool = True
    after_seconds: float | None = None
    traceback: str | None = None
