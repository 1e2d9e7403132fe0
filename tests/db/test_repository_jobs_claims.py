"""Claiming: the oldest due jobs of the stages that a worker runs, each leased to one worker (design §3a, §6)."""

import asyncio

import pytest

from app.clock import Timestamp, later
from app.ids import new_id
from tests.db.records import AFTER, MINE, OTHERS, Database
from tests.db.test_repository_jobs import STATES, job_in, jobs_of, stand
from tests.support.database import NOW


def tasks_of(claimed: list[tuple[str, str, Timestamp]]) -> list[str]:
    """Return the tasks that were claimed, sorted."""
    return sorted(task_id for task_id, _, _ in claimed)


@pytest.mark.parametrize("state", STATES)
async def test_only_a_job_that_is_due_and_free_is_claimed(database: Database, state: str) -> None:
    task_id = await job_in(database, state)
    before = await jobs_of(database)

    claimed = await database.lease(new_id())

    assert claimed == ([(task_id, "parse", NOW)] if state == "due" else [])
    assert state == "due" or await jobs_of(database) == before


async def test_a_claim_writes_down_who_holds_the_job_and_until_when(database: Database) -> None:
    await job_in(database, "due")
    (before,) = await jobs_of(database)

    await database.lease(MINE)

    assert await jobs_of(database) == [
        before
        | {
            "lease_token": MINE,
            "worker": "worker-1",
            "lease_expires_at": later(NOW, 30),
            "stage_started_at": NOW,
        }
    ]


async def test_the_oldest_due_are_claimed_and_no_more_than_asked_for(database: Database) -> None:
    tasks = [await database.task(run_at=later(NOW, -age)) for age in (1, 3, 2, 0)]

    first = await database.lease(MINE, limit=2)
    second = await database.lease(OTHERS, limit=2)

    assert tasks_of(first) == sorted([tasks[1], tasks[2]])
    assert tasks_of(second) == sorted([tasks[0], tasks[3]])


async def test_the_oldest_due_are_claimed_whichever_stage_they_stand_at(database: Database) -> None:
    parse = await stand(database, "parse", 10, 4, 1)
    photos = await stand(database, "photos", 9, 8, 2)

    claims = [tasks_of(await database.lease(new_id(), limit=2)) for _ in range(3)]

    assert claims == [sorted(pair) for pair in ([parse[0], photos[0]], [photos[1], parse[1]], [photos[2], parse[2]])]


@pytest.mark.parametrize("stage", ["parse", "photos"])
async def test_of_jobs_due_at_once_the_older_task_is_claimed_first(database: Database, stage: str) -> None:
    tasks = [*await stand(database, "parse", 0, 0), *await stand(database, stage, 0, 0)]

    claims = [tasks_of(await database.lease(new_id(), limit=1)) for _ in tasks]

    assert claims == [[task_id] for task_id in sorted(tasks)]


async def test_a_job_of_a_stage_that_was_not_asked_for_is_left(database: Database) -> None:
    (task_id,) = await stand(database, "parse", 5)

    claimed = await database.lease(MINE, stages=["photos", "export"])

    assert claimed == []
    assert tasks_of(await database.lease(MINE, stages=["parse"])) == [task_id]


async def test_whoever_asks_for_no_stage_gets_nothing(database: Database) -> None:
    await database.task()

    assert await database.lease(stages=[]) == []


async def test_claims_that_race_never_take_the_same_job(database: Database) -> None:
    tasks = [*await stand(database, "parse", *range(10)), *await stand(database, "photos", *range(10))]

    claims = await asyncio.gather(*(database.lease(new_id(), limit=3) for _ in range(10)))

    claimed = [task_id for claim in claims for task_id in tasks_of(claim)]
    assert sorted(claimed) == sorted(tasks)


async def test_a_task_that_advances_keeps_its_place_in_the_queue(database: Database) -> None:
    old, _young = await stand(database, "parse", 10, 5)
    await database.lease(MINE, limit=1)

    await database.write(lambda work: work.jobs.advance(old, MINE, next_stage="photos"))

    assert await database.lease(OTHERS, limit=1) == [(old, "photos", NOW)]


@pytest.mark.parametrize(
    ("move", "counted_anew"),
    [
        ("postpone", False),
        ("release", False),
        ("release anew", True),
        ("crash", False),
        ("snooze", True),
        ("advance", True),
    ],
)
async def test_a_stage_is_counted_from_its_first_attempt_unless_it_begins_anew(
    database: Database, move: str, counted_anew: bool
) -> None:
    task_id = await database.task()
    await database.lease(MINE)
    moves = {
        "postpone": lambda jobs: jobs.postpone(task_id, MINE, run_at=AFTER),
        "release": lambda jobs: jobs.release(task_id, MINE, begins_anew=False),
        "release anew": lambda jobs: jobs.release(task_id, MINE, begins_anew=True),
        "crash": lambda jobs: jobs.crash(task_id, MINE, run_at=AFTER),
        "snooze": lambda jobs: jobs.snooze(task_id, MINE, run_at=AFTER),
        "advance": lambda jobs: jobs.advance(task_id, MINE, next_stage="photos"),
    }
    await database.write(lambda work: moves[move](work.jobs))

    ((_, _, stage_started_at),) = await database.lease(OTHERS, now=AFTER)

    assert stage_started_at == (AFTER if counted_anew else NOW)
