"""The queue: who may claim what, and that only the holder of a lease moves a leased job (design §1, §6)."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import product
from typing import Any

import pytest

from app.clock import END_OF_TIME, Timestamp, later
from app.domain.jobs import Job, JobCancelled, LeasedJob, LeaseHeld
from app.errors import ConstraintViolated
from app.repositories.jobs import JobsRepository
from app.unit import UnitOfWork
from tests.db.records import AFTER, MINE, OTHERS, STAGES, Database
from tests.support.database import NOW

Move = Callable[[JobsRepository, str], Awaitable[Any]]

LEASED_MOVES: dict[str, Move] = {
    "extend": lambda jobs, task: jobs.extend(task, MINE, expires_at=AFTER),
    "advance": lambda jobs, task: jobs.advance(task, MINE, next_stage="photos"),
    "postpone": lambda jobs, task: jobs.postpone(task, MINE, run_at=AFTER),
    "snooze": lambda jobs, task: jobs.snooze(task, MINE, run_at=AFTER),
    "release": lambda jobs, task: jobs.release(task, MINE, begins_anew=False),
    "release anew": lambda jobs, task: jobs.release(task, MINE, begins_anew=True),
    "crash": lambda jobs, task: jobs.crash(task, MINE, run_at=None),
    "crash for later": lambda jobs, task: jobs.crash(task, MINE, run_at=AFTER),
    "remove": lambda jobs, task: jobs.remove(task, MINE),
}
"""What the holder of the lease MINE can do to a job."""

FREE = {"lease_token": None, "worker": None, "lease_expires_at": None}
EFFECTS: dict[str, dict[str, Any] | None] = {
    "extend": {"lease_expires_at": AFTER},
    "advance": {"stage": "photos", "crashes": 0, "stage_started_at": None, **FREE},
    "postpone": {"run_at": AFTER, **FREE},
    "snooze": {"run_at": AFTER, "stage_started_at": None, **FREE},
    "release": FREE,
    "release anew": {"stage_started_at": None, **FREE},
    "crash": {"crashes": 2, **FREE},
    "crash for later": {"crashes": 2, "run_at": AFTER, **FREE},
    "remove": None,
}
STATES = ("absent", "due", "waiting", "leased by another", "leased", "cancelled")
HELD = ("leased", "cancelled")


async def job_in(database: Database, state: str) -> str:
    """Make a task whose job is in that state and has lost its worker once; return its id."""
    task_id = await database.task(run_at=AFTER if state == "waiting" else NOW)
    await database.rows("UPDATE jobs SET crashes = 1 WHERE task_id = :id RETURNING task_id", id=task_id)
    if state in (*HELD, "leased by another"):
        await database.lease(OTHERS if state == "leased by another" else MINE)
    if state == "cancelled":
        assert await cancel(database, task_id) is JobCancelled.RUNS
    if state == "absent":
        await database.rows("DELETE FROM jobs WHERE task_id = :id RETURNING task_id", id=task_id)
    return task_id


async def cancel(database: Database, task_id: str, cancel_by: Timestamp = AFTER) -> JobCancelled:
    """Tell whoever works at a task to stop."""
    return await database.write(lambda work: work.jobs.cancel(task_id, cancel_by=cancel_by))


async def jobs_of(database: Database) -> list[dict[str, Any]]:
    """Return every row of the queue."""
    return await database.rows("SELECT * FROM jobs ORDER BY task_id")


@pytest.mark.parametrize(("move", "state"), list(product(LEASED_MOVES, HELD)))
async def test_the_holder_of_a_lease_moves_its_job_and_hears_whether_it_was_cancelled(
    database: Database, move: str, state: str
) -> None:
    task_id = await job_in(database, state)
    (before,) = await jobs_of(database)
    effect = EFFECTS[move]

    held = await database.write(lambda work: LEASED_MOVES[move](work.jobs, task_id))

    assert held is (LeaseHeld.CANCELLED if state == "cancelled" else LeaseHeld.HELD)
    assert await jobs_of(database) == ([] if effect is None else [before | effect])


NOT_HELD = list(product(LEASED_MOVES, [state for state in STATES if state not in HELD]))


@pytest.mark.parametrize(("move", "state"), NOT_HELD)
async def test_whoever_does_not_hold_the_lease_changes_nothing(database: Database, move: str, state: str) -> None:
    task_id = await job_in(database, state)
    before = await jobs_of(database)

    held = await database.write(lambda work: LEASED_MOVES[move](work.jobs, task_id))

    assert held is LeaseHeld.LOST
    assert await jobs_of(database) == before


@pytest.mark.parametrize("move", LEASED_MOVES)
async def test_a_lease_on_several_tasks_moves_the_one_that_is_named(database: Database, move: str) -> None:
    first, second = await job_in(database, "due"), await job_in(database, "due")
    await database.lease(MINE)
    before = [job for job in await jobs_of(database) if job["task_id"] == second]

    await database.write(lambda work: LEASED_MOVES[move](work.jobs, first))

    assert [job for job in await jobs_of(database) if job["task_id"] == second] == before


@pytest.mark.parametrize("state", STATES)
async def test_only_a_job_that_waits_for_its_time_is_made_due(database: Database, state: str) -> None:
    task_id = await job_in(database, state)
    before = await jobs_of(database)

    moved = await database.write(lambda work: work.jobs.make_due(task_id, now=NOW))

    assert moved is (state == "waiting")
    assert await jobs_of(database) == ([job | {"run_at": NOW} for job in before] if moved else before)


@pytest.mark.parametrize("state", STATES)
async def test_a_job_is_removed_without_a_lease_only_while_nobody_holds_it(database: Database, state: str) -> None:
    task_id = await job_in(database, state)
    before = await jobs_of(database)

    removed = await database.write(lambda work: work.jobs.remove_waiting(task_id))

    assert removed is (state in ("due", "waiting"))
    assert await jobs_of(database) == ([] if removed else before)


# Cancelling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [state for state in STATES if state != "cancelled"])
async def test_a_cancelled_job_tells_whether_somebody_works_at_it(database: Database, state: str) -> None:
    task_id = await job_in(database, state)
    before = await jobs_of(database)

    told = await cancel(database, task_id)

    by_state = {"absent": JobCancelled.NOT_THERE, "leased": JobCancelled.RUNS, "leased by another": JobCancelled.RUNS}
    assert told is by_state.get(state, JobCancelled.WAITS)
    assert await jobs_of(database) == [job | {"cancel_by": AFTER} for job in before]


async def test_the_first_deadline_to_stop_stands(database: Database) -> None:
    task_id = await job_in(database, "cancelled")

    told = [await cancel(database, task_id, later(AFTER, 9)), await cancel(database, task_id, NOW)]

    (job,) = await jobs_of(database)
    assert told == [JobCancelled.RUNS] * 2
    assert job["cancel_by"] == AFTER


async def test_cancelling_one_task_of_a_lease_leaves_the_others(database: Database) -> None:
    first, second = await database.task(), await database.task()
    await database.lease(MINE)

    await cancel(database, first)

    held = await database.write(lambda work: work.jobs.extend(second, MINE, expires_at=AFTER))
    assert held is LeaseHeld.HELD


async def test_cancelled_tasks_that_should_have_stopped_are_found_the_earliest_first(database: Database) -> None:
    late, early, _running = [await database.task() for _ in range(3)]
    await database.lease(MINE)
    await cancel(database, late, later(NOW, 5))
    await cancel(database, early, later(NOW, 4))

    async def found(moment: Timestamp, limit: int = 10) -> list[str]:
        jobs = await database.read(lambda work: work.jobs.cancelled_until(moment, limit=limit))
        assert all(job.is_cancelled for job in jobs)
        return [job.task_id for job in jobs]

    assert await found(later(NOW, 3)) == []
    assert await found(later(NOW, 4)) == [early]
    assert await found(END_OF_TIME) == [early, late]
    assert await found(END_OF_TIME, limit=1) == [early]


async def test_of_a_claim_and_a_cancellation_that_race_one_comes_first(database: Database) -> None:
    tasks = [await database.task() for _ in range(12)]

    async def stop(task_id: str) -> str:
        async def body(work: UnitOfWork) -> str:
            told = await work.jobs.cancel(task_id, cancel_by=AFTER)
            if told is JobCancelled.WAITS:
                assert await work.jobs.remove_waiting(task_id)
            return told

        return await database.write(body)

    claimed, *ends = await asyncio.gather(database.lease(limit=6), *map(stop, tasks))

    assert (ends.count("runs"), ends.count("not_there")) == (len(claimed), 0)
    assert [job["task_id"] for job in await jobs_of(database)] == sorted(task_id for task_id, _, _ in claimed)


# Looking -------------------------------------------------------------------------------------------------------------


async def test_leases_that_have_run_out_are_found_the_earliest_first(database: Database) -> None:
    early, late = await database.task(), await database.task(run_at=later(NOW, 5))
    await database.lease(MINE, now=NOW)
    await database.lease(OTHERS, now=later(NOW, 5))

    async def found(moment: Timestamp, limit: int = 10) -> list[str]:
        jobs = await database.read(lambda work: work.jobs.leased_until(moment, limit=limit))
        return [job.task_id for job in jobs]

    assert await found(later(NOW, 29)) == []
    assert await found(later(NOW, 30)) == [early]
    assert await found(later(NOW, 35)) == [early, late]
    assert await found(later(NOW, 35), limit=1) == [early]


@pytest.mark.parametrize("state", HELD)
async def test_a_lease_that_has_run_out_tells_whose_it_was(database: Database, state: str) -> None:
    task_id = await job_in(database, state)

    (job,) = await database.read(lambda work: work.jobs.leased_until(END_OF_TIME, limit=1))

    assert job == LeasedJob(
        task_id=task_id, stage="parse", lease_token=MINE, crashes=1, is_cancelled=state == "cancelled"
    )


@pytest.mark.parametrize("state", STATES)
async def test_a_task_shows_its_queue_entry_as_long_as_there_is_something_to_do(database: Database, state: str) -> None:
    task_id = await job_in(database, state)
    is_leased = state in (*HELD, "leased by another")

    job = await database.read(lambda work: work.jobs.by_task(task_id))

    assert job == (
        None
        if state == "absent"
        else Job(
            task_id=task_id,
            stage="parse",
            run_at=AFTER if state == "waiting" else NOW,
            crashes=1,
            worker="worker-1" if is_leased else None,
            lease_expires_at=later(NOW, 30) if is_leased else None,
            cancel_by=AFTER if state == "cancelled" else None,
        )
    )


async def stand(database: Database, stage: str, *ages: float) -> list[str]:
    """Queue a task at a stage for each age in seconds; return their ids."""
    tasks = [await database.task(run_at=later(NOW, -age)) for age in ages]
    for task_id in tasks:
        await database.rows(
            "UPDATE jobs SET stage = :stage WHERE task_id = :id RETURNING task_id", stage=stage, id=task_id
        )
    return tasks


async def test_the_head_of_a_stage_is_its_oldest_waiting_job_due_or_not(database: Database) -> None:
    await stand(database, "parse", 9, 1)
    await stand(database, "photos", 3, 5, -7)
    await stand(database, "publish", -8, -4)
    await database.lease(MINE, stages=["parse"], limit=1)

    heads = await database.read(lambda work: work.jobs.heads(STAGES))

    assert heads == {"parse": later(NOW, -1), "photos": later(NOW, -5), "publish": later(NOW, 4)}


async def test_heads_are_told_of_the_stages_that_were_asked_for(database: Database) -> None:
    await stand(database, "parse", 1)
    await stand(database, 'a "quoted" stage', 2)

    heads = await database.read(lambda work: work.jobs.heads(['a "quoted" stage', "photos"]))

    assert heads == {'a "quoted" stage': later(NOW, -2)}
    assert await database.read(lambda work: work.jobs.heads([])) == {}


async def test_a_waiting_job_knows_how_many_come_before_it_in_its_stage(database: Database) -> None:
    tasks = sorted(await stand(database, "parse", 5, 5, 5))
    (oldest, _younger) = await stand(database, "parse", 9, 1)
    await stand(database, "photos", 10)

    async def ahead(task_id: str, limit: int = 100) -> int:
        job = await database.read(lambda work: work.jobs.by_task(task_id))
        assert job is not None
        return await database.read(lambda work: work.jobs.ahead(job, limit=limit))

    assert [await ahead(task_id) for task_id in (oldest, *tasks)] == [0, 1, 2, 3]
    assert await ahead(tasks[2], limit=2) == 2


async def test_leased_jobs_stand_before_nobody(database: Database) -> None:
    await stand(database, "parse", 9)
    await database.lease(MINE)
    (waiting,) = await stand(database, "parse", 1)
    job = await database.read(lambda work: work.jobs.by_task(waiting))
    assert job is not None

    ahead = await database.read(lambda work: work.jobs.ahead(job, limit=100))

    assert ahead == 0


async def test_jobs_at_stages_that_the_pipeline_has_lost_are_counted(database: Database) -> None:
    await stand(database, "fetch", 1, 2)
    await stand(database, "parse", 3)

    unknown = await database.read(lambda work: work.jobs.unknown_stages(["parse", "photos"]))

    assert unknown == {"fetch": 2}
    assert await database.read(lambda work: work.jobs.unknown_stages(["parse", "fetch"])) == {}


# Checks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("crashes = -1", "jobs_crashes_counts"),
        ("lease_token = 'a'", "jobs_lease_whole"),
        ("worker = 'a'", "jobs_lease_whole"),
        ("lease_token = 'a', worker = 'a'", "jobs_lease_whole"),
    ],
)
async def test_a_job_that_cannot_be_is_refused(database: Database, change: str, constraint: str) -> None:
    task_id = await database.task()

    with pytest.raises(ConstraintViolated) as caught:
        await database.rows(f"UPDATE jobs SET {change} WHERE task_id = :id RETURNING task_id", id=task_id)

    assert (caught.value.kind, caught.value.constraint) == ("CHECK", constraint)


async def test_a_task_stands_in_the_queue_once(database: Database) -> None:
    task_id = await database.task()

    with pytest.raises(ConstraintViolated):
        await database.write(lambda work: work.jobs.add(task_id, stage="parse", run_at=NOW))


async def test_there_is_no_job_without_a_task(database: Database) -> None:
    with pytest.raises(ConstraintViolated) as caught:
        await database.write(lambda work: work.jobs.add("nobody's", stage="parse", run_at=NOW))

    assert caught.value.kind == "FOREIGN KEY"
