"""Batches: waiting units share one COMMIT, and nobody sees or is told anything before it (design §3, rule 4)."""

import asyncio
from typing import Any

import pytest

from app.db.connection import UnitConnection
from app.errors import StorageFull
from tests.support.database import Barrier, Numbers, insert, insert_then, numbers_in


async def behind_a_held_writer(numbers: Numbers, count: int) -> list[Any]:
    """Let units wait until a first one ends, and return what became of them."""
    barrier = Barrier()
    first = asyncio.create_task(numbers.write(insert_then(1_000, barrier)))
    await barrier.reached()
    waiting = [asyncio.create_task(numbers.add(number)) for number in range(count)]
    await asyncio.sleep(0)
    barrier.open()
    await first
    return await asyncio.gather(*waiting, return_exceptions=True)


async def test_units_that_wait_together_share_one_commit(numbers: Numbers) -> None:
    before = numbers.commits

    outcomes = await behind_a_held_writer(numbers, 100)

    assert outcomes == [None] * 100
    assert numbers.commits - before == 2
    assert numbers.factory.writer_connection.statements.count("SAVEPOINT unit") == 101


async def test_units_that_come_one_by_one_have_a_commit_each(on_file: Numbers) -> None:
    before = on_file.commits

    for number in range(5):
        await on_file.add(number)

    assert on_file.commits - before == 5


async def test_a_batch_ends_by_count_and_the_others_are_served_next(
    numbers: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.writer.BATCH_LIMIT", 10)
    before = numbers.commits

    outcomes = await behind_a_held_writer(numbers, 35)

    assert outcomes == [None] * 35
    assert numbers.commits - before == 1 + 4
    assert await numbers.there() == [*range(35), 1_000]


async def test_a_batch_ends_by_time_and_the_others_are_served_next(
    numbers: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.sqlite_units.BATCH_SECONDS", -1)
    before = numbers.commits

    outcomes = await behind_a_held_writer(numbers, 7)

    assert outcomes == [None] * 7
    assert numbers.commits - before == 1 + 7
    assert await numbers.there() == [*range(7), 1_000]


async def test_units_that_had_no_time_keep_their_place_before_later_ones(
    numbers: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.sqlite_units.BATCH_SECONDS", -1)
    order: list[int] = []

    def remember(number: int) -> Any:
        return numbers.write(insert_then(number, lambda _unit: order.append(number)))

    await asyncio.gather(*(remember(number) for number in range(12)))

    assert order == list(range(12))


async def test_nobody_is_answered_before_the_commit(on_file: Numbers, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = Barrier()
    writer = on_file.factory.writer_connection
    execute = writer.execute

    def held(text: str, *arguments: Any) -> Any:
        if text == "COMMIT":
            barrier()
        return execute(text, *arguments)

    monkeypatch.setitem(vars(writer), "execute", held)
    callers = [asyncio.create_task(on_file.add(number)) for number in (1, 2)]
    await barrier.reached()

    answered_early = any(caller.done() for caller in callers)
    seen_early = await on_file.there()

    barrier.open()
    await asyncio.gather(*callers)
    assert not answered_early
    assert seen_early == []
    assert await on_file.there() == [1, 2]


async def test_what_a_unit_wrote_is_invisible_to_readers_until_it_is_committed(on_file: Numbers) -> None:
    barrier = Barrier()
    writing = asyncio.create_task(on_file.write(insert_then(1, barrier)))
    await barrier.reached()

    before = await on_file.there()
    barrier.open()
    await writing
    after = await on_file.there()

    assert (before, after) == ([], [1])


async def test_the_units_of_a_batch_see_what_those_before_them_wrote(numbers: Numbers) -> None:
    async def count(unit: UnitConnection) -> list[int]:
        return await numbers_in(unit)

    _, seen, _ = await asyncio.gather(numbers.write(insert(1)), numbers.write(count), numbers.write(insert(2)))

    assert seen == [1]


async def test_a_read_sees_one_snapshot_though_a_write_commits_between_its_statements(on_file: Numbers) -> None:
    await on_file.add(1)
    barrier = Barrier()

    async def look_twice(unit: UnitConnection) -> tuple[list[int], list[int]]:
        first = await numbers_in(unit)
        barrier()
        return first, await numbers_in(unit)

    reading = asyncio.create_task(on_file.read(look_twice))
    await barrier.reached()
    await on_file.add(2)
    barrier.open()

    assert await reading == ([1], [1])
    assert await on_file.there() == [1, 2]


async def test_readers_do_not_wait_for_each_other(on_file: Numbers) -> None:
    barriers = [Barrier(), Barrier()]

    async def look(barrier: Barrier) -> list[int]:
        async def body(unit: UnitConnection) -> list[int]:
            barrier()
            return await numbers_in(unit)

        return await on_file.read(body)

    reading = [asyncio.create_task(look(barrier)) for barrier in barriers]
    for barrier in barriers:
        await barrier.reached()
    for barrier in barriers:
        barrier.open()

    assert await asyncio.gather(*reading) == [[], []]


async def test_a_batch_that_cannot_be_committed_is_nobodys(numbers: Numbers) -> None:
    numbers.factory.writer_connection.faults["COMMIT"] = 13

    outcomes = await asyncio.gather(*(numbers.add(number) for number in range(3)), return_exceptions=True)
    numbers.factory.writer_connection.faults.clear()

    assert [type(outcome) for outcome in outcomes] == [StorageFull] * 3
    assert await numbers.there() == []
