"""Two workers on one store: one that is held past its lease changes nothing, and no wake-up is needed for anything."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from app.pipelines import Context, Pipeline, RetryPolicy, Snooze, Stage
from app.unit import Store, UnitOfWork
from app.wakeups import Wakeups
from app.worker.worker import Worker
from tests.worker.desk import Desk
from tests.worker.shift import PATIENCE_SECONDS, Gate, ThreadGate, running, told

T = TypeVar("T")

SHORT_SECONDS = 0.3
"""A lease so short that its heartbeat comes every tenth of a second; the store's clock stands still meanwhile."""


class HeldStore:
    """A store whose caller is held at its next word, as a process is that was stopped; and is let go again."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.is_free = asyncio.Event()
        self.is_free.set()
        self.waiting = 0

    async def write(self, body: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """Write once nobody holds the caller."""
        await self._go()
        return await self._store.write(body)

    async def read(self, body: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """Read once nobody holds the caller."""
        await self._go()
        return await self._store.read(body)

    async def hold(self, words: int) -> None:
        """Hold the caller; return when so many of its words wait."""
        self.is_free.clear()
        while self.waiting < words:
            await asyncio.sleep(0)

    async def _go(self) -> None:
        self.waiting += 1
        await self.is_free.wait()
        self.waiting -= 1


async def until(desk: Desk, task_id: str, *statuses: str) -> None:
    """Look until a task has one of those statuses; nobody tells."""
    while await desk.task_status(task_id) not in statuses:
        await asyncio.sleep(0)


def pair(desk: Desk, first: Any, second: Any, **options: Any) -> tuple[HeldStore, Worker, Worker]:
    """Return two workers with wake-ups of their own, and the store behind which the first can be held."""
    store = HeldStore(desk.store)
    usual = {"lease_seconds": SHORT_SECONDS, "poll_seconds": 0.05, "chance": 0.0} | options
    one = desk.worker(one_stage(first), name="one", store=store, wakeups=Wakeups(), **usual)
    two = desk.worker(one_stage(second), name="two", wakeups=Wakeups(), **usual)
    return store, one, two


def one_stage(handler: Any) -> Pipeline:
    """Return a pipeline that has the one stage `parse`."""
    return Pipeline([Stage("parse", handler)])


# Held past its lease -------------------------------------------------------------------------------------------------


async def by_two(_context: Context) -> dict[str, str]:
    """Do what the first worker did not get done."""
    return {"by": "two"}


async def test_a_worker_held_before_it_could_tell_its_result_changes_nothing_when_it_is_let_go(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gate = Gate()
    store, one, two = pair(desk, gate, by_two)
    task_id = await desk.add_task()
    async with running(one):
        await gate.begun.get()
        gate.open.set()
        await store.hold(2)  # its heartbeat, and its claim or the record of what it did
        assert await desk.state(task_id) == ("parse", "running", 1)
        desk.clock.move(1)
        async with running(two):
            await until(desk, task_id, "succeeded")
        before = await desk.everything()

        store.is_free.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not one.upkeep.lost_leases:
                await asyncio.sleep(0)

    assert await desk.everything() == before
    assert await desk.history(task_id) == [
        ("parse", 1, "lease_expired", "lease_expired"),
        ("parse", 1, "succeeded", None),
    ]
    assert await desk.rows("SELECT value_json FROM outputs") == [('{"by":"two"}',)]
    endings = [(ending["recorded"], ending["level"]) for ending in told(caplog, "attempt_ended")]
    assert endings == [("task_ended", "INFO"), ("lease_lost", "WARNING")]


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "async"])
async def test_a_worker_held_while_its_handler_runs_lets_it_go_and_changes_nothing(desk: Desk, plain: bool) -> None:
    gate, thread = Gate(), ThreadGate()
    store, one, two = pair(desk, thread if plain else gate, by_two)
    task_id = await desk.add_task()
    async with running(one):
        await (thread.has_begun() if plain else gate.begun.get())
        await store.hold(1)
        desk.clock.move(1)
        async with running(two):
            await until(desk, task_id, "succeeded")
        before = await desk.everything()

        store.is_free.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not one.upkeep.lost_leases:
                await asyncio.sleep(0)
        thread.open.set()

    assert gate.inside == 0
    assert await desk.everything() == before
    assert one.upkeep.lost_leases == 1


async def test_a_worker_held_while_another_still_runs_its_task_does_not_disturb_it(desk: Desk) -> None:
    mine, others = Gate(), Gate()
    store, one, two = pair(desk, mine, others)
    task_id = await desk.add_task()
    async with running(one):
        await mine.begun.get()
        await store.hold(1)
        desk.clock.move(1)
        async with running(two):
            await others.begun.get()
            store.is_free.set()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not one.upkeep.lost_leases:
                    await asyncio.sleep(0)

            assert (mine.inside, others.inside) == (0, 1)
            others.open.set()
            await until(desk, task_id, "succeeded")

    assert [row[2] for row in await desk.history(task_id)] == ["lease_expired", "succeeded"]
    assert await desk.rows("SELECT worker FROM attempts ORDER BY lease_token") == [("one",), ("two",)]


async def test_a_worker_that_was_held_tells_in_its_heartbeat_what_it_lost_and_goes_on(desk: Desk) -> None:
    gate = Gate()
    store, one, two = pair(desk, gate, by_two)
    task_id = await desk.add_task()
    async with running(one):
        await gate.begun.get()
        await store.hold(1)
        desk.clock.move(1)
        async with running(two):
            await until(desk, task_id, "succeeded")
        store.is_free.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await desk.rows("SELECT lost_leases FROM workers WHERE name = 'one'") != [(1,)]:
                await asyncio.sleep(0)

        gate.open.set()
        following = await desk.add_task()
        await until(desk, following, "succeeded")

    assert await desk.rows("SELECT worker FROM attempts WHERE task_id = :id", id=following) == [("one",)]


# Without wake-ups ----------------------------------------------------------------------------------------------------


class Deaf(Wakeups):
    """Wake-ups that all get lost: whoever waits, waits until its time is up."""

    def work_added(self) -> None:
        """Say nothing."""

    def cancel_asked(self) -> None:
        """Say nothing."""

    def rescue_asked(self) -> None:
        """Say nothing."""

    def task_ended(self, task_id: str) -> None:
        """Say nothing."""


class Polls(Deaf):
    """The same, with a wait for work that is over when the test says so: each is one poll."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = asyncio.Event()
        self.poll = asyncio.Event()
        self.longest_seconds = 0.0

    async def wait_for_work(self, timeout_seconds: float) -> None:
        """Wait for the test instead of the time."""
        self.longest_seconds = max(self.longest_seconds, timeout_seconds)
        self.waiting.set()
        await self.poll.wait()
        self.poll.clear()

    async def once(self) -> None:
        """Let the worker look once, and wait until it waits again."""
        self.waiting.clear()
        self.poll.set()
        await self.waiting.wait()


async def test_a_worker_that_hears_nothing_does_one_stage_of_a_task_a_poll(desk: Desk) -> None:
    wakeups = Polls()
    worker = desk.worker(wakeups=wakeups, poll_seconds=0.5, concurrency=3)
    async with asyncio.timeout(PATIENCE_SECONDS):
        run = asyncio.create_task(worker.run())
        await wakeups.waiting.wait()
        tasks = [await desk.add_task() for _ in range(3)]
        stages = []
        for _ in range(5):
            await wakeups.once()
            while worker.slots.running:
                await asyncio.sleep(0)
            stages.append([await desk.state(task) for task in tasks])
        worker.stop()
        wakeups.poll.set()
        await run

    names = ("photos", "publish", "export", "cleanup")
    assert stages == [*([(name, "queued", 0)] * 3 for name in names), [("cleanup", "succeeded", 1)] * 3]
    assert wakeups.longest_seconds <= 0.5


async def test_two_workers_that_share_nothing_but_the_store_do_everything_without_a_wake_up(desk: Desk) -> None:
    gate = Gate()

    async def handler(context: Context) -> Any:
        match context.payload.get("wish"), context.attempt:
            case "fail once", 1:
                raise RuntimeError("once")
            case "wait", _:
                return await gate(context)
            case "snooze", _ if not (context.folder / "snoozed").exists():
                (context.folder / "snoozed").touch()
                return Snooze(1)
        return {}

    retry = RetryPolicy(base_seconds=0.001, cap_seconds=0.001)
    pipeline = Pipeline([Stage(name, handler, retry=retry) for name in ("parse", "photos")])
    lost = await desk.add_task()
    await desk.claim(worker="dead")
    desk.clock.move(30)
    wishes = [await desk.add_task(payload={"wish": wish}) for wish in ("fail once", "snooze", "nothing") for _ in "123"]
    unwanted = await desk.add_task(payload={"wish": "wait"})
    workers = [
        desk.worker(
            pipeline,
            name=name,
            wakeups=Deaf(),
            concurrency=2,
            poll_seconds=0.05,
            lease_seconds=SHORT_SECONDS,
            chance=0.0,
        )
        for name in ("one", "two")
    ]

    async with running(*workers):
        await gate.begun.get()
        await desk.cancel(unwanted)
        await until(desk, unwanted, "cancelled")
        while await desk.rows("SELECT COUNT(*) FROM attempts WHERE outcome = 'snoozed'") != [(3,)]:
            await asyncio.sleep(0)
        desk.clock.move(1)
        for task_id in [lost, *wishes]:
            await until(desk, task_id, "succeeded")

    assert await desk.rows("SELECT DISTINCT worker FROM attempts ORDER BY worker") == [("dead",), ("one",), ("two",)]
    assert await desk.rows("SELECT task_id FROM jobs") == []
    outcomes = await desk.rows("SELECT outcome, COUNT(*) FROM attempts GROUP BY outcome ORDER BY outcome")
    assert outcomes == [("cancelled", 1), ("failed", 6), ("lease_expired", 1), ("snoozed", 3), ("succeeded", 20)]


async def test_a_worker_that_hears_nothing_still_stops_within_a_poll(desk: Desk) -> None:
    wakeups = Polls()
    worker = desk.worker(wakeups=wakeups)
    run = asyncio.create_task(worker.run())
    await wakeups.waiting.wait()

    worker.stop()
    wakeups.poll.set()

    await asyncio.wait_for(run, PATIENCE_SECONDS)


async def test_two_workers_in_a_race_for_one_task_run_it_once(desk: Desk) -> None:
    for _ in range(20):
        await desk.add_task()
        workers = [desk.worker(name=name, wakeups=Wakeups()) for name in ("one", "two")]

        ran = await asyncio.gather(*(worker.step() for worker in workers))

        assert sum(ran) == 1
        await desk.rows("DELETE FROM jobs RETURNING task_id")
