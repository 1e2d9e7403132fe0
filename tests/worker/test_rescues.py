"""Rescues: a dead letter comes back at its stage or at an earlier one, and never twice at once."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from app.domain.dead_letters import RescueTerms
from app.errors import Conflict, DeadLetterProtected, Invalid, SideEffectsUnconfirmed, StageGone
from app.services import dead_letters
from tests.support.house import STAGES
from tests.worker.cases import add_letter, attempts, letter_after, outputs, queued, shape_of, standing, until_idle
from tests.worker.desk import SHAPE, Desk

PAYING = shape_of(*STAGES, side_effects=["publish"])


async def test_a_dead_letter_comes_back_at_its_own_stage_with_a_fresh_count(desk: Desk) -> None:
    task_id = await letter_after(desk, "parse", "photos", stage="publish")

    stood = await desk.retry(task_id, override=True)

    assert (stood.state.stage, stood.state.status, stood.state.attempt) == ("publish", "queued", 0)
    assert (stood.task.status, stood.next_attempt_at) == ("running", desk.clock.now())
    assert await outputs(desk, task_id) == ["parse", "photos"]
    [claim] = await desk.claim()
    assert (claim.stage, claim.attempt) == ("publish", 1)


async def test_a_rescue_from_an_earlier_stage_keeps_what_came_before_and_drops_the_rest(desk: Desk) -> None:
    task_id = await letter_after(desk, "parse", "photos", "publish", stage="export")

    await desk.retry(task_id, override=True, from_stage="photos")

    assert await desk.state(task_id) == ("photos", "queued", 0)
    assert await outputs(desk, task_id) == ["parse"]
    [claim] = await desk.claim()
    assert (claim.stage, claim.attempt, sorted(claim.outputs_json)) == ("photos", 1, ["parse"])


async def test_a_rescued_task_runs_each_stage_from_there_on_to_its_end(desk: Desk) -> None:
    task_id = await letter_after(desk, "parse", "photos", "publish", stage="export")

    await desk.retry(task_id, override=True, from_stage="photos")
    await until_idle(desk)

    assert await desk.task_status(task_id) == "succeeded"
    ran = [attempt.stage for attempt in await attempts(desk, task_id)]
    assert ran == ["parse", "photos", "publish", "export", "photos", "publish", "export", "cleanup"]


async def test_a_rescue_counts_crashes_and_the_stages_time_anew(desk: Desk) -> None:
    task_id = await add_letter(desk)
    desk.clock.move(1_000)

    await desk.retry(task_id, override=True)

    [claim] = await desk.claim()
    assert claim.stage_started_at == desk.clock.now()
    assert await desk.one("SELECT crashes FROM jobs WHERE task_id = :id", id=task_id) == (0,)


REFUSED: dict[str, tuple[str, Any, Mapping[str, Any], type[Exception], str]] = {
    "a later stage": ("photos", SHAPE, {"from_stage": "export"}, Conflict, "a rescue skips no stage"),
    "an unknown stage": ("photos", SHAPE, {"from_stage": "bake"}, Invalid, "not valid"),
    "a stage that is gone": ("photos", shape_of("parse", "export"), {}, StageGone, "name another as from_stage"),
    "an act on the world": ("publish", PAYING, {}, SideEffectsUnconfirmed, "publish again"),
    "an act on the way": ("export", PAYING, {"from_stage": "parse"}, SideEffectsUnconfirmed, "publish again"),
}


@pytest.mark.parametrize(("stage", "shape", "terms", "refusal", "told"), REFUSED.values(), ids=REFUSED)
async def test_a_rescue_that_cannot_be_granted_changes_nothing(
    desk: Desk, stage: str, shape: Any, terms: Mapping[str, Any], refusal: type[Exception], told: str
) -> None:
    task_id = await add_letter(desk, stage=stage)
    before = await desk.everything()

    with pytest.raises(refusal, match=told):
        await desk.retry(task_id, override=True, shape=shape, **terms)

    assert await desk.everything() == before


async def test_an_unknown_stage_is_told_with_its_place_and_those_that_there_are(desk: Desk) -> None:
    task_id = await add_letter(desk)

    with pytest.raises(Invalid) as refused:
        await desk.retry(task_id, override=True, from_stage="bake")

    [(pointer, told)] = refused.value.faults
    assert pointer == "/from_stage"
    assert "parse, photos, publish, export, cleanup" in told


async def test_a_dead_letter_is_not_rescued_without_saying_so(desk: Desk) -> None:
    task_id = await add_letter(desk)

    with pytest.raises(DeadLetterProtected):
        await desk.retry(task_id, from_stage="parse")

    assert await desk.state(task_id) == ("parse", "dead_letter", 1)


async def test_from_stage_is_for_dead_letters_alone(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.say(lambda work: work.pipeline_states.fail(claim.task_id, stage="parse", error_kind="x", now=work.now()))

    with pytest.raises(Conflict, match="from_stage is for dead letters"):
        await desk.retry(claim.task_id, override=True, from_stage="parse")


async def test_a_task_whose_stage_is_gone_comes_back_at_a_stage_that_is_named(desk: Desk) -> None:
    task_id = await letter_after(desk, "parse", "export", stage="photos")

    await desk.retry(task_id, override=True, shape=shape_of("parse", "publish", "export"), from_stage="publish")

    assert await desk.state(task_id) == ("publish", "queued", 0)
    assert await outputs(desk, task_id) == ["parse"]


@pytest.mark.parametrize(("stage", "terms"), [("publish", {"confirm_side_effects": True}), ("parse", {})])
async def test_an_act_on_the_world_is_repeated_only_when_confirmed(
    desk: Desk, stage: str, terms: Mapping[str, Any]
) -> None:
    task_id = await add_letter(desk, stage=stage)

    await desk.retry(task_id, override=True, shape=PAYING, **terms)

    assert await desk.state(task_id) == (stage, "queued", 0)


async def test_of_two_rescues_at_once_one_is_told_that_it_came_too_late(desk: Desk) -> None:
    task_id = await add_letter(desk)

    told = await asyncio.gather(
        desk.retry(task_id, override=True), desk.retry(task_id, override=True), return_exceptions=True
    )

    assert sorted(type(each).__name__ for each in told) == ["Conflict", "TaskStanding"]
    assert await queued(desk) == [task_id]


async def test_a_rescue_that_finds_the_task_rescued_since_it_looked_changes_nothing(desk: Desk) -> None:
    task_id = await add_letter(desk)
    dead = (await standing(desk, task_id)).state
    await desk.retry(task_id, override=True)
    before = await desk.everything()

    with pytest.raises(Conflict, match="by somebody else"):
        await desk.say(lambda work: dead_letters.bring_back(work, dead, shape=SHAPE, terms=RescueTerms()))

    assert await desk.everything() == before
