"""The pipeline state's chart: held against the design's text chart, written out here a second time."""

from itertools import product

import pytest

from app.clock import Timestamp
from app.domain.pipeline import CHART, Event, PipelineShape, PipelineState, StateStatus, TaskStanding
from app.domain.tasks import Task, TaskStatus
from app.errors import NotFound

QUEUED, RUNNING, FAILED = StateStatus.QUEUED, StateStatus.RUNNING, StateStatus.FAILED
SUCCEEDED, DEAD_LETTER, CANCELLED = StateStatus.SUCCEEDED, StateStatus.DEAD_LETTER, StateStatus.CANCELLED

MOMENT = Timestamp("2026-11-22T20:19:00.000000Z")
SHAPE = PipelineShape(stages=("parse", "photos"), side_effects=frozenset({"photos"}))

DESIGN = """
queued      claim     running       queued ─claim─> running
running     advance   queued        running ─ok─> next stage: queued
running     finish    succeeded     last stage: succeeded, terminal
running     fail      failed        running ─error, attempts left─> failed
failed      claim     running       failed ─due─> running
failed      retry_now failed        failed ─retried by hand─> due now
running     give_up   dead_letter   running ─error, none left or not retryable; too many crashes─> dead_letter
running     release   queued        running ─release at shutdown─> queued
running     snooze    queued        running ─snooze─> queued
running     expire    queued        running ─lease expired─> queued
queued      cancel    cancelled     queued ─cancel─> cancelled
running     cancel    cancelled     running ─cancel─> cancelled
failed      cancel    cancelled     failed ─cancel─> cancelled
dead_letter rescue    queued        dead_letter ─rescue─> queued
"""

MOVES = {(status, event): to for status, event, to, *_ in map(str.split, DESIGN.strip().splitlines())}
PAIRS = list(product(StateStatus, Event))


def reachable_from(start: StateStatus) -> set[StateStatus]:
    """Return every status that some sequence of events leads to."""
    seen, waiting = {start}, [start]
    while waiting:
        here = waiting.pop()
        new = {to for (status, _), to in CHART.items() if status is here} - seen
        seen |= new
        waiting.extend(new)
    return seen


@pytest.mark.parametrize(("status", "event"), [pair for pair in PAIRS if pair in MOVES])
def test_a_move_of_the_design_leads_where_the_design_says(status: StateStatus, event: Event) -> None:
    assert CHART[status, event] == MOVES[status, event]


@pytest.mark.parametrize(("status", "event"), [pair for pair in PAIRS if pair not in MOVES])
def test_a_move_that_the_design_does_not_list_is_forbidden(status: StateStatus, event: Event) -> None:
    assert (status, event) not in CHART


def test_every_line_of_the_design_is_a_move_of_the_chart() -> None:
    chart = {(str(status), str(event)): str(to) for (status, event), to in CHART.items()}

    assert chart == MOVES


def test_every_event_moves_something() -> None:
    moving = {event for _, event in CHART}

    assert moving == set(Event)


@pytest.mark.parametrize(
    ("status", "terminal"),
    [(QUEUED, False), (RUNNING, False), (FAILED, False), (SUCCEEDED, True), (DEAD_LETTER, True), (CANCELLED, True)],
)
def test_a_status_is_terminal_when_the_pipeline_has_ended(status: StateStatus, terminal: bool) -> None:
    assert status.is_terminal is terminal


def test_rescue_alone_leaves_a_terminal_status() -> None:
    leaving = [(status, event) for status, event in CHART if status.is_terminal]

    assert leaving == [(DEAD_LETTER, Event.RESCUE)]


def test_no_status_that_is_not_terminal_is_a_dead_end() -> None:
    leaving = {status for status, _ in CHART}

    assert leaving >= {status for status in StateStatus if not status.is_terminal}


@pytest.mark.parametrize("start", [QUEUED, RUNNING, FAILED, DEAD_LETTER])
def test_every_task_can_still_succeed_become_a_dead_letter_or_be_cancelled(start: StateStatus) -> None:
    ends = {status for status in reachable_from(start) if status.is_terminal}

    assert ends == {SUCCEEDED, DEAD_LETTER, CANCELLED}


def test_exactly_what_has_not_ended_can_be_cancelled() -> None:
    cancellable = {status for status, event in CHART if event is Event.CANCEL}

    assert cancellable == {status for status in StateStatus if not status.is_terminal}


@pytest.mark.parametrize("ended", [SUCCEEDED, CANCELLED])
def test_nothing_leads_away_from_success_or_cancellation(ended: StateStatus) -> None:
    assert reachable_from(ended) == {ended}


def test_only_a_claim_starts_an_attempt() -> None:
    starting = {event for (_, event), to in CHART.items() if to is RUNNING}

    assert starting == {Event.CLAIM}


def test_the_statuses_are_the_ones_that_are_stored() -> None:
    stored = [str(status) for status in StateStatus]

    assert stored == ["queued", "running", "failed", "succeeded", "dead_letter", "cancelled"]


# Standing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run_at", [MOMENT, None])
@pytest.mark.parametrize("status", StateStatus)
def test_a_task_tells_of_its_next_attempt_while_it_waits_for_one(status: StateStatus, run_at: Timestamp | None) -> None:
    task = Task(
        id="t", created_by="u", status=TaskStatus.RUNNING, reference=None, first_stage="parse", created_at=MOMENT,
        updated_at=MOMENT,
    )  # fmt: skip
    state = PipelineState(
        task_id="t", stage="parse", status=status, attempt=1, last_error_kind=None, is_terminal=status.is_terminal,
        updated_at=MOMENT,
    )  # fmt: skip

    standing = TaskStanding(task=task, state=state, run_at=run_at)

    assert standing.next_attempt_at == (run_at if status in (QUEUED, FAILED) else None)


# Shape ---------------------------------------------------------------------------------------------------------------


def test_a_pipeline_knows_its_stages() -> None:
    for stage in SHAPE.stages:
        SHAPE.check_known(stage)


@pytest.mark.parametrize("stage", ["fetch", "", "Parse", "parse ", "*"])
def test_a_stage_that_the_pipeline_has_not_is_not_found_and_those_it_has_are_named(stage: str) -> None:
    with pytest.raises(NotFound, match=r"no stage .*; it has parse, photos\."):
        SHAPE.check_known(stage)
