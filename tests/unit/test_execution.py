"""Execution: whatever a handler does in one attempt becomes one of two outcomes."""

import asyncio
import threading
from collections import UserDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from app.domain.jobs import ERROR_MESSAGE_LIMIT
from app.pipelines import Context, Fail
from app.worker.execution import OUTPUTS_BYTES_LIMIT, Failed, Succeeded
from tests.worker.bench import Bench, failure, message


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Handlers run with their tasks' folders in a temporary one."""
    return Bench(tmp_path)


# Handlers ------------------------------------------------------------------------------------------------------------


async def in_the_loop(context: Context, n: int = 1) -> dict[str, Any]:
    """Tell in which thread an async handler runs."""
    return {"n": n, "main": threading.current_thread() is threading.main_thread()}


def in_a_thread(context: Context, n: int = 1) -> dict[str, Any]:
    """Tell in which thread a plain handler runs."""
    return {"n": n, "main": threading.current_thread() is threading.main_thread()}


class AsyncObject:
    """A callable object that is async, and has an async method."""

    async def __call__(self, context: Context) -> dict[str, Any]:
        return await in_the_loop(context)

    async def method(self, context: Context) -> dict[str, Any]:
        """Do the same."""
        return await in_the_loop(context)


class PlainObject:
    """A callable object that is plain, and has a plain method."""

    def __call__(self, context: Context) -> dict[str, Any]:
        return in_a_thread(context)

    def method(self, context: Context) -> dict[str, Any]:
        """Do the same."""
        return in_a_thread(context)


@pytest.mark.parametrize(
    "handler",
    [in_the_loop, partial(in_the_loop, n=1), partial(partial(in_the_loop), n=1), AsyncObject(), AsyncObject().method,
     partial(AsyncObject())],
)  # fmt: skip
async def test_an_async_handler_runs_in_the_loop(bench: Bench, handler: Any) -> None:
    outcome = await bench.run(handler)

    assert outcome == Succeeded('{"n":1,"main":true}')


@pytest.mark.parametrize(
    "handler",
    [in_a_thread, partial(in_a_thread, n=1), PlainObject(), PlainObject().method, partial(PlainObject()),
     type(PlainObject())()],
)  # fmt: skip
async def test_a_plain_handler_runs_in_a_thread(bench: Bench, handler: Any) -> None:
    outcome = await bench.run(handler)

    assert outcome == Succeeded('{"n":1,"main":false}')


# Outputs -------------------------------------------------------------------------------------------------------------


class Shelf(UserDict[str, Any]):
    """A mapping that is no dict."""


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (None, "{}"),
        ({}, "{}"),
        ({"ä": [1, 2.5, None, True, {"b": "\x00"}]}, '{"ä":[1,2.5,null,true,{"b":"\\u0000"}]}'),
        (MappingProxyType({"a": 1}), '{"a":1}'),
        (Shelf(a=1), '{"a":1}'),
    ],
)
async def test_a_mapping_or_nothing_is_handed_on(bench: Bench, returned: Any, text: str) -> None:
    outcome = await bench.run(lambda _context: returned)

    assert outcome == Succeeded(text)


@pytest.mark.parametrize("returned", [[], "text", 1, False, object(), {"a"}, (("a", 1),), Context])
async def test_anything_else_is_refused_for_good(bench: Bench, returned: Any) -> None:
    outcome = await bench.run(lambda _context: returned)

    assert failure(outcome) == ("invalid_outputs", False)
    assert type(returned).__name__ in message(outcome)


def circle() -> dict[str, Any]:
    """Return a mapping that holds itself."""
    itself: dict[str, Any] = {}
    itself["self"] = itself
    return itself


def deep() -> dict[str, Any]:
    """Return a mapping that is too deep to be written."""
    inner: dict[str, Any] = {}
    for _ in range(100_000):
        inner = {"a": inner}
    return inner


@pytest.mark.parametrize(
    "returned",
    [{"a": object()}, {"a": {1}}, {"a": b""}, {"a": float("nan")}, {"a": [float("inf")]}, {(1, 2): 1},
     {"a": "\ud800"}, circle(), {"a": Path()}],
    ids=repr,
)  # fmt: skip
async def test_what_json_cannot_hold_is_refused_for_good(bench: Bench, returned: Any) -> None:
    outcome = await bench.run(lambda _context: returned)

    assert failure(outcome) == ("invalid_outputs", False)


async def test_outputs_that_are_too_deep_for_json_are_refused_for_good(bench: Bench) -> None:
    outcome = await bench.run(lambda _context: deep())

    assert failure(outcome) == ("invalid_outputs", False)


async def test_outputs_may_have_the_limits_size_and_not_a_byte_more(bench: Bench) -> None:
    room = OUTPUTS_BYTES_LIMIT - len('{"a":""}')

    fits = await bench.run(lambda _context: {"a": "x" * room})
    larger = await bench.run(lambda _context: {"a": "ä" + "x" * (room - 1)})

    assert isinstance(fits, Succeeded)
    assert failure(larger) == ("outputs_too_large", False)


# Failures ------------------------------------------------------------------------------------------------------------


def raising_async(error: BaseException) -> Any:
    """Return an async handler that raises."""

    async def handler(context: Context) -> None:
        raise error

    return handler


def raising_plain(error: BaseException) -> Any:
    """Return a plain handler that raises."""

    def handler(context: Context) -> None:
        raise error

    return handler


@pytest.mark.parametrize("kind", [raising_async, raising_plain], ids=["async", "plain"])
async def test_fail_says_that_no_attempt_can_succeed(bench: Bench, kind: Callable[[BaseException], Any]) -> None:
    outcome = await bench.run(kind(Fail("no_such_listing", "The listing is not there.")))

    assert failure(outcome) == ("no_such_listing", False)
    assert message(outcome) == "The listing is not there."


async def test_an_exception_may_succeed_another_time(bench: Bench) -> None:
    outcome = await bench.run(raising_async(ValueError("no such thing")))

    assert failure(outcome) == ("internal_error", True)
    assert message(outcome) == "ValueError: no such thing"


@pytest.mark.parametrize("error", [Fail("long", "ä" * 5_000), ValueError("ä" * 5_000)], ids=["Fail", "ValueError"])
async def test_a_long_message_is_cut(bench: Bench, error: Exception) -> None:
    outcome = await bench.run(raising_async(error))

    assert len(message(outcome)) == ERROR_MESSAGE_LIMIT


@pytest.mark.parametrize("error", [Fail("odd", "half \ud800"), ValueError("half \ud800")], ids=["Fail", "ValueError"])
async def test_a_message_that_is_no_text_is_made_one(bench: Bench, error: Exception) -> None:
    outcome = await bench.run(raising_async(error))

    assert message(outcome).endswith("half ?")


ESCAPES: dict[str, Callable[[], BaseException]] = {
    "CancelledError": asyncio.CancelledError,
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "StopIteration": lambda: StopIteration(1),
    "StopAsyncIteration": StopAsyncIteration,
    "BaseExceptionGroup": lambda: BaseExceptionGroup("all", [KeyboardInterrupt(), ValueError()]),
    "ExceptionGroup": lambda: ExceptionGroup("some", [ValueError("a")]),
    "TimeoutError": TimeoutError,
    "MemoryError": MemoryError,
}


@pytest.mark.parametrize("name", ESCAPES)
async def test_whatever_an_async_handler_raises_fails_its_attempt_alone(bench: Bench, name: str) -> None:
    outcome = await bench.run(raising_async(ESCAPES[name]()))

    assert failure(outcome) == ("internal_error", True)


@pytest.mark.parametrize("name", ESCAPES)
async def test_whatever_a_plain_handler_raises_fails_its_attempt_alone(bench: Bench, name: str) -> None:
    outcome = await bench.run(raising_plain(ESCAPES[name]()))

    assert failure(outcome) == ("internal_error", True)


async def test_an_async_handler_that_raises_generator_exit_fails_its_attempt_alone(bench: Bench) -> None:
    outcome = await bench.run(raising_async(GeneratorExit()))

    assert failure(outcome) == ("internal_error", True)


async def test_a_plain_handler_that_raises_generator_exit_fails_its_attempt_alone(bench: Bench) -> None:
    outcome = await asyncio.create_task(bench.run(raising_plain(GeneratorExit())))

    assert failure(outcome) == ("internal_error", True)


class Unshowable(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


async def test_an_exception_that_cannot_be_shown_fails_its_attempt_alone(bench: Bench) -> None:
    outcome = await bench.run(raising_async(Unshowable()))

    assert failure(outcome) == ("internal_error", True)


async def test_a_fail_whose_message_is_no_text_fails_its_attempt_alone(bench: Bench) -> None:
    reason: Any = ValueError("the listing is not there")

    def handler(context: Context) -> None:
        raise Fail("gone", reason)

    outcome = await bench.run(handler)

    assert isinstance(outcome, Failed)


async def test_a_handler_that_cancels_its_own_task_fails_its_attempt_alone(bench: Bench) -> None:
    async def handler(context: Context) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    outcome = await asyncio.create_task(bench.run(handler))

    assert isinstance(outcome, Failed)


async def test_a_refusal_whose_kind_is_missing_or_nonsense_fails_its_attempt_alone(bench: Bench) -> None:
    class Bare(Fail):
        def __init__(self) -> None:
            pass

    def handler(context: Context) -> None:
        raise Bare

    assert failure(await bench.run(handler)) == ("internal_error", False)


async def test_a_message_that_ends_the_process_when_it_is_shown_fails_its_attempt_alone(bench: Bench) -> None:
    class Deadly(Exception):
        def __str__(self) -> str:
            raise SystemExit(3)

    def handler(context: Context) -> None:
        raise Deadly

    assert failure(await bench.run(handler)) == ("internal_error", True)


async def test_a_thread_that_overruns_its_time_keeps_its_slot_until_it_ends(bench: Bench) -> None:
    mercy = threading.Event()

    def handler(context: Context) -> None:
        mercy.wait(20)

    await bench.run(handler, timeout_seconds=0.01)
    stuck = bench.threads.stuck
    mercy.set()
    async with asyncio.timeout(20):
        while bench.threads.stuck:
            await asyncio.sleep(0)

    assert stuck == 1
