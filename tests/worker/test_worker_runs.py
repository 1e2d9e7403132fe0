"""The worker's own loop: what wakes it, how much runs at once, what it tells, and what cannot end it."""

import asyncio
import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from app.log import JsonFormatter
from app.pipelines import Context, Pipeline, RetryPolicy, Stage
from tests.worker.desk import Desk
from tests.worker.shift import Gate, ended, running


async def test_a_commit_of_the_same_process_wakes_the_worker(desk: Desk) -> None:
    gate = Gate()
    gate.open.set()
    order: list[str] = []
    async with running(desk.worker(gate.pipeline(), poll_seconds=3_600)):
        await asyncio.sleep(0)
        task_id = await desk.add_task()
        order.append("committed")

        desk.wakeups.work_added()

        context = await gate.begun.get()
        order.append("begun")
        await ended(desk, task_id)
        order.append("ended")
    assert context.task_id == task_id
    assert order == ["committed", "begun", "ended"]


async def test_work_that_nobody_told_of_is_found_by_looking(desk: Desk) -> None:
    gate = Gate()
    gate.open.set()
    async with running(desk.worker(gate.pipeline(), poll_seconds=0.01)):
        task_id = await desk.add_task()

        await ended(desk, task_id)

    assert await desk.task_status(task_id) == "succeeded"


async def test_the_stages_of_a_task_follow_one_another_without_a_wait(desk: Desk) -> None:
    task_id = await desk.add_task()
    async with running(desk.worker(poll_seconds=3_600)):
        await ended(desk, task_id)

    assert len(await desk.history(task_id)) == 5


async def test_a_failed_attempt_is_followed_by_the_next_when_it_is_due(desk: Desk) -> None:
    def at_last(context: Context) -> None:
        if context.attempt == 1:
            desk.clock.move(5)
            raise RuntimeError("not yet")

    policy = RetryPolicy(base_seconds=0.02, cap_seconds=0.02)
    task_id = await desk.add_task()
    async with running(desk.worker(Pipeline([Stage("parse", at_last, retry=policy)]), chance=0.5)):
        await asyncio.sleep(0)
        while await desk.state(task_id) != ("parse", "failed", 1):
            await asyncio.sleep(0)
        desk.clock.move(0.01)

        await ended(desk, task_id)

    assert [row[2] for row in await desk.history(task_id)] == ["failed", "succeeded"]


async def test_no_more_attempts_run_at_once_than_allowed(desk: Desk) -> None:
    for _ in range(5):
        await desk.add_task()
    gate = Gate()
    async with running(desk.worker(gate.pipeline(), concurrency=2)):
        await gate.begun.get()
        await gate.begun.get()
        for _ in range(5):
            desk.wakeups.work_added()
            assert await desk.rows("SELECT COUNT(*) FROM jobs WHERE lease_token IS NOT NULL") == [(2,)]

        gate.open.set()
        for _ in range(3):
            await gate.begun.get()

    assert gate.most == 2


async def test_a_wake_up_while_it_claims_does_not_let_more_run_at_once(desk: Desk) -> None:
    for _ in range(3):
        await desk.add_task()
    gate = Gate()
    worker = desk.worker(gate.pipeline(), concurrency=1)
    desk.wakeups.work_added()

    async with running(worker):
        await gate.begun.get()
        for _ in range(5):
            leased = await desk.rows("SELECT COUNT(*) FROM jobs WHERE lease_token IS NOT NULL")
        gate.open.set()

    assert leased == [(1,)]
    assert gate.most == 1


async def test_two_workers_on_one_store_never_run_the_same_attempt(desk: Desk) -> None:
    seen: list[tuple[str, str]] = []

    async def handler(context: Context) -> None:
        seen.append((context.task_id, context.stage))
        await asyncio.sleep(0)

    pipeline = Pipeline([Stage(name, handler) for name in ("parse", "photos", "publish")])
    tasks = [await desk.add_task() for _ in range(20)]
    pair = [desk.worker(pipeline, name=name, concurrency=4, poll_seconds=0.01) for name in ("one", "two")]

    async with running(*pair):
        for task_id in tasks:
            await ended(desk, task_id)

    assert len(seen) == len(set(seen)) == 60
    counts = await desk.rows("SELECT task_id, stage, COUNT(*) FROM attempts GROUP BY task_id, stage")
    assert {count for _, _, count in counts} == {1}
    workers = await desk.rows("SELECT DISTINCT worker FROM attempts ORDER BY worker")
    assert workers == [("one",), ("two",)]


# What cannot end it --------------------------------------------------------------------------------------------------


class Unshowable(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


async def cancel_oneself() -> None:
    """End the task that runs this, as libraries do that time out by cancelling."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def raise_it(error: BaseException) -> None:
    """Raise it."""
    raise error


@pytest.mark.parametrize(
    "harm",
    [
        cancel_oneself,
        lambda: raise_it(Unshowable()),
        lambda: raise_it(SystemExit(3)),
        lambda: raise_it(KeyboardInterrupt()),
        lambda: raise_it(asyncio.CancelledError()),
        lambda: raise_it(BaseExceptionGroup("all", [SystemExit(3)])),
    ],
    ids=["cancels itself", "cannot be shown", "SystemExit", "KeyboardInterrupt", "CancelledError", "group"],
)
async def test_no_handler_ends_the_worker(desk: Desk, harm: Any) -> None:
    async def handler(context: Context) -> None:
        if context.payload.get("harmful"):
            await harm()

    pipeline = Pipeline([Stage("parse", handler, retry=RetryPolicy(max_attempts=1))])
    harmful = await desk.add_task(payload={"harmful": True})
    harmless = await desk.add_task()

    async with running(desk.worker(pipeline)):
        await ended(desk, harmless)
        await ended(desk, harmful)

    assert await desk.task_status(harmful) == "failed"
    assert await desk.task_status(harmless) == "succeeded"


# What it tells -------------------------------------------------------------------------------------------------------


async def test_stages_that_the_pipeline_does_not_have_are_told_at_the_start(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = [await desk.add_task(stage="dream") for _ in range(2)]
    known = await desk.add_task()

    async with running(desk.worker()):
        await ended(desk, known)

    [record] = [record for record in caplog.records if record.msg == "stage_gone"]
    fields: Any = getattr(record, "fields", None)
    assert record.levelno == logging.WARNING
    assert (fields["stage"], fields["tasks"]) == ("dream", 2)
    assert [await desk.state(task) for task in unknown] == [("dream", "queued", 0)] * 2


async def test_every_attempt_is_told_when_it_has_ended(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await desk.add_task()

    def handler(_context: Context) -> None:
        desk.seconds.move(0.25)

    await desk.worker(Pipeline([Stage("parse", handler)])).step()

    [record] = [record for record in caplog.records if record.msg == "attempt_ended"]
    assert getattr(record, "fields", None) == {
        "stage": "parse",
        "attempt": 1,
        "outcome": "succeeded",
        "recorded": "task_ended",
        "error_kind": None,
        "is_dead_letter": False,
        "milliseconds": 250.0,
    }


async def test_a_bug_in_a_handler_is_told_with_its_place_and_without_its_values(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.add_task()

    def handler(_context: Context) -> None:
        raise KeyError("a value of the payload")

    await desk.worker(Pipeline([Stage("parse", handler, retry=RetryPolicy(max_attempts=1))])).step()

    [record] = [record for record in caplog.records if record.msg == "attempt_ended"]
    line = JsonFormatter().format(record)
    assert '"is_dead_letter": true' in line
    assert f"{Path(__file__).name}:" in line
    assert "KeyError" in line
    assert "a value of the payload" not in line


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "async"])
async def test_what_a_handler_logs_names_its_task(desk: Desk, log: io.StringIO, plain: bool) -> None:
    async def in_the_loop(context: Context) -> None:
        context.log.info("looking")

    def in_a_thread(context: Context) -> None:
        context.log.info("looking")

    tasks = {await desk.add_task() for _ in range(2)}
    pipeline = Pipeline([Stage("parse", in_a_thread if plain else in_the_loop)])

    await desk.worker(pipeline, concurrency=2).step()

    lines = [json.loads(text) for text in log.getvalue().splitlines()]
    assert {line["task_id"] for line in lines if line["event"] == "looking"} == tasks
    assert {line["task_id"] for line in lines if line["event"] == "attempt_ended"} == tasks


async def test_a_failed_attempt_is_told_as_a_warning_without_its_message(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(_context: Context) -> None:
        raise RuntimeError("a secret")

    await desk.add_task()

    await desk.worker(Pipeline([Stage("parse", handler)])).step()

    [record] = [record for record in caplog.records if record.msg == "attempt_ended"]
    fields: Any = getattr(record, "fields", None)
    assert (record.levelno, fields["outcome"], fields["error_kind"]) == (logging.WARNING, "failed", "internal_error")
    assert "a secret" not in str(fields)


async def test_a_worker_whose_slots_are_all_taken_still_shows_life(desk: Desk) -> None:
    await desk.add_task()
    gate = Gate()
    worker = desk.worker(gate.pipeline(), concurrency=1, lease_seconds=3_600)
    async with running(worker):
        await gate.begun.get()
        desk.seconds.move(60)

        for _ in range(5):
            desk.wakeups.work_added()
            await desk.rows("SELECT COUNT(*) FROM jobs")
        seen_at = worker.seen_at
        gate.open.set()

    assert seen_at == desk.seconds()
