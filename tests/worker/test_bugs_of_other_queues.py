"""Bugs that other queues had, each held against Cabinet; its name and number lead to the thread in their repository.

Those of PgQueuer, Oban, graphile-worker and pg-boss lie in test_bugs_of_more_queues. Not tested again, because another
module holds it already, or because it cannot occur here:

River #1245, #1358 (a cancel by signal alone is lost)    test_cancel: the heartbeat reads it from the row
River #1331 (a client's default of "no time limit")      there is no such value: Stage refuses a limit that is not one
Solid Queue #350, #351 (a beat's value left in memory)   nothing is kept between two heartbeats but the claims
Solid Queue #761 (a slot given back twice)               no count of slots is stored: a stage's room is what runs
Solid Queue #779 (the error is missing in the event)     test_recovery: a lost lease is told with what became of it
Procrastinate #1131, #1256 (cancelled, yet queued)       test_cancel: whatever is said of a cancelled task ends it
Procrastinate #1436 (reconnecting exhausts the pool)     there is no connection that listens
"""

from collections.abc import Awaitable, Callable

import pytest

from app.clock import END_OF_TIME, Timestamp
from app.domain.jobs import Claim, Failure, LeaseHeld
from app.domain.retry import GiveUp, RetryIn, RetryPolicy, decide
from app.errors import StorageBusy
from app.pipelines import Pipeline, Stage
from app.services import queue
from app.services.leases import TAKE_BACK_LIMIT
from app.services.queue import Recorded
from app.unit import UnitOfWork
from app.wakeups import Wakeups
from tests.worker.cases import (
    BROKEN,
    add_letter,
    add_letters,
    add_tasks,
    beat,
    lose_worker,
    pause,
    pipeline_of,
    queued,
    rescue_of,
    resume,
    start_rescue,
    until_idle,
)
from tests.worker.desk import Desk
from tests.worker.shift import FaultyStore, Gate, ThreadGate, begin, ended, nothing_stuck, running
from tests.worker.test_retention import DAY, KEPT, add_ended, left

Word = Callable[[UnitOfWork, Claim], Awaitable[object]]

WORDS: dict[str, Word] = {
    "succeed": lambda work, claim: queue.succeed(work, claim, next_stage=None, outputs_json="{}"),
    "succeed and go on": lambda work, claim: queue.succeed(work, claim, next_stage="photos", outputs_json="{}"),
    "fail": lambda work, claim: queue.fail(work, claim, BROKEN, RetryIn(60)),
    "fail for good": lambda work, claim: queue.fail(work, claim, BROKEN, GiveUp()),
    "snooze": lambda work, claim: queue.snooze(work, claim, delay_seconds=60),
    "release": queue.release,
    "hold": lambda work, claim: work.jobs.extend(claim.task_id, claim.lease_token, expires_at=END_OF_TIME),
}


@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS)
async def test_river_1302_what_was_said_before_a_lease_is_taken_back_stands(desk: Desk, word: Word) -> None:
    """The rescuer fetched stuck jobs and later overwrote those that had completed, or were reclaimed, meanwhile."""
    claim = await desk.claimed_task()
    desk.clock.move(31)
    await desk.say(lambda work: word(work, claim))
    before = await desk.everything()

    taken = await desk.take_back()

    assert taken == []
    assert await desk.everything() == before


@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS)
async def test_river_1302_what_is_said_after_it_was_taken_back_and_claimed_again_is_dropped(
    desk: Desk, word: Word
) -> None:
    """The same from the other side: a job that was claimed again is running too, but it is another attempt."""
    await desk.add_task()
    claim = await lose_worker(desk)
    await desk.claim(worker="two")
    before = await desk.everything()

    said = await desk.say(lambda work: word(work, claim))

    assert said in (Recorded.LEASE_LOST, LeaseHeld.LOST)
    assert await desk.everything() == before


async def test_river_1318_a_full_batch_that_is_handled_otherwise_does_not_hide_those_behind_it(desk: Desk) -> None:
    """The rescuer fetched one batch, left all of it alone, and never looked at what stood behind."""
    added = await add_tasks(desk, TAKE_BACK_LIMIT + 1)
    for claim in (await desk.claim(TAKE_BACK_LIMIT + 1))[:TAKE_BACK_LIMIT]:
        await desk.cancel(claim.task_id, grace_seconds=3_600)
    desk.clock.move(31)

    taken = [len(await desk.take_back()) for _ in range(3)]

    assert taken == [TAKE_BACK_LIMIT, 1, 0]
    assert await queued(desk) == added[TAKE_BACK_LIMIT:]


async def test_river_1287_no_limit_is_never_reached(desk: Desk) -> None:
    """A time limit of -1 meant none, but the rescuer compared it with the time that had passed."""
    await add_ended(desk, 1)
    await add_letter(desk)
    before = await desk.everything()
    desk.clock.present = Timestamp("9000-01-01T00:00:00.000000Z")

    goes_on = await desk.worker().upkeep.prune_once()

    after = await desk.everything()
    assert not goes_on
    assert {name: rows for name, rows in after.items() if name != "attempt_minutes"} == {
        name: rows for name, rows in before.items() if name != "attempt_minutes"
    }
    assert decide(RetryPolicy(), attempt=1, retryable=True, chance=0.0, elapsed_seconds=1e12) == RetryIn(0.0)


async def test_river_1135_what_was_given_up_as_dead_stops_running_and_its_late_word_is_dropped(desk: Desk) -> None:
    """The rescuer discarded a job that still ran; nobody told its worker, and a second one could run beside it."""
    task_id = await desk.add_task()
    await lose_worker(desk, RetryPolicy().max_crashes - 1)
    desk.clock.move(300)
    gate = Gate()
    held = desk.worker(gate.pipeline(), name="held")
    step = await begin(held, gate)
    desk.clock.move(31)
    await desk.worker(name="other").upkeep.keep_leases_once()
    await start_rescue(desk)
    await desk.worker(name="other").upkeep.rescue_once()
    [again] = await desk.claim(worker="other")
    before = await desk.everything()

    await held.upkeep.keep_leases_once()
    await step

    after = await desk.everything()
    assert gate.inside == 0
    assert (again.task_id, again.attempt) == (task_id, 1)
    assert after == before


async def test_river_682_whether_a_worker_is_lost_is_not_told_by_how_long_it_runs(desk: Desk) -> None:
    """Stuck jobs were told by their age alone, so that long ones forced a long wait for those of dead workers."""
    first, second = await add_tasks(desk, 2)
    gate = Gate()
    living = desk.worker(gate.pipeline(), name="living")
    step = await begin(living, gate)
    [dead] = await desk.claim(worker="dead")
    for _ in range(4):
        desk.clock.move(10)
        await living.upkeep.keep_leases_once()

    assert dead.task_id == second
    assert [await desk.state(task_id) for task_id in (first, second)] == [
        ("parse", "running", 1),
        ("parse", "queued", 0),
    ]
    gate.open.set()
    await step


async def test_river_1258_a_thread_that_cannot_be_stopped_keeps_its_slot_but_not_its_task(desk: Desk) -> None:
    """Code that never looked up kept thousands of jobs in running for months."""
    task_id = await desk.add_task()
    gate = ThreadGate()
    worker = desk.worker(Pipeline([Stage("parse", gate, timeout_seconds=0.2)]), chance=0)
    while not worker.slots.threads.stuck:
        await worker.step()
    await desk.add_task()

    claimed = await worker.step()
    await worker.upkeep.keep_leases_once()

    [living] = await desk.store.read(lambda work: work.workers.alive(now=work.now()))
    assert claimed == 0
    assert {tuple(how) for _, _, *how in await desk.history(task_id)} == {("failed", "timeout")}
    assert (living.slots_stuck, living.has_room_for("parse")) == (1, False)
    gate.open.set()
    await nothing_stuck(worker)
    assert await worker.step() == 1


async def test_solid_queue_422_a_task_whose_worker_was_killed_is_queued_again(desk: Desk) -> None:
    """The jobs of a killed process landed among the failed ones, past every policy of retries."""
    task_id = await desk.add_task()

    stood = []
    for _ in range(RetryPolicy().max_crashes):
        await lose_worker(desk)
        desk.clock.move(300)
        stood.append((await desk.task_status(task_id), *await desk.state(task_id)))

    assert stood[:-1] == [("running", "parse", "queued", 0)] * (RetryPolicy().max_crashes - 1)
    assert stood[-1] == ("failed", "parse", "dead_letter", 1)


async def test_solid_queue_591_what_died_of_lost_workers_can_be_rescued_and_has_all_its_chances_again(
    desk: Desk,
) -> None:
    """Jobs that failed because their process was pruned could not be retried by themselves, nor together."""
    task_id = await desk.add_task()
    await lose_worker(desk, RetryPolicy(max_crashes=5).max_crashes)
    other = await add_letter(desk, stage="photos")

    plan = await start_rescue(desk, error_kind="lease_expired")
    await desk.worker().upkeep.rescue_once()
    await lose_worker(desk)
    again = await start_rescue(desk, error_kind="lease_expired")
    await until_idle(desk)

    assert ((await rescue_of(desk, plan)).rescued, again.rescue) == (1, None)
    assert await desk.task_status(task_id) == "succeeded"
    assert await desk.task_status(other) == "failed"


@pytest.mark.parametrize("first", ["success", "loss"])
async def test_solid_queue_589_a_task_never_both_succeeds_and_dies(desk: Desk, first: str) -> None:
    """A process that was pruned while it finished left a job that was finished and failed at once."""
    await desk.add_task()
    await lose_worker(desk, RetryPolicy().max_crashes - 1)
    desk.clock.move(300)
    [claim] = await desk.claim()
    desk.clock.move(31)
    acts: list[Callable[[], Awaitable[object]]] = [
        lambda: desk.say(lambda work: queue.succeed(work, claim, next_stage=None, outputs_json="{}")),
        desk.take_back,
    ]

    for act in acts if first == "success" else reversed(acts):
        await act()

    outcomes = [outcome for _, _, outcome, _ in await desk.history(claim.task_id)][-1:]
    letters, outputs = await desk.rows("SELECT 1 FROM dead_letters"), await desk.rows("SELECT 1 FROM outputs")
    expected = ("succeeded", ["succeeded"], 0, 1) if first == "success" else ("failed", ["lease_expired"], 1, 0)
    assert (await desk.task_status(claim.task_id), outcomes, len(letters), len(outputs)) == expected
    assert await queued(desk) == []


async def test_solid_queue_778_a_worker_whose_heartbeats_failed_for_too_long_records_nothing_and_lives_on(
    desk: Desk,
) -> None:
    """A process whose heartbeats kept failing was pruned by others and ran on, never to be registered again."""
    task_id = await desk.add_task()
    store, gate = FaultyStore(desk.store), Gate()
    worker = desk.worker(gate.pipeline(), store=store, name="cut off")
    step = await begin(worker, gate)
    await worker.upkeep.keep_leases_once()
    for _ in range(4):
        desk.clock.move(10)
        store.faults = [StorageBusy()]
        with pytest.raises(StorageBusy):
            await worker.upkeep.keep_leases_once()
    await desk.take_back()
    await desk.say(lambda work: work.workers.remove_dead(work.now()))
    [_] = await desk.claim(worker="other")
    before = await desk.everything()

    await worker.upkeep.keep_leases_once()
    await step

    assert await desk.everything() == before
    assert await desk.rows("SELECT name FROM workers") == [("cut off",)]
    assert await desk.state(task_id) == ("parse", "running", 1)


async def test_solid_queue_385_a_heartbeat_that_found_the_database_locked_does_not_spoil_the_next(desk: Desk) -> None:
    """A heartbeat met a locked SQLite file; what it had left in memory made every later one fail as well."""
    await desk.add_task()
    store, gate = FaultyStore(desk.store), Gate()
    worker = desk.worker(gate.pipeline(), store=store)
    step = await begin(worker, gate)
    desk.clock.move(10)
    store.faults = [StorageBusy()]
    with pytest.raises(StorageBusy):
        await worker.upkeep.keep_leases_once()

    desk.clock.move(10)
    await worker.upkeep.keep_leases_once()

    assert await desk.one("SELECT lease_expires_at FROM jobs") == ("2026-11-22T20:19:50.000000Z",)
    gate.open.set()
    await step


async def test_procrastinate_1518_a_lease_runs_out_though_nobody_remembers_its_worker(desk: Desk) -> None:
    """Once the dead worker's row was pruned, a join with the workers no longer found its jobs as stalled."""
    claim = await desk.claimed_task()
    await beat(desk, "one")
    desk.clock.move(31)
    await desk.say(lambda work: work.workers.remove("one"))

    [taken] = await desk.take_back()

    assert taken.task_id == claim.task_id


async def test_procrastinate_1518_a_new_worker_of_the_same_name_keeps_no_leases_of_the_old_one(desk: Desk) -> None:
    """A restarted worker with the dead one's id kept the dead one's jobs alive for ever."""
    first, second = await add_tasks(desk, 2)
    await desk.claim(worker="one")
    gate = Gate()
    again = desk.worker(gate.pipeline(), name="one")
    step = await begin(again, gate)
    for _ in range(4):
        desk.clock.move(10)
        await again.upkeep.keep_leases_once()

    assert [await desk.state(task_id) for task_id in (first, second)] == [
        ("parse", "queued", 0),
        ("parse", "running", 1),
    ]
    gate.open.set()
    await step


@pytest.mark.parametrize("how", ["the only slot is taken", "everything is paused"])
async def test_procrastinate_1408_upkeep_needs_no_slot_and_no_queue(desk: Desk, how: str) -> None:
    """The task that rescued stalled tasks was one of them, and stalled itself."""
    [ended_long_ago], [dead] = await add_ended(desk, 1), await add_letters(desk, 1)
    desk.clock.move(10 * DAY)
    lost = await desk.claimed_task()
    gate = Gate()
    worker = desk.worker(gate.pipeline(), retention=KEPT, name="two")
    await desk.add_task()
    step = await begin(worker, gate) if how == "the only slot is taken" else None
    await pause(desk)
    await start_rescue(desk)
    desk.clock.move(31)

    await worker.upkeep.keep_leases_once()
    await worker.upkeep.rescue_once()
    await worker.upkeep.prune_once()

    assert await desk.state(lost.task_id) == ("parse", "queued", 0)
    assert await desk.state(dead) == ("parse", "queued", 0)
    assert ended_long_ago not in await left(desk)
    gate.open.set()
    if step:
        await step


class Deaf(Wakeups):
    """Wake-ups of which none arrives."""

    def work_added(self) -> None:
        """Do nothing."""

    def cancel_asked(self) -> None:
        """Do nothing."""

    def rescue_asked(self) -> None:
        """Do nothing."""


async def test_procrastinate_1425_a_worker_that_hears_nothing_finds_all_there_is_to_do(desk: Desk) -> None:
    """After a lost connection notifications never came back, and workers went on by polling alone."""
    deaf = Deaf()
    desk.wakeups = deaf
    await pause(desk, "photos")
    failing = await desk.claimed_task()
    await desk.say(lambda work: queue.fail(work, failing, Failure(kind="x", message="x"), RetryIn(3_600)))
    worker = desk.worker(pipeline_of("parse", "photos"), poll_seconds=0.01, wakeups=deaf)

    async with running(worker):
        fresh = await desk.add_task()
        await desk.retry(failing.task_id)
        await resume(desk, "photos")
        await ended(desk, failing.task_id)
        await ended(desk, fresh)

    assert [await desk.task_status(task_id) for task_id in (failing.task_id, fresh)] == ["succeeded"] * 2
