"""Stopping: nothing more is claimed, what runs may end within the grace, and the rest is given back uncounted."""

import asyncio
import threading
from contextlib import suppress

from app.pipelines import Context, Pipeline, Stage
from app.wakeups import Wakeups
from app.worker.worker import Worker
from tests.worker.desk import Desk
from tests.worker.shift import PATIENCE_SECONDS, FaultyStore, Gate


async def stopped(run: "asyncio.Task[None]") -> None:
    """Wait until a worker's loop has ended."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        await run


async def test_a_worker_with_nothing_to_do_stops_at_once(desk: Desk) -> None:
    worker = desk.worker()
    run = asyncio.create_task(worker.run())
    await asyncio.sleep(0)

    worker.stop()

    await stopped(run)


async def test_a_worker_that_was_stopped_before_it_ran_claims_nothing(desk: Desk) -> None:
    task_id = await desk.add_task()
    worker = desk.worker()
    worker.stop()

    await stopped(asyncio.create_task(worker.run()))

    assert await desk.state(task_id) == ("parse", "queued", 0)


async def test_the_stop_of_the_process_stops_the_worker(desk: Desk) -> None:
    wakeups = Wakeups()
    run = asyncio.create_task(desk.worker(wakeups=wakeups).run())
    await asyncio.sleep(0)

    wakeups.stop()

    await stopped(run)


async def test_what_runs_may_end_within_the_grace_and_nothing_more_is_claimed(desk: Desk) -> None:
    first, second = await desk.add_task(), await desk.add_task()
    gate = Gate()
    worker = desk.worker(gate.pipeline(), grace_seconds=60)
    run = asyncio.create_task(worker.run())
    await gate.begun.get()

    worker.stop()
    await desk.add_task()
    gate.open.set()
    await stopped(run)

    assert await desk.history(first) == [("parse", 1, "succeeded", None)]
    assert await desk.state(second) == ("parse", "queued", 0)
    assert await desk.rows("SELECT COUNT(*) FROM attempts") == [(1,)]


async def test_the_next_stage_of_what_ran_is_left_to_the_next_start(desk: Desk) -> None:
    task_id = await desk.add_task()
    gate = Gate()
    worker = desk.worker(Pipeline([Stage("parse", gate), Stage("photos", gate)]))
    run = asyncio.create_task(worker.run())
    await gate.begun.get()

    worker.stop()
    gate.open.set()
    await stopped(run)

    assert await desk.state(task_id) == ("photos", "queued", 0)


async def test_what_does_not_end_within_the_grace_is_given_back_uncounted(desk: Desk) -> None:
    task_id = await desk.add_task()
    gate = Gate()
    worker = desk.worker(gate.pipeline(), grace_seconds=0)
    run = asyncio.create_task(worker.run())
    await gate.begun.get()

    worker.stop()
    await stopped(run)

    assert gate.inside == 0
    assert await desk.history(task_id) == [("parse", 1, "released", None)]
    assert await desk.state(task_id) == ("parse", "queued", 0)
    assert await desk.one("SELECT crashes, lease_token FROM jobs") == (0, None)
    [again] = await desk.claim()
    assert again.attempt == 1


async def test_a_thread_that_does_not_end_within_the_grace_is_left_behind_and_given_back(desk: Desk) -> None:
    task_id = await desk.add_task()
    begun, gate = threading.Event(), threading.Event()

    def handler(_context: Context) -> None:
        begun.set()
        gate.wait(60)

    worker = desk.worker(Pipeline([Stage("parse", handler)]), grace_seconds=0)
    run = asyncio.create_task(worker.run())
    await asyncio.to_thread(begun.wait, PATIENCE_SECONDS)

    worker.stop()
    await stopped(run)

    gate.set()
    assert await desk.history(task_id) == [("parse", 1, "released", None)]


async def test_a_handler_that_refuses_to_end_does_not_hold_the_worker(desk: Desk) -> None:
    await desk.add_task()
    begun, mercy = asyncio.Event(), asyncio.Event()

    async def stubborn(_context: Context) -> None:
        begun.set()
        while not mercy.is_set():
            with suppress(asyncio.CancelledError):
                await mercy.wait()

    worker = desk.worker(Pipeline([Stage("parse", stubborn)]), grace_seconds=0)
    run = asyncio.create_task(worker.run())
    await begun.wait()

    worker.stop()
    _, still_running = await asyncio.wait([run], timeout=2)

    mercy.set()
    await run
    assert not still_running


async def test_leases_are_kept_during_the_grace(desk: Desk) -> None:
    task_id = await desk.add_task()
    gate = Gate()
    worker = desk.worker(gate.pipeline(), lease_seconds=0.003)
    run = asyncio.create_task(worker.run())
    await gate.begun.get()
    worker.stop()
    [before] = await desk.rows("SELECT lease_expires_at FROM jobs")
    desk.clock.move(0.001)

    while await desk.rows("SELECT lease_expires_at FROM jobs") == [before]:
        await asyncio.sleep(0)
    gate.open.set()
    await stopped(run)

    assert await desk.history(task_id) == [("parse", 1, "succeeded", None)]


async def test_what_was_claimed_while_the_stop_came_is_not_lost(desk: Desk) -> None:
    task_id = await desk.add_task()
    store = FaultyStore(desk.store)
    gate = Gate()
    gate.open.set()
    worker = desk.worker(gate.pipeline(), store=store)
    stop_at_the_claim(worker, store)

    await stopped(asyncio.create_task(worker.run()))

    assert await desk.rows("SELECT COUNT(*) FROM jobs WHERE lease_token IS NOT NULL") == [(0,)]
    assert [outcome for _, _, outcome, _ in await desk.history(task_id)] in ([], ["succeeded"], ["released"])


def stop_at_the_claim(worker: Worker, store: FaultyStore) -> None:
    """Stop the worker in the moment in which the commit of a claim is answered."""
    store.after_write = worker.stop
