"""Execution: one attempt of a stage; whatever its handler does becomes one outcome."""

import asyncio
import inspect
import json
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from app.domain.jobs import ERROR_MESSAGE_LIMIT, Claim, Failure
from app.pipelines import Cancelled, Context, Fail, Pipeline, Retry, Snooze
from app.pipelines.context import AttemptSignals, storable
from app.pipelines.outcomes import is_error_kind
from app.pipelines.stage import Handler, Stage
from app.worker.tracebacks import traceback_of

CANCEL_SECONDS = 1.0
"""How long a handler that is cancelled may take to end."""

OUTPUTS_BYTES_LIMIT = 262_144
"""How much a stage may hand on, as JSON; files belong into the task's folder."""

OUTPUTS_DEPTH_LIMIT = 100
"""How deep outputs may be nested; every reader of JSON has a limit."""

_Ended = tuple[Any, BaseException | None]


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The stage did its work and hands this on."""

    outputs_json: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The stage did not do its work; `error` is what nobody foresaw, for the log."""

    failure: Failure
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Snoozed:
    """The stage wants to run again later."""

    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """The attempt was not wanted any more, and the handler has left it."""


Outcome = Succeeded | Failed | Snoozed | Stopped


class Threads:
    """The threads that plain handlers run in, and the handlers that were given up and cannot be stopped."""

    def __init__(self, count: int) -> None:
        self.limiter = anyio.CapacityLimiter(count)
        self._abandoned: dict[object, str] = {}

    @property
    def stuck(self) -> Counter[str]:
        """How many attempts that were given up still run, by stage; each keeps its slot."""
        return Counter(self._abandoned.values())

    async def run(self, stage: str, function: Callable[..., _Ended], *arguments: Any) -> _Ended:
        """Call a function in a thread; a caller that is cancelled leaves the thread to itself."""
        loop, call, has_ended = asyncio.get_running_loop(), object(), threading.Event()
        begin = threading.Lock()

        def told() -> _Ended:
            if not begin.acquire(blocking=False):  # given up before a thread took it
                return None, None
            try:
                return function(*arguments)
            finally:
                has_ended.set()
                with suppress(RuntimeError):  # the loop has ended before
                    loop.call_soon_threadsafe(self._abandoned.pop, call, None)

        try:
            return await anyio.to_thread.run_sync(told, abandon_on_cancel=True, limiter=self.limiter)
        except BaseException:
            has_begun = not begin.acquire(blocking=False)
            if has_begun and not has_ended.is_set():
                self._abandoned[call] = stage
            raise

    def leave(self, stage: str, handling: asyncio.Task[_Ended]) -> None:
        """Count an async handler that was given up for as long as it does not end."""
        self._abandoned[handling] = stage
        handling.add_done_callback(lambda ended: self._abandoned.pop(ended, None))


class Attempt:
    """One attempt while it runs. Whoever started it may ask it to stop; what it tells lies in `signals`."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.signals = AttemptSignals()
        self.is_lost = False
        """Whether the lease is lost: whatever comes out is dropped."""
        self._scope = anyio.CancelScope()
        self._handling: asyncio.Task[_Ended] | None = None

    def stop(self) -> None:
        """Ask the handler to end and let it take its time: an async one is cancelled, once; one in a thread is told."""
        self.signals.is_cancelled.set()
        if self._handling is not None:
            self._handling.cancel()
            self._handling = None

    def lose(self) -> None:
        """The lease is lost: nothing of this attempt is wanted any more."""
        self.is_lost = True
        self.give_up()

    def give_up(self) -> None:
        """Wait for the handler no longer; a thread is left to itself, and what it returns is dropped."""
        self.signals.is_cancelled.set()
        self._scope.cancel()

    async def run(self, pipeline: Pipeline, *, artifacts_dir: Path, threads: Threads) -> Outcome:
        """Run the stage. Only the cancellation of the task that calls passes through; all else becomes an outcome."""
        with self._scope:
            return await self._run(pipeline, artifacts_dir, threads)
        return Stopped()

    async def _run(self, pipeline: Pipeline, artifacts_dir: Path, threads: Threads) -> Outcome:
        stage = pipeline.stage(self.claim.stage)
        limit = asyncio.timeout(stage.timeout_seconds)
        try:
            made = partial(_context, pipeline, self.claim, artifacts_dir, self.signals)
            context = await anyio.to_thread.run_sync(made, limiter=threads.limiter)
            async with limit:
                returned = await self._call(stage.handler, context, threads)
            return _returned(returned)
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            return Stopped() if self.signals.is_cancelled.is_set() else Failed(_unforeseen(error), error)
        except BaseException as error:  # SystemExit too: a handler does not end the worker
            return self._raised(error, stage, is_late=limit.expired())
        finally:
            self.signals.is_cancelled.set()  # whatever still runs of it is not wanted any more

    def _raised(self, error: BaseException, stage: Stage, *, is_late: bool) -> Outcome:
        match error:
            case Fail():
                return Failed(_told(error, retryable=False))
            case Retry():
                return Failed(_told(error, retryable=True, after_seconds=error.after_seconds))
            case _ if is_late:
                return Failed(_timed_out(stage))
            case Cancelled() if self.signals.is_cancelled.is_set():
                return Stopped()
            case _:
                return Failed(_unforeseen(error), error)

    async def _call(self, handler: Handler, context: Context, threads: Threads) -> Any:
        context.raise_if_cancelled()
        if _is_async(handler):
            value, failure = await self._in_a_task(_contained(handler(context)), threads)
        else:
            value, failure = await threads.run(context.stage, _contained_plain, handler, context)
            if inspect.iscoroutine(value) and context.is_cancelled:
                value.close()
                raise Cancelled
            if inspect.isawaitable(value):  # a plain function around an async one
                value, failure = await self._in_a_task(_contained(value), threads)
        if failure is not None:
            raise failure
        return value

    async def _in_a_task(self, handling: Coroutine[Any, Any, _Ended], threads: Threads) -> _Ended:
        """Run a handler in a task of its own; one that does not end when it is given up is left behind."""
        self._handling = task = asyncio.create_task(handling)
        try:
            await asyncio.wait({task})
        finally:
            self._handling = None
            if not task.done():
                self.signals.is_cancelled.set()
                task.cancel()
                with anyio.move_on_after(CANCEL_SECONDS, shield=True):
                    await asyncio.wait({task})
            if not task.done():
                threads.leave(self.claim.stage, task)
        return task.result()


def _context(pipeline: Pipeline, claim: Claim, artifacts_dir: Path, signals: AttemptSignals) -> Context:
    folder = artifacts_dir / claim.task_id
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Context(
        task_id=claim.task_id,
        reference=claim.reference,
        stage=claim.stage,
        attempt=claim.attempt,
        payload=_payload(pipeline, claim),
        outputs={stage: json.loads(text) for stage, text in claim.outputs_json.items()},
        folder=folder,
        log=getLogger(f"stage.{claim.stage}"),
        signals=signals,
    )


def _payload(pipeline: Pipeline, claim: Claim) -> Any:
    try:
        return pipeline.read_payload(json.loads(claim.payload_json))
    except ValueError:  # its words may hold the payload
        raise Fail("payload_unreadable", "The payload no longer fits the pipeline's payload model.") from None


async def _contained(handling: Any) -> _Ended:
    """Return what a handler returned or raised, so that nothing it raises reaches the loop."""
    try:
        return await handling, None
    except asyncio.CancelledError:
        raise
    except BaseException as failure:
        return None, failure


def _contained_plain(handler: Handler, context: Context) -> _Ended:
    try:
        return handler(context), None
    except BaseException as failure:
        return None, failure


def _is_async(handler: Handler) -> bool:
    while isinstance(handler, partial):
        handler = handler.func
    # B004: it is not asked whether the handler can be called, but whether its __call__ is async
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


def _returned(value: Any) -> Succeeded | Snoozed:
    return Snoozed(value.delay_seconds) if isinstance(value, Snooze) else Succeeded(_outputs_json(value))


def _outputs_json(outputs: Any) -> str:
    if outputs is None:
        return "{}"
    if not isinstance(outputs, Mapping):
        raise Fail("invalid_outputs", f"A handler returns a mapping, a Snooze or None, not {type(outputs).__name__}.")
    try:
        text = json.dumps(dict(outputs), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise Fail("invalid_outputs", "What the handler returned cannot be written as JSON.") from error
    if _is_deeper(outputs, OUTPUTS_DEPTH_LIMIT):
        raise Fail("invalid_outputs", f"Outputs may be nested {OUTPUTS_DEPTH_LIMIT} deep.")
    if size > OUTPUTS_BYTES_LIMIT:
        raise Fail("outputs_too_large", f"Outputs may have {OUTPUTS_BYTES_LIMIT} bytes as JSON, these have {size}.")
    return text


def _is_deeper(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for container in level
            if isinstance(container, Mapping | list | tuple)
            for child in (container.values() if isinstance(container, Mapping) else container)
        ]
    return any(isinstance(value, Mapping | list | tuple) for value in level)


def _told(error: Fail | Retry, *, retryable: bool, after_seconds: float | None = None) -> Failure:
    kind, message = getattr(error, "kind", None), getattr(error, "message", None)
    return Failure(
        kind=kind if is_error_kind(kind) else "internal_error",
        message=_cut(message if isinstance(message, str) else _shown(error)),
        retryable=retryable,
        after_seconds=after_seconds,
        traceback=traceback_of(error),
    )


def _timed_out(stage: Stage) -> Failure:
    return Failure(kind="timeout", message=f"The stage took longer than its {stage.timeout_seconds:g} seconds.")


def _unforeseen(error: BaseException) -> Failure:
    message = _cut(f"{type(error).__name__}: {_shown(error)}")
    return Failure(kind="internal_error", message=message, traceback=traceback_of(error))


def _shown(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # it is the handler's own code
        return "its message cannot be shown"


def _cut(message: str) -> str:
    return storable(message)[:ERROR_MESSAGE_LIMIT]


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
