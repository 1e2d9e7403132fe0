"""What a unit refuses to do, and the inner part of it that a refusal undoes alone (design §3, rules 1 and 3)."""

import asyncio
import contextlib
import contextvars
from typing import Any

import pytest

from app.db.connection import UnitConnection
from app.errors import (
    Conflict,
    ForeignAwait,
    NestedUnit,
    ParameterMismatch,
    Refusal,
    TransactionLost,
    UnitClosed,
    WriteInRead,
)
from tests.support.database import ADD, ALL, Numbers, insert, insert_then, numbers_in, raw_query

# Closed units --------------------------------------------------------------------------------------------------------


async def kept_unit(numbers: Numbers, *, fails: bool = False) -> UnitConnection:
    """Return a unit whose body has ended."""
    kept: list[UnitConnection] = []

    async def body(unit: UnitConnection) -> None:
        kept.append(unit)
        if fails:
            raise ValueError

    await asyncio.gather(numbers.write(body), return_exceptions=True)
    return kept[0]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_unit_that_outlives_its_body_can_do_nothing_more(numbers: Numbers, fails: bool) -> None:
    unit = await kept_unit(numbers, fails=fails)

    for use in (unit.fetch_one(ADD, n=1, note=None), unit.fetch_all(ALL), unit.protect(numbers_in_nothing)):
        with pytest.raises(UnitClosed):
            await use

    assert await numbers.there() == []


async def numbers_in_nothing() -> None:
    """Do nothing."""


async def test_an_ended_unit_used_in_the_body_of_another_fails_that_one_alone(numbers: Numbers) -> None:
    stale = await kept_unit(numbers)

    outcomes = await asyncio.gather(
        numbers.write(insert(1)),
        numbers.write(insert_then(2, lambda _unit: insert(3)(stale))),
        numbers.write(insert(4)),
        return_exceptions=True,
    )

    assert [type(outcome) for outcome in outcomes] == [list, UnitClosed, list]
    assert await numbers.there() == [1, 4]


async def test_an_ended_read_unit_used_in_a_write_body_is_closed(numbers: Numbers) -> None:
    kept: list[UnitConnection] = []

    async def keep(unit: UnitConnection) -> None:
        kept.append(unit)

    await numbers.read(keep)

    with pytest.raises(UnitClosed):
        await numbers.write(lambda _unit: numbers_in(kept[0]))


async def test_a_unit_that_a_later_task_uses_is_closed(numbers: Numbers) -> None:
    unit = await kept_unit(numbers)

    with pytest.raises(UnitClosed):
        await asyncio.create_task(numbers_in(unit))


# Nested units --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["write", "read"])
@pytest.mark.parametrize("outer", ["write", "read"])
async def test_a_unit_inside_a_unit_is_refused(numbers: Numbers, outer: str, inner: str) -> None:
    async def body(_unit: UnitConnection) -> None:
        await getattr(numbers.store, inner)(numbers_in)

    with pytest.raises(NestedUnit):
        await getattr(numbers.store, outer)(body)

    assert await numbers.there() == []


async def test_a_nested_unit_fails_its_outer_unit_alone(numbers: Numbers) -> None:
    outcomes = await asyncio.gather(
        numbers.write(insert(1)),
        numbers.write(insert_then(2, lambda _unit: numbers.store.write(insert(3)))),
        numbers.write(insert(4)),
        return_exceptions=True,
    )

    assert [type(outcome) for outcome in outcomes] == [list, NestedUnit, list]
    assert await numbers.there() == [1, 4]


async def test_a_unit_after_a_unit_is_no_nested_one(numbers: Numbers) -> None:
    await numbers.add(1)
    await numbers.there()
    await numbers.add(2)

    assert await numbers.there() == [1, 2]


# Context -------------------------------------------------------------------------------------------------------------

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="nobody's")


@pytest.mark.parametrize("use", ["write", "read"])
async def test_a_body_sees_its_callers_context_and_cannot_change_it(numbers: Numbers, use: str) -> None:
    async def body(_unit: UnitConnection) -> str:
        seen = request_id.get()
        request_id.set("the body's")
        return seen

    async def caller(name: str) -> tuple[str, str]:
        request_id.set(name)
        seen: str = await getattr(numbers, use)(body)
        return seen, request_id.get()

    outcomes = await asyncio.gather(*(caller(f"request {number}") for number in range(5)))

    assert outcomes == [(f"request {number}", f"request {number}") for number in range(5)]


# Parameters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"n": 1}, {"n": 1, "note": None, "more": 2}, {"n": 1, "Note": None}])
async def test_parameters_that_are_not_the_querys_are_refused(numbers: Numbers, given: dict[str, Any]) -> None:
    async def body(unit: UnitConnection) -> None:
        await unit.fetch_one(ADD, **given)

    with pytest.raises(ParameterMismatch, match=r"numbers\.add takes \['n', 'note'\]"):
        await numbers.write(body)

    assert await numbers.there() == []


async def test_a_forgotten_parameter_is_never_a_null(numbers: Numbers) -> None:
    owned = raw_query("SELECT n FROM numbers WHERE :n IS NULL OR n = :n", writes=False, parameters=["n"])
    await numbers.add(1, 2)

    async def body(unit: UnitConnection) -> Any:
        return await unit.fetch_all(owned)

    with pytest.raises(ParameterMismatch):
        await numbers.read(body)


async def test_a_fault_names_no_value(numbers: Numbers) -> None:
    async def body(unit: UnitConnection) -> None:
        await unit.fetch_one(ADD, n=1, secret="hunter2")

    with pytest.raises(ParameterMismatch) as caught:
        await numbers.write(body)

    assert "hunter2" not in caught.value.message


# Writing in a read ---------------------------------------------------------------------------------------------------


async def test_a_read_that_writes_is_refused(numbers: Numbers) -> None:
    with pytest.raises(WriteInRead):
        await numbers.read(insert(1))

    assert await numbers.there() == []


async def test_a_read_that_swallows_the_refusal_has_still_written_nothing(numbers: Numbers) -> None:
    async def body(unit: UnitConnection) -> list[int]:
        with contextlib.suppress(WriteInRead):
            await insert(1)(unit)
        return await numbers_in(unit)

    assert await numbers.read(body) == []
    assert await numbers.there() == []


async def test_a_write_that_hides_from_the_loader_is_refused_by_a_reader_and_stops_nothing(on_file: Numbers) -> None:
    async def body(unit: UnitConnection) -> None:
        await unit.fetch_one(raw_query("INSERT INTO numbers (n) VALUES (1) RETURNING n", writes=False))

    with pytest.raises(WriteInRead):
        await on_file.read(body)

    assert on_file.failures == []
    assert await on_file.there() == []


# The protected part --------------------------------------------------------------------------------------------------


async def test_a_refusal_undoes_the_protected_part_alone_and_is_returned(numbers: Numbers) -> None:
    refusal = Conflict()

    async def refused(unit: UnitConnection) -> None:
        await insert(2)(unit)
        raise refusal

    async def body(unit: UnitConnection) -> Any:
        await insert(1)(unit)
        outcome = await unit.protect(lambda: refused(unit))
        await insert(3)(unit)
        return outcome

    assert await numbers.write(body) is refusal
    assert await numbers.there() == [1, 3]


async def test_what_the_protected_part_did_stays_when_it_returns(numbers: Numbers) -> None:
    async def body(unit: UnitConnection) -> Any:
        return await unit.protect(lambda: insert(1)(unit))

    assert await numbers.write(body) == [1]
    assert await numbers.there() == [1]


async def test_an_error_in_the_protected_part_undoes_the_whole_unit(numbers: Numbers) -> None:
    def fail(_unit: UnitConnection) -> None:
        raise ValueError("no refusal")

    async def body(unit: UnitConnection) -> None:
        await insert(1)(unit)
        await unit.protect(lambda: insert_then(2, fail)(unit))

    outcomes = await asyncio.gather(numbers.write(insert(5)), numbers.write(body), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [list, ValueError]
    assert await numbers.there() == [5]


async def test_an_error_in_the_protected_part_undoes_the_whole_unit_also_when_the_body_swallows_it(
    numbers: Numbers,
) -> None:
    def fail(_unit: UnitConnection) -> None:
        raise ValueError("no refusal")

    async def body(unit: UnitConnection) -> None:
        await insert(1)(unit)
        with contextlib.suppress(ValueError):
            await unit.protect(lambda: insert_then(2, fail)(unit))

    await asyncio.gather(numbers.write(body), return_exceptions=True)

    assert await numbers.there() == []


async def test_a_protected_part_that_lets_the_loop_run_fails_as_foreign_await(numbers: Numbers) -> None:
    async def wait() -> None:
        await asyncio.sleep(0)

    with pytest.raises(ForeignAwait):
        await numbers.write(lambda unit: unit.protect(wait))


async def test_protected_parts_inside_each_other_undo_the_innermost_alone(numbers: Numbers) -> None:
    def refuse(_unit: UnitConnection) -> None:
        raise Conflict

    async def outer(unit: UnitConnection) -> Any:
        await insert(1)(unit)
        return await unit.protect(lambda: insert_then(2, refuse)(unit))

    async def body(unit: UnitConnection) -> Any:
        outcome = await unit.protect(lambda: outer(unit))
        await insert(3)(unit)
        return outcome

    assert isinstance(await numbers.write(body), Refusal)
    assert await numbers.there() == [1, 3]


@pytest.mark.parametrize("swallows", [False, True])
async def test_a_transaction_lost_in_the_protected_part_voids_the_batch(numbers: Numbers, swallows: bool) -> None:
    async def lose(unit: UnitConnection) -> None:
        await unit.fetch_one(raw_query("ROLLBACK"))
        if not swallows:
            raise Conflict

    outcomes = await asyncio.gather(
        numbers.write(insert(1)),
        numbers.write(lambda unit: unit.protect(lambda: lose(unit))),
        numbers.write(insert(3)),
        return_exceptions=True,
    )

    assert [type(outcome) for outcome in outcomes] == [TransactionLost] * 3
    assert await numbers.there() == []
