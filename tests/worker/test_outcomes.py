"""Outcomes, from the handler to the tables: what each of them does to the task, its count, its history and its time."""

import asyncio
import threading
from contextlib import suppress
from typing import Any

import pytest

from app.clock import later
from app.domain.jobs import SNOOZES_KEPT
from app.pipelines import Context, Fail, Pipeline, Retry, RetryPolicy, Snooze, Stage
from app.services import queue
from app.worker import execution
from tests.worker.desk import Desk
from tests.worker.shift import PATIENCE_SECONDS, Gate, ThreadGate, nothing_stuck, told


def one_stage(handler: Any, policy: RetryPolicy | None = None, *, timeout_seconds: float = 60) -> Pipeline:
    """Return a pipeline that has the one stage `parse`."""
    return Pipeline([Stage("parse", handler, retry=policy or RetryPolicy(), timeout_seconds=timeout_seconds)])


class Script:
    """A handler that does one thing after the other: it returns values, and raises exceptions."""

    def __init__(self, *steps: Any) -> None:
        self._steps = iter(steps)
        self.contexts: list[Context] = []

    def __call__(self, context: Context) -> Any:
        self.contexts.append(context)
        step = next(self._steps)
        if isinstance(step, BaseException):
            raise step
        return step


# Outputs -------------------------------------------------------------------------------------------------------------


async def test_later_stages_see_the_outputs_of_all_before_them(desk: Desk) -> None:
    handler = Script({"rooms": 3}, None, {"n": 1})
    await desk.add_task()
    worker = desk.worker(Pipeline([Stage(name, handler) for name in ("parse", "photos", "publish")]))

    for _ in range(3):
        await worker.step()

    assert [context.outputs for context in handler.contexts] == [
        {},
        {"parse": {"rooms": 3}},
        {"parse": {"rooms": 3}, "photos": {}},
    ]


async def test_an_attempt_that_did_not_succeed_hands_nothing_on(desk: Desk) -> None:
    await desk.add_task()
    handler = Script(RuntimeError("broken"), Snooze(1), {"n": 1})
    worker = desk.worker(one_stage(handler), chance=0)
    await worker.step()
    await worker.step()

    before = await desk.rows("SELECT stage FROM outputs")
    desk.clock.move(1)
    await worker.step()

    assert before == []
    assert await desk.rows("SELECT stage, value_json FROM outputs") == [("parse", '{"n":1}')]


# Snooze --------------------------------------------------------------------------------------------------------------


async def test_a_snooze_queues_the_stage_again_for_later_and_counts_no_attempt(desk: Desk) -> None:
    task_id = await desk.add_task()

    await desk.worker(one_stage(Script(Snooze(90.5)))).step()

    assert await desk.state(task_id) == ("parse", "queued", 0)
    assert await desk.run_at(task_id) == "2026-11-22T20:20:30.500000Z"
    assert await desk.history(task_id) == [("parse", 1, "snoozed", None)]
    assert await desk.task_status(task_id) == "running"
    assert await desk.one("SELECT crashes, lease_token, worker, lease_expires_at FROM jobs") == (0, None, None, None)


async def test_a_snoozed_stage_runs_when_it_is_due_and_not_before(desk: Desk) -> None:
    task_id = await desk.add_task()
    worker = desk.worker(one_stage(Script(Snooze(60), None)))
    await worker.step()

    desk.clock.move(59.999999)
    early = await worker.step()
    desk.clock.move(0.000001)
    due = await worker.step()

    assert (early, due) == (0, 1)
    assert await desk.history(task_id) == [("parse", 1, "snoozed", None), ("parse", 1, "succeeded", None)]


async def test_a_stage_with_one_attempt_may_snooze_as_often_as_it_likes(desk: Desk) -> None:
    task_id = await desk.add_task()
    handler = Script(*[Snooze(1)] * 10, None)
    worker = desk.worker(one_stage(handler, RetryPolicy(max_attempts=1)))

    for _ in range(11):
        await worker.step()
        desk.clock.move(1)

    assert await desk.task_status(task_id) == "succeeded"
    assert {context.attempt for context in handler.contexts} == {1}


async def test_a_snooze_leaves_the_count_of_failures_where_it_was(desk: Desk) -> None:
    task_id = await desk.add_task()
    handler = Script(RuntimeError("one"), Snooze(1), RuntimeError("two"))
    worker = desk.worker(one_stage(handler, RetryPolicy(max_attempts=2)), chance=0)

    for _ in range(3):
        await worker.step()
        desk.clock.move(1)

    assert [context.attempt for context in handler.contexts] == [1, 2, 2]
    assert await desk.state(task_id) == ("parse", "dead_letter", 2)


async def test_a_snooze_leaves_the_count_of_crashes_where_it_was(desk: Desk) -> None:
    task_id = await desk.add_task()
    await desk.claim()
    desk.clock.move(31)
    await desk.take_back()
    worker = desk.worker(one_stage(Script(Snooze(1))))

    await worker.step()

    assert await desk.one("SELECT crashes FROM jobs WHERE task_id = :id", id=task_id) == (1,)


async def test_time_that_passes_while_nobody_works_is_not_the_stages(desk: Desk) -> None:
    task_id = await desk.add_task()
    [claim] = await desk.claim()
    await desk.say(lambda work: queue.release(work, claim))
    desk.clock.move(7_200)
    worker = desk.worker(one_stage(Script(RuntimeError("one")), RetryPolicy(max_elapsed_seconds=3_600)))

    await worker.step()

    assert await desk.state(task_id) == ("parse", "failed", 1)


@pytest.mark.parametrize(("second", "state"), [(Snooze(50), "failed"), (RuntimeError("two"), "dead_letter")])
async def test_a_snooze_lets_the_time_that_a_stage_may_take_begin_anew(desk: Desk, second: Any, state: str) -> None:
    task_id = await desk.add_task()
    policy = RetryPolicy(max_attempts=9, max_elapsed_seconds=100)
    worker = desk.worker(one_stage(Script(RuntimeError("one"), second, RuntimeError("last")), policy), chance=0)

    await worker.step()
    desk.clock.move(90)
    await worker.step()
    desk.clock.move(50)
    await worker.step()

    assert (await desk.state(task_id))[1] == state


async def test_the_history_keeps_only_the_newest_snoozes_of_a_task(desk: Desk) -> None:
    other = await desk.add_task()
    [first] = await desk.claim()
    await desk.say(lambda work: queue.snooze(work, first, delay_seconds=86_400))
    task_id = await desk.add_task()
    await desk.worker(one_stage(Script(RuntimeError("one"))), chance=0).step()
    tokens = []
    for _ in range(SNOOZES_KEPT + 3):
        [claim] = await desk.claim()
        tokens.append(claim.lease_token)
        await desk.say(lambda work, claim=claim: queue.snooze(work, claim, delay_seconds=1))  # type: ignore[misc]  # mypy infers no lambda with defaults
        desk.clock.move(1)

    kept = await desk.rows(
        "SELECT lease_token FROM attempts WHERE task_id = :id AND outcome = 'snoozed' ORDER BY lease_token", id=task_id
    )
    assert SNOOZES_KEPT == 100
    assert [token for (token,) in kept] == tokens[3:]
    assert (await desk.history(task_id))[0] == ("parse", 1, "failed", "internal_error")
    assert await desk.history(other) == [("parse", 1, "snoozed", None)]


async def test_a_snooze_is_told_as_what_it_is(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    await desk.add_task()

    await desk.worker(one_stage(Script(Snooze(1)))).step()

    [ending] = told(caplog, "attempt_ended")
    assert (ending["level"], ending["outcome"], ending["recorded"]) == ("INFO", "snoozed", "done")


# Retry and Fail ------------------------------------------------------------------------------------------------------


async def test_retry_fails_the_attempt_with_its_kind_and_its_words(desk: Desk) -> None:
    task_id = await desk.add_task()

    await desk.worker(one_stage(Script(Retry("The portal is down.", kind="portal_down"))), chance=0.5).step()

    assert await desk.state(task_id) == ("parse", "failed", 1)
    assert await desk.one("SELECT outcome, error_kind, error_message FROM attempts") == (
        "failed",
        "portal_down",
        "The portal is down.",
    )
    assert await desk.run_at(task_id) == "2026-11-22T20:19:00.500000Z"


async def test_retry_waits_at_least_as_long_as_it_was_told_and_chance_comes_on_top(desk: Desk) -> None:
    task_id = await desk.add_task()
    policy = RetryPolicy(base_seconds=8, cap_seconds=8)

    await desk.worker(one_stage(Script(Retry(after_seconds=600)), policy), chance=0.5).step()

    assert await desk.run_at(task_id) == "2026-11-22T20:29:04.000000Z"


async def test_retry_counts_as_an_attempt_and_ends_with_the_last(desk: Desk) -> None:
    task_id = await desk.add_task()
    worker = desk.worker(one_stage(Script(Retry(), Retry("No more.", kind="busy")), RetryPolicy(max_attempts=2)))

    await worker.step()
    desk.clock.move(300)
    await worker.step()

    assert await desk.state(task_id) == ("parse", "dead_letter", 2)
    assert await desk.one("SELECT error_kind, error_message FROM dead_letters") == ("busy", "No more.")


async def test_fail_leaves_a_dead_letter_with_its_kind_and_its_words(desk: Desk) -> None:
    task_id = await desk.add_task()

    await desk.worker(one_stage(Script(Fail("gone", "The listing is gone.")))).step()

    assert await desk.state(task_id) == ("parse", "dead_letter", 1)
    assert await desk.one("SELECT task_id, stage, error_kind, error_message FROM dead_letters") == (
        task_id,
        "parse",
        "gone",
        "The listing is gone.",
    )


@pytest.mark.parametrize(
    "error", [ValueError("odd"), TimeoutError(), asyncio.CancelledError(), SystemExit(1), KeyError("k")], ids=repr
)
async def test_any_other_exception_is_an_internal_error_that_may_pass(desk: Desk, error: BaseException) -> None:
    task_id = await desk.add_task()

    await desk.worker(one_stage(Script(error))).step()

    assert await desk.state(task_id) == ("parse", "failed", 1)
    assert await desk.history(task_id) == [("parse", 1, "failed", "internal_error")]


# Policies ------------------------------------------------------------------------------------------------------------

BY_KIND = RetryPolicy(
    max_attempts=4,
    base_seconds=1,
    by_kind={
        "portal_down": RetryPolicy(max_attempts=9, base_seconds=64),
        "internal_error": RetryPolicy(max_attempts=1),
        "timeout": RetryPolicy(max_attempts=2, base_seconds=16),
    },
)


@pytest.mark.parametrize(
    ("error", "status", "wait_seconds"),
    [
        (Retry(kind="busy"), "failed", 0.5),
        (Retry(kind="portal_down"), "failed", 32),
        (ValueError("a bug"), "dead_letter", None),
    ],
    ids=["the stage's own", "a longer wait", "no other attempt"],
)
async def test_a_kind_of_failure_may_have_a_policy_of_its_own(
    desk: Desk, error: Exception, status: str, wait_seconds: float | None
) -> None:
    task_id = await desk.add_task()

    await desk.worker(one_stage(Script(error), BY_KIND), chance=0.5).step()

    assert (await desk.state(task_id))[1] == status
    due = [later(desk.clock.now(), wait_seconds)] if wait_seconds is not None else []
    assert await desk.rows("SELECT run_at FROM jobs") == [(moment,) for moment in due]


async def test_a_time_limit_that_passed_is_a_kind_with_a_policy_of_its_own_too(desk: Desk) -> None:
    async def slow(_context: Context) -> None:
        await asyncio.Event().wait()

    task_id = await desk.add_task()

    await desk.worker(one_stage(slow, BY_KIND, timeout_seconds=0.01), chance=0.5).step()

    assert await desk.run_at(task_id) == later(desk.clock.now(), 8)


async def test_attempts_of_all_kinds_are_counted_together(desk: Desk) -> None:
    task_id = await desk.add_task()
    errors = [Retry(kind="busy"), Retry(kind="portal_down"), Retry(kind="busy"), Retry(kind="busy")]
    worker = desk.worker(one_stage(Script(*errors), BY_KIND), chance=0)

    ran = [await worker.step() for _ in range(5)]

    assert ran == [1, 1, 1, 1, 0]
    assert await desk.state(task_id) == ("parse", "dead_letter", 4)


@pytest.mark.parametrize(("passed_seconds", "status"), [(96, "failed"), (96.000001, "dead_letter")])
async def test_no_attempt_begins_after_the_time_that_a_stage_may_take(
    desk: Desk, passed_seconds: float, status: str
) -> None:
    policy = RetryPolicy(max_attempts=9, base_seconds=4, factor=1, max_elapsed_seconds=100)
    task_id = await desk.add_task()
    worker = desk.worker(one_stage(Script(RuntimeError("one"), Retry(after_seconds=4)), policy), chance=0)
    desk.clock.move(3_600)
    await worker.step()

    desk.clock.move(passed_seconds)
    await worker.step()

    assert (await desk.state(task_id))[1] == status


async def test_a_crash_does_not_let_the_time_that_a_stage_may_take_begin_anew(desk: Desk) -> None:
    policy = RetryPolicy(max_attempts=9, max_elapsed_seconds=100)
    task_id = await desk.add_task()
    await desk.claim()
    desk.clock.move(101)
    await desk.take_back()

    await desk.worker(one_stage(Script(RuntimeError("one")), policy)).step()

    assert await desk.state(task_id) == ("parse", "dead_letter", 1)


async def test_the_time_that_the_next_stage_may_take_begins_with_it(desk: Desk) -> None:
    policy = RetryPolicy(max_attempts=9, max_elapsed_seconds=100)
    task_id = await desk.add_task()
    handler = Script(None, RuntimeError("one"))
    worker = desk.worker(Pipeline([Stage("parse", handler), Stage("photos", handler, retry=policy)]), chance=0)
    await worker.step()
    desk.clock.move(3_600)

    await worker.step()

    assert await desk.state(task_id) == ("photos", "failed", 1)


# Time limits ---------------------------------------------------------------------------------------------------------


async def test_an_async_handler_is_really_cancelled_at_its_time_limit(desk: Desk) -> None:
    gate = Gate()
    task_id = await desk.add_task()

    await desk.worker(one_stage(gate, timeout_seconds=0.01)).step()

    assert gate.inside == 0
    assert await desk.history(task_id) == [("parse", 1, "failed", "timeout")]


async def test_an_async_handler_sees_at_its_time_limit_that_it_is_not_wanted_any_more(desk: Desk) -> None:
    seen: list[bool] = []

    async def handler(context: Context) -> None:
        seen.append(context.is_cancelled)
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(context.is_cancelled)

    await desk.add_task()

    await desk.worker(one_stage(handler, timeout_seconds=0.01)).step()

    assert seen == [False, True]


async def test_an_async_handler_that_answers_its_time_limit_with_a_result_has_it_dropped(desk: Desk) -> None:
    async def handler(_context: Context) -> dict[str, int]:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return {"late": 1}

    task_id = await desk.add_task()

    await desk.worker(one_stage(handler, timeout_seconds=0.01)).step()

    assert await desk.history(task_id) == [("parse", 1, "failed", "timeout")]
    assert await desk.rows("SELECT stage FROM outputs") == []


async def test_an_async_handler_that_does_not_end_is_left_behind_and_its_late_result_dropped(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "CANCEL_SECONDS", 0.01)
    mercy, left = asyncio.Event(), asyncio.Event()

    async def stubborn(_context: Context) -> dict[str, int]:
        while not mercy.is_set():
            with suppress(asyncio.CancelledError):
                await mercy.wait()
        left.set()
        return {"late": 1}

    task_id = await desk.add_task()
    worker = desk.worker(one_stage(stubborn, timeout_seconds=0.01))
    await worker.step()
    before = await desk.everything()

    mercy.set()
    await left.wait()

    assert await desk.history(task_id) == [("parse", 1, "failed", "timeout")]
    assert await desk.everything() == before


async def test_a_thread_is_told_at_its_time_limit_and_its_late_result_is_dropped(desk: Desk) -> None:
    gate = ThreadGate()
    task_id = await desk.add_task()
    worker = desk.worker(one_stage(gate, timeout_seconds=0.2))
    await worker.step()
    before = await desk.everything()

    gate.open.set()
    await nothing_stuck(worker)

    assert gate.was_told
    assert await desk.history(task_id) == [("parse", 1, "failed", "timeout")]
    assert await desk.everything() == before


async def test_a_thread_may_leave_as_soon_as_it_is_not_wanted_any_more(desk: Desk) -> None:
    left = threading.Event()

    def handler(context: Context) -> None:
        try:
            while True:
                context.raise_if_cancelled()
                left.wait(0.001)
        finally:
            left.set()

    task_id = await desk.add_task()
    worker = desk.worker(one_stage(handler, timeout_seconds=0.2))

    await worker.step()

    assert await asyncio.to_thread(left.wait, PATIENCE_SECONDS)
    await nothing_stuck(worker)
    assert await desk.history(task_id) == [("parse", 1, "failed", "timeout")]


async def test_the_late_result_of_a_thread_does_not_touch_the_attempt_that_followed(desk: Desk) -> None:
    gate = ThreadGate()
    task_id = await desk.add_task()
    late = desk.worker(one_stage(gate, timeout_seconds=0.01), chance=0)
    await late.step()
    await desk.worker(one_stage(lambda context: {"n": context.attempt})).step()

    gate.open.set()
    await nothing_stuck(late)

    assert await desk.history(task_id) == [("parse", 1, "failed", "timeout"), ("parse", 2, "succeeded", None)]
    assert await desk.rows("SELECT value_json FROM outputs") == [('{"n":2}',)]


# Shutdown ------------------------------------------------------------------------------------------------------------


async def test_a_stop_gives_the_last_attempt_of_a_stage_back_and_it_is_still_the_last(desk: Desk) -> None:
    gate = Gate()

    async def handler(context: Context) -> Any:
        if context.attempt == 1:
            raise RuntimeError("one")
        return await gate(context)

    task_id = await desk.add_task()
    pipeline = one_stage(handler, RetryPolicy(max_attempts=2))
    await desk.worker(pipeline, chance=0).step()
    worker = desk.worker(pipeline, grace_seconds=0)
    run = asyncio.create_task(worker.run())
    await gate.begun.get()

    worker.stop()
    await run

    assert await desk.state(task_id) == ("parse", "queued", 1)
    assert (await desk.history(task_id))[-1] == ("parse", 2, "released", None)
    [again] = await desk.claim()
    assert again.attempt == 2


async def test_a_stop_gives_everything_back_that_does_not_end_in_the_grace(desk: Desk) -> None:
    gate, thread = Gate(), ThreadGate()

    async def in_the_loop(context: Context) -> Any:
        return await gate(context)

    await desk.add_task()
    await desk.add_task()
    await desk.add_task(stage="photos")
    pipeline = Pipeline([Stage("parse", in_the_loop), Stage("photos", thread)])
    worker = desk.worker(pipeline, concurrency=3, grace_seconds=0)
    run = asyncio.create_task(worker.run())
    await gate.begun.get()
    await gate.begun.get()
    await thread.has_begun()

    worker.stop()
    await run

    thread.open.set()
    assert await desk.rows("SELECT status, attempt FROM pipeline_states") == [("queued", 0)] * 3
    assert await desk.rows("SELECT outcome FROM attempts") == [("released",)] * 3
    assert await desk.rows("SELECT crashes, lease_token FROM jobs") == [(0, None)] * 3
    await nothing_stuck(worker)
    assert await desk.rows("SELECT outcome FROM attempts") == [("released",)] * 3


async def test_a_stop_takes_leave_so_that_nobody_counts_on_the_worker(desk: Desk) -> None:
    worker = desk.worker()
    await worker.upkeep.keep_leases_once()
    before = await desk.rows("SELECT name FROM workers")
    worker.stop()

    await worker.run()

    assert before == [("one",)]
    assert await desk.rows("SELECT name FROM workers") == []
