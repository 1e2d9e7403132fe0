"""Callers that leave, that wait in line, and that are there when the store closes (design §3, rules 2 and 4)."""

import asyncio
from pathlib import Path

import pytest

from app.db.store import SqliteStore
from app.errors import StoreClosed, WriterBusy
from app.metrics import Metrics
from tests.support.database import Barrier, Numbers, insert, insert_then, numbers_in, open_numbers

Task = asyncio.Task[object]


async def hold_writer(numbers: Numbers, number: int = 1_000) -> tuple[Barrier, Task]:
    """Keep the writer's thread in a body that writes a number."""
    barrier = Barrier()
    caller: Task = asyncio.create_task(numbers.write(insert_then(number, barrier)))
    await barrier.reached()
    return barrier, caller


async def turn() -> None:
    """Let every task that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_caller_that_leaves_before_its_unit_has_begun_leaves_no_trace(numbers: Numbers) -> None:
    barrier, first = await hold_writer(numbers)
    leaving = asyncio.create_task(numbers.add(1))
    staying = asyncio.create_task(numbers.add(2))
    await turn()

    leaving.cancel()
    barrier.open()

    await asyncio.gather(first, staying)
    assert leaving.cancelled()
    assert await numbers.there() == [2, 1_000]


async def test_a_caller_that_leaves_while_a_unit_before_it_in_the_batch_runs_leaves_no_trace(numbers: Numbers) -> None:
    barrier = Barrier()
    first = asyncio.create_task(numbers.write(insert_then(1_000, barrier)))
    leaving = asyncio.create_task(numbers.add(1))
    await barrier.reached()

    leaving.cancel()
    await turn()
    barrier.open()

    await first
    assert leaving.cancelled()
    assert await numbers.there() == [1_000]


async def test_a_caller_that_leaves_after_its_unit_has_begun_leaves_it_finished(numbers: Numbers) -> None:
    barrier, leaving = await hold_writer(numbers)

    leaving.cancel()
    await turn()
    barrier.open()

    await numbers.add(1)
    assert leaving.cancelled()
    assert await numbers.there() == [1, 1_000]


async def test_callers_that_leave_at_any_moment_never_wedge_the_writer(numbers: Numbers) -> None:
    for delay in range(12):
        callers = [asyncio.create_task(numbers.add(delay * 100 + number)) for number in range(20)]
        for _ in range(delay):
            await asyncio.sleep(0)
        for caller in callers[::2]:
            caller.cancel()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert outcomes[1::2] == [None] * 10

    async with asyncio.timeout(5):
        await numbers.add(5_000)
    there = set(await numbers.there())
    assert {delay * 100 + number for delay in range(12) for number in range(1, 20, 2)} | {5_000} <= there


async def test_a_caller_whose_time_is_up_gets_its_timeout_and_the_writer_carries_on(numbers: Numbers) -> None:
    barrier, first = await hold_writer(numbers)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await numbers.add(1)

    barrier.open()
    await first
    await numbers.add(2)
    assert await numbers.there() == [2, 1_000]


async def test_a_reader_whose_caller_left_serves_the_next_one(tmp_path: Path) -> None:
    async with open_numbers(tmp_path / "numbers.db", readers=1) as numbers:
        barrier = Barrier()

        async def slow(_unit: object) -> None:
            barrier()

        leaving = asyncio.create_task(numbers.read(slow))
        await barrier.reached()

        leaving.cancel()
        await turn()
        barrier.open()

        async with asyncio.timeout(5):
            assert await numbers.there() == []


async def test_callers_are_answered_when_the_writers_task_is_cancelled(tmp_path: Path) -> None:
    unanswered: set[Task] = set()

    async def serve() -> None:
        async with open_numbers(tmp_path / "numbers.db") as numbers:
            barrier, first = await hold_writer(numbers)
            second: Task = asyncio.create_task(numbers.add(1))
            await turn()
            for task in asyncio.all_tasks():
                if task.get_name() == "writer":
                    task.cancel()
            await turn()
            barrier.open()
            _, waiting = await asyncio.wait({first, second}, timeout=1)
            unanswered.update(waiting)
            for task in waiting:
                task.cancel()

    await asyncio.wait({asyncio.create_task(serve())}, timeout=5)

    assert not unanswered


# Waiting in line -----------------------------------------------------------------------------------------------------


async def test_more_writers_than_may_wait_are_told_to_come_back(
    numbers: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.writer.QUEUE_LIMIT", 3)
    barrier, first = await hold_writer(numbers)
    waiting = [asyncio.create_task(numbers.add(number)) for number in range(3)]
    await turn()

    with pytest.raises(WriterBusy):
        await numbers.add(50)

    barrier.open()
    await asyncio.gather(first, *waiting)
    await numbers.add(51)
    assert await numbers.there() == [0, 1, 2, 51, 1_000]


async def test_more_readers_than_may_wait_are_told_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.store.READ_QUEUE_LIMIT", 2)
    async with open_numbers(tmp_path / "numbers.db", readers=1) as numbers:
        barrier = Barrier()

        async def slow(_unit: object) -> None:
            barrier()

        reading = [asyncio.create_task(numbers.read(slow)) for _ in range(3)]
        await barrier.reached()

        with pytest.raises(WriterBusy):
            await numbers.there()

        barrier.open()
        await asyncio.gather(*reading)
        assert await numbers.there() == []


async def test_units_are_carried_out_in_the_order_in_which_they_came(numbers: Numbers) -> None:
    order: list[int] = []
    barrier, first = await hold_writer(numbers)

    async def remember(number: int) -> None:
        await numbers.write(insert_then(number, lambda _unit: order.append(number)))

    waiting = [asyncio.create_task(remember(number)) for number in range(20)]
    await turn()
    barrier.open()
    await asyncio.gather(first, *waiting)

    assert order == list(range(20))


# Closing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["file", "memory"])
async def test_closing_finishes_the_units_that_wait_and_then_refuses(tmp_path: Path, engine: str) -> None:
    async with open_numbers(tmp_path / "numbers.db" if engine == "file" else None) as numbers:
        barrier, first = await hold_writer(numbers)
        waiting = [asyncio.create_task(numbers.add(number)) for number in range(300)]
        await turn()
        asyncio.get_running_loop().call_later(0, barrier.open)

    assert [await task for task in (first, *waiting)][1:] == [None] * 300
    for use in (numbers.write, numbers.read):
        with pytest.raises(StoreClosed):
            await use(numbers_in)
    if engine == "file":
        async with open_numbers(tmp_path / "numbers.db") as again:
            assert await again.there() == [*range(300), 1_000]


async def test_a_store_that_was_never_opened_refuses(numbers: Numbers) -> None:
    store = SqliteStore(numbers.factory, lambda connection: connection, readers=1, on_failure=print, metrics=Metrics())

    for use in (store.write, store.read):
        with pytest.raises(StoreClosed):
            await use(insert(1))


async def test_while_it_closes_a_store_takes_no_new_units(tmp_path: Path) -> None:
    late: list[Task] = []

    async with open_numbers(tmp_path / "numbers.db") as numbers:
        barrier, first = await hold_writer(numbers)

        def arrive() -> None:
            late.extend(asyncio.ensure_future(use(numbers_in)) for use in (numbers.write, numbers.read))
            asyncio.get_running_loop().call_later(0.01, barrier.open)

        asyncio.get_running_loop().call_later(0, arrive)

    await first
    for task in late:
        with pytest.raises(StoreClosed):
            await task


async def test_reads_that_wait_for_a_reader_when_the_store_closes_are_finished_or_told_that_it_stops(
    tmp_path: Path,
) -> None:
    async with open_numbers(tmp_path / "numbers.db", readers=1) as numbers:
        barrier = Barrier()

        async def slow(unit: object) -> list[int]:
            barrier()
            return []

        reading = [asyncio.create_task(numbers.read(slow)) for _ in range(4)]
        await barrier.reached()
        asyncio.get_running_loop().call_later(0, barrier.open)

    outcomes = await asyncio.wait_for(asyncio.gather(*reading, return_exceptions=True), 5)
    assert {type(outcome) for outcome in outcomes} <= {list, StoreClosed}


async def test_a_store_that_is_cancelled_while_it_closes_still_answers_everybody(tmp_path: Path) -> None:
    opened: list[Numbers] = []
    inside = asyncio.Event()

    async def serve() -> None:
        async with open_numbers(tmp_path / "numbers.db") as numbers:
            opened.append(numbers)
            inside.set()
            await asyncio.Event().wait()

    serving = asyncio.create_task(serve())
    await inside.wait()
    barrier, first = await hold_writer(opened[0])
    waiting = asyncio.create_task(opened[0].add(1))
    await turn()
    serving.cancel()
    await turn()

    serving.cancel()
    barrier.open()

    await asyncio.wait_for(asyncio.gather(first, waiting), 5)
    await asyncio.gather(serving, return_exceptions=True)
    assert waiting.done()
