"""The history of attempts: each is begun and ended once, and tells of its progress while it runs (design §1, §6)."""

import json

import pytest

from app.clock import Timestamp, later
from app.domain.jobs import Attempt, AttemptOutcome, Failure, ProgressTold
from app.errors import ConstraintViolated
from app.ids import new_id
from tests.db.records import AFTER, LAST, MINE, OTHERS, Database, a_claim
from tests.support.database import NOW

BROKEN = Failure(kind="broken", message="It broke.", traceback="line 1\nline 2")


async def begun(database: Database) -> str:
    """Write down that the attempt MINE has begun at a new task, and return the task's id."""
    task_id = await database.task()
    await database.begin(task_id)
    return task_id


async def end(
    database: Database,
    task_id: str,
    outcome: AttemptOutcome = AttemptOutcome.SUCCEEDED,
    *,
    token: str = MINE,
    failure: Failure | None = None,
    milliseconds: int | None = None,
    now: Timestamp = AFTER,
) -> tuple[str, str] | None:
    """End an attempt."""
    return await database.write(
        lambda work: work.attempts.end(
            task_id, token, outcome=outcome, failure=failure, milliseconds=milliseconds, now=now
        )
    )


async def tell(database: Database, task_id: str, permille: int, message: str = "", token: str = MINE) -> bool:
    """Tell how far an attempt has come."""
    claim = a_claim(task_id, token)
    return await database.write(
        lambda work: work.attempts.tell_progress(claim, permille=permille, message=message, now=AFTER)
    )


async def history(database: Database, task_id: str, before: str = LAST, limit: int = 1_000) -> list[Attempt]:
    """Return a task's attempts."""
    return await database.read(lambda work: work.attempts.of_task(task_id, before=before, limit=limit))


# Beginning and ending ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", AttemptOutcome)
async def test_an_attempt_is_ended_once(database: Database, outcome: AttemptOutcome) -> None:
    task_id = await begun(database)

    first = await end(database, task_id, outcome, failure=BROKEN, milliseconds=60_000)
    second = await end(database, task_id, AttemptOutcome.SUCCEEDED, now=later(AFTER, 1))

    (attempt,) = await history(database, task_id)
    assert (first, second) == (("parse", "worker-1"), None)
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
        traceback="line 1\nline 2",
        milliseconds=60_000,
        progress=None,
    )


async def test_an_attempt_that_runs_has_no_end_and_one_that_was_never_begun_cannot_end(database: Database) -> None:
    task_id = await begun(database)

    (attempt,) = await history(database, task_id)

    assert (attempt.ended_at, attempt.outcome, attempt.error_kind, attempt.traceback) == (None, None, None, None)
    assert (attempt.milliseconds, attempt.progress) == (None, None)
    assert await end(database, "nobody's") is None
    assert await end(database, task_id, token=OTHERS) is None


async def test_an_attempt_that_lasted_for_a_month_is_measured_too(database: Database) -> None:
    task_id = await begun(database)

    await end(database, task_id, milliseconds=31 * 86_400_000)

    (attempt,) = await history(database, task_id)
    assert attempt.milliseconds == 2_678_400_000


async def test_the_history_is_walked_newest_first(database: Database) -> None:
    tokens = sorted(new_id() for _ in range(5))
    task_id = await database.task()
    for token in tokens:
        await database.begin(task_id, token)

    first = await history(database, task_id, limit=2)
    rest = await history(database, task_id, before=first[-1].id)

    assert [attempt.id for attempt in (*first, *rest)] == tokens[::-1]


# Progress ------------------------------------------------------------------------------------------------------------


async def test_what_an_attempt_told_last_is_its_progress(database: Database) -> None:
    task_id = await begun(database)

    told = [await tell(database, task_id, 0), await tell(database, task_id, 375, "3 of 8 photos")]

    (attempt,) = await history(database, task_id)
    assert told == [True, True]
    assert attempt.progress == ProgressTold(fraction=0.375, message="3 of 8 photos", told_at=AFTER)


async def test_progress_is_told_by_an_attempt_that_runs_and_by_no_other(database: Database) -> None:
    task_id = await begun(database)
    await database.begin(task_id, OTHERS)
    await tell(database, task_id, 100)
    await end(database, task_id)
    before = await history(database, task_id)

    told = [await tell(database, task_id, 900), await tell(database, "nobody's", 900)]

    assert told == [False, False]
    assert await history(database, task_id) == before


async def test_an_attempt_keeps_its_progress_when_it_ends(database: Database) -> None:
    task_id = await begun(database)
    await tell(database, task_id, 500, "half")

    await end(database, task_id, AttemptOutcome.FAILED, failure=BROKEN)

    (attempt,) = await history(database, task_id)
    assert attempt.progress == ProgressTold(fraction=0.5, message="half", told_at=AFTER)


# Snoozes -------------------------------------------------------------------------------------------------------------

S, F, R = AttemptOutcome.SNOOZED, AttemptOutcome.FAILED, None


@pytest.mark.parametrize(
    ("outcomes", "keep", "kept"),
    [
        ([S, S, S, S], 2, [2, 3]),
        ([S, S], 2, [0, 1]),
        ([S], 2, [0]),
        ([], 2, []),
        ([S, S, S], 1, [2]),
        ([S, F, S, S, F, S], 2, [1, 3, 4, 5]),
        ([F, F, F, F], 2, [0, 1, 2, 3]),
        ([S, S, S, R], 2, [1, 2, 3]),
    ],
)
async def test_of_the_snoozes_of_a_task_the_newest_are_kept_and_all_else_besides(
    database: Database, outcomes: list[AttemptOutcome | None], keep: int, kept: list[int]
) -> None:
    tokens = sorted(new_id() for _ in outcomes)
    task_id, other_id = await database.task(), await database.task()
    for token, outcome in zip(tokens, outcomes, strict=True):
        for each in (task_id, other_id):
            await database.begin(each, token)
            if outcome is not None:
                await end(database, each, outcome, token=token)

    await database.write(lambda work: work.attempts.forget_snoozes(task_id, keep=keep))

    assert [attempt.id for attempt in await history(database, task_id)] == [tokens[n] for n in reversed(kept)]
    assert [attempt.id for attempt in await history(database, other_id)] == tokens[::-1]


# Pruning -------------------------------------------------------------------------------------------------------------


async def test_the_attempts_of_the_tasks_that_are_named_are_pruned(database: Database) -> None:
    tasks = [await begun(database) for _ in range(3)]
    await database.begin(tasks[0], OTHERS)

    await database.write(lambda work: work.attempts.prune(json.dumps([tasks[0], tasks[2], "nobody's"])))

    left = [len(await history(database, task_id)) for task_id in tasks]
    assert left == [0, 1, 0]


@pytest.mark.parametrize("ids", [[], ["nobody's"], ['"', "'", "%"]])
async def test_to_prune_nothing_leaves_everything(database: Database, ids: list[str]) -> None:
    task_id = await begun(database)

    await database.write(lambda work: work.attempts.prune(json.dumps(ids)))

    assert len(await history(database, task_id)) == 1


# Checks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("attempt = 0", "attempts_attempt_counts"),
        ("outcome = 'lost', ended_at = 'a'", "attempts_outcome_known"),
        ("outcome = 'failed'", "attempts_end_whole"),
        ("ended_at = 'a'", "attempts_end_whole"),
        ("milliseconds = -1", "attempts_milliseconds_count"),
        ("progress_permille = 1001, progress_at = 'a'", "attempts_progress_is_a_share"),
        ("progress_permille = -1, progress_at = 'a'", "attempts_progress_is_a_share"),
        ("progress_permille = 1", "attempts_progress_whole"),
        ("progress_at = 'a'", "attempts_progress_whole"),
    ],
)
async def test_an_attempt_that_cannot_be_is_refused(database: Database, change: str, constraint: str) -> None:
    task_id = await begun(database)

    with pytest.raises(ConstraintViolated) as caught:
        await database.rows(f"UPDATE attempts SET {change} WHERE task_id = :id RETURNING task_id", id=task_id)

    assert (caught.value.kind, caught.value.constraint) == ("CHECK", constraint)


@pytest.mark.parametrize("same", ["the token of a lease twice", "no task"])
async def test_an_attempt_is_the_only_one_of_its_lease_at_a_task_that_is_there(database: Database, same: str) -> None:
    task_id = await begun(database)

    with pytest.raises(ConstraintViolated) as caught:
        await database.begin("nobody's" if same == "no task" else task_id)

    assert caught.value.kind == ("FOREIGN KEY" if same == "no task" else "UNIQUE")
