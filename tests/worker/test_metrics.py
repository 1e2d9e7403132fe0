"""What a worker counts: claims, attempts by outcome, lost leases, leases taken back, dead letters, slots."""

import asyncio

from app.pipelines import Context, Fail, Pipeline, RetryPolicy, Snooze, Stage
from tests.support.metrics import counted
from tests.worker.desk import Desk
from tests.worker.shift import Gate, begin


def pipeline_of(handler: object) -> Pipeline:
    return Pipeline([Stage("parse", handler, retry=RetryPolicy(max_attempts=2, base_seconds=1))])  # type: ignore[arg-type]  # any handler will do


async def test_an_attempt_is_counted_when_it_begins_and_when_it_has_ended(desk: Desk) -> None:
    gate = Gate()
    worker = desk.worker(gate.pipeline())
    await desk.add_task()
    step = await begin(worker, gate)

    during = counted(desk.metrics)
    gate.open.set()
    await step
    after = counted(desk.metrics)

    assert during.value("cabinet_claims_total", stage="parse") == 1
    assert during.by("cabinet_attempts_total", "stage") == {}
    assert after.value("cabinet_attempts_total", stage="parse", outcome="succeeded", recorded="task_ended") == 1
    assert after.value("cabinet_attempt_seconds_count", stage="parse") == 1


async def test_attempts_are_told_apart_by_how_they_ended(desk: Desk) -> None:
    async def handler(context: Context) -> Snooze | None:
        match context.payload:
            case {"snooze": True}:
                return Snooze(60)
            case {"fail": True}:
                raise Fail("wrong", "never")
            case {"error": True}:
                raise ValueError
        return None

    for payload in ({"snooze": True}, {"fail": True}, {"error": True}, {}):
        await desk.add_task(payload=payload)

    await desk.worker(pipeline_of(handler), concurrency=4).step()

    figures = counted(desk.metrics)
    assert figures.by("cabinet_attempts_total", "outcome") == {"snoozed": 1, "failed": 2, "succeeded": 1}
    assert figures.by("cabinet_attempts_total", "recorded") == {"done": 2, "dead_letter": 1, "task_ended": 1}
    assert figures.value("cabinet_dead_letters_total", stage="parse") == 1


async def test_a_result_without_its_lease_is_counted_as_lost_and_the_lease_as_taken_back(desk: Desk) -> None:
    gate = Gate()
    worker = desk.worker(gate.pipeline(), lease_seconds=30)
    await desk.add_task()
    step = await begin(worker, gate)
    desk.clock.move(31)
    await desk.worker(gate.pipeline(), name="other").upkeep.take_back_once()

    gate.open.set()
    await step

    figures = counted(desk.metrics)
    assert figures.value("cabinet_leases_taken_back_total") == 1
    assert figures.value("cabinet_leases_lost_total") == 1
    assert figures.value("cabinet_dead_letters_total", stage="parse") is None


async def test_a_task_that_loses_its_worker_too_often_is_counted_among_the_dead_letters(desk: Desk) -> None:
    pipeline = Pipeline([Stage("parse", Gate(), retry=RetryPolicy(max_crashes=1))])
    await desk.add_task()
    await desk.claim()
    desk.clock.move(31)

    await desk.worker(pipeline).upkeep.take_back_once()

    assert counted(desk.metrics).value("cabinet_dead_letters_total", stage="parse") == 1


async def test_the_slots_tell_what_runs(desk: Desk) -> None:
    gate = Gate()
    worker = desk.worker(gate.pipeline(), concurrency=3)
    await desk.add_task()
    step = await begin(worker, gate)

    during = worker.slots.counts()
    gate.open.set()
    await asyncio.wait_for(step, 10)

    assert during == {"total": 3, "running": 1, "stuck": 0}
    assert worker.slots.counts() == {"total": 3, "running": 0, "stuck": 0}
