"""Concurrency: a stage's own limit holds in every worker, the oldest come first, and nobody waits for a full stage."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest

from app.domain.jobs import Claim
from app.ids import new_id
from app.pipelines import Context, Pipeline, Stage
from app.services import queue
from app.services.queue import Claimed, ClaimWork
from app.worker import execution
from tests.worker.desk import Desk
from tests.worker.shift import FaultyStore, Gate, NotedWakeups, ThreadGate, begin, ended, nothing_stuck, running

STAGES = ("parse", "photos", "publish")


def nothing(_context: Context) -> None:
    """Do nothing, successfully."""


async def claim(desk: Desk, room: Mapping[str, int], limit: int) -> Claimed:
    """Claim with so much room in each stage."""
    command = ClaimWork(worker="one", lease_token=new_id(), lease_seconds=30, room=room, limit=limit)
    return await desk.say(lambda work: queue.claim(work, command))


async def add(desk: Desk, stages: str) -> list[str]:
    """Add a task for each letter, one a second: a stands at the first stage, b at the second, c at the third."""
    tasks = []
    for letter in stages:
        tasks.append(await desk.add_task(stage=STAGES["abc".index(letter)]))
        desk.clock.move(1)
    return tasks


def tasks_of(claims: "list[Claim] | tuple[Claim, ...] | Any") -> set[str]:
    """Return the tasks of claims; those of one unit have no order."""
    return {claim.task_id for claim in claims}


# One worker ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 3])
async def test_a_stage_never_runs_more_often_at_once_than_it_allows(desk: Desk, most: int) -> None:
    tasks = await add(desk, "a" * 8)
    gate = Gate()
    async with running(desk.worker(Pipeline([Stage("parse", gate, concurrency=most)]), concurrency=6)):
        for _ in range(most):
            await gate.begun.get()
        for _ in range(5):
            desk.wakeups.work_added()
            assert await desk.rows("SELECT COUNT(*) FROM jobs WHERE lease_token IS NOT NULL") == [(most,)]

        gate.open.set()
        for task_id in tasks:
            await ended(desk, task_id)

    assert gate.most == most


async def test_a_stage_without_a_limit_takes_all_slots(desk: Desk) -> None:
    await add(desk, "aaaa")
    gate = Gate()
    step = await begin(desk.worker(gate.pipeline(), concurrency=3), gate)

    for _ in range(2):
        await gate.begun.get()

    assert gate.inside == 3
    gate.open.set()
    assert await step == 3


async def test_a_limit_above_the_workers_slots_does_not_add_any(desk: Desk) -> None:
    await add(desk, "aaaa")
    gate = Gate()
    gate.open.set()

    ran = await desk.worker(Pipeline([Stage("parse", gate, concurrency=200)]), concurrency=2).step()

    assert ran == 2


async def test_every_worker_has_the_room_of_a_stage_for_itself(desk: Desk) -> None:
    await add(desk, "aaaa")
    gate = Gate()
    pipeline = Pipeline([Stage("parse", gate, concurrency=1)])
    steps = [await begin(desk.worker(pipeline, name=name, concurrency=4), gate) for name in ("one", "two")]

    leased = await desk.rows("SELECT worker FROM jobs WHERE lease_token IS NOT NULL ORDER BY worker")

    gate.open.set()
    await asyncio.gather(*steps)
    assert leased == [("one",), ("two",)]


async def test_a_full_stage_does_not_keep_others_waiting(desk: Desk) -> None:
    await add(desk, "aaaaa")
    newer = await desk.add_task(stage="photos")
    gate = Gate()
    pipeline = Pipeline([Stage("parse", gate, concurrency=1), Stage("photos", nothing)])
    async with running(desk.worker(pipeline, concurrency=2)):
        await gate.begun.get()

        await ended(desk, newer)

        assert gate.inside == 1
        gate.open.set()


async def test_the_end_of_an_attempt_makes_room_for_the_next_one_of_its_stage(desk: Desk) -> None:
    first, second = await add(desk, "aa")
    begun: asyncio.Queue[str] = asyncio.Queue()
    may_end: dict[str, asyncio.Event] = {first: asyncio.Event(), second: asyncio.Event()}

    async def handler(context: Context) -> None:
        begun.put_nowait(context.task_id)
        await may_end[context.task_id].wait()

    async with running(desk.worker(Pipeline([Stage("parse", handler, concurrency=1)]), concurrency=4)):
        order = [await begun.get()]
        may_end[first].set()
        order.append(await begun.get())
        may_end[second].set()

    assert order == [first, second]


async def test_a_worker_whose_stage_is_full_does_not_ask_again_and_again(desk: Desk) -> None:
    await add(desk, "aaa")
    gate, wakeups = Gate(), NotedWakeups()
    pipeline = Pipeline([Stage("parse", gate, concurrency=1), Stage("photos", nothing)])
    async with running(desk.worker(pipeline, wakeups=wakeups, concurrency=4, poll_seconds=3_600)):
        await gate.begun.get()

        waits = [await wakeups.waits.get()]
        wakeups.work_added()
        waits.append(await wakeups.waits.get())
        gate.open.set()

    assert waits == [3_600, 3_600]


# Attempts that were given up -----------------------------------------------------------------------------------------


async def test_a_thread_that_is_stuck_keeps_the_room_of_its_stage_and_of_the_worker(desk: Desk) -> None:
    gate = ThreadGate()
    await add(desk, "aa")
    other = [await desk.add_task(stage="photos") for _ in range(3)]
    pipeline = Pipeline([Stage("parse", gate, timeout_seconds=0.2, concurrency=1), Stage("photos", nothing)])
    worker = desk.worker(pipeline, concurrency=2, chance=0)
    while not worker.slots.threads.stuck:
        await worker.step()

    ran = [await worker.step() for _ in range(4)]
    parsing = await desk.rows("SELECT COUNT(*) FROM attempts WHERE stage = 'parse'")
    gate.open.set()
    await nothing_stuck(worker)

    assert set(ran) <= {0, 1}
    assert parsing == [(1,)]
    assert [await desk.task_status(task) for task in other] == ["succeeded"] * 3
    assert await worker.step() == 1


async def test_a_worker_whose_slots_are_all_stuck_claims_nothing(desk: Desk) -> None:
    gate = ThreadGate()
    await add(desk, "aab")
    pipeline = Pipeline([Stage("parse", gate, timeout_seconds=0.2), Stage("photos", nothing)])
    worker = desk.worker(pipeline, concurrency=2)
    await worker.step()

    ran = await worker.step()
    stuck = worker.slots.threads.stuck.total()
    await worker.upkeep.keep_leases_once()
    told = await desk.rows("SELECT stuck_json FROM workers")
    gate.open.set()
    await nothing_stuck(worker)

    assert (ran, stuck, told) == (0, 2, [('{"parse":2}',)])


async def test_an_async_handler_that_does_not_end_keeps_its_room_too(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "CANCEL_SECONDS", 0.01)
    mercy = asyncio.Event()

    async def stubborn(_context: Context) -> None:
        while not mercy.is_set():
            with suppress(asyncio.CancelledError):
                await mercy.wait()

    await add(desk, "aab")
    pipeline = Pipeline(
        [Stage("parse", stubborn, timeout_seconds=0.01, concurrency=1), Stage("photos", nothing, concurrency=1)]
    )
    worker = desk.worker(pipeline, concurrency=2, chance=0)
    await worker.step()

    ran = await worker.step()
    parsing = await desk.rows("SELECT COUNT(*) FROM attempts WHERE stage = 'parse'")
    mercy.set()
    await nothing_stuck(worker)

    assert (ran, parsing) == (0, [(1,)])
    assert await worker.step() == 1


# The queue -----------------------------------------------------------------------------------------------------------


async def test_the_oldest_come_first_whatever_their_stages(desk: Desk) -> None:
    tasks = await add(desk, "cabbac")

    claimed = [tasks_of((await claim(desk, dict.fromkeys(STAGES, 1), 1)).claims) for _ in tasks]

    assert claimed == [{task} for task in tasks]


@pytest.mark.parametrize(
    ("waiting", "room", "limit", "claimed"),
    [
        ("aaaaab", {"parse": 1, "photos": 3}, 4, [0, 5]),
        ("aaaaabbbb", {"parse": 1, "photos": 2}, 4, [0, 5, 6]),
        ("bbaaa", {"parse": 2, "photos": 3}, 4, [0, 1, 2, 3]),
        ("aaabbb", {"parse": 2, "photos": 3}, 4, [0, 1, 3, 4]),
        ("abcabcabc", {"parse": 1, "photos": 2, "publish": 9}, 5, [0, 1, 2, 4, 5]),
        ("abcabcabc", {"parse": 9, "photos": 9, "publish": 9}, 5, [0, 1, 2, 3, 4]),
        ("abab", {"parse": 0, "photos": 1}, 4, [1]),
        ("abab", {"parse": -3, "photos": 9}, 4, [1, 3]),
        ("aaaa", {"parse": 0}, 4, []),
        ("aaaa", {}, 4, []),
        ("cba", {"parse": 1, "photos": 1}, 4, [1, 2]),
        ("", {"parse": 1}, 4, []),
    ],
)
async def test_one_claim_takes_the_oldest_for_which_there_is_room(
    desk: Desk, waiting: str, room: dict[str, int], limit: int, claimed: list[int]
) -> None:
    tasks = await add(desk, waiting)

    leased = (await claim(desk, room, limit)).claims

    assert tasks_of(leased) == {tasks[number] for number in claimed}
    assert len(leased) == len(claimed)


async def test_a_claim_that_finds_no_room_leaves_everything_as_it_was(desk: Desk) -> None:
    await add(desk, "aabb")
    before = await desk.everything()

    await claim(desk, {"parse": 0, "photos": -1}, 4)

    assert await desk.everything() == before


async def test_stages_with_room_are_claimed_in_one_unit_beside_full_ones(desk: Desk) -> None:
    await add(desk, "aaaaabbbbb")
    store = FaultyStore(desk.store)
    units: list[None] = []
    store.after_write = lambda: units.append(None)
    gate = Gate()
    pipeline = Pipeline([Stage("parse", gate, concurrency=2), Stage("photos", gate, concurrency=3)])

    step = await begin(desk.worker(pipeline, store=store, concurrency=10), gate)
    written = len(units)
    leased = await desk.rows(
        "SELECT stage, COUNT(*) FROM jobs WHERE lease_token IS NOT NULL GROUP BY stage ORDER BY stage"
    )
    gate.open.set()
    await step

    assert (written, leased) == (1, [("parse", 2), ("photos", 3)])


@pytest.mark.parametrize(
    ("room", "next_due_seconds"),
    [({"parse": 1, "photos": 1}, 10), ({"photos": 1}, 20), ({"parse": 0, "photos": 1}, 20), ({"publish": 1}, None)],
)
async def test_a_claim_tells_when_the_next_attempt_falls_due_for_which_there_is_room(
    desk: Desk, room: dict[str, int], next_due_seconds: float | None
) -> None:
    await add(desk, "ab")
    claims = sorted((await claim(desk, dict.fromkeys(STAGES, 2), 2)).claims, key=lambda claim: claim.stage)
    for seconds, snoozed in zip((10, 20), claims, strict=True):
        await desk.say(lambda work, s=seconds, c=snoozed: queue.snooze(work, c, delay_seconds=s))  # type: ignore[misc]  # mypy infers no lambda with defaults

    claimed = await claim(desk, room, 2)

    assert claimed == Claimed([], next_due_seconds)


async def test_a_claim_that_takes_what_is_due_tells_of_what_is_not_yet(desk: Desk) -> None:
    await add(desk, "a")
    [first] = (await claim(desk, {"parse": 1}, 1)).claims
    await desk.say(lambda work: queue.snooze(work, first, delay_seconds=60))
    await desk.add_task(stage="parse")

    claimed = await claim(desk, {"parse": 5}, 5)

    assert (len(claimed.claims), claimed.next_due_seconds) == (1, 60)


async def test_a_task_keeps_its_place_from_stage_to_stage_before_younger_ones(desk: Desk) -> None:
    order: list[tuple[str, str]] = []

    def handler(context: Context) -> None:
        order.append((context.task_id, context.stage))

    old, young = await add(desk, "aa")
    worker = desk.worker(Pipeline([Stage(name, handler, concurrency=1) for name in STAGES]), concurrency=1)

    for _ in range(6):
        await worker.step()

    assert order == [(task, stage) for task in (old, young) for stage in STAGES]
