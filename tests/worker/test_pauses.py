"""Pauses: no attempt of a stage begins until somebody resumes it; what runs goes on, and other stages too."""

import asyncio
from pathlib import Path

import pytest

from app.domain.control import EVERYTHING
from app.domain.users import Role
from app.errors import NotFound
from app.ids import new_id
from app.services import control, queue
from app.services.control import PauseStage, StageView
from app.services.queue import ClaimWork
from tests.support.house import STAGES, open_house
from tests.worker.cases import (
    add_letters,
    add_tasks,
    let_in,
    pause,
    pipeline_of,
    reopened,
    resume,
    shape_of,
    until_idle,
)
from tests.worker.desk import SHAPE, Desk, open_desk
from tests.worker.shift import Gate


async def view(desk: Desk, stage: str) -> StageView:
    """Return how a stage stands."""
    found = await desk.store.read(lambda work: control.view_stages(work, desk.actor, SHAPE))
    return next(view for view in found.stages if view.name == stage)


async def test_of_a_paused_stage_no_attempt_begins_until_it_is_resumed(desk: Desk) -> None:
    task_id = await desk.add_task(stage="export")
    await pause(desk, "export")

    assert await desk.claim() == []
    await resume(desk, "export")

    assert [claim.task_id for claim in await desk.claim()] == [task_id]


async def test_other_stages_go_on_while_one_is_paused(desk: Desk) -> None:
    task_id = await desk.add_task()
    await pause(desk, "publish")

    await until_idle(desk)

    assert await desk.state(task_id) == ("publish", "queued", 0)
    await resume(desk, "publish")
    await until_idle(desk)
    assert await desk.task_status(task_id) == "succeeded"


async def test_a_pause_of_everything_holds_all_stages(desk: Desk) -> None:
    for stage in STAGES:
        await desk.add_task(stage=stage)

    await pause(desk)

    assert await desk.claim(10) == []
    await resume(desk)
    assert len(await desk.claim(10)) == len(STAGES)


@pytest.mark.parametrize(("first", "second"), [(EVERYTHING, "parse"), ("parse", EVERYTHING)])
async def test_a_stages_own_pause_and_that_of_everything_are_two(desk: Desk, first: str, second: str) -> None:
    await desk.add_task()
    await pause(desk)
    await pause(desk, "parse")

    await resume(desk, first)
    assert await desk.claim() == []
    await resume(desk, second)

    assert len(await desk.claim()) == 1


async def test_what_runs_when_its_stage_is_paused_goes_on_and_hands_over(desk: Desk) -> None:
    task_id = await desk.add_task()
    gate = Gate()
    worker = desk.worker(pipeline_of("parse", "photos", parse=gate))
    step = asyncio.create_task(worker.step())
    await gate.begun.get()

    await pause(desk)
    await worker.upkeep.keep_leases_once()
    gate.open.set()
    await step

    assert await desk.state(task_id) == ("photos", "queued", 0)
    assert await worker.step() == 0


async def test_a_lost_lease_is_taken_back_while_everything_is_paused(desk: Desk) -> None:
    task_id = await desk.add_task()
    [_] = await desk.claim()
    await pause(desk)
    desk.clock.move(31)

    [taken] = await desk.take_back()

    assert taken.task_id == task_id
    assert await desk.claim() == []


async def test_a_task_that_is_rescued_into_a_paused_stage_waits_there(desk: Desk) -> None:
    [task_id] = await add_letters(desk)
    await pause(desk, "parse")

    await desk.retry(task_id, override=True)

    assert await desk.claim() == []
    assert await desk.state(task_id) == ("parse", "queued", 0)


async def test_a_pause_tells_who_when_and_why(desk: Desk) -> None:
    admin = await let_in(desk, "boss", Role.ADMIN)
    command = PauseStage(stage="parse", reason="the site is down", shape=SHAPE)

    await desk.say(lambda work: control.pause(work, admin, command))

    found = (await view(desk, "parse")).pause
    assert found is not None
    assert (found.stage, found.reason, found.subject) == ("parse", "the site is down", "boss")
    assert (found.paused_by, found.paused_at) == (admin.id, desk.clock.now())


@pytest.mark.parametrize("stage", ["parse", EVERYTHING])
async def test_pausing_again_keeps_the_first_reason(desk: Desk, stage: str) -> None:
    begin = desk.clock.now()
    await pause(desk, stage, reason="the site is down")
    desk.clock.move(60)

    shown = await pause(desk, stage, reason="we move")

    kept = shown.pause if stage == EVERYTHING else shown.stages[0].pause
    assert kept is not None
    assert (kept.reason, kept.paused_at) == ("the site is down", begin)


async def test_resuming_what_is_not_paused_changes_nothing(desk: Desk) -> None:
    await pause(desk, "photos")

    shown = [await resume(desk, "parse"), await resume(desk)]

    assert [view.pause is not None for view in shown[-1].stages] == [False, True, False, False, False]


async def test_a_stage_that_the_pipeline_does_not_have_can_be_neither_paused_nor_resumed(desk: Desk) -> None:
    with pytest.raises(NotFound, match="no stage bake; it has parse, photos"):
        await pause(desk, "bake")
    with pytest.raises(NotFound):
        await resume(desk, "bake")

    assert await desk.rows("SELECT stage FROM pauses") == []


async def test_the_pause_of_a_stage_that_was_lost_is_shown_and_can_be_taken_away(desk: Desk) -> None:
    await pause(desk, "parse")
    shape = shape_of("photos")

    shown = await desk.store.read(lambda work: control.view_stages(work, desk.actor, shape))
    gone = await desk.say(
        lambda work: control.resume(
            work, desk.actor, control.ResumeStage(stage="parse", reason="it is gone", shape=shape)
        )
    )

    assert [(view.name, view.is_known) for view in shown.stages] == [("photos", True), ("parse", False)]
    assert [view.name for view in gone.stages] == ["photos"]


async def test_a_pause_outlives_the_process(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as before:
        await before.add_task()
        await pause(before, "parse", reason="the site is down")

    async with reopened(before) as after:
        assert await after.claim() == []
        await resume(after, "parse")
        assert len(await after.claim()) == 1


async def test_a_paused_stage_with_many_waiting_does_not_hide_others(desk: Desk) -> None:
    await add_tasks(desk, 300)
    desk.clock.move(1)
    [other] = await add_tasks(desk, 1, stage="export")
    await pause(desk, "parse")

    claims = await desk.claim(4)

    assert [claim.task_id for claim in claims] == [other]


async def test_what_falls_due_in_a_paused_stage_does_not_wake_the_worker(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.say(lambda work: queue.snooze(work, claim, delay_seconds=5))
    wish = ClaimWork(worker="one", lease_token=new_id(), lease_seconds=30, room={"parse": 1}, limit=1)

    before = await desk.say(lambda work: queue.claim(work, wish))
    await pause(desk, "parse")
    while_paused = await desk.say(lambda work: queue.claim(work, wish))

    assert (before.next_due_seconds, while_paused.next_due_seconds) == (5, None)


@pytest.mark.parametrize("path", ["/v1/stages/parse", "/v1/stages"])
async def test_the_worker_is_woken_when_a_stage_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async with open_house(tmp_path) as house:
        await house.let_in("boss", Role.ADMIN)
        woken: list[str] = []
        for word in ("pause", "resume"):
            monkeypatch.setattr(house.container.wakeups, "work_added", lambda word=word: woken.append(word))
            answer = await house.client.post(f"{path}/{word}", json={"reason": "mended"}, headers=house.headers("boss"))
            assert answer.status_code == 200

    assert woken == ["resume"]
