"""Explain: for whatever a task waits, one cause, the facts, and a sentence that a person can act on."""

import asyncio
from typing import Any

import pytest

from app.clock import later
from app.domain.jobs import Failure
from app.domain.pipeline import PipelineShape
from app.domain.retry import GiveUp, RetryIn
from app.domain.users import Role
from app.errors import NotFound
from app.pipelines import Context, Pipeline, Snooze, Stage
from app.services import explain, queue
from app.services.explain import Cause, ExplainTask
from tests.support.house import STAGES
from tests.worker.cases import (
    add_letter,
    add_tasks,
    beat,
    end,
    explained,
    let_in,
    lose_worker,
    pause,
    shape_of,
)
from tests.worker.desk import Desk
from tests.worker.shift import Gate


async def told(desk: Desk, task_id: str, **more: Any) -> tuple[Cause, str]:
    """Return the cause and the sentence."""
    explanation = await explained(desk, task_id, **more)
    return explanation.cause, explanation.sentence


async def facts(desk: Desk, task_id: str) -> dict[str, Any]:
    """Return the facts."""
    return dict((await explained(desk, task_id)).facts)


# It has ended ----------------------------------------------------------------------------------------------------


async def test_a_task_that_has_succeeded(desk: Desk) -> None:
    task_id = await desk.add_task()
    await end(desk, task_id)

    assert await told(desk, task_id) == (
        Cause.SUCCEEDED,
        "It has succeeded; its last stage parse ended at 2026-11-22T20:19:00Z.",
    )
    assert await facts(desk, task_id) == {"ended_at": desk.clock.now()}


async def test_a_task_that_was_cancelled(desk: Desk) -> None:
    task_id = await desk.add_task(stage="photos")
    desk.clock.move(61)
    await desk.cancel(task_id)

    assert await told(desk, task_id) == (
        Cause.CANCELLED,
        "It was cancelled at stage photos at 2026-11-22T20:20:01Z.",
    )
    assert await facts(desk, task_id) == {"ended_at": desk.clock.now()}


async def test_a_dead_letter_tells_what_it_died_of_and_what_brings_it_back(desk: Desk) -> None:
    task_id = await add_letter(desk, kind="no_stock", message="Article 4711 is sold out.")

    explanation = await explained(desk, task_id)

    assert explanation.cause is Cause.DEAD_LETTER
    assert explanation.sentence == (
        "It is a dead letter: stage parse failed for good at 2026-11-22T20:19:00Z with no_stock: "
        "Article 4711 is sold out. It runs again when an admin rescues it."
    )
    found = explanation.facts
    assert explanation.standing.state.status == "dead_letter"
    assert (found["error_kind"], found["error_message"]) == ("no_stock", "Article 4711 is sold out.")
    [(signature,)] = await desk.rows("SELECT signature FROM dead_letters")
    assert found["signature"] == signature


async def test_a_dead_letter_without_a_message_is_told_by_its_kind(desk: Desk) -> None:
    task_id = await add_letter(desk, kind="no_stock", message="")

    _, sentence = await told(desk, task_id)

    assert sentence == (
        "It is a dead letter: stage parse failed for good at 2026-11-22T20:19:00Z with no_stock. "
        "It runs again when an admin rescues it."
    )


# Somebody works at it --------------------------------------------------------------------------------------------


async def test_a_task_that_runs(desk: Desk) -> None:
    claim = await desk.claimed_task()

    assert await told(desk, claim.task_id) == (
        Cause.RUNNING,
        "It is running: worker one holds stage parse, attempt 1; its lease lasts until 2026-11-22T20:19:30Z unless it "
        "is renewed.",
    )
    assert await facts(desk, claim.task_id) == {
        "worker": "one",
        "lease_expires_at": later(desk.clock.now(), 30),
        "attempt": 1,
    }


async def test_a_task_that_runs_tells_how_far_it_has_come(desk: Desk) -> None:
    task_id = await desk.add_task()
    gate = Gate()
    worker = desk.worker(gate.pipeline())
    step = asyncio.create_task(worker.step())
    (await gate.begun.get()).progress(0.4, "2 of 5")
    await worker.upkeep.tell_progress_once()

    cause, sentence = await told(desk, task_id)

    assert cause is Cause.RUNNING
    assert sentence.startswith("It is running: worker one holds stage parse, attempt 1, 40% done; ")
    gate.open.set()
    await step


async def test_a_task_that_was_cancelled_while_it_runs(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.cancel(claim.task_id, grace_seconds=20)

    assert await told(desk, claim.task_id) == (
        Cause.STOPPING,
        "It was cancelled; worker one has until 2026-11-22T20:19:20Z to stop stage parse.",
    )
    assert (await facts(desk, claim.task_id))["cancel_by"] == later(desk.clock.now(), 20)


@pytest.mark.parametrize("seconds", [30, 500])
async def test_a_task_whose_worker_is_not_heard_of(desk: Desk, seconds: float) -> None:
    claim = await desk.claimed_task()
    desk.clock.move(seconds)

    assert await told(desk, claim.task_id) == (
        Cause.LEASE_EXPIRED,
        "Worker one was running stage parse and has not been heard of; its lease ran out at 2026-11-22T20:19:30Z, and "
        "any living worker takes it back.",
    )


# Its time has not come -------------------------------------------------------------------------------------------

WAITS = [
    (1.4, "20:19:01Z, in 1 s"),
    (42, "20:19:42Z, in 42 s"),
    (119, "20:20:59Z, in 119 s"),
    (120, "20:21:00Z, in 2 min"),
    (7_199, "22:18:59Z, in 120 min"),
    (10_800, "23:19:00Z, in 3 h"),
    (12_600, "23:49:00Z, in 4 h"),
]


@pytest.mark.parametrize(("seconds", "when"), WAITS)
async def test_a_task_that_waits_for_its_next_attempt(desk: Desk, seconds: float, when: str) -> None:
    claim = await desk.claimed_task()
    failure = Failure(kind="closed", message="The shop is closed.")
    await desk.say(lambda work: queue.fail(work, claim, failure, RetryIn(seconds)))

    assert await told(desk, claim.task_id) == (
        Cause.WAITS_FOR_NEXT_ATTEMPT,
        f"Attempt 1 of stage parse failed with closed; the next is due at 2026-11-22T{when}.",
    )
    assert await facts(desk, claim.task_id) == {
        "next_attempt_at": later(desk.clock.now(), seconds),
        "error_kind": "closed",
        "attempt": 1,
    }


async def test_a_task_that_snoozes(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.say(lambda work: queue.snooze(work, claim, delay_seconds=2 * 86_400))

    assert await told(desk, claim.task_id) == (
        Cause.SNOOZED,
        "Stage parse asked to wait; it is due again at 2026-11-24T20:19:00Z, in 2 d.",
    )
    assert await facts(desk, claim.task_id) == {"next_attempt_at": later(desk.clock.now(), 2 * 86_400)}


async def test_a_task_that_waits_after_it_has_lost_its_worker_more_than_once(desk: Desk) -> None:
    task_id = await desk.add_task()
    await lose_worker(desk)
    await desk.claim()
    desk.clock.move(31)
    await desk.take_back(chance=0.999)

    assert await told(desk, task_id) == (
        Cause.WAITS_AFTER_CRASH,
        "Stage parse has lost its worker 2 times; it is due again at 2026-11-22T20:20:02Z, in 1 s.",
    )
    assert (await facts(desk, task_id))["crashes"] == 2


async def test_a_stage_that_snoozes_after_it_has_lost_its_worker_is_said_to_snooze(desk: Desk) -> None:
    def handler(context: Context) -> Snooze:
        return Snooze(60)

    task_id = await desk.add_task()
    await lose_worker(desk)
    await desk.worker(Pipeline([Stage("parse", handler)])).step()

    cause, sentence = await told(desk, task_id)

    assert (cause, sentence.split(";")[0]) == (Cause.SNOOZED, "Stage parse asked to wait")


async def test_a_stage_that_loses_its_worker_after_it_has_snoozed_is_said_to_have_lost_it(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.say(lambda work: queue.snooze(work, claim, delay_seconds=5))
    desk.clock.move(5)
    await lose_worker(desk)
    await desk.claim()
    desk.clock.move(31)
    await desk.take_back(chance=0.999)

    assert (await told(desk, claim.task_id))[0] is Cause.WAITS_AFTER_CRASH


async def test_a_task_that_is_neither_due_nor_able_to_run_tells_first_when_it_is_due(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.say(lambda work: queue.snooze(work, claim, delay_seconds=60))
    await pause(desk)

    assert (await told(desk, claim.task_id))[0] is Cause.SNOOZED
    desk.clock.move(60)
    assert (await told(desk, claim.task_id))[0] is Cause.EVERYTHING_PAUSED


# It is not let ---------------------------------------------------------------------------------------------------


async def test_a_task_whose_stage_is_paused(desk: Desk) -> None:
    task_id = await desk.add_task()
    await beat(desk)
    await pause(desk, "parse", reason="The site is down.")
    desk.clock.move(5)

    assert await told(desk, task_id) == (
        Cause.STAGE_PAUSED,
        "Stage parse has been paused by root since 2026-11-22T20:19:00Z: The site is down.",
    )
    assert await facts(desk, task_id) == {
        "paused_by": desk.actor.id,
        "subject": "root",
        "paused_at": later(desk.clock.now(), -5),
        "reason": "The site is down.",
    }


async def test_a_task_while_everything_is_paused(desk: Desk) -> None:
    task_id = await desk.add_task()
    await pause(desk, "parse", reason="The site is down.")
    await pause(desk, reason="We move.")

    assert await told(desk, task_id) == (
        Cause.EVERYTHING_PAUSED,
        "Everything has been paused by root since 2026-11-22T20:19:00Z: We move.",
    )


async def test_the_pause_of_another_stage_is_no_reason(desk: Desk) -> None:
    task_id = await desk.add_task()
    await pause(desk, "photos")

    assert (await told(desk, task_id))[0] is Cause.NO_WORKER


async def test_a_task_whose_stage_the_pipeline_has_lost(desk: Desk) -> None:
    task_id = await desk.add_task()
    await beat(desk)

    explanation = await explained(desk, task_id, shape=shape_of("photos", "publish"))

    assert (explanation.cause, explanation.sentence) == (
        Cause.STAGE_GONE,
        "It stands at stage parse, which the pipeline no longer has; it waits until a deployment brings the stage "
        "back, or somebody cancels it.",
    )
    assert explanation.facts == {"stages": ["photos", "publish"]}


# Nobody can ------------------------------------------------------------------------------------------------------


async def test_no_worker_is_alive(desk: Desk) -> None:
    task_id = await desk.add_task()

    expected = (Cause.NO_WORKER, "It is due, but no worker is alive: start one that has stage parse.")
    assert await told(desk, task_id) == expected
    await beat(desk)
    assert (await told(desk, task_id))[0] is Cause.NEXT_IN_LINE
    desk.clock.move(30)
    assert await told(desk, task_id) == expected
    assert await facts(desk, task_id) == {"alive": 0}


@pytest.mark.parametrize(
    ("workers", "which"),
    [(1, "the only worker that is alive does not run it"), (3, "none of the 3 workers that are alive runs it")],
)
async def test_workers_are_alive_but_none_of_them_has_the_stage(desk: Desk, workers: int, which: str) -> None:
    task_id = await desk.add_task()
    for number in range(workers):
        await beat(desk, f"worker {number}", stages={"photos": None})

    assert await told(desk, task_id) == (
        Cause.NO_WORKER,
        f"It is due, but {which}: start one that has stage parse.",
    )
    assert await facts(desk, task_id) == {"alive": workers}


@pytest.mark.parametrize(
    ("leased", "stuck", "held"),
    [(2, 0, ""), (1, 1, ", 1 of them by attempts that overran and cannot be stopped")],
)
async def test_every_slot_is_taken(desk: Desk, leased: int, stuck: int, held: str) -> None:
    await add_tasks(desk, leased, stage="photos")
    await desk.claim(leased)
    await beat(desk, concurrency=2, stuck={"photos": stuck})
    task_id = await desk.add_task()

    assert await told(desk, task_id) == (
        Cause.NO_FREE_SLOT,
        f"It is due, but every slot is taken: 2 of 2{held}.",
    )
    assert await facts(desk, task_id) == {
        "slots": 2,
        "slots_taken": 2,
        "stuck": stuck,
        "due_since": desk.clock.now(),
    }


async def test_an_attempt_that_cannot_be_stopped_keeps_the_room_of_its_stage(desk: Desk) -> None:
    await beat(desk, concurrency=4, stuck={"parse": 1}, stages={**dict.fromkeys(STAGES), "parse": 1})
    task_id = await desk.add_task()

    cause, sentence = await told(desk, task_id)

    assert cause is Cause.NO_FREE_SLOT
    assert sentence == (
        "It is due, but as many attempts of stage parse are running as the stage allows at once, 1 of them by attempts "
        "that overran and cannot be stopped."
    )


async def test_a_dead_letter_of_a_stage_that_is_gone_says_that_it_needs_another(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.say(lambda work: queue.fail(work, claim, Failure(kind="broken", message="It broke."), GiveUp()))
    command = ExplainTask(task_id=claim.task_id, shape=PipelineShape(stages=("other",), side_effects=frozenset()))

    explained = await desk.say(lambda work: explain.explain(work, desk.actor, command))

    assert explained.sentence.endswith(
        "It runs again when an admin rescues it from another stage, since the pipeline no longer has this one."
    )


async def test_a_sentence_repeats_the_beginning_of_a_long_message_on_one_line(desk: Desk) -> None:
    claim = await desk.claimed_task()
    failure = Failure(kind="broken", message="It broke\nin two. " + "x" * 2_000, retryable=False)
    await desk.say(lambda work: queue.fail(work, claim, failure, GiveUp()))

    _, sentence = await told(desk, claim.task_id)

    assert "with broken: It broke in two. xxx" in sentence
    assert "\n" not in sentence
    assert len(sentence) < 500


async def test_as_many_attempts_of_the_stage_run_as_it_allows(desk: Desk) -> None:
    await desk.claimed_task()
    await beat(desk, concurrency=4, stages={"parse": 1})
    task_id = await desk.add_task()

    assert await told(desk, task_id) == (
        Cause.NO_FREE_SLOT,
        "It is due, but as many attempts of stage parse are running as the stage allows at once.",
    )


@pytest.mark.parametrize(
    ("ahead", "count"), [(0, "0 tasks are"), (1, "1 task is"), (2, "2 tasks are"), (3, "3 or more tasks are")]
)
async def test_next_in_line(desk: Desk, ahead: int, count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "AHEAD_LIMIT", 3)
    await add_tasks(desk, 2, stage="photos")
    await add_tasks(desk, ahead)
    desk.clock.move(1)
    task_id = await desk.add_task()
    await add_tasks(desk, 2)
    await beat(desk)
    desk.clock.move(10)

    assert await told(desk, task_id) == (
        Cause.NEXT_IN_LINE,
        f"It is due since 2026-11-22T20:19:01Z and a worker has room for it; {count} before it at stage parse.",
    )
    assert await facts(desk, task_id) == {"ahead": ahead, "due_since": later(desk.clock.now(), -10)}


# Everybody's own -------------------------------------------------------------------------------------------------


async def test_a_user_gets_their_own_tasks_explained_and_no_others(desk: Desk) -> None:
    task_id = await desk.add_task()
    user, admin = await let_in(desk, "anna"), await let_in(desk, "boss", Role.ADMIN)
    await desk.rows("UPDATE tasks SET created_by = :user WHERE id = :id RETURNING id", user=user.id, id=task_id)
    foreign = await desk.add_task()

    assert (await explained(desk, task_id, actor=user)).cause is Cause.NO_WORKER
    assert (await explained(desk, foreign, actor=admin)).cause is Cause.NO_WORKER
    with pytest.raises(NotFound):
        await explained(desk, foreign, actor=user)
    with pytest.raises(NotFound):
        await explained(desk, "0190a5d0-0000-7000-8000-000000000001")
