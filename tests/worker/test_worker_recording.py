"""Recording how an attempt ended: again and again while the database cannot take it, and not once it is closed."""

import asyncio

import pytest

from app.errors import StorageBusy, StorageFailed, StorageFull, StoreClosed, TransactionLost, WriterBusy
from app.pipelines import Context, Pipeline, RetryPolicy, Stage
from app.worker import worker as worker_module
from tests.worker.desk import Desk
from tests.worker.shift import FaultyStore, Gate


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker try again without a pause."""
    monkeypatch.setattr(worker_module, "RECORD_AGAIN_SECONDS", 0)


def then_fails(store: FaultyStore, *faults: Exception, broken: bool = False) -> Pipeline:
    """Return a pipeline whose handler, when it is done, lets the next units fail."""

    def handler(_context: Context) -> dict[str, int]:
        store.faults = list(faults)
        if broken:
            raise RuntimeError("broken")
        return {"n": 1}

    return Pipeline([Stage("parse", handler, retry=RetryPolicy(max_attempts=1))])


@pytest.mark.parametrize("fault", [StorageFull(), StorageBusy(), WriterBusy()], ids=lambda fault: type(fault).__name__)
async def test_a_success_is_recorded_again_until_the_database_takes_it(
    desk: Desk, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    task_id = await desk.add_task()
    store = FaultyStore(desk.store)

    await desk.worker(then_fails(store, fault, fault, fault), store=store).step()

    assert await desk.history(task_id) == [("parse", 1, "succeeded", None)]
    assert await desk.task_status(task_id) == "succeeded"
    assert [record.msg for record in caplog.records].count("record_again") == 3


async def test_a_failure_is_recorded_again_too(desk: Desk) -> None:
    task_id = await desk.add_task()
    store = FaultyStore(desk.store)

    await desk.worker(then_fails(store, StorageFull(), broken=True), store=store).step()

    assert await desk.history(task_id) == [("parse", 1, "failed", "internal_error")]


@pytest.mark.parametrize(
    "fault", [StoreClosed(), StorageFailed(), TransactionLost()], ids=lambda fault: type(fault).__name__
)
async def test_nothing_is_recorded_again_after_a_failure_that_stays(
    desk: Desk, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    task_id = await desk.add_task()
    store = FaultyStore(desk.store)

    await desk.worker(then_fails(store, fault), store=store).step()

    assert store.faults == []
    assert await desk.state(task_id) == ("parse", "running", 1)
    assert [record.msg for record in caplog.records].count("record_given_up") == 1


async def test_a_lease_lost_while_it_could_not_be_recorded_is_noticed(desk: Desk) -> None:
    await desk.add_task()
    store = FaultyStore(desk.store)

    def handler(_context: Context) -> None:
        store.faults = [StorageBusy() for _ in range(1_000_000)]
        desk.clock.move(31)

    slow = desk.worker(Pipeline([Stage("parse", handler)]), store=store, name="slow")
    step = asyncio.create_task(slow.step())
    while not store.faults:
        await asyncio.sleep(0)
    await desk.worker(name="other").upkeep.keep_leases_once()
    taken_back = await desk.everything()
    store.faults = []
    await step

    assert await desk.rows("SELECT outcome FROM attempts") == [("lease_expired",)]
    assert await desk.everything() == taken_back


async def test_a_claim_that_the_database_does_not_take_claims_nothing(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    task_id = await desk.add_task()
    store = FaultyStore(desk.store)
    store.faults = [StorageBusy()]

    ran = await desk.worker(store=store).step()

    assert ran == 0
    assert await desk.state(task_id) == ("parse", "queued", 0)
    assert "worker_waits" in [record.msg for record in caplog.records]


async def test_a_worker_whose_disk_stays_full_still_stops(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "RECORD_AGAIN_SECONDS", 0.2)
    await desk.add_task()
    gate, store = Gate(), FaultyStore(desk.store)
    worker = desk.worker(gate.pipeline(), store=store, grace_seconds=0.05)
    run = asyncio.create_task(worker.run())
    await gate.begun.get()
    store.faults = [StorageFull() for _ in range(10_000)]
    gate.open.set()

    worker.stop()
    _, still_running = await asyncio.wait([run], timeout=2)

    store.faults = []
    await run
    assert not still_running
