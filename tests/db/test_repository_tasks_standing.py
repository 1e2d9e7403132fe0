"""What a task shows of its queue entry and its attempt, counts of tasks, and what pruning walks (design §5, §7)."""

import json

import pytest

from app.domain.jobs import ProgressTold
from app.domain.pipeline import TaskStanding
from app.domain.retention import AgedKey, AgedTask
from app.domain.tasks import TaskFilter, TaskStatus
from app.errors import ConstraintViolated
from app.unit import UnitOfWork
from tests.db.records import AFTER, FIRST, LAST, MINE, OTHERS, Database, a_claim, a_command
from tests.support.database import NOW

# Standing ------------------------------------------------------------------------------------------------------------

FILTERS = {
    "every task": TaskFilter(),
    "of a status": TaskFilter(status=TaskStatus.OPEN),
    "of a creator": TaskFilter(created_by="alice"),
    "of a reference": TaskFilter(reference="order 7"),
}
WAYS = ("alone", *FILTERS)


async def standing(database: Database, task_id: str, way: str) -> TaskStanding:
    """Return where a task stands, asked for alone or as the only one of a list."""
    if way == "alone":
        found = await database.read(lambda work: work.tasks.standing(task_id))
        assert found is not None
        return found
    task = await database.read(lambda work: work.tasks.by_id(task_id))
    assert task is not None
    wanted = TaskFilter(created_by=task.created_by) if way == "of a creator" else FILTERS[way]
    (listed,) = await database.read(lambda work: work.tasks.page(wanted, before=LAST, limit=9))
    return listed


@pytest.mark.parametrize("way", WAYS)
async def test_a_task_shows_when_it_falls_due(database: Database, way: str) -> None:
    task_id = await database.task(reference="order 7", run_at=AFTER)

    shown = await standing(database, task_id, way)

    assert (shown.run_at, shown.next_attempt_at, shown.cancel_by, shown.progress) == (AFTER, AFTER, None, None)


@pytest.mark.parametrize("way", WAYS)
async def test_a_task_shows_the_progress_of_the_attempt_that_runs_and_by_when_it_is_to_stop(
    database: Database, way: str
) -> None:
    task_id = await database.task(reference="order 7")
    await database.lease(MINE)
    await database.begin(task_id, OTHERS)
    await database.begin(task_id, MINE)

    async def body(work: UnitOfWork) -> None:
        await work.attempts.tell_progress(a_claim(task_id, OTHERS), permille=999, message="another's", now=NOW)
        await work.attempts.tell_progress(a_claim(task_id, MINE), permille=250, message="1 of 4", now=NOW)
        await work.jobs.cancel(task_id, cancel_by=AFTER)

    await database.write(body)

    shown = await standing(database, task_id, way)

    assert shown.progress == ProgressTold(fraction=0.25, message="1 of 4", told_at=NOW)
    assert shown.cancel_by == AFTER


@pytest.mark.parametrize("way", WAYS)
async def test_a_task_that_waits_again_shows_no_progress_of_the_attempt_before(database: Database, way: str) -> None:
    task_id = await database.task(reference="order 7")
    await database.lease(MINE)
    await database.begin(task_id, MINE)

    async def body(work: UnitOfWork) -> None:
        await work.attempts.tell_progress(a_claim(task_id, MINE), permille=250, message="1 of 4", now=NOW)
        await work.jobs.postpone(task_id, MINE, run_at=AFTER)

    await database.write(body)

    assert (await standing(database, task_id, way)).progress is None


@pytest.mark.parametrize("way", WAYS)
async def test_a_task_that_has_no_job_any_more_is_shown_all_the_same(database: Database, way: str) -> None:
    task_id = await database.task(reference="order 7")
    await database.write(lambda work: work.jobs.remove_waiting(task_id))

    shown = await standing(database, task_id, way)

    assert shown.task.id == task_id
    assert (shown.run_at, shown.cancel_by, shown.progress) == (None, None, None)


async def test_a_task_with_a_long_history_is_listed_once(database: Database) -> None:
    task_id = await database.task()
    await database.lease(MINE)
    await database.begin(task_id, MINE)
    await database.begin(task_id, OTHERS)

    listed = await database.read(lambda work: work.tasks.page(TaskFilter(), before=LAST, limit=9))

    assert [each.task.id for each in listed] == [task_id]


# Counting ------------------------------------------------------------------------------------------------------------


async def end_as(database: Database, task_id: str, status: TaskStatus) -> None:
    """Give a task a status, at the moment AFTER."""
    await database.rows(
        "UPDATE tasks SET status = :status, updated_at = :now WHERE id = :id RETURNING id",
        status=status,
        now=AFTER,
        id=task_id,
    )


async def test_tasks_are_counted_by_status(database: Database) -> None:
    for status in (TaskStatus.OPEN, TaskStatus.OPEN, TaskStatus.FAILED):
        await end_as(database, await database.task(), status)

    counts = await database.read(lambda work: work.tasks.count_by_status())

    assert counts == {TaskStatus.OPEN: 2, TaskStatus.FAILED: 1}


# Pruning -------------------------------------------------------------------------------------------------------------


async def keyed(database: Database, task_id: str, key: str) -> None:
    """Name a task by an idempotency key."""
    owner = await database.user(f"{key}@example.com")
    await database.rows(
        "INSERT INTO idempotency_keys (actor_id, idem_key, task_id, created_at, fingerprint, replays)"
        " VALUES (:actor, :key, :task, :now, 'f', 0) RETURNING task_id",
        actor=owner.id,
        key=key,
        task=task_id,
        now=NOW,
    )


async def test_the_oldest_tasks_are_walked_with_what_decides_whether_they_may_go(database: Database) -> None:
    tasks = sorted([await database.task() for _ in range(3)])
    await end_as(database, tasks[0], TaskStatus.SUCCEEDED)
    await keyed(database, tasks[1], "one")

    walked = await database.read(lambda work: work.tasks.oldest(after=FIRST, limit=9))

    assert walked == [
        AgedTask(id=tasks[0], status=TaskStatus.SUCCEEDED, created_at=NOW, updated_at=AFTER, has_key=False),
        AgedTask(id=tasks[1], status=TaskStatus.OPEN, created_at=NOW, updated_at=NOW, has_key=True),
        AgedTask(id=tasks[2], status=TaskStatus.OPEN, created_at=NOW, updated_at=NOW, has_key=False),
    ]


async def test_keys_are_walked_from_that_of_the_oldest_task_on_whether_it_is_there_or_not(database: Database) -> None:
    tasks = sorted([await database.task(), await database.task()])
    gone = a_command().task_id
    await end_as(database, tasks[0], TaskStatus.CANCELLED)
    for key, task_id in enumerate((gone, tasks[1], tasks[0])):
        await keyed(database, task_id, f"key-{key}")

    walked = await database.read(lambda work: work.tasks.oldest_keys(after=FIRST, limit=9))

    assert walked == [
        AgedKey(task_id=tasks[0], created_at=NOW, task_status=TaskStatus.CANCELLED),
        AgedKey(task_id=tasks[1], created_at=NOW, task_status=TaskStatus.OPEN),
        AgedKey(task_id=gone, created_at=NOW, task_status=None),
    ]


@pytest.mark.parametrize("limit", [1, 2, 9])
async def test_the_oldest_are_walked_whole_whatever_the_size_of_a_step(database: Database, limit: int) -> None:
    tasks = sorted([await database.task() for _ in range(5)])
    for key, task_id in enumerate(tasks):
        await keyed(database, task_id, f"key-{key}")

    async def body(work: UnitOfWork) -> tuple[list[str], list[str]]:
        of_tasks, of_keys = [FIRST], [FIRST]
        while aged := await work.tasks.oldest(after=of_tasks[-1], limit=limit):
            of_tasks += [task.id for task in aged]
        while keys := await work.tasks.oldest_keys(after=of_keys[-1], limit=limit):
            of_keys += [key.task_id for key in keys]
        return of_tasks[1:], of_keys[1:]

    assert await database.read(body) == (tasks, tasks)


async def test_the_keys_of_the_tasks_that_are_named_are_pruned(database: Database) -> None:
    tasks = sorted([await database.task() for _ in range(3)])
    for key, task_id in enumerate(tasks):
        await keyed(database, task_id, f"key-{key}")

    await database.write(lambda work: work.tasks.prune_keys(json.dumps([tasks[0], tasks[2], "nobody's"])))

    left = await database.read(lambda work: work.tasks.oldest_keys(after=FIRST, limit=9))
    assert [key.task_id for key in left] == [tasks[1]]


PARTS = ("outputs", "attempts", "pipeline_states", "jobs")


@pytest.mark.parametrize("left", [None, *PARTS])
async def test_a_task_is_pruned_when_nothing_else_is_left_of_it(database: Database, left: str | None) -> None:
    task_id, other_id = await database.task(), await database.task()
    await database.begin(task_id)
    await database.write(lambda work: work.outputs.put(task_id, stage="parse", value_json="{}", now=NOW))
    for part in PARTS:
        if part != left:
            await database.rows(f"DELETE FROM {part} WHERE task_id = :id RETURNING task_id", id=task_id)

    async def prune() -> None:
        await database.write(lambda work: work.tasks.prune(json.dumps([task_id])))

    if left is None:
        await prune()
    else:
        with pytest.raises(ConstraintViolated, match="FOREIGN KEY"):
            await prune()

    there = [task.id for task in await database.read(lambda work: work.tasks.oldest(after=FIRST, limit=9))]
    assert there == sorted([other_id, *([] if left is None else [task_id])])
