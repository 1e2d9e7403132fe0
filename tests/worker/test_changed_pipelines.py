"""Changed pipelines: a task goes on at the stage where it stands, by name, and then follows the new order.

Stages that have succeeded for it are passed over, those placed before where it stands are not run for it, and a stage
that is gone makes its tasks wait until it is back.
"""

import asyncio
import logging
from typing import Any

import pytest

from app.pipelines import Context, Fail, Pipeline, RetryPolicy, Snooze, Stage
from app.services.explain import Cause
from tests.worker.cases import (
    add_tasks,
    attempts,
    explained,
    lose_worker,
    outputs,
    pipeline_of,
    succeed,
    until_idle,
)
from tests.worker.desk import Desk
from tests.worker.shift import Gate, running


async def standing_at(desk: Desk, *done: str, stage: str) -> str:
    """Accept a task that has succeeded with these stages and waits at another."""
    task_id = await desk.add_task(stage=(*done, stage)[0])
    for name, following in zip(done, [*done[1:], stage], strict=True):
        await succeed(desk, await desk.claim(stages=[name]), next_stage=following)
    return task_id


async def ran_after(desk: Desk, task_id: str, pipeline: Pipeline) -> list[str]:
    """Let the next deployment run all that is due, and return the stages that it ran."""
    before = len(await attempts(desk, task_id))
    await until_idle(desk, pipeline)
    return [attempt.stage for attempt in (await attempts(desk, task_id))[before:]]


DEPLOYMENTS: dict[str, tuple[str, list[str]]] = {
    "unchanged": ("parse photos publish export", ["photos", "publish", "export"]),
    "one inserted after": ("parse photos check publish export", ["photos", "check", "publish", "export"]),
    "one inserted at the end": ("parse photos publish export thank", ["photos", "publish", "export", "thank"]),
    "one inserted before": ("parse check photos publish export", ["photos", "publish", "export"]),
    "one inserted at the beginning": ("check parse photos publish export", ["photos", "publish", "export"]),
    "one removed after": ("parse photos export", ["photos", "export"]),
    "all removed after": ("parse photos", ["photos"]),
    "the ones before removed": ("photos publish export", ["photos", "publish", "export"]),
    "the next ones reordered": ("parse photos export publish", ["photos", "export", "publish"]),
    "the last one moved before": ("parse export photos publish", ["photos", "publish"]),
    "what has succeeded moved behind": ("photos parse publish export", ["photos", "publish", "export"]),
    "what has succeeded moved to the end": ("photos publish export parse", ["photos", "publish", "export"]),
    "its own stage moved to the end": ("parse publish export photos", ["photos"]),
    "everything turned round": ("export publish photos parse", ["photos"]),
    "only its own left": ("photos", ["photos"]),
}


@pytest.mark.parametrize(("stages", "expected"), DEPLOYMENTS.values(), ids=DEPLOYMENTS)
async def test_a_task_goes_on_where_it_stands_and_follows_the_new_order(
    desk: Desk, stages: str, expected: list[str]
) -> None:
    task_id = await standing_at(desk, "parse", stage="photos")

    ran = await ran_after(desk, task_id, pipeline_of(*stages.split()))

    assert ran == expected
    assert await desk.task_status(task_id) == "succeeded"
    assert await outputs(desk, task_id) == sorted({"parse", *expected})


async def test_a_new_task_goes_through_the_new_pipeline_from_its_beginning(desk: Desk) -> None:
    task_id = await desk.add_task(stage="check")

    ran = await ran_after(desk, task_id, pipeline_of("check", "parse", "photos"))

    assert ran == ["check", "parse", "photos"]


async def test_a_stage_sees_what_was_handed_on_by_one_that_is_gone(desk: Desk) -> None:
    seen: dict[str, Any] = {}

    async def handler(context: Context) -> None:
        seen.update(context.outputs)

    task_id = await desk.add_task()
    await succeed(desk, await desk.claim(), next_stage="photos")

    await until_idle(desk, pipeline_of("photos", photos=handler))

    assert seen == {"parse": {}}
    assert await desk.task_status(task_id) == "succeeded"


@pytest.mark.parametrize("how", ["failed", "snoozed", "crashed", "running"])
async def test_a_task_that_has_begun_its_stage_goes_on_with_it(desk: Desk, how: str) -> None:
    async def fail(context: Context) -> None:
        raise ValueError

    async def snooze(context: Context) -> Snooze:
        return Snooze(1)

    task_id = await standing_at(desk, "parse", stage="photos")
    match how:
        case "failed":
            await desk.worker(pipeline_of("parse", "photos", photos=fail)).step()
        case "snoozed":
            await desk.worker(pipeline_of("parse", "photos", photos=snooze)).step()
        case "crashed":
            await lose_worker(desk)
        case "running":
            await desk.claim()
            await desk.take_back_all()
    desk.clock.move(60)

    ran = await ran_after(desk, task_id, pipeline_of("parse", "check", "photos", "thank"))

    assert ran == ["photos", "thank"]


async def test_an_attempt_that_runs_during_a_deployment_hands_over_to_its_own_pipelines_next_stage(desk: Desk) -> None:
    task_id = await standing_at(desk, "parse", stage="photos")
    gate = Gate()
    before = desk.worker(pipeline_of("parse", "photos", "publish", photos=gate), name="before")
    step = asyncio.create_task(before.step())
    await gate.begun.get()
    gate.open.set()
    await step

    ran = await ran_after(desk, task_id, pipeline_of("parse", "photos", "check", "publish"))

    assert ran == ["publish"]
    assert await desk.task_status(task_id) == "succeeded"


async def test_attempts_are_counted_on_over_a_deployment(desk: Desk) -> None:
    def fail(context: Context) -> None:
        raise ValueError

    def deployed(max_attempts: int) -> Pipeline:
        return Pipeline([Stage("photos", fail, retry=RetryPolicy(max_attempts=max_attempts))])

    task_id = await desk.add_task(stage="photos")
    for _ in range(2):
        await desk.worker(deployed(5)).step()
        desk.clock.move(60)

    await desk.worker(deployed(2)).step()

    assert await desk.state(task_id) == ("photos", "dead_letter", 3)


# A stage that is gone --------------------------------------------------------------------------------------------


async def test_the_tasks_of_a_stage_that_is_gone_wait_until_it_is_back(desk: Desk) -> None:
    task_id = await standing_at(desk, "parse", stage="photos")

    while_gone = await ran_after(desk, task_id, pipeline_of("parse", "publish"))
    stood = await desk.state(task_id)
    once_back = await ran_after(desk, task_id, pipeline_of("parse", "photos", "publish"))

    assert (while_gone, stood) == ([], ("photos", "queued", 0))
    assert once_back == ["photos", "publish"]


async def test_other_tasks_go_on_while_those_of_a_lost_stage_wait(desk: Desk) -> None:
    await add_tasks(desk, 5, stage="photos")
    other = await desk.add_task()

    await until_idle(desk, pipeline_of("parse", "publish"))

    assert await desk.task_status(other) == "succeeded"


async def test_a_worker_tells_at_its_start_which_stages_are_gone_and_how_many_wait_there(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await add_tasks(desk, 3, stage="photos")
    await add_tasks(desk, 1, stage="bake")
    await add_tasks(desk, 2, stage="publish")
    await desk.claim(stages=["photos"])

    async with running(desk.worker(pipeline_of("parse", "publish"))):
        await asyncio.sleep(0)

    told = [getattr(record, "fields", {}) for record in caplog.records if record.msg == "stage_gone"]
    assert [(fields["stage"], fields["tasks"]) for fields in told] == [("bake", 1), ("photos", 3)]
    assert all("until a deployment brings it back" in fields["remedy"] for fields in told)


async def test_a_worker_whose_stages_are_all_there_tells_of_none(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await desk.add_task()

    async with running(desk.worker()):
        await asyncio.sleep(0)

    assert "stage_gone" not in [record.msg for record in caplog.records]


async def test_explain_says_that_a_stage_is_gone_and_when_it_is_back(desk: Desk) -> None:
    task_id = await standing_at(desk, "parse", stage="photos")

    gone = await explained(desk, task_id, shape=pipeline_of("parse", "publish").shape)
    back = await explained(desk, task_id, shape=pipeline_of("parse", "photos").shape)

    assert (gone.cause, back.cause) == (Cause.STAGE_GONE, Cause.NO_WORKER)


async def test_a_lease_on_a_stage_that_is_gone_is_taken_back_all_the_same(desk: Desk) -> None:
    task_id = await desk.add_task(stage="photos")
    await desk.claim(worker="before", stages=["photos"])
    desk.clock.move(31)

    await desk.worker(pipeline_of("parse", "publish")).upkeep.keep_leases_once()

    assert await desk.state(task_id) == ("photos", "queued", 0)
    assert await desk.history(task_id) == [("photos", 1, "lease_expired", "lease_expired")]


async def test_a_task_at_a_stage_that_is_gone_can_be_cancelled(desk: Desk) -> None:
    task_id = await desk.add_task(stage="photos")

    await desk.cancel(task_id)

    assert await desk.task_status(task_id) == "cancelled"


# Dead letters ----------------------------------------------------------------------------------------------------


async def test_a_rescue_from_an_earlier_stage_runs_what_was_inserted_since(desk: Desk) -> None:
    async def fail(context: Context) -> None:
        raise Fail("no_stock", "sold out")

    task_id = await desk.add_task()
    await until_idle(desk, pipeline_of("parse", "photos", "publish", publish=fail))
    now = pipeline_of("parse", "check", "photos", "publish")

    await desk.retry(task_id, override=True, shape=now.shape, from_stage="parse")
    ran = await ran_after(desk, task_id, now)

    assert ran == ["parse", "check", "photos", "publish"]


async def test_a_rescue_passes_over_what_had_succeeded_and_stands_behind_the_dead_one_now(desk: Desk) -> None:
    async def fail(context: Context) -> None:
        raise Fail("no_stock", "sold out")

    task_id = await desk.add_task()
    await until_idle(desk, pipeline_of("parse", "photos", "publish", photos=fail))
    now = pipeline_of("photos", "parse", "publish")

    await desk.retry(task_id, override=True, shape=now.shape)
    ran = await ran_after(desk, task_id, now)

    assert ran == ["photos", "publish"]
