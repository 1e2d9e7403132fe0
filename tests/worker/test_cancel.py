"""Cancel: a task that waits ends at once; one that runs is told to stop, and ends at the deadline at the latest."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from app.domain.jobs import Claim, Failure, LeaseHeld
from app.domain.retry import GiveUp, RetryIn
from app.errors import Conflict
from app.pipelines import Context, Fail, Pipeline, Snooze, Stage
from app.services import queue
from app.services.leases import TAKE_BACK_LIMIT, TakenBack
from app.services.queue import Recorded
from app.unit import UnitOfWork
from tests.worker.desk import Desk
from tests.worker.shift import Gate, ThreadGate, begin, ended, nothing_stuck, running, told

FAILURE = Failure(kind="broken", message="It broke.")
GRACE_SECONDS = 20


def nothing(_context: Context) -> None:
    """Do nothing, successfully."""


def before_another(handler: Any) -> Pipeline:
    """Return a pipeline in which a stage follows that of the handler."""
    return Pipeline([Stage("parse", handler), Stage("photos", nothing)])


async def is_cancelled(desk: Desk, task_id: str) -> None:
    """Check that a task has ended as cancelled, and that nothing is left to be done."""
    status, is_terminal = await desk.one(
        "SELECT status, is_terminal FROM pipeline_states WHERE task_id = :i", i=task_id
    )
    assert (status, is_terminal) == ("cancelled", 1)
    assert await desk.task_status(task_id) == "cancelled"
    assert await desk.rows("SELECT task_id FROM jobs WHERE task_id = :i", i=task_id) == []


class Cleaning:
    """An async handler that takes its time to clean up after it was cancelled."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.is_cleaning = asyncio.Event()
        self.is_clean = asyncio.Event()
        self.saw_flag = False
        self.interrupted = 0

    async def __call__(self, context: Context) -> Any:
        try:
            return await self.gate(context)
        except asyncio.CancelledError:
            self.saw_flag = context.is_cancelled
            self.is_cleaning.set()
            try:
                await self.is_clean.wait()
            except asyncio.CancelledError:
                self.interrupted += 1
                raise
            raise


# Tasks that nobody works at ------------------------------------------------------------------------------------------


async def test_a_queued_task_is_cancelled_at_once(desk: Desk) -> None:
    task_id = await desk.add_task()

    standing = await desk.cancel(task_id)

    assert (standing.task.status, standing.state.status, standing.cancel_by) == ("cancelled", "cancelled", None)
    await is_cancelled(desk, task_id)
    assert await desk.claim() == []
    assert await desk.history(task_id) == []


async def test_a_task_that_waits_for_its_next_stage_is_cancelled_at_once_and_keeps_what_was_done(desk: Desk) -> None:
    task_id = await desk.add_task()
    worker = desk.worker()
    await worker.step()

    await desk.cancel(task_id)

    await is_cancelled(desk, task_id)
    assert await worker.step() == 0
    assert await desk.state(task_id) == ("photos", "cancelled", 0)
    assert await desk.rows("SELECT stage FROM outputs") == [("parse",)]


async def test_a_task_that_waits_for_its_next_attempt_is_cancelled_at_once(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.say(lambda work: queue.fail(work, claim, FAILURE, RetryIn(3_600)))

    await desk.cancel(claim.task_id)

    await is_cancelled(desk, claim.task_id)
    assert await desk.history(claim.task_id) == [("parse", 1, "failed", "broken")]


async def test_a_snoozed_task_is_cancelled_at_once(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.say(lambda work: queue.snooze(work, claim, delay_seconds=3_600))

    await desk.cancel(claim.task_id)

    await is_cancelled(desk, claim.task_id)


async def test_a_task_that_waits_after_crashes_is_cancelled_at_once(desk: Desk) -> None:
    claim = await desk.claimed_task()
    for _ in range(2):
        desk.clock.move(30)
        await desk.take_back(chance=0.5)
        await desk.claim()

    await desk.cancel(claim.task_id)

    await is_cancelled(desk, claim.task_id)


async def test_a_cancel_of_one_task_leaves_its_neighbours_alone(desk: Desk) -> None:
    one, waiting = await desk.add_task(), await desk.add_task()
    claims = await desk.claim(limit=2)
    third = await desk.add_task()
    await desk.say(lambda work: queue.release(work, next(c for c in claims if c.task_id == waiting)))

    await desk.cancel(one)
    await desk.cancel(third)

    assert await desk.state(waiting) == ("parse", "queued", 0)
    assert await desk.rows("SELECT task_id, cancel_by IS NULL FROM jobs ORDER BY task_id") == [(one, 0), (waiting, 1)]


# A handler in the loop -----------------------------------------------------------------------------------------------


async def test_a_running_task_is_told_to_stop_by_a_deadline_and_goes_on_until_then(desk: Desk) -> None:
    claim = await desk.claimed_task()

    standing = await desk.cancel(claim.task_id, grace_seconds=GRACE_SECONDS)

    assert (standing.task.status, standing.state.status) == ("running", "running")
    assert standing.cancel_by == "2026-11-22T20:19:20.000000Z"
    assert await desk.history(claim.task_id) == [("parse", 1, None, None)]


async def test_the_heartbeat_cancels_the_handler_of_a_task_that_was_cancelled(desk: Desk) -> None:
    task_id = await desk.add_task()
    gate = Gate()
    worker = desk.worker(before_another(gate))
    step = await begin(worker, gate)
    await desk.cancel(task_id)

    await worker.upkeep.keep_leases_once()
    await step

    assert gate.inside == 0
    await is_cancelled(desk, task_id)
    assert await desk.history(task_id) == [("parse", 1, "cancelled", None)]


async def test_a_cancel_of_the_same_process_does_not_wait_for_the_next_heartbeat(desk: Desk) -> None:
    task_id = await desk.add_task()
    gate = Gate()
    async with running(desk.worker(gate.pipeline(), lease_seconds=3_600)):
        await gate.begun.get()
        await desk.cancel(task_id)

        desk.wakeups.cancel_asked()

        await ended(desk, task_id)
    await is_cancelled(desk, task_id)


async def test_those_who_wait_are_told_when_what_ran_has_stopped(desk: Desk) -> None:
    task_id = await desk.add_task()
    gate = Gate()
    worker = desk.worker(gate.pipeline())
    step = await begin(worker, gate)
    await desk.cancel(task_id)
    await worker.upkeep.keep_leases_once()

    with desk.wakeups.watch(task_id) as changed:
        await step

        assert changed.is_set()


async def test_only_the_handler_of_the_cancelled_task_is_cancelled(desk: Desk) -> None:
    one, other = await desk.add_task(), await desk.add_task()
    gate = Gate()
    worker = desk.worker(gate.pipeline(), concurrency=2)
    step = await begin(worker, gate)
    await gate.begun.get()
    await desk.cancel(one)

    await worker.upkeep.keep_leases_once()
    while await desk.task_status(one) != "cancelled":
        await asyncio.sleep(0)

    assert gate.inside == 1
    gate.open.set()
    await step
    assert await desk.task_status(other) == "succeeded"


async def test_a_handler_may_clean_up_in_peace_until_the_deadline(desk: Desk) -> None:
    task_id = await desk.add_task()
    handler = Cleaning()
    worker = desk.worker(before_another(handler), lease_seconds=30)
    step = await begin(worker, handler.gate)
    await desk.cancel(task_id, grace_seconds=GRACE_SECONDS)

    for _ in range(4):
        await worker.upkeep.keep_leases_once()
        await handler.is_cleaning.wait()
        desk.clock.move(4.9)
    before = await desk.state(task_id)
    handler.is_clean.set()
    await step

    assert (before, handler.saw_flag, handler.interrupted) == (("parse", "running", 1), True, 0)
    await is_cancelled(desk, task_id)
    assert await desk.history(task_id) == [("parse", 1, "cancelled", None)]


async def test_a_handler_that_cleans_up_past_the_deadline_is_interrupted_and_its_word_is_lost(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    task_id = await desk.add_task()
    handler = Cleaning()
    worker = desk.worker(before_another(handler))
    step = await begin(worker, handler.gate)
    await desk.cancel(task_id, grace_seconds=GRACE_SECONDS)
    await worker.upkeep.keep_leases_once()
    await handler.is_cleaning.wait()
    desk.clock.move(GRACE_SECONDS)
    await worker.upkeep.keep_leases_once()
    before = await desk.everything()

    await worker.upkeep.keep_leases_once()
    await step

    assert handler.interrupted == 1
    await is_cancelled(desk, task_id)
    assert await desk.history(task_id) == [("parse", 1, "cancelled", None)]
    assert await desk.everything() == before
    assert [ending["recorded"] for ending in told(caplog, "attempt_ended")] == ["lease_lost"]


async def test_a_handler_that_is_cancelled_may_still_say_that_it_failed(desk: Desk) -> None:
    async def handler(context: Context) -> Any:
        try:
            return await gate(context)
        except asyncio.CancelledError:
            raise Fail("half_done", "The upload was cut off.") from None

    task_id = await desk.add_task()
    gate = Gate()
    worker = desk.worker(before_another(handler))
    step = await begin(worker, gate)
    await desk.cancel(task_id)

    await worker.upkeep.keep_leases_once()
    await step

    await is_cancelled(desk, task_id)
    assert await desk.history(task_id) == [("parse", 1, "failed", "half_done")]
    assert await desk.rows("SELECT task_id FROM dead_letters") == []


async def test_a_stop_of_the_worker_ends_what_was_cancelled_and_gives_the_rest_back(desk: Desk) -> None:
    one, other = await desk.add_task(), await desk.add_task()
    gate = Gate()
    worker = desk.worker(gate.pipeline(), concurrency=2, grace_seconds=0, lease_seconds=3_600)
    run = asyncio.create_task(worker.run())
    await gate.begun.get()
    await gate.begun.get()
    await desk.cancel(one)

    worker.stop()
    await run

    await is_cancelled(desk, one)
    assert await desk.history(one) == [("parse", 1, "cancelled", None)]
    assert await desk.state(other) == ("parse", "queued", 0)


# A handler in a thread -----------------------------------------------------------------------------------------------


async def begin_in_thread(desk: Desk, gate: ThreadGate, pipeline: Pipeline) -> tuple[str, Any, "asyncio.Task[int]"]:
    """Let a worker run a plain handler; return the task, the worker and its step."""
    task_id = await desk.add_task()
    worker = desk.worker(pipeline)
    step = asyncio.create_task(worker.step())
    await gate.has_begun()
    return task_id, worker, step


async def test_a_thread_is_told_by_its_flag_and_may_end_late(desk: Desk) -> None:
    gate = ThreadGate()
    task_id, worker, step = await begin_in_thread(desk, gate, before_another(gate))
    await desk.cancel(task_id, grace_seconds=GRACE_SECONDS)

    await worker.upkeep.keep_leases_once()
    desk.clock.move(GRACE_SECONDS - 1)
    await worker.upkeep.keep_leases_once()
    before = await desk.state(task_id)
    gate.open.set()
    await step

    assert (before, gate.was_told) == (("parse", "running", 1), True)
    await is_cancelled(desk, task_id)
    assert await desk.rows("SELECT value_json FROM outputs") == [('{"late":1}',)]


async def test_a_thread_that_leaves_when_it_is_told_ends_its_attempt_as_cancelled(desk: Desk) -> None:
    gate = ThreadGate()

    def handler(context: Context) -> None:
        gate(context)
        context.raise_if_cancelled()

    task_id, worker, step = await begin_in_thread(desk, gate, before_another(handler))
    await desk.cancel(task_id)
    await worker.upkeep.keep_leases_once()

    gate.open.set()
    await step

    await is_cancelled(desk, task_id)
    assert await desk.history(task_id) == [("parse", 1, "cancelled", None)]


async def test_a_thread_that_does_not_look_loses_its_task_at_the_deadline_to_any_worker(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    gate = ThreadGate()
    task_id, worker, step = await begin_in_thread(desk, gate, before_another(gate))
    await desk.cancel(task_id, grace_seconds=GRACE_SECONDS)
    desk.clock.move(GRACE_SECONDS)

    await desk.worker(name="other").upkeep.take_back_once()

    await is_cancelled(desk, task_id)
    before = await desk.everything()
    gate.open.set()
    await step
    assert await desk.everything() == before
    assert await desk.rows("SELECT stage FROM outputs") == []
    assert (worker.upkeep.lost_leases, told(caplog, "attempt_ended")[0]["recorded"]) == (1, "lease_lost")


async def test_a_thread_that_lost_its_task_is_given_up_and_keeps_its_slot_until_it_ends(desk: Desk) -> None:
    gate = ThreadGate()
    task_id, worker, step = await begin_in_thread(desk, gate, before_another(gate))
    await desk.cancel(task_id, grace_seconds=GRACE_SECONDS)
    desk.clock.move(GRACE_SECONDS)
    await worker.upkeep.keep_leases_once()

    await worker.upkeep.keep_leases_once()
    await step

    next_task = await desk.add_task()
    assert (gate.was_told, await worker.step()) == (None, 0)
    gate.open.set()
    await nothing_stuck(worker)
    assert await worker.step() == 1
    assert await desk.state(next_task) == ("photos", "queued", 0)


# The deadline --------------------------------------------------------------------------------------------------------


async def test_nobody_takes_a_cancelled_task_away_before_its_deadline(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.cancel(claim.task_id, grace_seconds=GRACE_SECONDS)
    desk.clock.move(GRACE_SECONDS - 0.000001)

    early = await desk.take_back()
    desk.clock.move(0.000001)
    late = await desk.take_back()

    assert early == []
    assert late == [TakenBack(claim.task_id, "parse", 0, Recorded.CANCELLED)]


async def test_a_cancelled_task_can_be_held_until_its_deadline_and_its_holder_is_told(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.cancel(claim.task_id, grace_seconds=3_600)

    held = await desk.say(lambda work: work.jobs.extend(claim.task_id, claim.lease_token, expires_at=work.now()))

    assert held is LeaseHeld.CANCELLED


async def test_cancelling_again_changes_nothing_and_the_first_deadline_stands(desk: Desk) -> None:
    claim = await desk.claimed_task()
    first = await desk.cancel(claim.task_id, grace_seconds=GRACE_SECONDS)
    before = await desk.everything()
    desk.clock.move(5)

    again = [await desk.cancel(claim.task_id, grace_seconds=grace) for grace in (0, 3_600)]

    assert [standing.cancel_by for standing in again] == [first.cancel_by] * 2
    assert await desk.everything() == before


async def test_a_cancel_without_grace_ends_the_task_at_the_next_look(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.cancel(claim.task_id, grace_seconds=0)

    taken = await desk.take_back()

    assert [back.recorded for back in taken] == [Recorded.CANCELLED]
    await is_cancelled(desk, claim.task_id)


async def test_those_who_wait_are_told_when_the_deadline_ends_the_task(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.cancel(claim.task_id, grace_seconds=0)

    with desk.wakeups.watch(claim.task_id) as changed:
        await desk.worker(name="other").upkeep.take_back_once()

    assert changed.is_set()


async def test_one_unit_ends_a_limited_number_of_cancelled_tasks(desk: Desk) -> None:
    tasks = [await desk.add_task() for _ in range(TAKE_BACK_LIMIT + 1)]
    await desk.claim(limit=TAKE_BACK_LIMIT + 1)
    for task_id in tasks:
        await desk.cancel(task_id, grace_seconds=0)

    taken = [len(await desk.take_back()) for _ in range(3)]

    assert taken == [TAKE_BACK_LIMIT, 1, 0]


# Words about a task that was cancelled -------------------------------------------------------------------------------

Word = Callable[[UnitOfWork, Claim], Awaitable[Recorded]]

WORDS: dict[str, tuple[Word, str]] = {
    "fail": (lambda work, claim: queue.fail(work, claim, FAILURE, RetryIn(1)), "failed"),
    "give up": (lambda work, claim: queue.fail(work, claim, FAILURE, GiveUp()), "failed"),
    "snooze": (lambda work, claim: queue.snooze(work, claim, delay_seconds=1), "cancelled"),
    "release": (queue.release, "cancelled"),
}


@pytest.mark.parametrize("word", WORDS)
async def test_whatever_is_said_of_a_cancelled_task_but_a_last_success_ends_it_as_cancelled(
    desk: Desk, word: str
) -> None:
    say, outcome = WORDS[word]
    claim = await desk.claimed_task()
    await desk.cancel(claim.task_id)

    recorded = await desk.say(lambda work: say(work, claim))

    assert recorded is Recorded.CANCELLED
    assert recorded.ends_task
    await is_cancelled(desk, claim.task_id)
    assert [row[2] for row in await desk.history(claim.task_id)] == [outcome]
    assert await desk.rows("SELECT task_id FROM dead_letters") == []


async def test_a_success_of_the_last_stage_stands_though_the_task_was_cancelled(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.cancel(claim.task_id)

    recorded = await desk.say(lambda work: queue.succeed(work, claim, next_stage=None, outputs_json='{"n":1}'))

    assert recorded is Recorded.TASK_ENDED
    assert await desk.task_status(claim.task_id) == "succeeded"
    assert await desk.state(claim.task_id) == ("parse", "succeeded", 1)
    assert await desk.rows("SELECT value_json FROM outputs") == [('{"n":1}',)]


async def test_a_success_of_an_earlier_stage_is_kept_and_the_task_goes_no_further(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.cancel(claim.task_id)

    recorded = await desk.say(lambda work: queue.succeed(work, claim, next_stage="photos", outputs_json='{"n":1}'))

    assert recorded is Recorded.CANCELLED
    await is_cancelled(desk, claim.task_id)
    assert await desk.history(claim.task_id) == [("parse", 1, "succeeded", None)]
    assert await desk.rows("SELECT stage, value_json FROM outputs") == [("parse", '{"n":1}')]


@pytest.mark.parametrize(
    ("stages", "status"), [(("parse",), "succeeded"), (("parse", "photos"), "cancelled")], ids=["last", "earlier"]
)
async def test_a_handler_that_ignores_the_cancel_and_succeeds_has_its_result_kept(
    desk: Desk, stages: tuple[str, ...], status: str
) -> None:
    gate = Gate()

    async def deaf(context: Context) -> Any:
        try:
            return await gate(context)
        except asyncio.CancelledError:
            return {"n": 1}

    task_id = await desk.add_task()
    worker = desk.worker(Pipeline([Stage(name, deaf) for name in stages]))
    step = await begin(worker, gate)
    await desk.cancel(task_id)

    await worker.upkeep.keep_leases_once()
    await step

    assert await desk.task_status(task_id) == status
    assert await desk.history(task_id) == [("parse", 1, "succeeded", None)]
    assert await desk.rows("SELECT stage, value_json FROM outputs") == [("parse", '{"n":1}')]
    assert await worker.step() == 0


async def test_a_handler_that_snoozes_when_it_is_cancelled_does_not_run_again(desk: Desk) -> None:
    gate = Gate()

    async def drowsy(context: Context) -> Any:
        try:
            return await gate(context)
        except asyncio.CancelledError:
            return Snooze(1)

    task_id = await desk.add_task()
    worker = desk.worker(Pipeline([Stage("parse", drowsy)]))
    step = await begin(worker, gate)
    await desk.cancel(task_id)

    await worker.upkeep.keep_leases_once()
    await step
    desk.clock.move(1)

    assert await worker.step() == 0
    await is_cancelled(desk, task_id)


# Crashes -------------------------------------------------------------------------------------------------------------


async def test_a_worker_lost_while_its_task_was_cancelled_does_not_bring_it_back(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.cancel(claim.task_id, grace_seconds=3_600)
    desk.clock.move(30)

    taken = await desk.take_back()

    assert taken == [TakenBack(claim.task_id, "parse", 0, Recorded.CANCELLED)]
    await is_cancelled(desk, claim.task_id)
    assert await desk.history(claim.task_id) == [("parse", 1, "cancelled", None)]


async def test_a_lease_that_ran_out_past_the_deadline_is_taken_back_once(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.cancel(claim.task_id, grace_seconds=GRACE_SECONDS)
    desk.clock.move(3_600)

    taken = await desk.take_back()

    assert taken == [TakenBack(claim.task_id, "parse", 0, Recorded.CANCELLED)]


async def test_a_cancelled_task_that_had_crashed_before_is_no_dead_letter(desk: Desk) -> None:
    claim = await desk.claimed_task()
    for _ in range(4):
        await desk.take_back_all()
        await desk.claim()
    await desk.cancel(claim.task_id)

    await desk.take_back_all()

    await is_cancelled(desk, claim.task_id)
    assert await desk.rows("SELECT task_id FROM dead_letters") == []


@pytest.mark.parametrize("word", [*WORDS, "succeed"])
async def test_a_late_word_about_a_task_that_was_cancelled_changes_nothing(desk: Desk, word: str) -> None:
    claim = await desk.claimed_task()
    await desk.cancel(claim.task_id, grace_seconds=0)
    await desk.take_back()
    before = await desk.everything()
    last = partial(queue.succeed, next_stage=None, outputs_json="{}")
    say: Word = last if word == "succeed" else WORDS[word][0]

    recorded = await desk.say(lambda work: say(work, claim))

    assert recorded is Recorded.LEASE_LOST
    assert await desk.everything() == before


# What has ended ------------------------------------------------------------------------------------------------------


async def test_a_task_that_is_cancelled_already_is_answered_as_it_stands(desk: Desk) -> None:
    task_id = await desk.add_task()
    first = await desk.cancel(task_id)
    before = await desk.everything()
    desk.clock.move(5)

    again = await desk.cancel(task_id)

    assert again == first
    assert await desk.everything() == before


@pytest.mark.parametrize("status", ["succeeded", "dead_letter"])
async def test_a_task_that_has_ended_in_another_way_cannot_be_cancelled(desk: Desk, status: str) -> None:
    claim = await desk.claimed_task()
    if status == "succeeded":
        await desk.say(lambda work: queue.succeed(work, claim, next_stage=None, outputs_json="{}"))
    else:
        await desk.say(lambda work: queue.fail(work, claim, FAILURE, GiveUp()))
    before = await desk.everything()

    with pytest.raises(Conflict, match=f"This task is {status}; what has ended cannot be cancelled."):
        await desk.cancel(claim.task_id)

    assert await desk.everything() == before


@pytest.mark.parametrize("ends", ["at once", "later"])
async def test_a_cancelled_task_cannot_be_tried_again(desk: Desk, ends: str) -> None:
    task_id = await desk.add_task()
    if ends == "later":
        await desk.claim()
    await desk.cancel(task_id, grace_seconds=0)
    await desk.take_back()

    with pytest.raises(Conflict, match="This task is cancelled"):
        await desk.retry(task_id, override=True)
