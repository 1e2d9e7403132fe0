"""Bodies that fail: each fails alone, its neighbours in the batch are committed (design §3, rules 1 and 2)."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from app.db.connection import UnitConnection
from app.errors import BodyEscaped, ConstraintViolated, ForeignAwait, TransactionLost
from tests.support.database import COUNT, Barrier, Body, Numbers, insert, insert_then, numbers_in, raw_query

Raiser = Callable[[UnitConnection], Any]


def raiser(failure: BaseException) -> Raiser:
    def act(_unit: UnitConnection) -> None:
        raise failure

    return act


async def as_one_batch(numbers: Numbers, *bodies: Body[Any]) -> list[Any]:
    """Run bodies in one transaction and return what became of each."""
    before = numbers.commits
    outcomes = await asyncio.gather(*map(numbers.write, bodies), return_exceptions=True)
    assert numbers.commits <= before + 1
    return outcomes


ESCAPING = [asyncio.CancelledError(), SystemExit(3), KeyboardInterrupt(), GeneratorExit()]


@pytest.mark.parametrize("failure", ESCAPING, ids=lambda failure: type(failure).__name__)
async def test_what_is_no_error_fails_its_unit_alone_and_comes_back_as_one(
    numbers: Numbers, failure: BaseException
) -> None:
    first, failed, last = await as_one_batch(numbers, insert(1), insert_then(2, raiser(failure)), insert(3))

    assert (first, last) == ([1], [3])
    assert isinstance(failed, BodyEscaped)
    assert failed.__cause__ is failure
    assert await numbers.there() == [1, 3]


async def test_an_error_fails_its_unit_alone_and_comes_back_as_it_was_raised(numbers: Numbers) -> None:
    refused = ValueError("refused")

    first, failed, last = await as_one_batch(numbers, insert(1), insert_then(2, raiser(refused)), insert(3))

    assert (first, failed, last) == ([1], refused, [3])
    assert await numbers.there() == [1, 3]


async def test_stop_iteration_in_an_async_body_fails_its_unit_alone(numbers: Numbers) -> None:
    first, failed, last = await as_one_batch(numbers, insert(1), insert_then(2, raiser(StopIteration(7))), insert(3))

    assert (first, last) == ([1], [3])
    assert isinstance(failed, RuntimeError)
    assert await numbers.there() == [1, 3]


@pytest.mark.parametrize("stop", [StopIteration(7), StopAsyncIteration(7)])
async def test_a_body_that_is_a_plain_function_and_stops_fails_its_unit_alone(
    numbers: Numbers, stop: Exception
) -> None:
    def body(_unit: UnitConnection) -> Any:
        raise stop

    first, failed, last = await as_one_batch(numbers, insert(1), body, insert(3))

    assert (first, last) == ([1], [3])
    assert isinstance(failed, BodyEscaped)
    assert await numbers.there() == [1, 3]


async def test_a_violated_constraint_fails_its_unit_alone(numbers: Numbers) -> None:
    first, failed, last = await as_one_batch(numbers, insert(1), insert(2, 1), insert(3))

    assert (first, last) == ([1], [3])
    assert isinstance(failed, ConstraintViolated)
    assert (failed.kind, failed.constraint) == ("UNIQUE", "numbers.n")
    assert await numbers.there() == [1, 3]


async def test_whatever_a_body_raises_while_reading_the_next_read_is_served(numbers: Numbers) -> None:
    for failure in (*ESCAPING, ValueError("refused")):
        with pytest.raises((BodyEscaped, ValueError)):
            await numbers.read(raiser(failure))

    assert await numbers.there() == []


async def sleep(_unit: UnitConnection) -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize("use", ["write", "read"])
async def test_a_body_that_lets_the_loop_run_fails_as_foreign_await(numbers: Numbers, use: str) -> None:
    with pytest.raises(ForeignAwait):
        await getattr(numbers, use)(sleep)


async def test_a_suspended_body_fails_alone_and_leaves_no_trace(numbers: Numbers) -> None:
    first, failed, last = await as_one_batch(numbers, insert(1), insert_then(2, sleep), insert(3))

    assert (first, last) == ([1], [3])
    assert isinstance(failed, ForeignAwait)
    assert await numbers.there() == [1, 3]


async def test_a_body_that_waits_for_a_future_fails_as_foreign_await(numbers: Numbers) -> None:
    never = asyncio.get_running_loop().create_future()

    async def body(_unit: UnitConnection) -> None:
        await never

    with pytest.raises(ForeignAwait):
        await numbers.write(body)


@pytest.mark.parametrize("wait", [lambda: asyncio.Event().wait(), lambda: asyncio.sleep(3_600)], ids=["event", "sleep"])
async def test_a_body_that_waits_for_what_needs_a_loop_fails_at_once_and_alone(
    numbers: Numbers, wait: Callable[[], Any]
) -> None:
    async with asyncio.timeout(5):
        first, failed, last = await as_one_batch(numbers, insert(1), insert_then(2, lambda _unit: wait()), insert(3))

    assert (first, last) == ([1], [3])
    assert isinstance(failed, Exception)
    assert await numbers.there() == [1, 3]


async def test_a_suspended_body_that_writes_while_it_is_ended_leaves_no_trace(numbers: Numbers) -> None:
    async def body(unit: UnitConnection) -> None:
        try:
            await asyncio.sleep(0)
        finally:
            await insert(2)(unit)

    with pytest.raises(ForeignAwait):
        await numbers.write(body)

    assert await numbers.there() == []


async def test_a_suspended_body_that_refuses_to_end_fails_as_foreign_await(numbers: Numbers) -> None:
    async def body(_unit: UnitConnection) -> None:
        while True:
            try:
                await asyncio.sleep(0)
            except GeneratorExit:
                break
        await asyncio.sleep(0)

    with pytest.raises(ForeignAwait):
        await numbers.write(body)

    assert await numbers.there() == []


async def test_a_lost_transaction_voids_the_whole_batch(numbers: Numbers) -> None:
    async def body(unit: UnitConnection) -> None:
        await unit.fetch_one(raw_query("ROLLBACK"))

    outcomes = await as_one_batch(numbers, insert(1), insert_then(2, body), insert(3))

    assert [type(outcome) for outcome in outcomes] == [TransactionLost] * 3
    assert await numbers.there() == []


async def test_a_body_that_swallows_the_loss_cannot_autocommit_its_next_row(numbers: Numbers) -> None:
    swallowed: list[Exception] = []

    async def body(unit: UnitConnection) -> str:
        await unit.fetch_one(raw_query("ROLLBACK"))
        try:
            await insert(9)(unit)
        except TransactionLost as error:
            swallowed.append(error)
        return "done"

    outcomes = await as_one_batch(numbers, insert(1), body, insert(3))

    assert len(swallowed) == 1
    assert [type(outcome) for outcome in outcomes] == [TransactionLost] * 3
    assert await numbers.there() == []


async def test_a_row_that_rolls_back_by_its_conflict_clause_voids_the_whole_batch(numbers: Numbers) -> None:
    await numbers.add(5)

    async def body(unit: UnitConnection) -> None:
        await unit.fetch_one(raw_query("INSERT OR ROLLBACK INTO numbers (n) VALUES (5) RETURNING n"))

    outcomes = await as_one_batch(numbers, insert(1), insert_then(2, body), insert(3))

    assert [type(outcome) for outcome in outcomes] == [TransactionLost] * 3
    assert await numbers.there() == [5]


async def test_after_a_void_batch_the_writer_carries_on(numbers: Numbers) -> None:
    async def body(unit: UnitConnection) -> None:
        await unit.fetch_one(raw_query("ROLLBACK"))

    with pytest.raises(TransactionLost):
        await numbers.write(body)
    await numbers.add(1)

    assert await numbers.there() == [1]
    assert numbers.failures == []


async def test_a_read_whose_snapshot_is_lost_fails_and_the_next_one_is_served(numbers: Numbers) -> None:
    async def body(unit: UnitConnection) -> None:
        await unit.fetch_one(raw_query("ROLLBACK", writes=False))
        await numbers_in(unit)

    with pytest.raises(Exception, match=r"ended inside|no transaction"):
        await numbers.read(body)

    assert await numbers.there() == []


async def test_results_are_fetched_whole_so_that_every_row_of_a_returning_is_written(numbers: Numbers) -> None:
    text = "INSERT INTO numbers (n) SELECT value FROM json_each('[1,2,3,4]') RETURNING n"

    async def body(unit: UnitConnection) -> Any:
        return await unit.fetch_one(raw_query(text))

    first, row, last = await as_one_batch(numbers, insert(10), body, insert(11))

    assert (first, row["n"], last) == ([10], 1, [11])
    assert await numbers.there() == [1, 2, 3, 4, 10, 11]


async def test_a_unit_sees_its_own_rows_and_returns_rows_by_name(numbers: Numbers) -> None:
    async def body(unit: UnitConnection) -> Any:
        await insert(1, 2)(unit)
        return await unit.fetch_one(COUNT), await unit.fetch_one(raw_query("SELECT n FROM numbers WHERE n = 7"))

    row, none = await numbers.write(body)

    assert row["rows"] == 2
    assert none is None


async def test_a_body_may_return_any_awaitable(numbers: Numbers) -> None:
    class Later:
        def __await__(self) -> Any:
            yield from ()
            return "value"

    assert await numbers.write(lambda _unit: Later()) == "value"


async def test_a_slow_body_holds_back_nothing_but_its_batch(on_file: Numbers) -> None:
    barrier = Barrier()
    await on_file.add(1)
    slow = asyncio.create_task(on_file.write(insert_then(2, barrier)))
    await barrier.reached()

    seen = await on_file.there()

    barrier.open()
    await slow
    assert seen == [1]
