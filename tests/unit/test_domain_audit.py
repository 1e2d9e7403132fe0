"""The audit's rules: what a hash covers, how seals follow each other, and what a broken one is said to be."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.clock import Timestamp
from app.domain.audit import (
    FIRST_HASH,
    AuditEvent,
    Fault,
    Seal,
    Verdict,
    chained_hash,
    events_hash,
    fault_of,
    seal,
)
from tests.support.database import NOW
from tests.support.trails import a_deed


def an_event(seq: int = 1, **changes: Any) -> AuditEvent:
    """Return an event with something in every column."""
    values: dict[str, Any] = {
        "seq": seq,
        "xact": 700,
        "at": NOW,
        "actor_id": "a",
        "subject": "alice",
        "action": "user.changed",
        "target_kind": "user",
        "target_id": "b",
        "before_json": '{"role":"user"}',
        "after_json": '{"role":"admin"}',
        "reason": "ä\n“",
        "request_id": "r",
        "outcome": "denied",
        "code": "forbidden",
        "occurrences": 2,
    }
    return AuditEvent(**(values | changes))


def with_column(event: AuditEvent, column: str, value: Any) -> AuditEvent:
    """Return an event with another value in one column."""
    changes: dict[str, Any] = {column: value}
    return event._replace(**changes)


def some_events(first: int, last: int) -> list[AuditEvent]:
    """Return events, from one `seq` to another."""
    return [an_event(seq) for seq in range(first, last + 1)]


def a_chain(*sizes: int) -> list[tuple[Seal, list[AuditEvent]]]:
    """Return seals over so many events each, with the events."""
    links: list[tuple[Seal, list[AuditEvent]]] = []
    seq = 1
    for size in sizes:
        events = some_events(seq, seq + size - 1)
        links.append((seal(links[-1][0] if links else None, events, at=NOW), events))
        seq += size
    return links


def forged(found: Seal, **changes: Any) -> Seal:
    """Return a seal that says something else and whose own hash fits, as only who knows the rule can make it."""
    changed = replace(found, **changes)
    return replace(
        changed,
        hash=chained_hash(
            changed.previous_hash,
            changed.number,
            changed.first,
            changed.last,
            changed.events,
            changed.events_hash,
            changed.sealed_at,
        ),
    )


def said(previous: Seal | None, found: Seal, events: Sequence[AuditEvent]) -> str:
    """Return what is wrong with a seal; that nothing is, is a failure."""
    fault = fault_of(previous, found, events)
    assert fault is not None
    return fault.says


def test_a_deed_with_a_code_was_denied() -> None:
    assert a_deed().verdict is Verdict.ALLOWED
    assert a_deed(code="forbidden").verdict is Verdict.DENIED


def test_a_hash_can_be_reckoned_by_anybody_from_what_the_tables_hold() -> None:
    event = an_event()
    text = (
        '[[1,700,"2026-11-22T20:19:00.000000Z","a","alice","user.changed","user","b","{\\"role\\":\\"user\\"}",'
        '"{\\"role\\":\\"admin\\"}","\\u00e4\\n\\u201c","r","denied","forbidden",2]]'
    )
    covered = hashlib.sha256(text.encode()).hexdigest()
    says = [FIRST_HASH, 1, [700, 1], [700, 1], 1, covered, NOW]

    made = seal(None, [event], at=NOW)

    assert made.events_hash == covered
    assert made.hash == hashlib.sha256(json.dumps(says, separators=(",", ":")).encode()).hexdigest()


def test_the_first_seal_follows_what_stands_for_nothing() -> None:
    made = seal(None, some_events(3, 5), at=NOW)

    assert (made.number, made.previous_hash, made.first, made.last, made.events, made.sealed_at) == (
        1, FIRST_HASH, (700, 3), (700, 5), 3, NOW,
    )  # fmt: skip


def test_each_further_seal_follows_the_one_before() -> None:
    (first, _), (second, _), (third, _) = a_chain(2, 1, 3)

    assert [first.number, second.number, third.number] == [1, 2, 3]
    assert [second.previous_hash, third.previous_hash] == [first.hash, second.hash]


@pytest.mark.parametrize("column", AuditEvent._fields)
def test_the_hash_of_events_covers_every_column(column: str) -> None:
    event = an_event()
    value = getattr(event, column)

    changed = with_column(event, column, value + 1 if isinstance(value, int) else value + "x")

    assert events_hash([changed]) != events_hash([event])


@pytest.mark.parametrize("column", ["actor_id", "before_json", "reason", "request_id"])
def test_nothing_is_not_the_same_as_an_empty_text(column: str) -> None:
    assert events_hash([with_column(an_event(), column, None)]) != events_hash([with_column(an_event(), column, "")])


def test_the_hash_of_events_covers_their_order() -> None:
    assert events_hash([an_event(1), an_event(2)]) != events_hash([an_event(2), an_event(1)])


def test_text_does_not_move_from_one_column_or_event_to_the_next_unseen() -> None:
    assert events_hash([an_event(subject="a", action="bc")]) != events_hash([an_event(subject="ab", action="c")])
    assert events_hash([an_event(reason='",2]\n[1,')]) != events_hash([an_event(reason=""), an_event()])


@pytest.mark.parametrize("value", [b"\xff", 1.5, float("inf"), "\udcff"])
def test_what_no_column_should_hold_has_a_hash_too(value: Any) -> None:
    assert events_hash([an_event(reason=value)]) != events_hash([an_event()])


# What is wrong with a seal -------------------------------------------------------------------------------------------


def test_a_whole_chain_has_no_fault() -> None:
    links = a_chain(3, 1, 2)

    befores = [None, *(found for found, _ in links)]

    assert [fault_of(before, *link) for before, link in zip(befores, links, strict=False)] == [None] * 3


def test_a_number_that_is_left_out_is_named() -> None:
    (first, _), _, (third, events) = a_chain(1, 1, 1)

    assert fault_of(first, third, events) == Fault(number=2, says="Seal 2 is missing; the next one there is seal 3.")
    assert said(None, third, events) == "Seal 1 is missing; the next one there is seal 3."


@pytest.mark.parametrize(
    "changes",
    [
        {"first": (700, 4)},
        {"first": (701, 3)},
        {"last": (700, 5)},
        {"events": 1},
        {"events_hash": "0" * 64},
        {"previous_hash": "0" * 64},
        {"hash": "0" * 64},
        {"sealed_at": Timestamp("2026-11-22T20:19:00.000001Z")},
    ],
)
def test_a_seal_that_was_changed_is_told_from_its_events(changes: dict[str, Any]) -> None:
    (first, _), (second, events) = a_chain(2, 2)

    says = said(first, replace(second, **changes), events)

    assert says == "Seal 2 was itself changed: its hash is not that of what it says."


@pytest.mark.parametrize("changes", [{"events": "2"}, {"first": (700, "3")}, {"last": (None, 4)}, {"events": b"2"}])
def test_a_seal_that_counts_in_what_are_no_numbers_is_named_although_its_hash_fits(changes: dict[str, Any]) -> None:
    (first, _), (second, events) = a_chain(2, 2)

    says = said(first, forged(second, **changes), events)

    assert says == "Seal 2 was itself changed: it counts in what are no numbers."


def test_a_seal_in_the_place_of_another_breaks_the_link_behind_it() -> None:
    (first, _), (second, events) = a_chain(2, 2)

    says = said(forged(first, sealed_at=Timestamp("")), second, events)

    assert says == "Seal 2 does not follow from seal 1, which was put in the place of another."


def test_a_trail_that_begins_in_its_middle_with_a_new_number_is_found() -> None:
    _, (second, events) = a_chain(2, 2)

    says = said(None, forged(second, number=1), events)

    assert says == "Seal 1 is not how a trail begins: others were before it."


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda events: events[1:], "Seal 1 lacks 1 of the 4 events that it covers from seq 1 to 4."),
        (lambda events: events[:1], "Seal 1 lacks 3 of the 4 events that it covers from seq 1 to 4."),
        (lambda _: [], "Seal 1 lacks 4 of the 4 events that it covers from seq 1 to 4."),
        (
            lambda events: [*events, an_event(5)],
            "Seal 1 covers 4 of the events from seq 1 to 4, and there are more now.",
        ),
        (
            lambda events: [an_event(0), *events[1:]],
            "Seal 1 covers events from seq 1 to 4, of which the first or the last is another now.",
        ),
        (
            lambda events: [*events[:-1], an_event(5)],
            "Seal 1 covers events from seq 1 to 4, of which the first or the last is another now.",
        ),
        (
            lambda events: [events[0], events[1]._replace(reason=None), *events[2:]],
            "Seal 1 covers events from seq 1 to 4, of which at least one was changed.",
        ),
        (
            lambda events: [events[0], events[2], events[1], events[3]],
            "Seal 1 covers events from seq 1 to 4, of which at least one was changed.",
        ),
    ],
)
def test_what_happened_to_the_events_of_a_seal_is_said(change: Any, says: str) -> None:
    [(found, events)] = a_chain(4)

    assert said(None, found, change(events)) == says


def test_a_seal_over_nothing_is_no_seal() -> None:
    [(found, _)] = a_chain(1)

    assert "the first or the last is another" in said(None, forged(found, events=0), [])


@given(st.data())
def test_whatever_is_changed_in_a_sealed_event_is_found(data: st.DataObject) -> None:
    [(found, events)] = a_chain(3)
    at = data.draw(st.integers(0, 2))
    column = data.draw(st.sampled_from(AuditEvent._fields))
    value = data.draw(st.one_of(st.none(), st.text(), st.integers(), st.binary()))
    changed = with_column(events[at], column, value)

    fault = fault_of(None, found, [*events[:at], changed, *events[at + 1 :]])

    assert (fault is None) == (changed == events[at])
