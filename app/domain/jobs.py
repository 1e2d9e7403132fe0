"""Jobs: the queue entries of unfinished tasks, the claims on them, and the attempts they lead to (design §1, §6)."""

from dataclasses import dataclass
from enum import StrEnum

from app.clock import Timestamp

ERROR_KIND_LIMIT = 64
"""Characters of an error's kind."""

ERROR_MESSAGE_LIMIT = 2_000
"""Characters of an error's message that are kept."""

CRASH_LIMIT = 5
"""How often a stage may lose its worker before the task becomes a dead letter."""


class AttemptOutcome(StrEnum):
    """How one execution of a stage ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RELEASED = "released"
    LEASE_EXPIRED = "lease_expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A worker's time-limited right; one token may cover several tasks that were claimed together."""

    token: str
    worker: str
    expires_at: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedJob:
    """A queue entry that somebody holds, and how often its stage has lost its worker so far."""

    task_id: str
    stage: str
    lease_token: str
    crashes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A worker's right to one attempt, with all that the stage needs to run.

    `attempt` is the number of this attempt within its stage, the first is 1. `lease_token` fences: every later word
    about this attempt must carry it.
    """

    task_id: str
    stage: str
    attempt: int
    lease_token: str
    reference: str | None
    payload_json: str
    outputs_json: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One execution of a stage, as its history shows it; `ended_at` and `outcome` are None while it runs."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a stage handed on when it succeeded."""

    stage: str
    value_json: str
    created_at: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What went wrong in an attempt; `kind` is a lowercase word, `message` a sentence."""

    kind: str
    message: str
    retryable: bool = True
