"""Execution: whatever a handler does in one attempt becomes one of four outcomes."""

import asyncio
import threading
from collections import Counter, UserDict
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import pytest

from app.domain.jobs import ERROR_MESSAGE_LIMIT
from app.pipelines import Cancelled, Context, Fail, Pipeline, Retry, Snooze, Stage
from app.worker import execution
from app.worker.execution import (
    OUTPUTS_BYTES_LIMIT,
    OUTPUTS_DEPTH_LIMIT,
    Attempt,
    Failed,
    Outcome,
    Snoozed,
    Stopped,
    Succeeded,
    Threads,
)
from tests.worker.bench import Bench, claim_of, failure, message


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
    [pytest.param({"a": object()}, id="object"),
     {"a": {1}}, {"a": b""}, {"a": float("nan")}, {"a": [float("inf")]}, {(1, 2): 1},
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


@pytest.mark.parametrize("kind", [lambda text: Fail("odd", text), ValueError], ids=["Fail", "ValueError"])
@pytest.mark.parametrize(("text", "kept"), [("half \ud800", "half ?"), ("a \x00 inside", "a \ufffd inside")])
async def test_a_message_that_no_database_can_keep_is_made_one_that_it_can(
    bench: Bench, kind: Callable[[str], Exception], text: str, kept: str
) -> None:
    outcome = await bench.run(raising_async(kind(text)))

    assert message(outcome).endswith(kept)


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

    await bench.run(handler, timeout_seconds=0.2)
    stuck = bench.threads.stuck
    mercy.set()
    async with asyncio.timeout(20):
        while bench.threads.stuck:
            await asyncio.sleep(0)

    assert stuck == {"work": 1}


# Snooze and Retry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "async"])
async def test_a_snooze_that_is_returned_asks_to_run_again_later(bench: Bench, plain: bool) -> None:
    async def in_the_loop(_context: Context) -> Snooze:
        return Snooze(7)

    outcome = await bench.run((lambda _context: Snooze(7)) if plain else in_the_loop)

    assert outcome == Snoozed(7.0)


async def test_a_snooze_that_is_raised_is_an_error_like_others(bench: Bench) -> None:
    def handler(context: Context) -> None:
        raise Snooze(7)  # type: ignore[misc]  # the mistake under test

    assert failure(await bench.run(handler)) == ("internal_error", True)


@pytest.mark.parametrize("kind", [raising_async, raising_plain], ids=["async", "plain"])
async def test_retry_says_that_another_attempt_may_succeed_and_when(
    bench: Bench, kind: Callable[[BaseException], Any]
) -> None:
    outcome = await bench.run(kind(Retry("The portal is down.", kind="portal_down", after_seconds=30)))

    assert failure(outcome) == ("portal_down", True)
    assert message(outcome) == "The portal is down."
    assert isinstance(outcome, Failed)
    assert outcome.failure.after_seconds == 30
    assert outcome.error is None


async def test_only_what_nobody_foresaw_is_told_as_an_error(bench: Bench) -> None:
    bug = ValueError("odd")

    outcomes = [await bench.run(raising_plain(error)) for error in (bug, Retry(), Fail("gone", "Gone."))]

    assert [outcome.error for outcome in outcomes if isinstance(outcome, Failed)] == [bug, None, None]


async def test_cancelled_that_is_raised_though_nobody_asked_is_an_error_like_others(bench: Bench) -> None:
    assert failure(await bench.run(raising_plain(Cancelled()))) == ("internal_error", True)


# Stop, give up, lose -------------------------------------------------------------------------------------------------


class Running:
    """An attempt that runs in a task of its own, with a handler that tells that it has begun."""

    def __init__(self, bench: Bench, *, timeout_seconds: float = 60) -> None:
        self.bench = bench
        self.attempt = Attempt(claim_of())
        self.begun = asyncio.Event()
        self.cancellations = 0
        self.may_end = asyncio.Event()
        self.timeout_seconds = timeout_seconds

    async def begin(self, handler: Any) -> "asyncio.Task[Outcome]":
        """Return the task once the handler is inside."""
        outcome = self.start(handler)
        await self.begun.wait()
        return outcome

    def start(self, handler: Any) -> "asyncio.Task[Outcome]":
        """Return the task at once."""
        pipeline = Pipeline([Stage("work", handler, timeout_seconds=self.timeout_seconds)])
        return asyncio.create_task(
            self.attempt.run(pipeline, artifacts_dir=self.bench.folder, threads=self.bench.threads)
        )

    async def waits(self, _context: Context) -> dict[str, int]:
        """Wait for ever."""
        self.begun.set()
        await asyncio.Event().wait()
        return {}

    async def cleans_up(self, _context: Context) -> dict[str, int]:
        """Take time to end after a cancellation."""
        self.begun.set()
        while not self.may_end.is_set():
            try:
                await self.may_end.wait()
            except asyncio.CancelledError:
                self.cancellations += 1
        return {"clean": 1}


async def test_a_stop_cancels_an_async_handler(bench: Bench) -> None:
    running = Running(bench)
    outcome = await running.begin(running.waits)

    running.attempt.stop()

    assert await outcome == Stopped()


async def test_a_stop_lets_a_handler_take_its_time_and_does_not_disturb_it_again(bench: Bench) -> None:
    running = Running(bench)
    outcome = await running.begin(running.cleans_up)

    for _ in range(5):
        running.attempt.stop()
        await asyncio.sleep(0)
    is_done = outcome.done()
    running.may_end.set()

    assert (is_done, await outcome) == (False, Succeeded('{"clean":1}'))
    assert running.cancellations == 1


async def test_a_stop_before_the_handler_began_keeps_it_from_beginning(bench: Bench) -> None:
    running = Running(bench)
    running.attempt.stop()

    outcome = await running.start(running.waits)

    assert outcome == Stopped()
    assert not running.begun.is_set()


async def test_a_stop_tells_a_thread_which_ends_by_itself(bench: Bench) -> None:
    running = Running(bench)
    loop = asyncio.get_running_loop()

    def handler(context: Context) -> None:
        loop.call_soon_threadsafe(running.begun.set)
        assert context.signals.is_cancelled.wait(20)
        context.raise_if_cancelled()

    outcome = await running.begin(handler)

    running.attempt.stop()

    assert await outcome == Stopped()
    assert not bench.threads.stuck


@pytest.mark.parametrize("end", [Attempt.give_up, Attempt.lose], ids=["give up", "lose"])
async def test_an_attempt_that_is_given_up_cancels_its_handler_whatever_it_answers(
    bench: Bench, end: Callable[[Attempt], None]
) -> None:
    running = Running(bench)

    async def handler(context: Context) -> dict[str, int]:
        running.begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return {"late": 1}

    outcome = await running.begin(handler)

    end(running.attempt)

    assert await outcome == Stopped()
    assert running.attempt.is_lost is (end is Attempt.lose)
    assert running.attempt.signals.is_cancelled.is_set()


async def test_an_attempt_that_is_given_up_while_it_cleans_up_after_a_stop_ends_soon(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "CANCEL_SECONDS", 0.01)
    running = Running(bench)
    outcome = await running.begin(running.cleans_up)
    running.attempt.stop()
    await asyncio.sleep(0)

    running.attempt.give_up()

    assert await outcome == Stopped()
    running.may_end.set()


async def test_a_thread_that_is_given_up_is_left_to_itself_and_told(bench: Bench) -> None:
    running, seen = Running(bench), threading.Event()
    loop = asyncio.get_running_loop()

    def handler(context: Context) -> None:
        loop.call_soon_threadsafe(running.begun.set)
        assert context.signals.is_cancelled.wait(20)
        seen.set()

    outcome = await running.begin(handler)

    running.attempt.give_up()

    assert await outcome == Stopped()
    assert await asyncio.to_thread(seen.wait, 20)


async def test_a_time_limit_that_passes_while_a_stopped_handler_cleans_up_is_a_time_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "CANCEL_SECONDS", 0.01)
    running = Running(bench, timeout_seconds=0.01)

    async def handler(context: Context) -> dict[str, int]:
        running.attempt.stop()
        return await running.cleans_up(context)

    outcome = await running.start(handler)

    running.may_end.set()
    assert failure(outcome) == ("timeout", True)


async def test_an_attempt_stopped_while_a_plain_function_runs_does_not_begin_the_async_one_that_it_returns(
    bench: Bench,
) -> None:
    begun: list[str] = []
    attempt = Attempt(claim_of())

    async def follows() -> None:
        begun.append("it has")

    def handler(_context: Context) -> Any:
        attempt.stop()
        return follows()

    outcome = await attempt.run(Pipeline([Stage("work", handler)]), artifacts_dir=bench.folder, threads=bench.threads)

    assert (outcome, begun) == (Stopped(), [])


@pytest.mark.parametrize(("depth", "kind"), [(OUTPUTS_DEPTH_LIMIT, None), (OUTPUTS_DEPTH_LIMIT + 1, "invalid_outputs")])
async def test_outputs_are_nested_so_deep_and_no_deeper(bench: Bench, depth: int, kind: str | None) -> None:
    outputs: Any = {}
    for _ in range(depth - 1):
        outputs = {"a": outputs}

    outcome = await bench.run(lambda _context: outputs)

    assert (None if isinstance(outcome, Succeeded) else failure(outcome)[0]) == kind


async def test_after_the_handler_has_ended_nothing_of_the_attempt_is_wanted_any_more(bench: Bench) -> None:
    contexts: list[Context] = []

    outcome = await bench.run(contexts.append)

    assert outcome == Succeeded("{}")
    assert contexts[0].is_cancelled


# Threads -------------------------------------------------------------------------------------------------------------


async def test_a_call_that_is_given_up_before_a_thread_took_it_never_begins_and_is_not_stuck() -> None:
    threads, calls = Threads(1), Counter[str]()

    with anyio.CancelScope() as scope:
        scope.cancel()
        await threads.run("work", lambda: (calls.update(["called"]), None))

    assert not threads.stuck
    assert not calls


async def test_stuck_threads_are_counted_by_stage_until_they_end() -> None:
    threads, mercy = Threads(4), threading.Event()
    begun: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def blocked() -> tuple[None, None]:
        loop.call_soon_threadsafe(begun.put_nowait, 1)
        mercy.wait(20)
        return None, None

    calls = [asyncio.create_task(threads.run(stage, blocked)) for stage in ("parse", "parse", "photos")]
    for _ in calls:
        await begun.get()
    before = threads.stuck
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    stuck = threads.stuck
    mercy.set()
    async with asyncio.timeout(20):
        while threads.stuck:
            await asyncio.sleep(0)

    assert (before, stuck, stuck.total()) == ({}, {"parse": 2, "photos": 1}, 3)


async def test_an_async_handler_that_does_not_end_is_stuck_until_it_does(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "CANCEL_SECONDS", 0.01)
    running = Running(bench)
    outcome = await running.begin(running.cleans_up)

    running.attempt.give_up()
    await outcome
    stuck = bench.threads.stuck
    running.may_end.set()
    async with asyncio.timeout(20):
        while bench.threads.stuck:
            await asyncio.sleep(0)

    assert stuck == {"work": 1}


async def test_an_async_handler_that_ends_when_it_is_told_is_not_stuck(bench: Bench) -> None:
    running = Running(bench)
    outcome = await running.begin(running.waits)

    running.attempt.give_up()
    await outcome

    assert not bench.threads.stuck
