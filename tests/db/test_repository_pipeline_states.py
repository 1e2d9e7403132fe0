"""Where tasks stand: every move from every state, held against the chart of the domain (design §6)."""

import json
from collections.abc import Awaitable, Callable
from itertools import product
from typing import Any

import pytest

from app.domain.pipeline import CHART, Event, PipelineState, StateStatus
from app.domain.tasks import TaskStatus
from app.errors import ConstraintViolated
from app.repositories.pipeline_states import PipelineStatesRepository
from app.unit import UnitOfWork
from tests.db.records import AFTER, Database
from tests.support.database import NOW

Move = Callable[[PipelineStatesRepository, str, str], Awaitable[Any]]

MOVES: dict[Event, Move] = {
    Event.CLAIM: lambda states, task, stage: states.claim(task, stage=stage, now=AFTER),
    Event.ADVANCE: lambda states, task, stage: states.advance(task, stage=stage, next_stage="photos", now=AFTER),
    Event.FINISH: lambda states, task, stage: states.finish(task, stage=stage, now=AFTER),
    Event.FAIL: lambda states, task, stage: states.fail(task, stage=stage, error_kind="broken", now=AFTER),
    Event.GIVE_UP: lambda states, task, stage: states.give_up(task, stage=stage, error_kind="hopeless", now=AFTER),
    Event.RELEASE: lambda states, task, stage: states.release(task, stage=stage, now=AFTER),
    Event.RESCUE: lambda states, task, stage: states.rescue(task, died_at=stage, stage="fetch", now=AFTER),
    Event.CANCEL: lambda states, task, _stage: states.cancel(task, now=AFTER),
}
"""How each event is written. EXPIRE and SNOOZE are written as RELEASE is; RETRY_NOW moves the job alone."""

WHEREVER = {Event.CANCEL}
"""Moves from whatever stage the task stands at."""

RETURNED: dict[Event, Any] = {Event.CLAIM: 3}
PAIRS = list(product(StateStatus, MOVES))


async def at(database: Database, status: StateStatus) -> str:
    """Make a task that stands in a status, at its second attempt, and return its id."""
    task_id = await database.task()
    await database.rows(
        "UPDATE pipeline_states SET status = :status, attempt = 2, last_error_kind = 'earlier', is_terminal = :terminal"
        " WHERE task_id = :task_id RETURNING task_id",
        status=status,
        terminal=int(status.is_terminal),
        task_id=task_id,
    )
    return task_id


async def state_of(database: Database, task_id: str) -> PipelineState:
    """Return where a task stands."""
    state = await database.read(lambda work: work.pipeline_states.by_task(task_id))
    assert state is not None
    return state


async def make(database: Database, event: Event, task_id: str, stage: str = "parse") -> Any:
    """Make a move in a unit of its own."""
    return await database.write(lambda work: MOVES[event](work.pipeline_states, task_id, stage))


@pytest.mark.parametrize(("status", "event"), [pair for pair in PAIRS if pair in CHART])
async def test_a_move_of_the_chart_leads_where_the_chart_says(
    database: Database, status: StateStatus, event: Event
) -> None:
    task_id = await at(database, status)

    returned = await make(database, event, task_id)

    after = await state_of(database, task_id)
    assert returned == RETURNED.get(event, True)
    assert after.status is CHART[status, event]
    assert after.is_terminal is after.status.is_terminal
    assert after.updated_at == AFTER


@pytest.mark.parametrize(("status", "event"), [pair for pair in PAIRS if pair not in CHART])
async def test_a_move_that_the_chart_does_not_list_changes_nothing(
    database: Database, status: StateStatus, event: Event
) -> None:
    task_id = await at(database, status)
    before = await state_of(database, task_id)

    returned = await make(database, event, task_id)

    assert returned in (None, False)
    assert await state_of(database, task_id) == before


@pytest.mark.parametrize("event", [event for event in MOVES if event not in WHEREVER])
async def test_a_move_from_another_stage_changes_nothing(database: Database, event: Event) -> None:
    status = next(status for status, listed in CHART if listed is event)
    task_id = await at(database, status)
    before = await state_of(database, task_id)

    returned = await make(database, event, task_id, stage="export")

    assert returned in (None, False)
    assert await state_of(database, task_id) == before


@pytest.mark.parametrize("event", MOVES)
async def test_a_move_moves_one_task_alone(database: Database, event: Event) -> None:
    status = next(status for status, listed in CHART if listed is event)
    task_id, other_id = await at(database, status), await at(database, status)
    before = await state_of(database, other_id)

    await make(database, event, task_id)

    assert await state_of(database, other_id) == before


async def test_a_new_task_is_queued_at_its_first_stage(database: Database) -> None:
    task_id = await database.task()

    assert await state_of(database, task_id) == PipelineState(
        task_id=task_id,
        stage="parse",
        status=StateStatus.QUEUED,
        attempt=0,
        last_error_kind=None,
        is_terminal=False,
        updated_at=NOW,
    )


EFFECTS: dict[Event, tuple[str, int, str | None]] = {
    Event.CLAIM: ("parse", 3, "earlier"),
    Event.ADVANCE: ("photos", 0, None),
    Event.FINISH: ("parse", 2, None),
    Event.FAIL: ("parse", 2, "broken"),
    Event.GIVE_UP: ("parse", 2, "hopeless"),
    Event.RELEASE: ("parse", 1, "earlier"),
    Event.RESCUE: ("fetch", 0, "earlier"),
    Event.CANCEL: ("parse", 2, "earlier"),
}


@pytest.mark.parametrize("event", EFFECTS)
async def test_a_move_counts_attempts_and_keeps_the_last_error(database: Database, event: Event) -> None:
    task_id = await at(database, next(status for status, listed in CHART if listed is event))

    await make(database, event, task_id)

    after = await state_of(database, task_id)
    assert (after.stage, after.attempt, after.last_error_kind) == EFFECTS[event]


async def test_a_task_that_is_not_there_stands_nowhere(database: Database) -> None:
    assert await database.read(lambda work: work.pipeline_states.by_task("nobody's")) is None
    for event in MOVES:
        assert await make(database, event, "nobody's") in (None, False)


async def test_tasks_that_have_not_ended_are_counted_by_stage_and_status(database: Database) -> None:
    for status in (*StateStatus, StateStatus.QUEUED):
        await at(database, status)
    task_id = await at(database, StateStatus.RUNNING)
    await make(database, Event.ADVANCE, task_id)

    counts = await database.read(lambda work: work.pipeline_states.count_active())

    assert counts == {
        "parse": {StateStatus.QUEUED: 2, StateStatus.RUNNING: 1, StateStatus.FAILED: 1},
        "photos": {StateStatus.QUEUED: 1},
    }


async def test_where_nothing_stands_there_is_nothing_to_count(database: Database) -> None:
    assert await database.read(lambda work: work.pipeline_states.count_active()) == {}


async def test_the_states_of_the_tasks_that_are_named_are_pruned(database: Database) -> None:
    tasks = [await database.task() for _ in range(3)]

    await database.write(lambda work: work.pipeline_states.prune(json.dumps([tasks[0], tasks[2], "nobody's"])))

    left = await database.rows("SELECT task_id FROM pipeline_states")
    assert left == [{"task_id": tasks[1]}]


# The task as a whole -------------------------------------------------------------------------------------------------

TASK_MOVES: dict[str, tuple[set[TaskStatus], TaskStatus]] = {
    "start": ({TaskStatus.OPEN}, TaskStatus.RUNNING),
    "finish": ({TaskStatus.RUNNING}, TaskStatus.SUCCEEDED),
    "fail": ({TaskStatus.RUNNING}, TaskStatus.FAILED),
    "rescue": ({TaskStatus.FAILED}, TaskStatus.RUNNING),
    "cancel": ({TaskStatus.OPEN, TaskStatus.RUNNING}, TaskStatus.CANCELLED),
}


@pytest.mark.parametrize("status", TaskStatus)
@pytest.mark.parametrize("move", TASK_MOVES)
async def test_a_task_moves_from_the_status_that_the_design_names_and_from_no_other(
    database: Database, status: TaskStatus, move: str
) -> None:
    task_id = await database.task()
    await database.rows(
        "UPDATE tasks SET status = :status WHERE id = :id RETURNING id", status=status, id=task_id
    )  # fmt: skip
    before = await database.read(lambda work: work.tasks.by_id(task_id))
    leaves, reaches = TASK_MOVES[move]

    async def body(work: UnitOfWork) -> bool:
        moved: bool = await getattr(work.tasks, move)(task_id, now=AFTER)
        return moved

    moved = await database.write(body)

    after = await database.read(lambda work: work.tasks.by_id(task_id))
    assert after is not None
    assert moved is (status in leaves)
    if moved:
        assert (after.status, after.updated_at) == (reaches, AFTER)
    else:
        assert after == before


# Checks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("status = 'lost'", "pipeline_states_status_known"),
        ("attempt = -1", "pipeline_states_attempt_counts"),
        ("is_terminal = 1", "pipeline_states_terminal_agrees"),
        ("is_terminal = 7", "pipeline_states_terminal_agrees"),
        ("status = 'succeeded'", "pipeline_states_terminal_agrees"),
        ("status = 'dead_letter'", "pipeline_states_terminal_agrees"),
    ],
)
async def test_a_state_that_cannot_be_is_refused(database: Database, change: str, constraint: str) -> None:
    task_id = await database.task()

    with pytest.raises(ConstraintViolated) as caught:
        await database.rows(f"UPDATE pipeline_states SET {change} WHERE task_id = :id RETURNING task_id", id=task_id)

    assert (caught.value.kind, caught.value.constraint) == ("CHECK", constraint)
