"""Stats: how much there is, where it stands, who works, and how the last hour's attempts ended."""

from typing import Any

from app.clock import later
from app.domain.jobs import AttemptOutcome, Failure, MinuteOfAttempts
from app.domain.pipeline import PipelineShape, StateStatus
from app.domain.retry import GiveUp, RetryIn
from app.domain.tasks import TaskStatus
from app.pipelines import Context, Pipeline, Stage
from app.services import queue, stats
from app.services.control import StageView
from app.services.stats import Stats
from app.web import rendering_pipeline
from tests.support.house import STAGES
from tests.worker.cases import (
    add_letters,
    add_tasks,
    beat,
    end,
    lose_worker,
    pause,
    resume,
    shape_of,
    start_rescue,
)
from tests.worker.desk import SHAPE, Desk

CLOSED = Failure(kind="closed", message="The shop is closed.")


async def look(desk: Desk, shape: PipelineShape = SHAPE) -> Stats:
    """Return the stats."""
    return await desk.store.read(lambda work: stats.stats(work, desk.actor, shape))


async def stage(desk: Desk, name: str, shape: PipelineShape = SHAPE) -> StageView:
    """Return how one stage stands."""
    return next(view for view in (await look(desk, shape)).stages.stages if view.name == name)


async def shown(desk: Desk) -> dict[str, Any]:
    """Return the stats as they are shown."""
    return rendering_pipeline.stats(await look(desk))


async def take(desk: Desk, milliseconds: int, *, name: str = "parse", **claiming: Any) -> None:
    """Let an attempt of a stage succeed that takes so long."""
    await desk.add_task(stage=name)
    [claim] = await desk.claim(stages=[name], **claiming)
    desk.clock.move(milliseconds / 1000)
    await desk.say(lambda work: queue.succeed(work, claim, next_stage=None, outputs_json="{}"))


async def test_an_empty_service_has_nothing_to_count(desk: Desk) -> None:
    found = await look(desk)

    assert (found.now, found.tasks, found.workers, found.minutes) == (desk.clock.now(), {}, [], [])
    assert [view.name for view in found.stages.stages] == list(STAGES)
    assert all(not view.counts and view.oldest_due_at is None for view in found.stages.stages)
    assert (await shown(desk))["oldest_waiting_seconds"] is None


async def test_tasks_are_counted_by_status(desk: Desk) -> None:
    await add_letters(desk, 2)
    cancelled = await desk.add_task(stage="export")
    await desk.cancel(cancelled)
    await end(desk, await desk.add_task(stage="publish"))
    await desk.claimed_task()
    await add_tasks(desk, 3)

    found = await look(desk)

    assert found.tasks == {
        TaskStatus.FAILED: 2,
        TaskStatus.CANCELLED: 1,
        TaskStatus.SUCCEEDED: 1,
        TaskStatus.RUNNING: 1,
        TaskStatus.OPEN: 3,
    }


async def test_unfinished_tasks_are_counted_by_stage_and_status(desk: Desk) -> None:
    await add_letters(desk, 2)
    await add_tasks(desk, 6)
    claims = await desk.claim(3)
    await desk.say(lambda work: queue.fail(work, claims[0], CLOSED, RetryIn(60)))
    await desk.say(lambda work: queue.succeed(work, claims[1], next_stage="photos", outputs_json="{}"))
    await end(desk, await desk.add_task(stage="export"))

    parse, photos, export = [await stage(desk, name) for name in ("parse", "photos", "export")]

    assert parse.counts == {StateStatus.QUEUED: 3, StateStatus.RUNNING: 1, StateStatus.FAILED: 1}
    assert parse.dead_letters == 2
    assert photos.counts == {StateStatus.QUEUED: 1}
    assert (export.counts, export.dead_letters) == ({}, 0)


async def test_stages_that_the_pipeline_has_lost_are_shown_after_the_others(desk: Desk) -> None:
    await add_tasks(desk, 2, stage="bake")
    await add_letters(desk, 1, stage="age")

    found = (await look(desk, shape_of("parse", "publish", side_effects=["publish"]))).stages.stages

    assert [(view.name, view.is_known, view.has_side_effect) for view in found] == [
        ("parse", True, False),
        ("publish", True, True),
        ("age", False, False),
        ("bake", False, False),
    ]
    assert (found[2].dead_letters, found[3].counts) == (1, {StateStatus.QUEUED: 2})


async def test_the_oldest_that_could_run_is_told_and_no_other(desk: Desk) -> None:
    begin = desk.clock.now()
    await desk.claimed_task()
    desk.clock.move(10)
    await desk.add_task()
    desk.clock.move(10)
    await desk.add_task()
    snoozing = await desk.add_task(stage="photos")
    [claim] = await desk.claim(stages=["photos"])
    await desk.say(lambda work: queue.snooze(work, claim, delay_seconds=60))

    assert (await stage(desk, "parse")).oldest_due_at == later(begin, 10)
    assert (await stage(desk, "photos")).oldest_due_at is None
    view = await shown(desk)
    assert (view["oldest_waiting_since"], view["oldest_waiting_seconds"]) == (later(begin, 10), 10)
    desk.clock.move(60)
    assert (await stage(desk, "photos")).oldest_due_at == await desk.run_at(snoozing)


async def test_pauses_are_shown_with_what_waits_behind_them(desk: Desk) -> None:
    await add_tasks(desk, 2)
    await pause(desk, "parse", reason="the site is down")
    await pause(desk, reason="we move")

    view = await shown(desk)
    await resume(desk)

    pauses = {found["stage"]: found["paused"] for found in view["stages"]}
    assert pauses["parse"].items() >= {"reason": "the site is down", "subject": "root"}.items()
    assert pauses["photos"] is None
    assert view["paused"]["reason"] == "we move"
    assert view["stages"][0]["queued"] == 2
    assert (await shown(desk))["paused"] is None


async def test_attempts_are_counted_by_minute_with_their_mean_and_the_longest(desk: Desk) -> None:
    await take(desk, 1_000)
    await take(desk, 2_500)
    await take(desk, 250, name="export")
    desk.clock.move(60)
    await take(desk, 40)

    found = await look(desk)

    ok = AttemptOutcome.SUCCEEDED
    assert [(each.minute, each.stage, each.outcome, each.attempts) for each in found.minutes] == [
        ("2026-11-22T20:19:00Z", "export", ok, 1),
        ("2026-11-22T20:19:00Z", "parse", ok, 2),
        ("2026-11-22T20:20:00Z", "parse", ok, 1),
    ]
    assert [(each.milliseconds, each.longest_milliseconds, each.timed) for each in found.minutes] == [
        (250, 250, 1),
        (3_500, 2_500, 2),
        (40, 40, 1),
    ]
    [_, parse, _] = (await shown(desk))["minutes"]
    assert (parse["mean_milliseconds"], parse["longest_milliseconds"]) == (1_750, 2_500)


async def test_the_longest_is_kept_whatever_follows_it(desk: Desk) -> None:
    for milliseconds in (100, 900, 300):
        await take(desk, milliseconds)

    [minute] = (await look(desk)).minutes

    assert (minute.attempts, minute.longest_milliseconds) == (3, 900)


async def test_the_attempts_of_several_workers_are_counted_together(desk: Desk) -> None:
    await take(desk, 100, worker="one")
    await take(desk, 300, worker="two")

    [minute] = (await look(desk)).minutes

    assert minute == MinuteOfAttempts(
        minute="2026-11-22T20:19:00Z",
        stage="parse",
        outcome=AttemptOutcome.SUCCEEDED,
        attempts=2,
        timed=2,
        milliseconds=400,
        longest_milliseconds=300,
    )


async def test_every_way_to_end_is_counted_by_itself(desk: Desk) -> None:
    await add_tasks(desk, 7)
    claims = iter(await desk.claim(6))
    await desk.say(lambda work: queue.succeed(work, next(claims), next_stage=None, outputs_json="{}"))
    await desk.say(lambda work: queue.fail(work, next(claims), CLOSED, RetryIn(900)))
    await desk.say(lambda work: queue.fail(work, next(claims), CLOSED, GiveUp()))
    await desk.say(lambda work: queue.snooze(work, next(claims), delay_seconds=900))
    await desk.say(lambda work: queue.release(work, next(claims)))
    cancelled = next(claims)
    await desk.cancel(cancelled.task_id)
    await desk.say(lambda work: queue.release(work, cancelled))
    await lose_worker(desk)

    counts = {minute.outcome: minute.attempts for minute in (await look(desk)).minutes}

    assert counts == {
        AttemptOutcome.SUCCEEDED: 1,
        AttemptOutcome.FAILED: 2,
        AttemptOutcome.SNOOZED: 1,
        AttemptOutcome.RELEASED: 1,
        AttemptOutcome.CANCELLED: 1,
        AttemptOutcome.LEASE_EXPIRED: 1,
    }


async def test_how_long_an_attempt_took_whose_worker_was_lost_nobody_knows(desk: Desk) -> None:
    await desk.add_task()
    await lose_worker(desk)

    [minute] = (await shown(desk))["minutes"]

    assert (minute["attempts"], minute["mean_milliseconds"], minute["longest_milliseconds"]) == (1, None, None)


async def test_a_word_through_a_lost_lease_is_not_counted(desk: Desk) -> None:
    await desk.add_task()
    claim = await lose_worker(desk)

    await desk.say(lambda work: queue.succeed(work, claim, next_stage=None, outputs_json="{}"))

    assert [minute.outcome for minute in (await look(desk)).minutes] == [AttemptOutcome.LEASE_EXPIRED]


async def test_the_window_is_the_last_hour(desk: Desk) -> None:
    await take(desk, 10)
    desk.clock.move(60)
    await take(desk, 20)

    async def minutes() -> list[str]:
        return [minute.minute[11:16] for minute in (await look(desk)).minutes]

    assert await minutes() == ["20:19", "20:20"]
    desk.clock.move(3_600)
    assert await minutes() == ["20:20"]
    desk.clock.move(60)
    assert await minutes() == []


async def test_minutes_that_are_shown_no_longer_are_forgotten(desk: Desk) -> None:
    await take(desk, 10)
    desk.clock.move(2 * stats.WINDOW_SECONDS)
    await take(desk, 20)
    worker = desk.worker()

    await worker.upkeep.prune_once()
    kept = await desk.rows("SELECT minute FROM attempt_minutes ORDER BY minute")
    desk.clock.move(60)
    await worker.upkeep.prune_once()

    assert kept == [("2026-11-22T20:19",), ("2026-11-22T22:19",)]
    assert await desk.rows("SELECT minute FROM attempt_minutes") == [("2026-11-22T22:19",)]


async def test_workers_that_live_are_shown_with_what_they_hold(desk: Desk) -> None:
    await add_tasks(desk, 2)
    await desk.add_task(stage="export")
    await desk.claim(2, worker="one")
    await desk.claim(1, stages=["export"], worker="two")
    await beat(desk, "one", concurrency=4, stuck={"parse": 1})
    begin = desk.clock.now()
    desk.clock.move(29)
    await beat(desk, "two", concurrency=2)

    one, two = (await look(desk)).workers

    assert (one.heartbeat.name, one.leased, one.slots_taken) == ("one", {"parse": 2}, 3)
    assert (one.started_at, one.seen_at) == (begin, begin)
    assert (two.heartbeat.name, two.leased, two.slots_taken) == ("two", {"export": 1}, 1)
    desk.clock.move(1)
    assert [worker.heartbeat.name for worker in (await look(desk)).workers] == ["two"]


async def test_a_worker_that_goes_on_living_keeps_its_beginning(desk: Desk) -> None:
    begin = desk.clock.now()
    await beat(desk)
    desk.clock.move(29)
    await beat(desk)

    [worker] = (await look(desk)).workers

    assert (worker.started_at, worker.seen_at) == (begin, desk.clock.now())


async def test_a_worker_tells_its_stages_and_how_often_it_was_too_late(desk: Desk) -> None:
    async def too_late(context: Context) -> None:
        desk.clock.move(31)
        await desk.take_back()

    await desk.add_task()
    worker = desk.worker(Pipeline([Stage("parse", too_late, concurrency=2)]), concurrency=3)
    await worker.step()
    await worker.upkeep.keep_leases_once()

    [living] = (await look(desk)).workers

    assert (living.heartbeat.concurrency, living.heartbeat.stages) == (3, {"parse": 2})
    assert (living.slots_stuck, living.heartbeat.lost_leases) == (0, 1)


async def test_a_rescue_moves_tasks_from_the_dead_letters_into_the_queue(desk: Desk) -> None:
    await add_letters(desk, 3)
    await start_rescue(desk)

    await desk.worker().upkeep.rescue_once()

    view = await stage(desk, "parse")
    assert (view.dead_letters, view.counts) == (0, {StateStatus.QUEUED: 3})
