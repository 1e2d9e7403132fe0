"""The audit's trail: its events listed, and its seals verified from the first to the last."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from app.clock import Timestamp
from app.domain.audit import BEFORE_ALL, AuditEvent, EventFilter, Fault, Head, Seal, fault_of
from app.errors import QueryFailed
from app.security.actor import Actor
from app.services.pages import Page, PageCommand, to_page
from app.services.sealing import SEAL_LIMIT
from app.unit import UnitOfWork

T = TypeVar("T")

PAGE_EVENTS = 2_000
"""After so many events a unit that verifies ends, and the next begins where it stopped."""

PAGE_SEALS = 500
"""After so many seals it ends as well."""


class Reader(Protocol):
    """Runs units that read: a Store, or something that only looks at a file."""

    async def read(self, body: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """Return what the body read from one snapshot."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ListEvents:
    """Which events; the page's cursor is the `seq` of an event."""

    page: PageCommand
    wanted: EventFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """How much of the trail is good, and the first thing that is wrong with it.

    `head` is the last good seal. What is not sealed is counted only if nothing is wrong; `now` is when it was.
    """

    seals: int
    events: int
    head: Seal | None
    fault: Fault | None
    unsealed: int = 0
    unsealed_since: Timestamp | None = None
    now: Timestamp | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    """Some seals that follow each other, each with the events between its ends, and what comes behind them."""

    links: Sequence[tuple[Seal, Sequence[AuditEvent]]]
    is_unreadable: bool = False
    is_last: bool = False
    unsealed: int = 0
    unsealed_since: Timestamp | None = None
    now: Timestamp


async def list_events(work: UnitOfWork, _actor: Actor, command: ListEvents) -> Page[AuditEvent]:
    """Return the newest events that pass the filter."""
    page = command.page
    found = await work.audit_events.page(command.wanted, before=int(page.before), limit=page.limit + 1)
    return to_page(found, page, lambda event: str(event.seq))


async def verify(reader: Reader, heads: Sequence[Head]) -> Verified:
    """Hold every seal against its events, the seal before it, and the heads that were kept elsewhere.

    Memory stays the same however long the trail is. Only a head shows that a trail was cut off at its end or made anew.
    """
    seals, events, head = 0, 0, None
    while True:
        stretch = await reader.read(_from(head))
        for found, between in stretch.links:
            fault = fault_of(head, found, between) or _fault_of_heads(found, heads)
            if fault is not None:
                return Verified(seals=seals, events=events, head=head, fault=fault)
            seals, events, head = seals + 1, events + found.events, found
        if stretch.is_unreadable or stretch.is_last:
            return Verified(
                seals=seals,
                events=events,
                head=head,
                fault=_fault_behind(head, heads, is_unreadable=stretch.is_unreadable),
                unsealed=stretch.unsealed,
                unsealed_since=stretch.unsealed_since,
                now=stretch.now,
            )


def _from(previous: Seal | None) -> Callable[[UnitOfWork], Awaitable[_Stretch]]:
    """Return a body that reads the seals after one, and their events, up to the sizes of a page."""

    async def body(work: UnitOfWork) -> _Stretch:
        links: list[tuple[Seal, Sequence[AuditEvent]]] = []
        number, end = (BEFORE_ALL[0], BEFORE_ALL) if previous is None else (previous.number, previous.last)
        count = 0
        try:
            while count < PAGE_EVENTS and len(links) < PAGE_SEALS:
                found = await work.audit_seals.next(number)
                if found is None:
                    unsealed, since = await work.audit_events.count_after(end)
                    return _Stretch(links=links, is_last=True, unsealed=unsealed, unsealed_since=since, now=work.now())
                events = await work.audit_events.between(end, found.last, limit=SEAL_LIMIT + 1)
                links.append((found, events))
                number, end, count = found.number, found.last, count + len(events)
        except QueryFailed:  # a text that is none, or a table that is gone
            return _Stretch(links=links, is_unreadable=True, now=work.now())
        return _Stretch(links=links, now=work.now())

    return body


def _fault_of_heads(found: Seal, heads: Sequence[Head]) -> Fault | None:
    if all(head.hash == found.hash for head in heads if head.number == found.number):
        return None
    says = f"Seal {found.number} is not the one whose head was kept: the trail was made anew up to here."
    return Fault(number=found.number, says=says)


def _fault_behind(last: Seal | None, heads: Sequence[Head], *, is_unreadable: bool) -> Fault | None:
    """Tell what is wrong behind the last seal that could be read."""
    there = 0 if last is None else last.number
    if is_unreadable:
        return Fault(number=there + 1, says=f"Seal {there + 1} or one of its events cannot be read.")
    if all(head.number <= there for head in heads):
        return None
    kept = max(head.number for head in heads)
    ends = f"the last one there is seal {there}" if there else "there is none at all"
    return Fault(
        number=there + 1, says=f"Seal {kept}, whose head was kept, is missing and {ends}: the end was cut off."
    )
