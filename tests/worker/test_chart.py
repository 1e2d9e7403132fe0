"""The state charts of design §6: what the SQL allows is what the chart lists, for every status and event."""

from collections.abc import Awaitable, Callable
from itertools import product

import pytest

from app.clock import Timestamp
from app.domain.jobs import Claim, Failure
from app.domain.pipeline import CHART, Event, StateStatus
from app.domain.retry import GiveUp, RetryIn
from app.domain.tasks import TaskStatus
from app.errors import CabinetError, Conflict, DeadLetterProtected, Defect
from app.services import queue
from app.services.queue import Recorded
from app.unit import UnitOfWork
from tests.support.house import STAGES
from tests.worker.desk import Desk

FAILURE = Failure(kind="broken", message="It broke.")
FIRST, SECOND = STAGES[:2]

Move = Callable[[UnitOfWork, str, Timestamp], Awaitable[object]]

MOVES: dict[Event, Move] = {
    Event.CLAIM: lambda work, task, now: work.pipeline_states.claim(task, stage=FIRST, now=now),
    Event.ADVANCE: lambda work, task, now: work.pipeline_states.advance(task, stage=FIRST, next_stage=SECOND, now=now),
    Event.FINISH: lambda work, task, now: work.pipeline_states.finish(task, stage=FIRST, now=now),
    Event.FAIL: lambda work, task, now: work.pipeline_states.fail(task, stage=FIRST, error_kind="broken", now=now),
    Event.GIVE_UP: lambda work, task, now: work.pipeline_states.give_up(
        task, stage=FIRST, error_kind="broken", now=now
    ),
    Event.SNOOZE: lambda work, task, now: work.pipeline_states.release(task, stage=FIRST, now=now),
    Event.RELEASE: lambda work, task, now: work.pipeline_states.release(task, stage=FIRST, now=now),
    Event.EXPIRE: lambda work, task, now: work.pipeline_states.release(task, stage=FIRST, now=now),
    Event.RESCUE: lambda work, task, now: work.pipeline_states.rescue(task, died_at=FIRST, stage=FIRST, now=now),
    Event.CANCEL: lambda work, task, now: work.pipeline_states.cancel(task, now=now),
}
"""The one statement behind each event; trying again by hand leaves the state as it is and has none."""

TASK_MOVES: dict[str, Move] = {
    "start": lambda work, task, now: work.tasks.start(task, now=now),
    "finish": lambda work, task, now: work.tasks.finish(task, now=now),
    "fail": lambda work, task, now: work.tasks.fail(task, now=now),
    "rescue": lambda work, task, now: work.tasks.rescue(task, now=now),
    "cancel": lambda work, task, now: work.tasks.cancel(task, now=now),
}

TASK_CHART = {
    (TaskStatus.OPEN, "start"): TaskStatus.RUNNING,
    (TaskStatus.RUNNING, "finish"): TaskStatus.SUCCEEDED,
    (TaskStatus.RUNNING, "fail"): TaskStatus.FAILED,
    (TaskStatus.FAILED, "rescue"): TaskStatus.RUNNING,
    (TaskStatus.OPEN, "cancel"): TaskStatus.CANCELLED,
    (TaskStatus.RUNNING, "cancel"): TaskStatus.CANCELLED,
}


async def put_into(desk: Desk, task_id: str, status: StateStatus) -> None:
    """Put a task's pipeline state where a test wants it, past every rule but the table's own."""
    await desk.rows(
        "UPDATE pipeline_states SET status = :status, is_terminal = :terminal, attempt = 1 WHERE task_id = :id"
        " RETURNING task_id",
        id=task_id,
        status=status,
        terminal=int(status.is_terminal),
    )


@pytest.mark.parametrize(("status", "event"), [*product(StateStatus, MOVES)])
async def test_a_pipeline_state_moves_exactly_as_the_chart_says(desk: Desk, status: StateStatus, event: Event) -> None:
    task_id = await desk.add_task()
    await put_into(desk, task_id, status)
    before = await desk.everything()

    moved = await desk.say(lambda work: MOVES[event](work, task_id, work.now()))

    _, after, _ = await desk.state(task_id)
    if (status, event) in CHART:
        assert moved
        assert after == CHART[status, event]
    else:
        assert not moved
        assert await desk.everything() == before


@pytest.mark.parametrize("status", StateStatus)
async def test_trying_again_by_hand_is_allowed_exactly_where_the_chart_says(desk: Desk, status: StateStatus) -> None:
    task_id = await desk.add_task()
    await put_into(desk, task_id, status)
    before = await desk.everything()

    refusal: CabinetError | None = None
    try:
        await desk.retry(task_id)
    except (Conflict, DeadLetterProtected) as error:
        refusal = error

    _, after, _ = await desk.state(task_id)
    assert (refusal is None) is ((status, Event.RETRY_NOW) in CHART)
    assert after == CHART.get((status, Event.RETRY_NOW), status)
    assert await desk.everything() == before


def test_every_event_of_the_chart_is_driven_here() -> None:
    driven = {*MOVES, Event.RETRY_NOW}

    assert driven == set(Event)


@pytest.mark.parametrize("event", [event for event in MOVES if event is not Event.CANCEL])
async def test_a_move_of_another_stage_than_the_tasks_own_is_none(desk: Desk, event: Event) -> None:
    task_id = await desk.add_task(stage=SECOND)
    status = StateStatus.QUEUED if event is Event.CLAIM else StateStatus.RUNNING
    await put_into(desk, task_id, status)
    before = await desk.everything()

    moved = await desk.say(lambda work: MOVES[event](work, task_id, work.now()))

    assert not moved
    assert await desk.everything() == before


@pytest.mark.parametrize(("status", "move"), [*product(TaskStatus, TASK_MOVES)])
async def test_a_task_moves_exactly_as_its_chart_says(desk: Desk, status: TaskStatus, move: str) -> None:
    task_id = await desk.add_task()
    await desk.rows("UPDATE tasks SET status = :status WHERE id = :id RETURNING id", id=task_id, status=status)

    moved = await desk.say(lambda work: TASK_MOVES[move](work, task_id, work.now()))

    assert bool(moved) is ((status, move) in TASK_CHART)
    assert await desk.task_status(task_id) == TASK_CHART.get((status, move), status)


# Through the services ------------------------------------------------------------------------------------------------


async def test_a_new_task_is_open_and_queued_at_its_first_stage(desk: Desk) -> None:
    task_id = await desk.add_task()

    assert await desk.task_status(task_id) == "open"
    assert await desk.state(task_id) == (FIRST, "queued", 0)


async def test_a_claim_begins_the_task_and_its_first_attempt(desk: Desk) -> None:
    task_id = await desk.add_task(payload={"a": 1}, reference="order 7")

    [claim] = await desk.claim()

    assert (claim.task_id, claim.stage, claim.attempt, claim.reference) == (task_id, FIRST, 1, "order 7")
    assert claim.payload_json == '{"a":1}'
    assert await desk.task_status(task_id) == "running"
    assert await desk.state(task_id) == (FIRST, "running", 1)
    assert await desk.history(task_id) == [(FIRST, 1, None, None)]


async def test_a_success_queues_the_next_stage_with_a_fresh_count(desk: Desk) -> None:
    claim = await desk.claimed_task()

    recorded = await desk.say(lambda work: queue.succeed(work, claim, next_stage=SECOND, outputs_json='{"n":1}'))

    assert recorded is Recorded.DONE
    assert await desk.state(claim.task_id) == (SECOND, "queued", 0)
    assert await desk.task_status(claim.task_id) == "running"
    assert await desk.history(claim.task_id) == [(FIRST, 1, "succeeded", None)]


async def test_outputs_are_there_as_soon_as_the_success_is_and_reach_the_next_stage(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.say(lambda work: queue.succeed(work, claim, next_stage=SECOND, outputs_json='{"n":1}'))

    [following] = await desk.claim()

    assert following.outputs_json == {FIRST: '{"n":1}'}


async def test_a_success_that_cannot_be_recorded_leaves_no_outputs(desk: Desk) -> None:
    claim = await desk.claimed_task()
    before = await desk.everything()

    async def body(work: UnitOfWork) -> None:
        await queue.succeed(work, claim, next_stage=SECOND, outputs_json="{}")
        raise RuntimeError("the power goes")

    with pytest.raises(RuntimeError, match="the power goes"):
        await desk.say(body)

    assert await desk.everything() == before


async def test_the_last_success_ends_the_task_and_its_job(desk: Desk) -> None:
    claim = await desk.claimed_task()

    recorded = await desk.say(lambda work: queue.succeed(work, claim, next_stage=None, outputs_json="{}"))

    assert recorded is Recorded.TASK_ENDED
    assert await desk.state(claim.task_id) == (FIRST, "succeeded", 1)
    assert await desk.task_status(claim.task_id) == "succeeded"
    assert await desk.rows("SELECT task_id FROM jobs") == []


async def test_a_failure_with_attempts_left_waits_for_the_next(desk: Desk) -> None:
    claim = await desk.claimed_task()

    recorded = await desk.say(lambda work: queue.fail(work, claim, FAILURE, RetryIn(7)))

    assert recorded is Recorded.DONE
    assert await desk.state(claim.task_id) == (FIRST, "failed", 1)
    assert await desk.task_status(claim.task_id) == "running"
    assert await desk.run_at(claim.task_id) == "2026-11-22T20:19:07.000000Z"
    assert await desk.history(claim.task_id) == [(FIRST, 1, "failed", "broken")]


async def test_a_failure_without_attempts_left_is_a_dead_letter_and_its_job_is_gone(desk: Desk) -> None:
    claim = await desk.claimed_task()

    recorded = await desk.say(lambda work: queue.fail(work, claim, FAILURE, GiveUp()))

    assert recorded is Recorded.DEAD_LETTER
    assert await desk.one("SELECT status, is_terminal, last_error_kind FROM pipeline_states") == (
        "dead_letter",
        1,
        "broken",
    )
    assert await desk.task_status(claim.task_id) == "failed"
    assert await desk.rows("SELECT task_id FROM jobs") == []


async def test_an_attempt_that_was_given_back_is_not_counted(desk: Desk) -> None:
    claim = await desk.claimed_task()

    recorded = await desk.say(lambda work: queue.release(work, claim))

    assert recorded is Recorded.DONE
    assert await desk.state(claim.task_id) == (FIRST, "queued", 0)
    assert await desk.history(claim.task_id) == [(FIRST, 1, "released", None)]
    assert await desk.one("SELECT crashes, lease_token, worker, lease_expires_at FROM jobs") == (0, None, None, None)


async def test_a_rescued_dead_letter_begins_its_stage_anew(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.say(lambda work: queue.fail(work, claim, FAILURE, GiveUp()))

    standing = await desk.retry(claim.task_id, override=True)

    assert (standing.task.status, standing.state.status, standing.state.attempt) == ("running", "queued", 0)
    [again] = await desk.claim()
    assert (again.task_id, again.stage, again.attempt) == (claim.task_id, FIRST, 1)


async def test_a_task_that_waits_for_its_next_attempt_can_be_made_due_by_hand(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.say(lambda work: queue.fail(work, claim, FAILURE, RetryIn(3_600)))
    assert await desk.claim() == []

    await desk.retry(claim.task_id)

    [again] = await desk.claim()
    assert again.attempt == 2


# What must not be ----------------------------------------------------------------------------------------------------

WORDS: dict[str, Callable[[UnitOfWork, Claim], Awaitable[object]]] = {
    "succeed": lambda work, claim: queue.succeed(work, claim, next_stage=SECOND, outputs_json="{}"),
    "succeed at last": lambda work, claim: queue.succeed(work, claim, next_stage=None, outputs_json="{}"),
    "fail": lambda work, claim: queue.fail(work, claim, FAILURE, RetryIn(1)),
    "give up": lambda work, claim: queue.fail(work, claim, FAILURE, GiveUp()),
    "snooze": lambda work, claim: queue.snooze(work, claim, delay_seconds=1),
    "release": queue.release,
}


@pytest.mark.parametrize(
    ("status", "word"), [*product([status for status in StateStatus if status is not StateStatus.RUNNING], WORDS)]
)
async def test_a_word_about_a_state_that_does_not_run_is_a_defect_and_changes_nothing(
    desk: Desk, status: StateStatus, word: str
) -> None:
    claim = await desk.claimed_task()
    await put_into(desk, claim.task_id, status)
    before = await desk.everything()

    with pytest.raises(Defect):
        await desk.say(lambda work: WORDS[word](work, claim))

    assert await desk.everything() == before


async def test_a_job_whose_state_cannot_begin_is_a_defect_and_changes_nothing(desk: Desk) -> None:
    task_id = await desk.add_task()
    await put_into(desk, task_id, StateStatus.CANCELLED)
    before = await desk.everything()

    with pytest.raises(Defect):
        await desk.claim()

    assert await desk.everything() == before
