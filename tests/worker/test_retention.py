"""Retention: what ended long ago goes with all that is its own, in small units; keys go first, and folders last."""

import logging
import shutil
from pathlib import Path

import pytest

from app.domain.jobs import Failure
from app.domain.retention import Retention
from app.domain.retry import GiveUp
from app.domain.tasks import CreateTask
from app.errors import StorageBusy
from app.ids import new_id
from app.pipelines import Context
from app.services import queue, tasks
from app.services.retention import PRUNE_LIMIT
from app.services.tasks import Created
from app.worker import pruning
from tests.worker.cases import add_letters, add_tasks, end, pipeline_of, reopened, succeed, until_idle
from tests.worker.desk import TABLES, Desk, open_desk
from tests.worker.shift import FaultyStore

DAY = 86_400.0
KEPT = Retention(task_seconds=10 * DAY, dead_letter_seconds=100 * DAY, key_seconds=2 * DAY)


async def prune(desk: Desk, *, kept: Retention = KEPT) -> None:
    """Walk over all that may be pruned, to the end."""
    worker = desk.worker(retention=kept)
    while await worker.upkeep.prune_once():
        pass


async def add_ended(desk: Desk, count: int) -> list[str]:
    """Accept tasks and let them succeed."""
    added = await add_tasks(desk, count)
    await succeed(desk, await desk.claim(count))
    return added


async def left(desk: Desk) -> list[str]:
    """Return the tasks that there are, by age."""
    return [task_id for (task_id,) in await desk.rows("SELECT id FROM tasks ORDER BY id")]


async def keys(desk: Desk) -> list[str]:
    """Return the tasks that have a key, by age."""
    return [task_id for (task_id,) in await desk.rows("SELECT task_id FROM idempotency_keys ORDER BY task_id")]


async def create(desk: Desk, key: str) -> Created:
    """Accept a task under a key, or find the one that has it."""
    command = CreateTask.of(task_id=new_id(), idem_key=key, reference=None, payload={}, first_stage="parse")
    return await desk.say(lambda work: tasks.create(work, desk.actor, command))


async def broken_references(desk: Desk) -> list[tuple[object, ...]]:
    """Return rows that name what is not there."""
    return await desk.rows("SELECT * FROM pragma_foreign_key_check")


def folder(desk: Desk, task_id: str) -> Path:
    """Make a task's folder with something in it."""
    path = desk.artifacts_dir / task_id
    (path / "pictures").mkdir(parents=True)
    (path / "pictures" / "1.png").write_text("1")
    return path


async def test_a_task_goes_after_its_time_with_all_that_is_its_own(desk: Desk) -> None:
    def handler(context: Context) -> dict[str, str]:
        (context.folder / f"{context.stage}.txt").write_text("1")
        return {"stage": context.stage}

    task_id = await desk.add_task()
    await until_idle(desk, pipeline_of("parse", "photos", parse=handler, photos=handler))
    assert (desk.artifacts_dir / task_id / "photos.txt").exists()
    desk.clock.move(10 * DAY)

    await prune(desk)

    everything = await desk.everything()
    assert [table for table, rows in everything.items() if rows] == []
    assert await desk.rows("SELECT task_id FROM pruned_folders") == []
    assert list(desk.artifacts_dir.iterdir()) == []
    assert await broken_references(desk) == []


async def test_every_table_that_names_a_task_is_pruned(desk: Desk) -> None:
    tables = await desk.rows(
        "SELECT tables.name FROM sqlite_master AS tables JOIN pragma_table_info(tables.name) AS columns "
        "WHERE tables.type = 'table' AND columns.name = 'task_id'"
    )

    assert {name for (name,) in tables} <= {*TABLES, "pruned_folders"}


async def test_nothing_goes_before_its_time(desk: Desk) -> None:
    await add_ended(desk, 1)
    desk.clock.move(10 * DAY - 0.000001)

    await prune(desk)
    early = await left(desk)
    desk.clock.move(0.000001)
    await prune(desk)

    assert (len(early), await left(desk)) == (1, [])


async def test_the_time_counts_from_the_end_of_a_task(desk: Desk) -> None:
    [task_id] = await add_tasks(desk, 1)
    desk.clock.move(9 * DAY)
    await end(desk, task_id)
    desk.clock.move(9 * DAY)

    await prune(desk)

    assert await left(desk) == [task_id]
    desk.clock.move(DAY)
    await prune(desk)
    assert await left(desk) == []


async def test_cancelled_tasks_are_kept_as_long_as_those_that_succeeded(desk: Desk) -> None:
    task_id = await desk.add_task()
    await desk.cancel(task_id)
    desk.clock.move(10 * DAY)

    await prune(desk)

    assert await left(desk) == []


async def test_dead_letters_are_kept_for_a_time_of_their_own(desk: Desk) -> None:
    [dead] = await add_letters(desk)
    await add_ended(desk, 1)
    desk.clock.move(100 * DAY - 1)

    await prune(desk)
    before = await left(desk)
    desk.clock.move(1)
    await prune(desk)

    assert before == [dead]
    assert await left(desk) == []


async def test_a_dead_letter_that_was_rescued_and_died_again_is_as_old_as_its_last_death(desk: Desk) -> None:
    [dead] = await add_letters(desk)
    desk.clock.move(60 * DAY)
    await desk.retry(dead, override=True)
    [claim] = await desk.claim()
    await desk.say(lambda work: queue.fail(work, claim, Failure(kind="x", message="x"), GiveUp()))
    desk.clock.move(60 * DAY)

    await prune(desk)

    assert await left(desk) == [dead]


async def test_a_rescued_task_is_not_pruned_for_its_earlier_death(desk: Desk) -> None:
    [dead] = await add_letters(desk)
    desk.clock.move(99 * DAY)
    await prune(desk)
    assert await keys(desk) == []
    await desk.retry(dead, override=True)
    desk.clock.move(100 * DAY)

    await prune(desk)

    assert await left(desk) == [dead]


async def test_unfinished_tasks_are_never_pruned_nor_are_their_keys(desk: Desk) -> None:
    added = await add_tasks(desk, 3)
    await desk.claim(2)
    desk.clock.move(10_000 * DAY)

    await prune(desk)

    assert (await left(desk), await keys(desk)) == (added, added)


@pytest.mark.parametrize("kept", ["task_seconds", "dead_letter_seconds", "key_seconds"])
async def test_what_is_kept_for_ever_is(desk: Desk, kept: str) -> None:
    seconds = {"task_seconds": DAY, "dead_letter_seconds": DAY, "key_seconds": DAY}
    dead, ended = await add_letters(desk), await add_ended(desk, 1)
    desk.clock.move(1_000_000 * DAY)

    await prune(desk, kept=Retention(**{**seconds, kept: None}))

    expected = {"task_seconds": ended, "dead_letter_seconds": dead, "key_seconds": dead + ended}
    assert await left(desk) == expected[kept]
    assert await keys(desk) == (dead + ended if kept == "key_seconds" else [])


async def test_no_task_is_pruned_before_its_key(desk: Desk) -> None:
    [task_id] = await add_ended(desk, 1)
    kept = Retention(task_seconds=DAY, dead_letter_seconds=DAY, key_seconds=30 * DAY)
    desk.clock.move(29 * DAY)

    await prune(desk, kept=kept)
    before = (await left(desk), await keys(desk))
    desk.clock.move(DAY)
    await prune(desk, kept=kept)

    assert before == ([task_id], [task_id])
    assert (await left(desk), await keys(desk)) == ([], [])


async def test_a_key_may_go_before_its_task_once_that_has_ended(desk: Desk) -> None:
    [task_id] = await add_tasks(desk, 1)
    desk.clock.move(5 * DAY)
    await prune(desk)
    while_open = await keys(desk)
    await end(desk, task_id)

    await prune(desk)

    assert while_open == [task_id]
    assert (await left(desk), await keys(desk)) == ([task_id], [])


def test_no_key_can_be_forgotten_before_its_caller_has_stopped_trying() -> None:
    with pytest.raises(ValueError, match="at least 86400 seconds"):
        Retention(task_seconds=1, dead_letter_seconds=1, key_seconds=DAY - 1)


async def test_a_key_that_was_pruned_names_a_new_task(desk: Desk) -> None:
    """Documented: a key is good for as long as it is kept; sent again later, it is a new wish."""
    first = await create(desk, "order 7")
    await end(desk, first.task.id)
    desk.clock.move(2 * DAY - 1)
    await prune(desk)
    in_time = await create(desk, "order 7")
    desk.clock.move(1)
    await prune(desk)

    too_late = await create(desk, "order 7")

    assert (in_time.is_replay, in_time.task.id) == (True, first.task.id)
    assert (too_late.is_replay, too_late.task.id == first.task.id) == (False, False)
    assert await left(desk) == sorted([first.task.id, too_late.task.id])


async def test_one_unit_prunes_a_limited_number_and_the_next_goes_on_behind_it(desk: Desk) -> None:
    await add_ended(desk, 2 * PRUNE_LIMIT + 1)
    desk.clock.move(10 * DAY)
    worker = desk.worker(retention=KEPT)

    steps = [(await worker.upkeep.prune_once(), len(await left(desk)), len(await keys(desk))) for _ in range(3)]

    assert steps == [(True, PRUNE_LIMIT + 1, PRUNE_LIMIT + 1), (True, 1, 1), (False, 0, 0)]


async def test_what_stays_does_not_hide_what_may_go_behind_it(desk: Desk) -> None:
    stays = await add_letters(desk, PRUNE_LIMIT) + await add_tasks(desk, PRUNE_LIMIT, stage="bake")
    await add_ended(desk, 1)
    desk.clock.move(10 * DAY)

    await prune(desk)

    assert await left(desk) == stays


async def test_a_walk_ends_at_the_first_full_unit_of_young_ones(desk: Desk) -> None:
    await add_tasks(desk, PRUNE_LIMIT)

    assert not await desk.worker(retention=KEPT).upkeep.prune_once()


async def test_the_next_walk_begins_with_the_oldest_again(desk: Desk) -> None:
    stays = await add_tasks(desk, PRUNE_LIMIT + 1)
    desk.clock.move(20 * DAY)
    worker = desk.worker(retention=KEPT)
    await worker.upkeep.prune_once()
    await worker.upkeep.prune_once()
    await desk.cancel(stays[0])
    desk.clock.move(10 * DAY)

    await worker.upkeep.prune_once()

    assert await left(desk) == stays[1:]


# Folders ---------------------------------------------------------------------------------------------------------


async def test_the_folders_of_others_stay(desk: Desk) -> None:
    [gone] = await add_ended(desk, 1)
    [stays] = await add_tasks(desk, 1)
    folders = [folder(desk, gone), folder(desk, stays)]
    desk.clock.move(10 * DAY)

    await prune(desk)

    assert [path.exists() for path in folders] == [False, True]


async def test_a_folder_that_cannot_be_removed_is_tried_again_and_stops_no_other(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gone = await add_ended(desk, 3)
    folders = [folder(desk, task_id) for task_id in gone]
    remove = shutil.rmtree
    desk.clock.move(10 * DAY)
    worker = desk.worker(retention=KEPT)

    def stubborn(path: Path) -> None:
        if path == folders[0]:
            raise PermissionError(13, "Permission denied")
        remove(path)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", stubborn)
        await worker.upkeep.prune_once()
    after_first = [path.exists() for path in folders]
    remembered = await desk.rows("SELECT task_id FROM pruned_folders")
    await worker.upkeep.prune_once()

    assert after_first == [True, False, False]
    assert remembered == [(gone[0],)]
    assert [path.exists() for path in folders] == [False, False, False]
    assert await desk.rows("SELECT task_id FROM pruned_folders") == []
    assert [record.msg for record in caplog.records] == ["folder_not_removed"]


async def test_a_full_unit_of_folders_that_cannot_be_removed_does_not_hide_those_behind_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = await add_ended(desk, PRUNE_LIMIT + 2)
    last = folder(desk, gone[-1])
    remove = shutil.rmtree
    desk.clock.move(10 * DAY)

    def stubborn(path: Path) -> None:
        if path != last:
            raise PermissionError(13, "Permission denied")
        remove(path)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", stubborn)
        await prune(desk)
    remembered = await desk.one("SELECT COUNT(*) FROM pruned_folders")
    await prune(desk)

    assert (last.exists(), remembered) == (False, (PRUNE_LIMIT + 1,))
    assert await desk.rows("SELECT task_id FROM pruned_folders") == []


async def test_a_process_that_dies_after_the_commit_leaves_the_folder_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(artifacts_dir: Path, task_ids: list[str]) -> None:
        raise RuntimeError("the process is gone")

    async with open_desk(tmp_path) as before:
        [gone] = await add_ended(before, 1)
        path = folder(before, gone)
        before.clock.move(10 * DAY)
        with monkeypatch.context() as patched:
            patched.setattr(pruning, "_remove_folders", die)
            with pytest.raises(RuntimeError):
                await prune(before)
        assert (await left(before), path.exists()) == ([], True)

    async with reopened(before) as after:
        await prune(after)

        assert not path.exists()
        assert await after.rows("SELECT task_id FROM pruned_folders") == []


async def test_a_folder_that_is_gone_already_is_no_failure(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await add_ended(desk, 1)
    desk.clock.move(10 * DAY)

    await prune(desk)

    assert await desk.rows("SELECT task_id FROM pruned_folders") == []
    [told] = [getattr(record, "fields", {}) for record in caplog.records if record.msg == "pruned"]
    assert told == {"keys": 1, "tasks": 1, "folders": 1}


async def test_what_the_database_could_not_do_is_done_the_next_time(desk: Desk) -> None:
    await add_ended(desk, PRUNE_LIMIT + 1)
    desk.clock.move(10 * DAY)
    store = FaultyStore(desk.store)
    worker = desk.worker(retention=KEPT, store=store)
    await worker.upkeep.prune_once()
    store.faults = [StorageBusy()]

    with pytest.raises(StorageBusy):
        await worker.upkeep.prune_once()
    await worker.upkeep.prune_once()

    assert await left(desk) == []
