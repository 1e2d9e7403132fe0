"""Leases in the worker's hands: held for longer while a stage runs; one that was lost ends the attempt unrecorded."""

import asyncio
import logging

import pytest

from app.domain.retry import RetryPolicy
from app.errors import StorageBusy
from app.pipelines import Context, Pipeline, Stage
from tests.worker.desk import Desk
from tests.worker.shift import FaultyStore, Gate, ended, running


async def leases(desk: Desk) -> list[tuple[str, str]]:
    """Return who holds which lease until when."""
    return [
        (str(worker), str(until))
        for worker, until in await desk.rows(
            "SELECT worker, lease_expires_at FROM jobs WHERE lease_token IS NOT NULL ORDER BY worker"
        )
    ]


async def test_a_heartbeat_holds_the_leases_of_what_runs_for_longer(desk: Desk) -> None:
    await desk.add_task()
    gate = Gate()
    worker = desk.worker(gate.pipeline(), lease_seconds=30)
    step = asyncio.create_task(worker.step())
    await gate.begun.get()
    desk.clock.move(20)

    await worker.upkeep.keep_leases_once()

    assert await leases(desk) == [("one", "2026-11-22T20:19:50.000000Z")]
    gate.open.set()
    await step


async def test_a_worker_that_keeps_its_leases_runs_a_stage_for_as_long_as_it_takes(desk: Desk) -> None:
    task_id = await desk.add_task()
    gate = Gate()
    worker = desk.worker(gate.pipeline(), lease_seconds=30)
    step = asyncio.create_task(worker.step())
    await gate.begun.get()

    for _ in range(10):
        desk.clock.move(20)
        await worker.upkeep.keep_leases_once()
    gate.open.set()
    await step

    assert await desk.history(task_id) == [("parse", 1, "succeeded", None)]


async def test_a_heartbeat_that_the_database_answered_shows_life(desk: Desk) -> None:
    await desk.add_task()
    gate = Gate()
    worker = desk.worker(gate.pipeline(), lease_seconds=0.003)
    async with running(worker):
        await gate.begun.get()

        desk.seconds.move(60)

        while worker.seen_at != desk.seconds():
            await asyncio.sleep(0)
        gate.open.set()


async def test_a_heartbeat_takes_back_what_others_lost(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    claim = await desk.claimed_task()
    worker = desk.worker(name="two")
    desk.clock.move(31)

    await worker.upkeep.keep_leases_once()

    assert await desk.state(claim.task_id) == ("parse", "queued", 0)
    assert "lease_expired" in [record.msg for record in caplog.records]


async def test_those_who_wait_are_told_when_a_lost_lease_ends_the_task(desk: Desk) -> None:
    task_id = await desk.add_task()
    for _ in range(RetryPolicy().max_crashes - 1):
        await desk.claim()
        await desk.take_back_all()
    await desk.claim()
    desk.clock.move(31)

    with desk.wakeups.watch(task_id) as changed:
        await desk.worker().upkeep.keep_leases_once()

    assert changed.is_set()
    assert await desk.task_status(task_id) == "failed"


async def test_a_worker_held_past_its_lease_is_cancelled_and_changes_nothing(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    task_id = await desk.add_task()
    gate = Gate()
    slow = desk.worker(gate.pipeline(), name="slow")
    step = asyncio.create_task(slow.step())
    await gate.begun.get()
    desk.clock.move(31)
    other = desk.worker(Pipeline([Stage("parse", lambda _context: {"by": "other"})]), name="other")
    await other.upkeep.keep_leases_once()
    await other.step()
    before = await desk.everything()

    await slow.upkeep.keep_leases_once()
    await step

    assert gate.inside == 0
    assert not gate.open.is_set()
    assert await desk.everything() == before
    assert await desk.history(task_id) == [
        ("parse", 1, "lease_expired", "lease_expired"),
        ("parse", 1, "succeeded", None),
    ]
    endings = [getattr(record, "fields", {}) for record in caplog.records if record.msg == "attempt_ended"]
    assert [fields["recorded"] for fields in endings] == ["task_ended", "lease_lost"]


async def test_a_worker_let_go_after_its_lease_has_its_result_dropped(desk: Desk) -> None:
    await desk.add_task()
    gate = Gate()
    slow = desk.worker(gate.pipeline(), name="slow")
    step = asyncio.create_task(slow.step())
    await gate.begun.get()
    desk.clock.move(31)
    await desk.worker(name="other").upkeep.keep_leases_once()
    [again] = await desk.claim(worker="other")
    before = await desk.everything()

    gate.open.set()
    await step

    assert await desk.everything() == before
    assert again.attempt == 1


async def test_a_handler_that_answers_its_cancellation_with_a_result_has_it_dropped(desk: Desk) -> None:
    await desk.add_task()
    begun = asyncio.Event()

    async def stubborn(_context: Context) -> dict[str, int]:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return {"n": 1}
        return {}

    worker = desk.worker(Pipeline([Stage("parse", stubborn)]))
    step = asyncio.create_task(worker.step())
    await begun.wait()
    await desk.take_back_all()
    before = await desk.everything()

    await worker.upkeep.keep_leases_once()
    await step

    assert await desk.everything() == before


async def test_a_lease_that_ran_out_and_was_not_taken_back_is_still_the_workers(desk: Desk) -> None:
    task_id = await desk.add_task()
    gate = Gate()
    worker = desk.worker(gate.pipeline())
    step = asyncio.create_task(worker.step())
    await gate.begun.get()
    desk.clock.move(3_600)

    await worker.upkeep.keep_leases_once()
    gate.open.set()
    await step

    assert await desk.history(task_id) == [("parse", 1, "succeeded", None)]


async def test_a_heartbeat_that_the_database_does_not_take_does_not_end_the_worker(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    store = FaultyStore(desk.store)
    store.faults = [StorageBusy(), StorageBusy()]
    task_id = await desk.add_task()

    async with running(desk.worker(store=store, poll_seconds=0.01)):
        await ended(desk, task_id)

    assert "worker_waits" in [record.msg for record in caplog.records]
    assert await desk.task_status(task_id) == "succeeded"
