"""Audit: what is kept of every decision, and the seals that show whether it is still there unchanged."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from app.clock import Timestamp

FIRST_HASH = hashlib.sha256(b"cabinet audit").hexdigest()
"""What stands for the hash before the first seal."""

BEFORE_ALL = (-(2**63), -(2**63))
"""A position that every event lies after."""

NEWEST_SEQ = 10**18 - 1
"""A `seq` that every event lies before; so many digits fit into an integer of either engine."""


class Action(StrEnum):
    """What was decided or, for a denial, tried."""

    ACCESS_ASKED = "access.asked"
    ACCESS_APPROVED = "access.approved"
    ACCESS_REJECTED = "access.rejected"
    USER_ADDED = "user.added"
    USER_CHANGED = "user.changed"
    TOKEN_GRANTED = "token.granted"  # noqa: S105 the name of an action
    KEY_ADDED = "key.added"
    KEY_REVOKED = "key.revoked"
    TASK_CREATED = "task.created"
    TASK_RETRIED = "task.retried"
    TASK_CANCELLED = "task.cancelled"
    RESCUE_STARTED = "rescue.started"
    RESCUE_STOPPED = "rescue.stopped"
    STAGE_PAUSED = "stage.paused"
    STAGE_RESUMED = "stage.resumed"
    REQUEST_DENIED = "request.denied"


class TargetKind(StrEnum):
    """On what kind of thing."""

    ACCESS_REQUEST = "access_request"
    USER = "user"
    SIGNING_KEY = "signing_key"
    TASK = "task"
    RESCUE = "rescue"
    STAGE = "stage"
    ROUTE = "route"


class Verdict(StrEnum):
    """Whether it was let happen."""

    ALLOWED = "allowed"
    DENIED = "denied"


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who did it: a user, or with `user_id=None` somebody on the machine itself or nobody who is known.

    `request_id` names the HTTP request, if it was one.
    """

    user_id: str | None
    subject: str | None
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """One thing to be kept. `before` and `after` hold what changed of the target, never a payload or a secret.

    `code` says why it was denied and is None if it was allowed; `occurrences` counts denials that are kept as a sum.
    """

    author: Author
    action: Action
    target_kind: TargetKind
    target_id: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    reason: str | None = None
    code: str | None = None
    occurrences: int = 1

    @property
    def verdict(self) -> Verdict:
        """Denied if there is a code that says why."""
        return Verdict.ALLOWED if self.code is None else Verdict.DENIED


class AuditEvent(NamedTuple):
    """A kept deed, as it lies in the table; (`xact`, `seq`) is the order in which events became final.

    It is a tuple because those of a whole second are read and hashed every second.
    """

    seq: int
    xact: int
    at: Timestamp
    actor_id: str | None
    subject: str | None
    action: str
    target_kind: str
    target_id: str
    before_json: str | None
    after_json: str | None
    reason: str | None
    request_id: str | None
    outcome: str
    code: str | None
    occurrences: int

    @property
    def position(self) -> tuple[int, int]:
        """Its place in the order in which events became final."""
        return self.xact, self.seq


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events are wanted; None lets everything pass."""

    actor_id: str | None = None
    action: Action | None = None
    target_id: str | None = None
    outcome: Verdict | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """What says of a run of events, from `first` to `last`, that they were there and what they said.

    `events_hash` is over the events, `hash` over everything else that the seal says, so that it can be told which of
    the two was changed. `hash` is the head of the chain as long as no further seal has come.
    """

    number: int
    first: tuple[int, int]
    last: tuple[int, int]
    events: int
    events_hash: str
    previous_hash: str
    hash: str
    sealed_at: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A seal's number and hash as they were kept outside the database, in the log for example."""

    number: int
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The first seal that is broken, or where one should be, and what is wrong as one sentence."""

    number: int
    says: str


def seal(previous: Seal | None, events: Sequence[AuditEvent], *, at: Timestamp) -> Seal:
    """Make the seal over the events that follow those of the one before; there must be at least one."""
    number = 1 if previous is None else previous.number + 1
    previous_hash = FIRST_HASH if previous is None else previous.hash
    first, last = events[0].position, events[-1].position
    covered = events_hash(events)
    return Seal(
        number=number,
        first=first,
        last=last,
        events=len(events),
        events_hash=covered,
        previous_hash=previous_hash,
        hash=chained_hash(previous_hash, number, first, last, len(events), covered, at),
        sealed_at=at,
    )


def events_hash(events: Sequence[AuditEvent]) -> str:
    """Return SHA-256 over every column of every event, in the order of the fields: a JSON array of arrays."""
    return hashlib.sha256(_encode(events)).hexdigest()


def chained_hash(previous_hash: str, *says: object) -> str:
    """Return SHA-256 over the hash before and all else that a seal says: a JSON array."""
    return hashlib.sha256(_encode((previous_hash, *says))).hexdigest()


def fault_of(previous: Seal | None, found: Seal, events: Sequence[AuditEvent]) -> Fault | None:
    """Tell what is wrong with a seal, given the one before it and the events between their ends; None if nothing is."""
    number = 1 if previous is None else previous.number + 1
    if found.number != number:
        return Fault(number=number, says=f"Seal {number} is missing; the next one there is seal {found.number}.")
    says = _fault_of_link(previous, found) or _fault_of_events(found, events)
    return None if says is None else Fault(number=number, says=f"Seal {number} {says}.")


def _fault_of_link(previous: Seal | None, found: Seal) -> str | None:
    if not all(type(number) is int for number in (*found.first, *found.last, found.events)):
        return "was itself changed: it counts in what are no numbers"
    if found.hash != chained_hash(
        found.previous_hash,
        found.number,
        found.first,
        found.last,
        found.events,
        found.events_hash,
        found.sealed_at,
    ):
        return "was itself changed: its hash is not that of what it says"
    if previous is None:
        return None if found.previous_hash == FIRST_HASH else "is not how a trail begins: others were before it"
    if found.previous_hash != previous.hash:
        return f"does not follow from seal {previous.number}, which was put in the place of another"
    return None


def _fault_of_events(found: Seal, events: Sequence[AuditEvent]) -> str | None:
    span = f"from seq {found.first[1]} to {found.last[1]}"
    if len(events) < found.events:
        return f"lacks {found.events - len(events)} of the {found.events} events that it covers {span}"
    if len(events) > found.events:
        return f"covers {found.events} of the events {span}, and there are more now"
    if not events or (events[0].position, events[-1].position) != (found.first, found.last):
        return f"covers events {span}, of which the first or the last is another now"
    if events_hash(events) != found.events_hash:
        return f"covers events {span}, of which at least one was changed"
    return None


def _encode(values: Sequence[object]) -> bytes:
    return _JSON.encode(values).encode()


# What no column of ours holds is written down somehow, so that a changed one has a hash as well.
_JSON = json.JSONEncoder(separators=(",", ":"), default=repr)
