"""Upkeep: what a worker does beside running stages never ends it, keeps its deadlines, and comes to rest."""

import logging
from pathlib import Path

import pytest

from app.domain.retention import Retention
from app.errors import QueryFailed
from app.services import retention
from app.services.queue import Recorded
from app.services.retention import PRUNE_LIMIT
from tests.worker.desk import Desk
from tests.worker.shift import FaultyStore, Gate, NotedWakeups, begin, ended, running, told
from tests.worker.test_retention import add_ended

DAY = 86_400.0
KEPT = Retention(task_seconds=DAY, dead_letter_seconds=None, key_seconds=DAY)


async def test_a_fault_in_pruning_is_told_and_does_not_end_the_worker(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(retention, "prune_signs", breaks)
    task_id = await desk.add_task()

    with caplog.at_level(logging.ERROR):
        async with running(desk.worker()):
            await ended(desk, task_id)

    assert await desk.task_status(task_id) == "succeeded"
    assert told(caplog, "upkeep_failed")


async def test_a_folder_that_no_one_can_walk_is_told_and_left_for_the_next_time(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_deep(_folder: Path) -> None:
        raise RecursionError

    await add_ended(desk, 1)
    desk.clock.move(10 * DAY)
    monkeypatch.setattr("shutil.rmtree", too_deep)

    goes_on = await desk.worker(retention=KEPT).upkeep.prune_once()

    assert goes_on is False
    assert await desk.one("SELECT COUNT(*) FROM pruned_folders") == (1,)


async def test_walks_of_different_length_come_to_rest_together(desk: Desk) -> None:
    for _ in range(2 * PRUNE_LIMIT + 1):
        await desk.add_task()
    desk.clock.move(10 * DAY)
    await desk.rows(
        "DELETE FROM idempotency_keys WHERE task_id > (SELECT MIN(task_id) FROM idempotency_keys) RETURNING task_id"
    )
    upkeep = desk.worker(retention=KEPT).upkeep

    steps = [await upkeep.prune_once() for _ in range(6)]

    assert steps == [True, True, False] * 2


async def test_what_a_worker_takes_back_of_its_own_is_given_up_at_once(desk: Desk) -> None:
    task_id = await desk.add_task()
    gate = Gate()
    worker = desk.worker(gate.pipeline())
    step = await begin(worker, gate)
    await desk.cancel(task_id, grace_seconds=5)
    desk.clock.move(6)

    await worker.upkeep.take_back_once()

    assert await step == 1
    assert await desk.task_status(task_id) == "cancelled"


async def test_a_lease_that_was_taken_back_is_claimed_without_waiting_for_the_poll(desk: Desk) -> None:
    task_id = await desk.add_task()
    await desk.claim(worker="dead")
    wakeups = NotedWakeups()
    worker = desk.worker(wakeups=wakeups, poll_seconds=3_600)

    async with running(worker):
        await wakeups.waits.get()  # it has found nothing that is due
        await wakeups.has_beaten.wait()
        desk.clock.move(31)
        await worker.upkeep.take_back_once()
        while await desk.task_status(task_id) != "succeeded":
            await wakeups.waits.get()

    assert await desk.task_status(task_id) == "succeeded"


async def test_a_word_that_the_database_does_not_take_is_not_called_a_lost_lease(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.add_task()
    store = FaultyStore(desk.store)
    gate = Gate()
    worker = desk.worker(gate.pipeline(), store=store)

    with caplog.at_level(logging.INFO):
        step = await begin(worker, gate)
        store.faults.append(QueryFailed("a column is missing"))
        gate.open.set()
        await step

    [fields] = told(caplog, "attempt_ended")
    assert (fields["level"], fields["recorded"]) == ("WARNING", Recorded.NOT_RECORDED)
