"""How attempts ended, minute by minute: counted as they end, forgotten after a while (design §7)."""

import asyncio
from dataclasses import replace

import pytest

from app.clock import Timestamp, later
from app.domain.jobs import AttemptOutcome, MinuteOfAttempts
from app.errors import ConstraintViolated
from tests.db.records import Database

MINUTE = Timestamp("2026-11-22T20:20:00.000000Z")
NEXT = later(MINUTE, 60)
NOTHING = MinuteOfAttempts(
    minute="2026-11-22T20:20:00Z",
    stage="parse",
    outcome=AttemptOutcome.SUCCEEDED,
    attempts=0,
    timed=0,
    milliseconds=0,
    longest_milliseconds=0,
)


async def count(
    database: Database,
    milliseconds: int | None,
    *,
    now: Timestamp = MINUTE,
    stage: str = "parse",
    worker: str = "worker-1",
    outcome: AttemptOutcome = AttemptOutcome.SUCCEEDED,
) -> None:
    """Count an attempt that ends."""
    await database.write(
        lambda work: work.attempt_minutes.count(
            stage=stage, worker=worker, outcome=outcome, milliseconds=milliseconds, now=now
        )
    )


async def since(database: Database, moment: Timestamp = MINUTE) -> list[MinuteOfAttempts]:
    """Return what was counted."""
    return await database.read(lambda work: work.attempt_minutes.since(moment))


@pytest.mark.parametrize(
    ("lasted", "timed", "total", "longest"),
    [
        ([0], 1, 0, 0),
        ([None], 0, 0, 0),
        ([100, 7, 50], 3, 157, 100),
        ([7, 100], 2, 107, 100),
        ([None, 5, None], 1, 5, 5),
        ([3_000_000_000, 3_000_000_000], 2, 6_000_000_000, 3_000_000_000),
    ],
)
async def test_attempts_of_a_minute_are_counted_with_the_time_of_those_that_know_it(
    database: Database, lasted: list[int | None], timed: int, total: int, longest: int
) -> None:
    for milliseconds in lasted:
        await count(database, milliseconds)

    counted = await since(database)

    assert counted == [
        replace(NOTHING, attempts=len(lasted), timed=timed, milliseconds=total, longest_milliseconds=longest)
    ]


async def test_minutes_stages_and_outcomes_are_told_apart_in_that_order(database: Database) -> None:
    one = replace(NOTHING, attempts=1, timed=1, milliseconds=1, longest_milliseconds=1)
    await count(database, 1, now=NEXT)
    await count(database, 1, stage="photos")
    await count(database, 1)
    await count(database, 1, outcome=AttemptOutcome.FAILED)

    counted = await since(database)

    assert counted == [
        replace(one, outcome=AttemptOutcome.FAILED),
        one,
        replace(one, stage="photos"),
        replace(one, minute="2026-11-22T20:21:00Z"),
    ]


async def test_workers_are_counted_together(database: Database) -> None:
    await asyncio.gather(*(count(database, 10 + n, worker=f"worker-{n % 3}") for n in range(9)))

    counted = await since(database)

    assert counted == [replace(NOTHING, attempts=9, timed=9, milliseconds=126, longest_milliseconds=18)]
    assert len(await database.rows("SELECT worker FROM attempt_minutes")) == 3


@pytest.mark.parametrize(("seconds", "minutes"), [(-0.000001, 2), (0, 2), (59.999999, 2), (60, 1), (120, 0)])
async def test_the_minute_of_a_moment_is_counted_whole(database: Database, seconds: float, minutes: int) -> None:
    await count(database, 1, now=MINUTE)
    await count(database, 1, now=later(MINUTE, 30))
    await count(database, 1, now=later(NEXT, 59.999999))

    counted = await since(database, later(MINUTE, seconds))

    assert [each.attempts for each in counted] == [2, 1][2 - minutes :]


@pytest.mark.parametrize(("seconds", "minutes"), [(0, 2), (59.999999, 2), (60, 1), (119, 1), (120, 0)])
async def test_the_minutes_before_that_of_a_moment_are_forgotten(
    database: Database, seconds: float, minutes: int
) -> None:
    await count(database, 1, now=MINUTE)
    await count(database, 1, now=MINUTE, worker="worker-2")
    await count(database, 1, now=NEXT)

    await database.write(lambda work: work.attempt_minutes.prune(later(MINUTE, seconds)))

    assert len(await since(database)) == minutes


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("attempts = 0, timed = 0", "attempt_minutes_attempts_count"),
        ("timed = 2", "attempt_minutes_timed_counts"),
        ("timed = -1", "attempt_minutes_timed_counts"),
        ("longest_milliseconds = 2", "attempt_minutes_longest_counts"),
    ],
)
async def test_a_count_that_cannot_be_is_refused(database: Database, change: str, constraint: str) -> None:
    await count(database, 1)

    with pytest.raises(ConstraintViolated) as caught:
        await database.rows(f"UPDATE attempt_minutes SET {change} RETURNING minute")

    assert (caught.value.kind, caught.value.constraint) == ("CHECK", constraint)
