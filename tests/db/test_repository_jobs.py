"""The queue: who may claim what, and that only the holder of a lease moves a leased job (design §1, §6)."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import product
from typing import Any

import pytest

from app.clock import Timestamp, later
from app.domain.jobs import Attempt, AttemptOutcome, Claim, Failure, Lease, LeasedJob
from app.errors import ConstraintViolated
from app.ids import new_id
from app.repositories.jobs import JobsRepository
from tests.db.records import AFTER, LAST, MINE, OTHERS, STAGES, Database
from tests.support.database import NOW

Move = Callable[[JobsRepository, str], Awaitable[Any]]

LEASED_MOVES: dict[str, Move] = {
    "extend": lambda jobs, task: jobs.extend(task, MINE, expires_at=AFTER),
    "advance": lambda jobs, task: jobs.advance(task, MINE, next_stage="photos"),
    "postpone": lambda jobs, task: jobs.postpone(task, MINE, run_at=AFTER),
    "release": lambda jobs, task: jobs.release(task, MINE, crashes=1),
    "remove": lambda jobs, task: jobs.remove(task, MINE),
}
"""What the holder of the lease MINE can do to a job."""

FREE = {"lease_token": None, "worker": None, "lease_expires_at": None}
EFFECTS: dict[str, dict[str, Any] | None] = {
    "extend": {"lease_expires_at": AFTER},
    "advance": {"stage": "photos", "crashes": 0, **FREE},
    "postpone": {"run_at": AFTER, **FREE},
    "release": {"crashes": 3, **FREE},
    "remove": None,
}
STATES = ("absent", "due", "waiting", "leased by another", "leased")


async def job_in(database: Database, state: str) -> str:
    """Make a task whose job is in that state and has lost its worker twice; return its id."""
    task_id = await database.task(run_at=AFTER if state == "waiting" else NOW)
    await database.rows("UPDATE jobs SET crashes = 2 WHERE task_id = :id RETURNING task_id", id=task_id)
    if state.startswith("leased"):
        await database.lease(MINE if state == "leased" else OTHERS)
    elif state == "absent":
        await database.rows("DELETE FROM jobs WHERE task_id = :id RETURNING task_id", id=task_id)
    return task_id


async def jobs_of(database: Database) -> list[dict[str, Any]]:
    """Return every row of the queue."""
    return await database.rows(
        "SELECT task_id, stage, run_at, crashes, lease_token, worker, lease_expires_at FROM jobs ORDER BY task_id"
    )


@pytest.mark.parametrize("move", LEASED_MOVES)
async def test_the_holder_of_a_lease_moves_its_job(database: Database, move: str) -> None:
    task_id = await job_in(database, "leased")
    (before,) = await jobs_of(database)
    effect = EFFECTS[move]

    moved = await database.write(lambda work: LEASED_MOVES[move](work.jobs, task_id))

    assert moved is True
    assert await jobs_of(database) == ([] if effect is None else [before | effect])


NOT_HELD = list(product(LEASED_MOVES, [state for state in STATES if state != "leased"]))


@pytest.mark.parametrize(("move", "state"), NOT_HELD)
async def test_whoever_does_not_hold_the_lease_changes_nothing(database: Database, move: str, state: str) -> None:
    task_id = await job_in(database, state)
    before = await jobs_of(database)

    moved = await database.write(lambda work: LEASED_MOVES[move](work.jobs, task_id))

    assert moved is False
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


# Claiming ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
async def test_only_a_job_that_is_due_and_free_is_claimed(database: Database, state: str) -> None:
    task_id = await job_in(database, state)
    before = await jobs_of(database)

    claimed = await database.lease(new_id())

    assert claimed == ([(task_id, "parse")] if state == "due" else [])
    assert state == "due" or await jobs_of(database) == before


async def test_a_claim_writes_down_who_holds_the_job_and_until_when(database: Database) -> None:
    await job_in(database, "due")

    await database.lease(MINE)

    (job,) = await jobs_of(database)
    assert (job["lease_token"], job["worker"], job["lease_expires_at"]) == (MINE, "worker-1", later(NOW, 30))


async def test_the_oldest_due_are_claimed_and_no_more_than_asked_for(database: Database) -> None:
    tasks = [await database.task(run_at=later(NOW, -age)) for age in (1, 3, 2, 0)]

    first = await database.lease(MINE, limit=2)
    second = await database.lease(OTHERS, limit=2)

    assert {task for task, _ in first} == {tasks[1], tasks[2]}
    assert {task for task, _ in second} == {tasks[0], tasks[3]}


async def test_of_jobs_due_at_once_the_older_task_is_claimed_first(database: Database) -> None:
    tasks = [await database.task() for _ in range(3)]

    assert await database.lease(limit=1) == [(min(tasks), "parse")]


async def test_a_job_of_a_stage_that_the_worker_does_not_know_is_left(database: Database) -> None:
    task_id = await database.task()
    lease = Lease(token=MINE, worker="worker-1", expires_at=AFTER)

    claimed = await database.write(
        lambda work: work.jobs.claim(lease, stages_json='["photos", "export"]', now=NOW, limit=10)
    )
    unknown = await database.read(lambda work: work.jobs.unknown_stages(stages_json='["photos", "export"]'))

    assert claimed == []
    assert unknown == {"parse": 1}
    assert await database.read(lambda work: work.jobs.unknown_stages(stages_json=STAGES)) == {}
    assert await database.lease() == [(task_id, "parse")]


async def test_claims_that_race_never_take_the_same_job(database: Database) -> None:
    tasks = {await database.task() for _ in range(20)}

    claims = await asyncio.gather(*(database.lease(new_id(), limit=3) for _ in range(10)))

    claimed = [task for claim in claims for task, _ in claim]
    assert len(claimed) == 20
    assert set(claimed) == tasks


async def test_a_task_that_advances_keeps_its_place_in_the_queue(database: Database) -> None:
    old = await database.task(run_at=later(NOW, -10))
    await database.task(run_at=later(NOW, -5))
    await database.lease(MINE, limit=1)

    await database.write(lambda work: work.jobs.advance(old, MINE, next_stage="photos"))

    assert await database.lease(OTHERS, limit=1) == [(old, "photos")]


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
    (job,) = await database.read(lambda work: work.jobs.leased_until(later(NOW, 30), limit=1))
    assert job == LeasedJob(task_id=early, stage="parse", lease_token=MINE, crashes=0)


async def test_the_next_due_moment_is_the_earliest_that_is_still_to_come(database: Database) -> None:
    async def next_due() -> Timestamp | None:
        return await database.read(lambda work: work.jobs.next_due(now=NOW))

    nothing = await next_due()
    await database.task(run_at=NOW)
    due_already = await next_due()
    await database.task(run_at=later(NOW, 9))
    await database.task(run_at=later(NOW, 4))

    assert (nothing, due_already) == (None, None)
    assert await next_due() == later(NOW, 4)


# Attempts, outputs, probes -------------------------------------------------------------------------------------------


def a_claim(task_id: str, token: str = MINE) -> Claim:
    """Make a claim on a task."""
    return Claim(
        task_id=task_id, stage="parse", attempt=1, lease_token=token, reference=None, payload_json="{}", outputs_json={}
    )


async def begun(database: Database, token: str = MINE, task_id: str | None = None) -> str:
    """Write down that an attempt has begun, and return its task's id."""
    task = task_id or await database.task()
    await database.write(lambda work: work.attempts.begin(a_claim(task, token), worker="worker-1", now=NOW))
    return task


async def end(database: Database, task_id: str, outcome: AttemptOutcome, failure: Failure | None = None) -> bool:
    """End the attempt MINE."""
    return await database.write(
        lambda work: work.attempts.end(task_id, MINE, outcome=outcome, failure=failure, now=AFTER)
    )


async def history(database: Database, task_id: str, before: str = LAST, limit: int = 10) -> list[Attempt]:
    """Return a task's attempts."""
    return await database.read(lambda work: work.attempts.of_task(task_id, before=before, limit=limit))


@pytest.mark.parametrize("outcome", AttemptOutcome)
async def test_an_attempt_is_ended_once(database: Database, outcome: AttemptOutcome) -> None:
    task_id = await begun(database)

    first = await end(database, task_id, outcome, Failure(kind="broken", message="It broke."))
    second = await end(database, task_id, AttemptOutcome.SUCCEEDED)

    (attempt,) = await history(database, task_id)
    assert (first, second) == (True, False)
    assert attempt == Attempt(
        id=MINE,
        task_id=task_id,
        stage="parse",
        attempt=1,
        worker="worker-1",
        started_at=NOW,
        ended_at=AFTER,
        outcome=outcome,
        error_kind="broken",
        error_message="It broke.",
    )


async def test_an_attempt_that_runs_has_no_end_and_one_that_was_never_begun_cannot_end(database: Database) -> None:
    task_id = await begun(database)

    (attempt,) = await history(database, task_id)

    assert (attempt.ended_at, attempt.outcome, attempt.error_kind) == (None, None, None)
    assert await end(database, "nobody's", AttemptOutcome.SUCCEEDED) is False


async def test_the_history_is_walked_newest_first(database: Database) -> None:
    tokens = sorted(new_id() for _ in range(5))
    task_id = await begun(database, tokens[0])
    for token in tokens[1:]:
        await begun(database, token, task_id)

    first = await history(database, task_id, limit=2)
    rest = await history(database, task_id, before=first[-1].id)

    assert [attempt.id for attempt in (*first, *rest)] == tokens[::-1]


async def test_a_stage_that_runs_again_replaces_what_it_handed_on(database: Database) -> None:
    task_id = await database.task()

    async def put(stage: str, value: str, now: Timestamp) -> None:
        await database.write(lambda work: work.outputs.put(task_id, stage=stage, value_json=value, now=now))

    await put("photos", "1", later(NOW, 1))
    await put("parse", "2", NOW)
    await put("photos", "3", later(NOW, 2))

    outputs = await database.read(lambda work: work.outputs.of_task(task_id))
    assert [(output.stage, output.value_json) for output in outputs] == [("parse", "2"), ("photos", "3")]


async def test_a_probe_keeps_the_last_moment(database: Database) -> None:
    await database.write(lambda work: work.probes.write("write", now=NOW))
    await database.write(lambda work: work.probes.write("write", now=AFTER))

    assert await database.rows("SELECT name, written_at FROM probes") == [{"name": "write", "written_at": AFTER}]


# Checks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "change", "constraint"),
    [
        ("jobs", "crashes = -1", "jobs_crashes_counts"),
        ("jobs", "lease_token = 'a'", "jobs_lease_whole"),
        ("jobs", "worker = 'a'", "jobs_lease_whole"),
        ("jobs", "lease_token = 'a', worker = 'a'", "jobs_lease_whole"),
        ("attempts", "attempt = 0", "attempts_attempt_counts"),
        ("attempts", "outcome = 'lost', ended_at = 'a'", "attempts_outcome_known"),
        ("attempts", "outcome = 'failed'", "attempts_end_whole"),
        ("attempts", "ended_at = 'a'", "attempts_end_whole"),
    ],
)
async def test_a_row_that_cannot_be_is_refused(database: Database, table: str, change: str, constraint: str) -> None:
    task_id = await begun(database)

    with pytest.raises(ConstraintViolated) as caught:
        await database.rows(f"UPDATE {table} SET {change} WHERE task_id = :id RETURNING task_id", id=task_id)

    assert (caught.value.kind, caught.value.constraint) == ("CHECK", constraint)


async def test_a_task_stands_in_the_queue_once(database: Database) -> None:
    task_id = await database.task()

    with pytest.raises(ConstraintViolated):
        await database.write(lambda work: work.jobs.add(task_id, stage="parse", run_at=NOW))


async def test_there_is_no_job_without_a_task(database: Database) -> None:
    with pytest.raises(ConstraintViolated) as caught:
        await database.write(lambda work: work.jobs.add("nobody's", stage="parse", run_at=NOW))

    assert caught.value.kind == "FOREIGN KEY"
