"""The audit's tables: what was decided is kept whole, listed newest first, and neither changed nor taken away."""

from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.clock import Timestamp
from app.domain.audit import (
    BEFORE_ALL,
    NEWEST_SEQ,
    Action,
    AuditEvent,
    Author,
    EventFilter,
    Seal,
    TargetKind,
    Verdict,
    seal,
)
from app.errors import ConstraintViolated
from app.ids import new_id
from app.unit import UnitOfWork
from tests.db.records import Database, open_database
from tests.support.database import NOW, connect, driver
from tests.support.trails import ALICE, a_deed, keep, keep_sealed

BOB = new_id()


async def all_after(database: Database, position: tuple[int, int] = BEFORE_ALL, limit: int = 100) -> list[AuditEvent]:
    """Return the events after a position."""
    return await database.read(lambda work: work.audit_events.final_after(position, limit=limit))


async def count_after(work: UnitOfWork, *, position: tuple[int, int]) -> tuple[int, Timestamp | None]:
    """Count the events after a position."""
    return await work.audit_events.count_after(position)


async def next_seal(work: UnitOfWork, *, number: int) -> Seal | None:
    """Return the seal after a number."""
    return await work.audit_seals.next(number)


async def page(database: Database, *, before: int = NEWEST_SEQ, limit: int = 100, **wanted: Any) -> list[int]:
    """Return a page's events by their `seq`."""
    found = await database.read(lambda work: work.audit_events.page(EventFilter(**wanted), before=before, limit=limit))
    return [event.seq for event in found]


# Events --------------------------------------------------------------------------------------------------------------


async def test_an_event_is_kept_whole(database: Database) -> None:
    await keep(database.store, a_deed(7, code="not_allowed_on_user", occurrences=3))

    assert await all_after(database) == [
        AuditEvent(
            seq=1,
            xact=0,
            at=NOW,
            actor_id=ALICE,
            subject="alice@example.com",
            action="user.changed",
            target_kind="user",
            target_id="target-7",
            before_json='{"number":7,"role":"user"}',
            after_json='{"number":7,"role":"admin"}',
            reason="She asked: “please”.",
            request_id="request-7",
            outcome="denied",
            code="not_allowed_on_user",
            occurrences=3,
        )
    ]


async def test_what_a_deed_leaves_out_is_nothing(database: Database) -> None:
    nobody = Author(user_id=None, subject=None)
    await keep(database.store, a_deed(author=nobody, before=None, after=None, reason=None))

    [event] = await all_after(database)

    assert (event.actor_id, event.subject, event.before_json, event.after_json, event.reason) == (None,) * 5
    assert (event.request_id, event.code, event.outcome, event.occurrences) == (None, None, "allowed", 1)


async def test_an_event_of_a_unit_that_fails_is_not_kept(database: Database) -> None:
    async def body(work: UnitOfWork) -> None:
        await work.audit_events.add(a_deed(), at=NOW)
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(body)

    assert await all_after(database) == []


async def test_events_are_walked_in_the_order_in_which_they_came(database: Database) -> None:
    await keep(database.store, *(a_deed(number) for number in range(1, 6)))

    walked = [await all_after(database, (0, after), limit=2) for after in (0, 2, 4, 5)]

    assert [[event.seq for event in some] for some in walked] == [[1, 2], [3, 4], [5], []]


async def test_events_between_two_positions_hold_the_last_and_not_the_first(database: Database) -> None:
    await keep(database.store, *(a_deed(number) for number in range(1, 6)))

    async def between(after: tuple[int, int], until: tuple[int, int], limit: int = 9) -> list[int]:
        found = await database.read(lambda work: work.audit_events.between(after, until, limit=limit))
        return [event.seq for event in found]

    assert await between((0, 1), (0, 3)) == [2, 3]
    assert await between(BEFORE_ALL, (0, 9)) == [1, 2, 3, 4, 5]
    assert await between((0, 1), (0, 5), limit=2) == [2, 3]
    assert await between((0, 3), (0, 3)) == []


async def test_events_after_a_position_are_counted_with_the_time_of_the_oldest(database: Database) -> None:
    await keep(database.store, a_deed(1), a_deed(2), a_deed(3))

    counts = [await database.read(partial(count_after, position=(0, at))) for at in (0, 2, 3)]

    assert counts == [(3, NOW), (1, NOW), (0, None)]


@pytest.mark.parametrize(
    "wrong",
    ["outcome = 'maybe'", "outcome = 'denied'", "code = 'forbidden'", "occurrences = 0", "seq = 0", "action = NULL"],
)
async def test_a_row_that_makes_no_sense_is_refused(database: Database, wrong: str) -> None:
    column, value = wrong.split(" = ")
    columns = {"outcome": "'allowed'", "code": "NULL", "occurrences": "1", "seq": "1", "action": "'a'"} | {
        column: value
    }
    names, values = ", ".join(columns), ", ".join(columns.values())

    with pytest.raises(ConstraintViolated):
        await database.rows(
            f"INSERT INTO audit_events (at, target_kind, target_id, {names}) VALUES ('', 'k', 'i', {values})"
            " RETURNING seq"
        )


# Pages ---------------------------------------------------------------------------------------------------------------


async def test_a_page_has_the_newest_first_and_the_next_begins_behind_it(database: Database) -> None:
    await keep(database.store, *(a_deed(number) for number in range(1, 6)))

    assert await page(database, limit=2) == [5, 4]
    assert await page(database, before=4, limit=2) == [3, 2]
    assert await page(database, before=2, limit=2) == [1]
    assert await page(database, before=1) == []


async def test_a_page_holds_what_passes_every_filter(database: Database) -> None:
    bob = Author(user_id=BOB, subject="bob")
    created = {"action": Action.TASK_CREATED, "target_kind": TargetKind.TASK}
    await keep(
        database.store,
        a_deed(1),
        a_deed(2, **created),
        a_deed(2, author=bob, **created),
        a_deed(3, author=bob, code="forbidden"),
        a_deed(1, author=bob, action=Action.REQUEST_DENIED, code="scope_missing"),
    )

    found = {
        "nothing": await page(database),
        "actor": await page(database, actor_id=BOB),
        "action": await page(database, action=Action.USER_CHANGED),
        "the common action": await page(database, action=Action.TASK_CREATED),
        "target": await page(database, target_id="target-2"),
        "denied": await page(database, outcome=Verdict.DENIED),
        "allowed": await page(database, outcome=Verdict.ALLOWED),
        "nobody": await page(database, actor_id=new_id()),
        "actor, action": await page(database, actor_id=BOB, action=Action.TASK_CREATED),
        "actor, outcome": await page(database, actor_id=BOB, outcome=Verdict.ALLOWED),
        "action, outcome": await page(database, action=Action.USER_CHANGED, outcome=Verdict.DENIED),
        "common action, outcome": await page(database, action=Action.TASK_CREATED, outcome=Verdict.DENIED),
        "target, actor": await page(database, target_id="target-1", actor_id=BOB),
        "all": await page(
            database,
            target_id="target-1",
            actor_id=BOB,
            action=Action.REQUEST_DENIED,
            outcome=Verdict.DENIED,
        ),
        "all but one": await page(
            database, target_id="target-1", actor_id=BOB, action=Action.REQUEST_DENIED, outcome=Verdict.ALLOWED
        ),
    }

    assert found == {
        "nothing": [5, 4, 3, 2, 1],
        "actor": [5, 4, 3],
        "action": [4, 1],
        "the common action": [3, 2],
        "target": [3, 2],
        "denied": [5, 4],
        "allowed": [3, 2, 1],
        "nobody": [],
        "actor, action": [3],
        "actor, outcome": [3],
        "action, outcome": [4],
        "common action, outcome": [],
        "target, actor": [5],
        "all": [5],
        "all but one": [],
    }


# Seals ---------------------------------------------------------------------------------------------------------------


async def test_a_seal_is_kept_whole(database: Database) -> None:
    await keep(database.store, a_deed(1), a_deed(2))
    made = seal(None, await all_after(database), at=NOW)

    assert await database.write(lambda work: work.audit_seals.add(made))

    assert await database.read(lambda work: work.audit_seals.last()) == made


async def test_a_number_and_a_link_can_be_taken_once(database: Database) -> None:
    await keep(database.store, a_deed(1), a_deed(2))
    events = await all_after(database)
    first = seal(None, events[:1], at=NOW)
    await database.write(lambda work: work.audit_seals.add(first))

    same_number = await database.write(lambda work: work.audit_seals.add(seal(None, events, at=NOW)))
    same_link = await database.write(lambda work: work.audit_seals.add(replace(first, number=2)))
    follows = await database.write(lambda work: work.audit_seals.add(seal(first, events[1:], at=NOW)))

    assert (same_number, same_link, follows) == (False, False, True)
    assert await database.read(lambda work: work.audit_seals.next(0)) == first


async def test_seals_are_walked_by_their_numbers(database: Database) -> None:
    await keep(database.store, a_deed(1), a_deed(2))
    events = await all_after(database)
    first = seal(None, events[:1], at=NOW)
    second = seal(first, events[1:], at=NOW)
    await database.write(lambda work: work.audit_seals.add(first))
    await database.write(lambda work: work.audit_seals.add(second))

    walked = [await database.read(partial(next_seal, number=at)) for at in (BEFORE_ALL[0], 0, 1, 2)]

    assert walked == [first, first, second, None]
    assert await database.read(lambda work: work.audit_seals.last()) == second


# Append-only ---------------------------------------------------------------------------------------------------------

SEAL_COLUMNS = "first_xact, first_seq, last_xact, last_seq, events, events_hash, previous_hash, hash, sealed_at"
EVENT_COLUMNS = "at, action, target_kind, target_id, outcome, occurrences"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET reason = 'another' WHERE seq = 1",
        "UPDATE audit_events SET seq = 9 WHERE seq = 1",
        "UPDATE OR REPLACE audit_events SET seq = 2 WHERE seq = 1",
        "DELETE FROM audit_events WHERE seq = 1",
        "DELETE FROM audit_events",
        f"INSERT OR REPLACE INTO audit_events (seq, {EVENT_COLUMNS}) VALUES (1, '', 'a', 'k', 'i', 'allowed', 1)",
        f"REPLACE INTO audit_events (seq, {EVENT_COLUMNS}) SELECT seq, {EVENT_COLUMNS} FROM audit_events",
        f"INSERT INTO audit_events (seq, {EVENT_COLUMNS}) VALUES (1, '', 'a', 'k', 'i', 'allowed', 1)"
        " ON CONFLICT DO UPDATE SET reason = 'another'",
        "UPDATE audit_seals SET hash = 'x'",
        "DELETE FROM audit_seals",
        f"INSERT OR REPLACE INTO audit_seals (number, {SEAL_COLUMNS}) VALUES (1, 0, 1, 0, 1, 1, 'x', 'x', 'x', '')",
        f"INSERT OR REPLACE INTO audit_seals (number, {SEAL_COLUMNS}) SELECT 7, {SEAL_COLUMNS} FROM audit_seals",
        f"INSERT INTO audit_seals (number, {SEAL_COLUMNS}) VALUES (1, 0, 1, 0, 1, 1, 'x', 'x', 'x', '')"
        " ON CONFLICT DO UPDATE SET hash = 'x'",
    ],
)
async def test_sqlite_refuses_whatever_is_not_a_further_row(tmp_path: Path, statement: str) -> None:
    async with open_database("file", tmp_path) as database:
        await keep_sealed(database.store, 2)
    with closing(connect(tmp_path / "cabinet.db")) as connection:
        before = dump(connection)

        with pytest.raises(driver.IntegrityError, match="is append-only"):
            connection.execute(statement)

        assert dump(connection) == before


def dump(connection: Any) -> list[Any]:
    """Return all that the two tables hold."""
    return [
        row
        for table in ("audit_events", "audit_seals")
        for row in connection.execute(f"SELECT * FROM {table}").fetchall()
    ]
