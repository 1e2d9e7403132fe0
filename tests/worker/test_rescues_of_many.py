"""Rescues of many: workers carry them out in small units, count what they did, and go on where the last one stopped."""

from collections.abc import Mapping
from typing import Any

import pytest

from app.domain.dead_letters import RescueStatus
from app.errors import Conflict, Invalid, NotFound, SideEffectsUnconfirmed, StageGone
from app.services import dead_letters
from app.services.dead_letters import RESCUE_LIMIT, RESCUES_AT_ONCE_LIMIT, StagePlan
from app.services.pages import PageCommand
from tests.support.house import STAGES
from tests.worker.cases import add_letter, add_letters, die, end, queued, rescue_of, shape_of, start_rescue, stop_rescue
from tests.worker.desk import SHAPE, Desk

PAYING = shape_of(*STAGES, side_effects=["publish"])


async def test_a_dry_run_tells_what_would_be_and_changes_nothing(desk: Desk) -> None:
    await add_letters(desk, 2, stage="export")
    await add_letters(desk, 3)
    await add_letters(desk, 1, stage="bake")
    await add_letters(desk, 1, kind="closed")
    before = await desk.everything()

    plan = await start_rescue(desk, dry_run=True, shape=PAYING, terms={"from_stage": "photos"}, error_kind="broken")

    bake, export, parse = plan.stages
    assert (plan.matched, plan.rescue) == (6, None)
    assert (bake.stage, bake.count, bake.runs_again) == ("bake", 1, ("photos", "publish", "export", "cleanup"))
    assert (export.stage, export.count, export.runs_again) == ("export", 2, ("photos", "publish", "export"))
    assert isinstance(export.refusal, SideEffectsUnconfirmed)
    assert (parse.stage, parse.count, parse.runs_again) == ("parse", 3, ())
    assert isinstance(parse.refusal, Conflict)
    assert await desk.everything() == before
    assert await desk.rows("SELECT id FROM rescues") == []


async def test_a_plan_with_nothing_in_its_way_says_so(desk: Desk) -> None:
    await add_letters(desk, 2, stage="publish")

    plan = await start_rescue(desk, dry_run=True, shape=PAYING, terms={"confirm_side_effects": True})

    assert plan.stages == [StagePlan("publish", 2, ("publish",), None)]


REFUSED: dict[str, tuple[str, Any, Mapping[str, Any], type[Exception], str]] = {
    "a stage that is gone": ("photos", shape_of("parse", "export"), {}, StageGone, "name another as from_stage"),
    "a later stage": ("photos", SHAPE, {"from_stage": "export"}, Conflict, "a rescue skips no stage"),
    "an unknown stage": ("photos", SHAPE, {"from_stage": "bake"}, Invalid, "not valid"),
    "an act on the world": ("publish", PAYING, {}, SideEffectsUnconfirmed, "publish again"),
    "an act on the way": ("export", PAYING, {"from_stage": "parse"}, SideEffectsUnconfirmed, "publish again"),
}


@pytest.mark.parametrize(("stage", "shape", "terms", "refusal", "told"), REFUSED.values(), ids=REFUSED)
async def test_a_rescue_of_many_is_refused_for_what_refuses_one_of_them(
    desk: Desk, stage: str, shape: Any, terms: Mapping[str, Any], refusal: type[Exception], told: str
) -> None:
    await add_letters(desk, 2, stage=stage)

    with pytest.raises(refusal, match=told):
        await start_rescue(desk, shape=shape, terms=terms)

    assert await desk.rows("SELECT id FROM rescues") == []


async def test_a_rescue_of_nothing_is_none(desk: Desk) -> None:
    plan = await start_rescue(desk)

    assert (plan.matched, plan.rescue) == (0, None)


async def test_a_rescue_brings_back_what_passes_its_filter_and_tells_how_many(desk: Desk) -> None:
    wanted = await add_letters(desk, 2, kind="closed")
    others = await add_letters(desk, 2)

    plan = await start_rescue(desk, error_kind="closed")
    more = await desk.worker().upkeep.rescue_once()

    rescue = await rescue_of(desk, plan)
    assert more
    assert (rescue.status, rescue.matched, rescue.rescued, rescue.skipped) == (RescueStatus.DONE, 2, 2, 0)
    assert (rescue.created_by, rescue.reason, rescue.ended_at) == (desk.actor.id, "mended", desk.clock.now())
    assert await queued(desk) == wanted
    assert [await desk.task_status(task_id) for task_id in others] == ["failed", "failed"]
    assert not await desk.worker().upkeep.rescue_once()


async def test_a_large_rescue_takes_several_units_and_other_units_come_between(desk: Desk) -> None:
    dead = await add_letters(desk, 2 * RESCUE_LIMIT + 1)
    worker = desk.worker()
    plan = await start_rescue(desk)

    counts = []
    while await worker.upkeep.rescue_once():
        counts.append((await rescue_of(desk, plan)).rescued)
        assert len(await queued(desk)) == counts[-1]

    assert counts == [RESCUE_LIMIT, 2 * RESCUE_LIMIT, 2 * RESCUE_LIMIT + 1]
    assert await queued(desk) == dead


async def test_a_rescue_goes_on_where_a_worker_left_it(desk: Desk) -> None:
    dead = await add_letters(desk, RESCUE_LIMIT + 2)
    plan = await start_rescue(desk)
    await desk.worker(name="before").upkeep.rescue_once()

    await desk.worker(name="after").upkeep.rescue_once()

    assert await queued(desk) == dead
    rescue = await rescue_of(desk, plan)
    assert (rescue.status, rescue.rescued) == (RescueStatus.DONE, RESCUE_LIMIT + 2)


async def test_what_died_after_the_wish_is_not_touched(desk: Desk) -> None:
    first = await add_letter(desk)
    plan = await start_rescue(desk)
    desk.clock.move(0.001)
    later = await add_letter(desk)

    await desk.worker().upkeep.rescue_once()

    assert await queued(desk) == [first]
    assert await desk.state(later) == ("parse", "dead_letter", 1)
    assert (await rescue_of(desk, plan)).rescued == 1


@pytest.mark.parametrize("seconds", [0, 1])
async def test_what_dies_again_is_not_rescued_again(desk: Desk, seconds: float) -> None:
    await add_letters(desk, RESCUE_LIMIT + 1)
    plan = await start_rescue(desk)
    worker = desk.worker()

    while await worker.upkeep.rescue_once():
        desk.clock.move(seconds)
        await die(desk, await desk.claim(RESCUE_LIMIT))

    rescue = await rescue_of(desk, plan)
    assert (rescue.status, rescue.rescued) == (RescueStatus.DONE, RESCUE_LIMIT + 1)
    assert await queued(desk) == []


async def test_what_cannot_come_back_under_the_terms_is_skipped_and_counted(desk: Desk) -> None:
    gone = await add_letters(desk, 2, stage="bake")
    here = await add_letter(desk)

    plan = await start_rescue(desk)
    await desk.worker().upkeep.rescue_once()

    rescue = await rescue_of(desk, plan)
    assert (rescue.status, rescue.matched, rescue.rescued, rescue.skipped) == (RescueStatus.DONE, 3, 1, 2)
    assert await queued(desk) == [here]
    assert [await desk.state(task_id) for task_id in gone] == [("bake", "dead_letter", 1)] * 2


async def test_a_full_unit_of_skipped_ones_does_not_hide_those_behind_it(desk: Desk) -> None:
    await add_letters(desk, RESCUE_LIMIT, stage="bake")
    last = await add_letter(desk)
    plan = await start_rescue(desk)
    worker = desk.worker()

    while await worker.upkeep.rescue_once():
        pass

    rescue = await rescue_of(desk, plan)
    assert (rescue.status, rescue.rescued, rescue.skipped) == (RescueStatus.DONE, 1, RESCUE_LIMIT)
    assert await queued(desk) == [last]


async def test_what_somebody_else_rescued_meanwhile_is_not_counted(desk: Desk) -> None:
    first, second = await add_letters(desk, 2)
    plan = await start_rescue(desk)
    await desk.retry(first, override=True)
    await end(desk, first)

    await desk.worker().upkeep.rescue_once()

    rescue = await rescue_of(desk, plan)
    assert (rescue.matched, rescue.rescued, rescue.skipped) == (2, 1, 0)
    assert await desk.task_status(first) == "succeeded"
    assert await queued(desk) == [second]


async def test_a_rescue_that_was_stopped_rescues_no_more(desk: Desk) -> None:
    dead = await add_letters(desk, RESCUE_LIMIT + 5)
    plan = await start_rescue(desk)
    worker = desk.worker()
    await worker.upkeep.rescue_once()
    assert plan.rescue is not None

    stopped = await stop_rescue(desk, plan.rescue.id)
    again = await stop_rescue(desk, plan.rescue.id)

    assert (stopped.status, stopped.rescued, stopped.ended_at) == (
        RescueStatus.STOPPED,
        RESCUE_LIMIT,
        desk.clock.now(),
    )
    assert again == stopped
    assert not await worker.upkeep.rescue_once()
    assert await queued(desk) == dead[:RESCUE_LIMIT]


async def test_stopping_a_rescue_that_is_done_changes_nothing(desk: Desk) -> None:
    await add_letter(desk)
    plan = await start_rescue(desk)
    await desk.worker().upkeep.rescue_once()
    done = await rescue_of(desk, plan)
    desk.clock.move(5)

    stopped = await stop_rescue(desk, done.id)

    assert stopped == done


async def test_an_unknown_rescue_is_not_found(desk: Desk) -> None:
    with pytest.raises(NotFound):
        await stop_rescue(desk, "nobody")


async def test_rescues_are_carried_out_the_oldest_first_and_only_so_many_may_wait(desk: Desk) -> None:
    await add_letter(desk, kind="closed")
    await add_letter(desk)
    plans = [await start_rescue(desk, error_kind=kind) for kind in ("broken", "closed")]
    plans += [await start_rescue(desk) for _ in range(RESCUES_AT_ONCE_LIMIT - 2)]

    with pytest.raises(Conflict, match=f"{RESCUES_AT_ONCE_LIMIT} rescues are still running"):
        await start_rescue(desk)
    await desk.worker().upkeep.rescue_once()

    statuses = [(await rescue_of(desk, plan)).status for plan in plans]
    assert statuses == [RescueStatus.DONE] + [RescueStatus.RUNNING] * (RESCUES_AT_ONCE_LIMIT - 1)
    assert (await start_rescue(desk)).rescue is not None


async def test_rescues_are_listed_the_newest_first(desk: Desk) -> None:
    await add_letter(desk)
    started = [(await start_rescue(desk)).rescue for _ in range(3)]

    first = await desk.store.read(lambda work: dead_letters.list_rescues(work, desk.actor, PageCommand(limit=2)))

    assert list(first.items) == [started[2], started[1]]
    assert first.next == first.items[-1].id
