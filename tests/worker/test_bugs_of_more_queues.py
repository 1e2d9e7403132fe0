"""Bugs that PgQueuer, Oban, graphile-worker and pg-boss had, and more of the first four, each held against Cabinet.

Not tested again, because another module holds it already, or because it cannot occur here:

Oban #1018 (an older notification sent last)             no order is promised between tasks; in one, stages follow
Oban #1496 (a late word over a newer end)                test_fencing, test_recovery: every word names its lease
graphile-worker #636 (completions never tried again)     test_worker_recording: recorded until the database takes it
pg-boss #760 (a full tier hides another's room)          test_concurrency: a full stage keeps no other waiting
PgQueuer #693 (a claimed batch stranded at the stop)     below, with #630
"""

import asyncio
import dataclasses
from contextlib import suppress
from pathlib import Path

import pytest

from app.domain.retry import RetryPolicy
from app.domain.tasks import TaskStatus
from app.errors import StorageBusy, StoreClosed
from app.main import Container
from app.pipelines import Context, Pipeline, Stage
from app.worker.options import WorkerOptions
from tests.support.house import house_settings, quiet_pipeline
from tests.worker.cases import add_tasks, attempts, end, lose_worker, name_of
from tests.worker.desk import Desk
from tests.worker.shift import PATIENCE_SECONDS, FaultyStore, Gate, begin, ended, told
from tests.worker.test_retention import DAY, KEPT, add_ended, left, prune


async def test_pgqueuer_430_two_heartbeats_that_fail_one_after_the_other_lose_no_lease(desk: Desk) -> None:
    """Two timers in a row let a heartbeat reach the database only once a limit, so that running jobs ran twice."""
    task_id = await desk.add_task()
    store, gate = FaultyStore(desk.store), Gate()
    worker = desk.worker(gate.pipeline(), store=store, lease_seconds=30)
    step = await begin(worker, gate)

    for beat in range(30):
        desk.clock.move(10 - 0.001)
        store.faults = [] if beat % 3 == 2 else [StorageBusy()]
        with suppress(StorageBusy):
            await worker.upkeep.keep_leases_once()
        assert await desk.take_back() == []

    gate.open.set()
    await step
    assert await desk.history(task_id) == [("parse", 1, "succeeded", None)]


async def test_pgqueuer_430_one_heartbeat_holds_all_that_a_worker_has(desk: Desk) -> None:
    """The same, for a worker with as many slots as there may be."""
    await add_tasks(desk, 256)
    gate = Gate()
    worker = desk.worker(gate.pipeline(), concurrency=256)
    step = asyncio.create_task(worker.step())
    async with asyncio.timeout(PATIENCE_SECONDS):
        for _ in range(256):
            await gate.begun.get()
    desk.clock.move(29)

    await worker.upkeep.keep_leases_once()

    assert await desk.rows("SELECT DISTINCT lease_expires_at FROM jobs") == [("2026-11-22T20:19:59.000000Z",)]
    gate.open.set()
    await step


@pytest.mark.parametrize("name", ["one", "two"])
async def test_pgqueuer_475_a_lost_attempt_does_not_count_against_the_limit_of_its_stage(desk: Desk, name: str) -> None:
    """What a killed container held counted as in flight, so the limit was reached and nobody could take it again."""
    task_id = await desk.add_task()
    await desk.claim(worker="one")
    desk.clock.move(31)
    worker = desk.worker(Pipeline([Stage("parse", name_of, concurrency=1)]), name=name)

    await worker.upkeep.keep_leases_once()

    assert await worker.step() == 1
    assert await desk.task_status(task_id) == "succeeded"


@pytest.mark.parametrize("limit", [1, 3])
async def test_pgqueuer_630_a_worker_that_is_cancelled_as_a_whole_strands_nothing(desk: Desk, limit: int) -> None:
    """CancelledError passed every `except Exception`, so no end was written and slots were held for ever."""
    added = await add_tasks(desk, limit)
    gate = Gate()
    run = asyncio.create_task(desk.worker(gate.pipeline(), concurrency=limit).run())
    for _ in added:
        await gate.begun.get()

    run.cancel()
    await asyncio.wait([run], timeout=PATIENCE_SECONDS)
    await desk.take_back_all()

    assert (run.done(), gate.inside) == (True, 0)
    assert [await desk.state(task_id) for task_id in added] == [("parse", "queued", 0)] * limit
    assert await desk.rows("SELECT 1 FROM attempts WHERE ended_at IS NULL") == []
    assert len(await desk.claim(limit)) == limit


async def test_pgqueuer_630_a_batch_that_was_claimed_as_the_stop_came_is_given_back(desk: Desk) -> None:
    """A batch that was claimed and not yet begun was stranded by the stop (#693)."""
    added = await add_tasks(desk, 3)
    store, gate = FaultyStore(desk.store), Gate()
    worker = desk.worker(gate.pipeline(), store=store, concurrency=3, grace_seconds=0)
    store.after_write = worker.stop

    async with asyncio.timeout(PATIENCE_SECONDS):
        await worker.run()

    assert [await desk.state(task_id) for task_id in added] == [("parse", "queued", 0)] * 3
    assert await desk.rows("SELECT SUM(crashes) FROM jobs WHERE lease_token IS NULL") == [(0,)]


UNUSUAL = {
    "artifacts_dir": Path("/tmp/elsewhere"),
    "concurrency": 7,
    "lease_seconds": 77.0,
    "poll_seconds": 3.5,
    "grace_seconds": 11.0,
    "retention": (13 * DAY, 17 * DAY, 19 * 3_600.0 * 24),
}
SETTINGS = {
    "artifacts_dir": Path("/tmp/elsewhere"),
    "worker_concurrency": 7,
    "worker_lease_seconds": 77,
    "worker_poll_seconds": 3.5,
    "shutdown_grace_seconds": 11,
    "task_retention_days": 13,
    "dead_letter_retention_days": 17,
    "key_retention_hours": 19 * 24,
}


def test_pgqueuer_675_every_option_of_a_worker_can_be_set(tmp_path: Path) -> None:
    """The command line never passed an option on, so workers that it started kept the default."""
    settings = house_settings(tmp_path, **SETTINGS)

    options = Container(settings, pipeline=quiet_pipeline()).worker()._options

    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(WorkerOptions)}
    assert given.pop("name")
    retention = given.pop("retention")
    kept = (retention.task_seconds, retention.dead_letter_seconds, retention.key_seconds)
    assert given | {"retention": kept} == UNUSUAL


async def test_oban_1141_a_task_that_a_worker_claims_again_from_itself_is_recorded_once(desk: Desk) -> None:
    """A second process ran the same job while the first still ran, because the rescuer went by time alone."""
    task_id = await desk.add_task()
    gate = Gate()
    worker = desk.worker(gate.pipeline(), concurrency=2)
    first = await begin(worker, gate)
    desk.clock.move(31)
    await desk.take_back()
    second = await begin(worker, gate)
    both = gate.inside

    await worker.upkeep.keep_leases_once()
    await first
    alone = gate.inside
    gate.open.set()
    await second

    assert (both, alone) == (2, 1)
    assert await desk.history(task_id) == [
        ("parse", 1, "lease_expired", "lease_expired"),
        ("parse", 1, "succeeded", None),
    ]
    assert worker.upkeep.lost_leases == 1


async def test_graphile_worker_313_tasks_that_kill_their_worker_do_not_keep_others_waiting(desk: Desk) -> None:
    """Jobs whose worker had crashed kept their place, so that those that hang came first again and again."""
    deadly = await add_tasks(desk, 2)
    desk.clock.move(1)
    healthy = await desk.add_task()

    for _ in range(2):
        claims = await desk.claim(2)
        assert [claim.task_id for claim in claims] == deadly
        desk.clock.move(31)
        await desk.take_back(chance=0.5)
    [claim] = await desk.claim(2)

    assert claim.task_id == healthy


async def test_graphile_worker_621_one_claim_takes_no_more_of_a_stage_than_may_run(desk: Desk) -> None:
    """One batch took several jobs of a queue whose jobs must run one by one (#622)."""
    await add_tasks(desk, 10)
    desk.clock.move(1)
    others = await add_tasks(desk, 3, stage="photos")
    gate = Gate()
    worker = desk.worker(Pipeline([Stage("parse", gate, concurrency=1), Stage("photos", gate)]), concurrency=4)
    step = asyncio.create_task(worker.step())
    begun = [await gate.begun.get() for _ in range(4)]

    assert sorted(context.stage for context in begun) == ["parse", "photos", "photos", "photos"]
    assert {context.task_id for context in begun if context.stage == "photos"} == set(others)
    gate.open.set()
    await step


async def test_pg_boss_756_a_full_stage_at_the_head_of_the_queue_does_not_starve_the_rest(desk: Desk) -> None:
    """The jobs of a saturated group stood at the front of every fetch and nothing else was ever found."""
    await add_tasks(desk, 500)
    desk.clock.move(1)
    other = await desk.add_task(stage="photos")
    gate = Gate()
    full = desk.worker(Pipeline([Stage("parse", gate, concurrency=1), Stage("photos", name_of)]), concurrency=2)
    step = await begin(full, gate)

    async with asyncio.timeout(PATIENCE_SECONDS):
        await ended(desk, other)

    assert (await desk.task_status(other), gate.inside) == ("succeeded", 1)
    gate.open.set()
    await step


async def test_pg_boss_759_what_is_given_back_unbegun_has_lost_nothing(desk: Desk) -> None:
    """Jobs fetched over the limit were put back, but each time it cost them a retry."""
    task_id = await desk.add_task()
    await lose_worker(desk)
    before = await desk.one("SELECT run_at, crashes FROM jobs")
    state = await desk.state(task_id)

    for _ in range(RetryPolicy().max_attempts + 1):
        worker = desk.worker(Gate().pipeline(), grace_seconds=0)
        run = asyncio.create_task(worker.run())
        while (await desk.state(task_id))[1] == "queued":
            await asyncio.sleep(0)
        worker.stop()
        await run

    assert await desk.one("SELECT run_at, crashes FROM jobs") == before
    assert await desk.state(task_id) == state


async def test_solid_queue_568_a_worker_that_ends_what_it_has_begun_is_alive_until_then(desk: Desk) -> None:
    """The heartbeat stopped before the graceful end, so what still ran was taken for lost (Procrastinate #1585)."""
    await desk.add_task()
    gate = Gate()
    worker = desk.worker(gate.pipeline())
    run = asyncio.create_task(worker.run())
    await gate.begun.get()
    worker.stop()
    await asyncio.sleep(0)
    desk.clock.move(20)

    await worker.upkeep.keep_leases_once()
    while_ending = await desk.rows("SELECT name, expires_at FROM workers")
    gate.open.set()
    await run

    assert while_ending == [("one", "2026-11-22T20:19:50.000000Z")]
    assert await desk.rows("SELECT name FROM workers") == []


async def test_procrastinate_1598_a_task_can_be_cancelled_while_its_worker_stops(desk: Desk) -> None:
    """A worker that drained no longer looked which of its jobs were aborted."""
    task_id = await desk.add_task()
    gate = Gate()
    worker = desk.worker(gate.pipeline(), grace_seconds=600)
    run = asyncio.create_task(worker.run())
    await gate.begun.get()
    worker.stop()
    await asyncio.sleep(0)

    await desk.cancel(task_id)
    await worker.upkeep.keep_leases_once()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await run

    assert await desk.task_status(task_id) == "cancelled"


async def test_river_1350_what_is_told_is_what_was_recorded(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """The event said that a job had failed, where the database had it as cancelled."""
    task_id = await desk.add_task()

    async def handler(context: Context) -> None:
        await desk.cancel(context.task_id)
        raise ValueError

    with desk.wakeups.watch(task_id) as changed:
        await desk.worker(Pipeline([Stage("parse", handler)])).step()

    [line] = told(caplog, "attempt_ended")
    assert (line["recorded"], line["is_dead_letter"]) == ("cancelled", False)
    assert (await desk.task_status(task_id), changed.is_set()) == ("cancelled", True)
    assert await desk.state(task_id) == ("parse", "cancelled", 1)


async def test_solid_queue_748_what_could_not_be_recorded_for_good_is_not_held_for_ever(desk: Desk) -> None:
    """Recording failed for good while the process lived on, so the job stayed claimed by it for ever."""
    task_id = await desk.add_task()
    store = FaultyStore(desk.store)

    def handler(context: Context) -> None:
        store.faults = [StoreClosed()]

    worker = desk.worker(Pipeline([Stage("parse", handler)]), store=store)
    await worker.step()
    for _ in range(4):
        desk.clock.move(10)
        await worker.upkeep.keep_leases_once()

    assert await desk.state(task_id) == ("parse", "queued", 0)
    assert [attempt.outcome for attempt in await attempts(desk, task_id)] == ["lease_expired"]


@pytest.mark.parametrize("status", [status for status in TaskStatus if status.is_ended])
async def test_oban_499_however_a_task_ends_it_is_pruned(desk: Desk, status: TaskStatus) -> None:
    """Jobs that were cancelled were never pruned, because the pruner did not know of that end."""
    task_id = await desk.add_task()
    match status:
        case TaskStatus.SUCCEEDED:
            await end(desk, task_id)
        case TaskStatus.CANCELLED:
            await desk.cancel(task_id)
        case _:
            await lose_worker(desk, RetryPolicy().max_crashes)
    stood = await desk.task_status(task_id)
    desk.clock.move(101 * DAY)

    await prune(desk)

    assert (stood, await left(desk)) == (status, [])


async def test_solid_queue_181_every_batch_is_pruned_and_counted(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """Pruning stopped after its first batch, because it went on by a count of something else."""
    caplog.set_level("INFO")
    await add_ended(desk, 250)
    desk.clock.move(10 * DAY)

    await prune(desk, kept=KEPT)

    lines = told(caplog, "pruned")
    assert await left(desk) == []
    assert [(line["keys"], line["tasks"]) for line in lines] == [(100, 100), (100, 100), (50, 50)]
