"""Rescues of many dead letters: the wish, how far workers have come with it, and its one end (design §6, §7)."""

from dataclasses import replace
from itertools import product

import pytest

from app.domain.dead_letters import DeadLetterFilter, Rescue, RescueStatus, RescueTerms
from app.domain.users import Role
from app.errors import ConstraintViolated
from app.ids import new_id
from app.unit import UnitOfWork
from tests.db.records import AFTER, LAST, Database
from tests.support.database import NOW

ENDS = (RescueStatus.DONE, RescueStatus.STOPPED)


async def wish(
    database: Database, wanted: DeadLetterFilter | None = None, terms: RescueTerms | None = None, matched: int = 7
) -> Rescue:
    """Write a new wish down."""
    admin = await database.user(f"{new_id()}@example.com", Role.ADMIN)
    rescue = Rescue(
        id=new_id(),
        created_by=admin.id,
        created_at=NOW,
        reason="The shop is back.",
        wanted=wanted or DeadLetterFilter(),
        terms=terms or RescueTerms(),
        status=RescueStatus.RUNNING,
        matched=matched,
        rescued=0,
        skipped=0,
        last_task_id="",
        ended_at=None,
    )
    await database.write(lambda work: work.rescues.add(rescue))
    return rescue


async def by_id(database: Database, rescue_id: str) -> Rescue | None:
    """Return a rescue as it stands."""
    return await database.read(lambda work: work.rescues.by_id(rescue_id))


async def advance(database: Database, rescue: Rescue, rescued: int, skipped: int, last: str) -> bool:
    """Count what was done."""
    return await database.write(
        lambda work: work.rescues.advance(rescue.id, rescued=rescued, skipped=skipped, last_task_id=last)
    )


async def finish(database: Database, rescue: Rescue, status: RescueStatus = RescueStatus.DONE) -> bool:
    """End a rescue."""
    return await database.write(lambda work: work.rescues.finish(rescue.id, status=status, now=AFTER))


@pytest.mark.parametrize(
    ("wanted", "terms"),
    list(
        product(
            [DeadLetterFilter(), DeadLetterFilter(stage="parse", error_kind="timeout", signature="aaaa")],
            [RescueTerms(), RescueTerms(from_stage="fetch", confirm_side_effects=True)],
        )
    ),
)
async def test_a_wish_is_kept_as_it_was_made(database: Database, wanted: DeadLetterFilter, terms: RescueTerms) -> None:
    rescue = await wish(database, wanted, terms)

    found = await by_id(database, rescue.id)

    assert found == rescue


async def test_a_rescue_that_is_not_there_is_none_and_moves_nothing(database: Database) -> None:
    rescue = await wish(database)
    nobodys = replace(rescue, id="nobody's")

    moved = [await advance(database, nobodys, 1, 1, "t"), await finish(database, nobodys)]

    assert moved == [False, False]
    assert await by_id(database, "nobody's") is None
    assert await by_id(database, rescue.id) == rescue


async def test_what_was_done_is_counted_up_and_the_last_task_remembered(database: Database) -> None:
    rescue, other = await wish(database), await wish(database)

    moved = [await advance(database, rescue, 3, 1, "t4"), await advance(database, rescue, 2, 0, "t6")]

    assert moved == [True, True]
    assert await by_id(database, rescue.id) == replace(rescue, rescued=5, skipped=1, last_task_id="t6")
    assert await by_id(database, other.id) == other


@pytest.mark.parametrize("status", ENDS)
async def test_a_rescue_ends_once_and_moves_no_more(database: Database, status: RescueStatus) -> None:
    rescue, other = await wish(database), await wish(database)
    await advance(database, rescue, 1, 0, "t1")

    ended = [await finish(database, rescue, status), *[await finish(database, rescue, each) for each in ENDS]]
    moved = await advance(database, rescue, 1, 0, "t2")

    assert (ended, moved) == ([True, False, False], False)
    assert await by_id(database, rescue.id) == replace(
        rescue, status=status, ended_at=AFTER, rescued=1, last_task_id="t1"
    )
    assert await by_id(database, other.id) == other


async def test_the_oldest_rescue_that_runs_comes_next(database: Database) -> None:
    first, second, third = [await wish(database) for _ in range(3)]

    async def come_next() -> Rescue | None:
        return await database.write(lambda work: work.rescues.next_running())

    came = []
    for rescue in (second, first, third):
        came.append(await come_next())
        await finish(database, rescue)

    assert came == [first, first, third]
    assert await come_next() is None


async def test_rescues_that_run_are_counted_and_no_others(database: Database) -> None:
    rescues = [await wish(database) for _ in range(4)]
    await finish(database, rescues[0])
    await finish(database, rescues[1], RescueStatus.STOPPED)

    running = await database.read(lambda work: work.rescues.count_running())

    assert running == 2


@pytest.mark.parametrize("limit", [1, 2, 9])
async def test_rescues_are_walked_newest_first_ended_or_not(database: Database, limit: int) -> None:
    rescues = [await wish(database) for _ in range(5)]
    await finish(database, rescues[2])

    async def body(work: UnitOfWork) -> list[str]:
        walked = [LAST]
        while page := await work.rescues.page(before=walked[-1], limit=limit):
            assert len(page) <= limit
            walked += [rescue.id for rescue in page]
        return walked[1:]

    walked = await database.read(body)

    assert walked == [rescue.id for rescue in reversed(rescues)]


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("status = 'lost', ended_at = 'a'", "rescues_status_known"),
        ("status = 'done'", "rescues_end_whole"),
        ("ended_at = 'a'", "rescues_end_whole"),
        ("matched = -1", "rescues_matched_counts"),
        ("rescued = -1", "rescues_rescued_counts"),
        ("skipped = -1", "rescues_skipped_counts"),
        ("confirm_side_effects = 2", "rescues_confirm_side_effects_boolean"),
    ],
)
async def test_a_rescue_that_cannot_be_is_refused(database: Database, change: str, constraint: str) -> None:
    rescue = await wish(database)

    with pytest.raises(ConstraintViolated) as caught:
        await database.rows(f"UPDATE rescues SET {change} WHERE id = :id RETURNING id", id=rescue.id)

    assert (caught.value.kind, caught.value.constraint) == ("CHECK", constraint)


async def test_there_is_no_rescue_that_nobody_asked_for(database: Database) -> None:
    rescue = replace(await wish(database), id=new_id(), created_by="nobody")

    with pytest.raises(ConstraintViolated) as caught:
        await database.write(lambda work: work.rescues.add(rescue))

    assert caught.value.kind == "FOREIGN KEY"
