"""Recovery: what a lost worker held runs again soon, crashes have a limit of their own, and late words are dropped."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from app.clock import SystemClock, Timestamp, later
from app.domain.jobs import SUSPICIOUS_CRASHES, Claim
from app.domain.retry import RetryPolicy
from app.pipelines import Context, Fail, Pipeline, Snooze, Stage
from app.services import leases, queue
from app.services.leases import TAKE_BACK_LIMIT, Crashes, TakenBack
from app.services.queue import Recorded
from tests.worker.desk import Desk
from tests.worker.shift import FaultyStore, Gate, NotedWakeups, begin, ended, running, told

LEASE_SECONDS = 30
LOST = ("parse", 1, "lease_expired", "lease_expired")


def nothing(_context: Context) -> None:
    """Do nothing, successfully."""


def one_stage(handler: Any = nothing, **policy: Any) -> Pipeline:
    """Return a pipeline that has the one stage `parse`."""
    return Pipeline([Stage("parse", handler, retry=RetryPolicy(**policy))])


async def crash(desk: Desk, *, stages: tuple[str, ...] = ("parse",), limit: int = 1) -> list[Claim]:
    """Claim as a worker that is never heard of again; its leases have run out."""
    claims = await desk.claim(limit, stages=stages, worker="dead", lease_seconds=LEASE_SECONDS)
    desk.clock.move(LEASE_SECONDS)
    return claims


# Any living worker ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase_seconds", [0, 0.000001, 3, 9.999999])
async def test_what_a_lost_worker_held_is_queued_again_within_one_lease_time(desk: Desk, phase_seconds: float) -> None:
    claim = await desk.claimed_task()
    living = desk.worker(name="living", lease_seconds=LEASE_SECONDS)
    lived_seconds = phase_seconds
    desk.clock.move(phase_seconds)
    await living.upkeep.keep_leases_once()

    while await desk.state(claim.task_id) == ("parse", "running", 1):
        lived_seconds += LEASE_SECONDS / 3
        desk.clock.move(LEASE_SECONDS / 3)
        await living.upkeep.keep_leases_once()

    assert LEASE_SECONDS <= lived_seconds < LEASE_SECONDS + LEASE_SECONDS / 3
    assert await desk.state(claim.task_id) == ("parse", "queued", 0)
    assert await desk.history(claim.task_id) == [LOST]


async def test_nobody_takes_from_a_worker_that_holds_its_leases_every_third_of_their_time(desk: Desk) -> None:
    task_id = await desk.add_task()
    gate = Gate()
    worker, other = desk.worker(gate.pipeline(), name="one"), desk.worker(name="other")
    step = await begin(worker, gate)

    for _ in range(30):
        desk.clock.move(LEASE_SECONDS / 3)
        await other.upkeep.keep_leases_once()
        await worker.upkeep.keep_leases_once()
    gate.open.set()
    await step

    assert await desk.history(task_id) == [("parse", 1, "succeeded", None)]


async def test_a_worker_that_misses_one_heartbeat_loses_nothing(desk: Desk) -> None:
    task_id = await desk.add_task()
    gate = Gate()
    worker, other = desk.worker(gate.pipeline(), name="one"), desk.worker(name="other")
    step = await begin(worker, gate)

    for _ in range(3):
        desk.clock.move(2 * LEASE_SECONDS / 3)
        await other.upkeep.keep_leases_once()
        await worker.upkeep.keep_leases_once()
    gate.open.set()
    await step

    assert await desk.history(task_id) == [("parse", 1, "succeeded", None)]


async def test_a_worker_that_does_not_know_the_stage_queues_it_again_too(desk: Desk) -> None:
    task_id = await desk.add_task(stage="dream")
    await crash(desk, stages=("dream",))

    await desk.worker(one_stage()).upkeep.keep_leases_once()

    assert await desk.state(task_id) == ("dream", "queued", 0)


async def test_a_worker_whose_slots_are_all_taken_queues_again_what_others_lost(desk: Desk) -> None:
    await desk.add_task()
    gate = Gate()
    worker = desk.worker(gate.pipeline(), concurrency=1)
    step = await begin(worker, gate)
    lost = await desk.add_task()
    await crash(desk)

    await worker.upkeep.keep_leases_once()

    gate.open.set()
    await step
    assert await desk.state(lost) == ("parse", "queued", 0)


async def test_what_was_queued_again_is_run_by_the_worker_that_took_it_back(desk: Desk) -> None:
    task_id = await desk.add_task()
    await crash(desk)
    worker = desk.worker(one_stage(), name="living")

    await worker.upkeep.take_back_once()
    ran = await worker.step()

    assert ran == 1
    assert await desk.history(task_id) == [LOST, ("parse", 1, "succeeded", None)]
    assert await desk.rows("SELECT worker FROM attempts ORDER BY lease_token") == [("dead",), ("living",)]


async def test_two_workers_that_take_back_together_count_one_crash(desk: Desk) -> None:
    await desk.add_task()
    await crash(desk)
    workers = [desk.worker(name=name) for name in ("one", "two")]

    await asyncio.gather(*(worker.upkeep.take_back_once() for worker in workers))

    assert await desk.one("SELECT crashes, lease_token FROM jobs") == (1, None)
    assert len(await desk.rows("SELECT outcome FROM attempts")) == 1


async def test_one_unit_takes_back_a_limited_number_and_the_next_ones_the_rest(desk: Desk) -> None:
    count = TAKE_BACK_LIMIT + 1
    for _ in range(count):
        await desk.add_task()
    await crash(desk, limit=count)

    taken = [len(await desk.take_back()) for _ in range(3)]

    assert taken == [TAKE_BACK_LIMIT, 1, 0]


async def test_a_lost_lease_is_told_with_what_became_of_the_task(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    task_id = await desk.add_task()
    await crash(desk)

    await desk.worker(one_stage()).upkeep.take_back_once()

    assert told(caplog, "lease_expired") == [
        {"level": "WARNING", "task_id": task_id, "stage": "parse", "crashes": 1, "recorded": "done"}
    ]


# Their own limit -----------------------------------------------------------------------------------------------------


async def test_a_stage_with_one_attempt_still_runs_again_after_a_crash(desk: Desk) -> None:
    task_id = await desk.add_task()
    worker = desk.worker(one_stage(max_attempts=1, max_crashes=3), chance=0)

    for _ in range(2):
        await crash(desk)
        await worker.upkeep.take_back_once()
    await worker.step()

    assert await desk.history(task_id) == [LOST, LOST, ("parse", 1, "succeeded", None)]
    assert await desk.task_status(task_id) == "succeeded"


async def test_a_stage_that_crashed_as_often_as_it_may_is_a_dead_letter_with_its_row(desk: Desk) -> None:
    task_id = await desk.add_task()
    worker = desk.worker(one_stage(max_attempts=1, max_crashes=3), chance=0)

    for _ in range(3):
        await crash(desk)
        await worker.upkeep.take_back_once()

    assert await desk.state(task_id) == ("parse", "dead_letter", 1)
    assert await desk.task_status(task_id) == "failed"
    assert await desk.history(task_id) == [LOST] * 3
    assert await desk.rows("SELECT task_id FROM jobs") == []
    assert await desk.rows("SELECT task_id, stage, error_kind, error_message, died_at FROM dead_letters") == [
        (task_id, "parse", "lease_expired", "The worker was lost while this attempt ran.", desk.clock.now())
    ]


async def test_every_stage_has_its_own_limit_of_crashes(desk: Desk) -> None:
    strict = Stage("parse", nothing, retry=RetryPolicy(max_crashes=1))
    usual = Stage("photos", nothing)
    one, other = await desk.add_task(stage="parse"), await desk.add_task(stage="photos")
    await crash(desk, stages=("parse", "photos"), limit=2)

    await desk.worker(Pipeline([strict, usual])).upkeep.take_back_once()

    assert [await desk.task_status(task) for task in (one, other)] == ["failed", "running"]


async def test_a_stage_that_the_pipeline_does_not_have_gets_the_usual_limit(desk: Desk) -> None:
    await desk.add_task(stage="dream")
    worker = desk.worker(one_stage(max_crashes=1), chance=0)

    statuses = []
    for _ in range(RetryPolicy().max_crashes):
        await crash(desk, stages=("dream",))
        await worker.upkeep.take_back_once()
        statuses += await desk.rows("SELECT status FROM pipeline_states")

    assert statuses == [("queued",)] * (RetryPolicy().max_crashes - 1) + [("dead_letter",)]


async def test_failures_between_crashes_do_not_add_up_with_them(desk: Desk) -> None:
    def broken(_context: Context) -> None:
        raise RuntimeError("broken")

    task_id = await desk.add_task()
    worker = desk.worker(one_stage(broken, max_attempts=3, max_crashes=3), chance=0)

    for _ in range(2):
        await worker.step()
        await crash(desk)
        await worker.upkeep.take_back_once()

    assert await desk.state(task_id) == ("parse", "queued", 2)
    assert await desk.one("SELECT crashes FROM jobs") == (2,)


# Suspects run apart --------------------------------------------------------------------------------------------------


async def test_after_its_first_crash_a_task_does_not_wait_and_keeps_its_place(desk: Desk) -> None:
    task_id = await desk.add_task()
    due = await desk.run_at(task_id)
    await crash(desk)

    await desk.take_back(chance=0.9)

    assert await desk.run_at(task_id) == due


@pytest.mark.parametrize(("crashes", "wait_seconds"), [(2, 5), (3, 10), (4, 20), (5, 25)])
async def test_after_more_crashes_a_task_waits_for_a_part_of_the_backoff_that_chance_decides(
    desk: Desk, crashes: int, wait_seconds: float
) -> None:
    policy = RetryPolicy(base_seconds=10, factor=2, cap_seconds=50, max_crashes=9)
    task_id = await desk.add_task()
    for _ in range(crashes):
        await crash(desk)
        taken_at = desk.clock.now()
        await desk.take_back(chance=0.5, policies={"parse": policy})
        desk.clock.move(50)

    assert await desk.run_at(task_id) == later(taken_at, wait_seconds)
    assert await desk.state(task_id) == ("parse", "queued", 0)


async def test_tasks_that_died_beside_each_other_twice_run_apart(desk: Desk) -> None:
    tasks = [await desk.add_task() for _ in range(3)]
    await crash(desk, limit=3)
    await desk.take_back()
    await crash(desk, limit=3)
    chances = iter([0.0, 0.3, 0.6])
    policies = {"parse": RetryPolicy(base_seconds=100, cap_seconds=100)}
    await desk.say(lambda work: leases.take_back(work, Crashes(policies, lambda: next(chances))))

    beside = []
    for _ in range(3):
        beside.append([claim.task_id for claim in await desk.claim(limit=3)])
        desk.clock.move(30)

    assert [len(running) for running in beside] == [1, 1, 1]
    assert {task for running in beside for task in running} == set(tasks)


async def test_a_worker_lets_chance_decide_how_long_suspects_wait(desk: Desk) -> None:
    task_id = await desk.add_task()
    worker = desk.worker(one_stage(base_seconds=8), chance=0.25)

    for _ in range(2):
        await crash(desk)
        await worker.upkeep.take_back_once()

    assert await desk.run_at(task_id) == later(desk.clock.now(), 2)
    assert await worker.step() == 0


# Words through a lost lease ------------------------------------------------------------------------------------------


async def taken_back(desk: Desk) -> None:
    """The lease ran out, and somebody took it back."""
    desk.clock.move(LEASE_SECONDS)
    assert len(await desk.take_back()) == 1


async def claimed_again(desk: Desk) -> None:
    """Somebody else runs the stage now."""
    await taken_back(desk)
    assert len(await desk.claim(worker="other")) == 1


LOSSES = (taken_back, claimed_again)


def _raise(error: Exception) -> None:
    raise error


WORDS: dict[str, Callable[[], Any]] = {
    "succeeds": lambda: {"late": 1},
    "fails": lambda: _raise(RuntimeError("late")),
    "fails for good": lambda: _raise(Fail("late", "Too late.")),
    "snoozes": lambda: Snooze(1),
}

OUTCOMES = {"succeeds": "succeeded", "fails": "failed", "fails for good": "failed", "snoozes": "snoozed"}


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("word", WORDS)
async def test_a_late_word_of_a_worker_changes_nothing_and_is_told_and_counted(
    desk: Desk, word: str, loss: Callable[[Desk], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gate = Gate()

    async def handler(context: Context) -> Any:
        await gate(context)
        return WORDS[word]()

    await desk.add_task()
    worker = desk.worker(Pipeline([Stage("parse", handler), Stage("photos", nothing)]))
    step = await begin(worker, gate)
    await loss(desk)
    before = await desk.everything()

    gate.open.set()
    await step

    assert await desk.everything() == before
    [ending] = told(caplog, "attempt_ended")
    assert (ending["level"], ending["recorded"], ending["outcome"]) == ("WARNING", "lease_lost", OUTCOMES[word])
    assert worker.upkeep.lost_leases == 1
    await worker.upkeep.keep_leases_once()
    assert await desk.rows("SELECT name, lost_leases FROM workers") == [("one", 1)]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
async def test_an_attempt_given_back_through_a_lost_lease_changes_nothing_and_is_told_and_counted(
    desk: Desk, loss: Callable[[Desk], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await desk.add_task()
    gate, wakeups = Gate(), NotedWakeups()
    worker = desk.worker(gate.pipeline(), wakeups=wakeups, grace_seconds=0)
    run = asyncio.create_task(worker.run())
    await gate.begun.get()
    await wakeups.has_beaten.wait()
    await loss(desk)
    before = await desk.everything()

    worker.stop()
    await run

    assert await desk.everything() == before
    [ending] = told(caplog, "attempt_ended")
    assert (ending["level"], ending["recorded"], ending["outcome"]) == ("WARNING", "lease_lost", "stopped")
    assert worker.upkeep.lost_leases == 1


async def test_words_in_time_are_not_counted_as_lost(desk: Desk) -> None:
    await desk.add_task()
    worker = desk.worker()

    for _ in range(5):
        await worker.step()
    await worker.upkeep.keep_leases_once()

    assert await desk.rows("SELECT lost_leases FROM workers") == [(0,)]


async def test_an_attempt_whose_lease_is_lost_is_told_apart_from_a_newer_one_of_the_same_worker(desk: Desk) -> None:
    task_id = await desk.add_task()
    old, new = Gate(), Gate()
    gates = iter([old, new])

    async def handler(context: Context) -> Any:
        return await next(gates)(context)

    worker = desk.worker(Pipeline([Stage("parse", handler)]), concurrency=2)
    first = await begin(worker, old)
    await taken_back(desk)
    second = await begin(worker, new)
    desk.clock.move(1)

    await worker.upkeep.keep_leases_once()
    await first

    assert (old.inside, new.inside) == (0, 1)
    assert await desk.one("SELECT lease_expires_at FROM jobs") == (later(desk.clock.now(), LEASE_SECONDS),)
    new.open.set()
    await second
    assert await desk.history(task_id) == [LOST, ("parse", 1, "succeeded", None)]


# Claims in batches ---------------------------------------------------------------------------------------------------


async def test_one_unit_leases_as_many_attempts_as_the_worker_has_slots(desk: Desk) -> None:
    for _ in range(25):
        await desk.add_task()
    store = FaultyStore(desk.store)
    leased_after_unit: list[int] = []
    gate = Gate()
    store.after_write = lambda: leased_after_unit.append(len(worker.slots.running))
    worker = desk.worker(gate.pipeline(), store=store, concurrency=20)

    step = await begin(worker, gate)
    [leased] = await desk.one("SELECT COUNT(*) FROM jobs WHERE lease_token IS NOT NULL")
    tokens = await desk.rows("SELECT DISTINCT lease_token FROM jobs WHERE lease_token IS NOT NULL")
    units = len(leased_after_unit)
    gate.open.set()

    assert (units, leased, len(tokens)) == (1, 20, 1)
    assert await step == 20


async def test_attempts_of_one_batch_end_each_on_their_own(desk: Desk) -> None:
    async def handler(context: Context) -> Any:
        return WORDS[context.payload["word"]]()

    tasks = {word: await desk.add_task(payload={"word": word}) for word in WORDS}

    await desk.worker(one_stage(handler), concurrency=4).step()

    assert {word: (await desk.state(task))[1] for word, task in tasks.items()} == {
        "succeeds": "succeeded",
        "fails": "failed",
        "fails for good": "dead_letter",
        "snoozes": "queued",
    }


# No clock of its own -------------------------------------------------------------------------------------------------

DECADE_SECONDS = 315_360_000


def _no_clock(_clock: SystemClock) -> Timestamp:
    raise AssertionError("somebody asked the machine for the time")


@pytest.mark.parametrize("skew_seconds", [-DECADE_SECONDS, -60, 60, DECADE_SECONDS])
async def test_a_worker_beside_a_store_with_another_time_neither_steals_nor_loses(
    desk: Desk, skew_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SystemClock, "now", _no_clock)
    desk.clock.move(skew_seconds)
    task_id = await desk.add_task()
    gate = Gate()
    worker, other = desk.worker(gate.pipeline(), name="one"), desk.worker(name="other")
    step = await begin(worker, gate)

    for _ in range(5):
        desk.seconds.move(DECADE_SECONDS)
        desk.clock.move(LEASE_SECONDS / 3)
        await other.upkeep.keep_leases_once()
        assert await other.step() == 0
        await worker.upkeep.keep_leases_once()
    gate.open.set()
    await step

    assert await desk.history(task_id) == [("parse", 1, "succeeded", None)]
    assert (worker.upkeep.lost_leases, other.upkeep.lost_leases) == (0, 0)


@pytest.mark.parametrize("skew_seconds", [-DECADE_SECONDS, 0, DECADE_SECONDS])
async def test_a_worker_waits_for_the_next_attempt_by_the_time_of_the_store(desk: Desk, skew_seconds: float) -> None:
    desk.clock.move(skew_seconds)

    await desk.add_task()
    await desk.worker(one_stage(lambda _context: Snooze(1_000))).step()
    desk.clock.move(400)
    wakeups = NotedWakeups()

    async with running(desk.worker(one_stage(), wakeups=wakeups, poll_seconds=3_600)):
        waits = await wakeups.waits.get()

    assert waits == 600


async def test_the_time_that_an_attempt_took_is_the_stores(desk: Desk) -> None:
    def handler(_context: Context) -> None:
        desk.seconds.move(DECADE_SECONDS)
        desk.clock.move(2.5)

    await desk.add_task()

    await desk.worker(one_stage(handler)).step()

    assert await desk.one("SELECT milliseconds FROM attempts") == (2_500,)


# In one go -----------------------------------------------------------------------------------------------------------


async def test_a_running_worker_takes_over_from_a_dead_one_by_itself(desk: Desk) -> None:
    tasks = [await desk.add_task() for _ in range(5)]
    assert len(await crash(desk, limit=5)) == 5

    async with running(desk.worker(one_stage(), concurrency=2, lease_seconds=0.03, poll_seconds=0.01)):
        for task_id in tasks:
            await ended(desk, task_id)

    assert await desk.rows("SELECT DISTINCT outcome, worker FROM attempts ORDER BY 1") == [
        ("lease_expired", "dead"),
        ("succeeded", "one"),
    ]


async def test_the_owner_of_a_file_ends_what_was_cancelled_and_takes_the_rest_back(desk: Desk) -> None:
    kept, cancelled = [await desk.add_task() for _ in range(2)]
    await desk.claim(limit=2)
    await desk.cancel(cancelled)

    taken = await desk.take_back_all()

    assert sorted(taken, key=lambda back: back.task_id) == [
        TakenBack(kept, "parse", 1, Recorded.DONE),
        TakenBack(cancelled, "parse", 0, Recorded.CANCELLED),
    ]


# Suspects ------------------------------------------------------------------------------------------------------------


async def test_who_runs_beside_a_task_that_kills_its_worker_does_not_die_with_it(desk: Desk) -> None:
    killer, *innocents = [await desk.add_task() for _ in range(4)]

    while claims := await desk.claim(4):
        if killer in [claim.task_id for claim in claims]:
            await desk.take_back_all()
        else:
            for claim in claims:
                await desk.say(partial(queue.succeed, claim=claim, next_stage=None, outputs_json="{}"))

    assert await desk.task_status(killer) == "failed"
    assert [await desk.task_status(task_id) for task_id in innocents] == ["succeeded"] * 3


async def test_a_worker_runs_one_suspect_at_a_time_and_others_beside_it(desk: Desk) -> None:
    suspects = [await desk.add_task() for _ in range(2)]
    for _ in range(SUSPICIOUS_CRASHES):
        await desk.claim(2)
        await desk.take_back_all()
    fresh = [await desk.add_task() for _ in range(2)]
    gate = Gate()
    worker = desk.worker(gate.pipeline(), concurrency=4)

    async with running(worker):
        begun = {(await gate.begun.get()).task_id for _ in range(3)}
        waiting = await desk.rows("SELECT task_id FROM jobs WHERE lease_token IS NULL")
        gate.open.set()
        for task_id in [*suspects, *fresh]:
            await ended(desk, task_id)

    assert begun == {suspects[0], *fresh}
    assert waiting == [(suspects[1],)]
