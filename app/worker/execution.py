"""Execution: one attempt of a stage; whatever its handler does becomes one of two outcomes."""

import asyncio
import inspect
import json
import threading
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
from app.pipelines import Context, Fail, Pipeline
from app.pipelines.outcomes import is_error_kind
from app.pipelines.stage import Handler, Stage

CANCEL_SECONDS = 1.0
"""How long a handler that is cancelled may take to end."""

OUTPUTS_BYTES_LIMIT = 262_144
"""How much a stage may hand on, as JSON; files belong into the task's folder."""

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


class Threads:
    """The threads that plain handlers run in, and those among them that overran their time and cannot be stopped."""

    def __init__(self, count: int) -> None:
        self.limiter = anyio.CapacityLimiter(count)
        self._abandoned: set[object] = set()

    @property
    def stuck(self) -> int:
        """How many threads still run an attempt that was given up; each keeps its slot."""
        return len(self._abandoned)

    async def run(self, function: Callable[..., _Ended], *arguments: Any) -> _Ended:
        """Call a function in a thread; a caller that is cancelled leaves the thread to itself."""
        loop, call, has_ended = asyncio.get_running_loop(), object(), threading.Event()

        def told() -> _Ended:
            try:
                return function(*arguments)
            finally:
                has_ended.set()
                with suppress(RuntimeError):  # the loop has ended before
                    loop.call_soon_threadsafe(self._abandoned.discard, call)

        try:
            return await anyio.to_thread.run_sync(told, abandon_on_cancel=True, limiter=self.limiter)
        except BaseException:
            if not has_ended.is_set():
                self._abandoned.add(call)
            raise


async def execute(pipeline: Pipeline, claim: Claim, *, artifacts_dir: Path, threads: Threads) -> Succeeded | Failed:
    """Run the claimed stage. Only the cancellation of this very task passes through; all else becomes an outcome."""
    stage = pipeline.stage(claim.stage)
    limit = asyncio.timeout(stage.timeout_seconds)
    try:
        context = await anyio.to_thread.run_sync(_context, pipeline, claim, artifacts_dir, limiter=threads.limiter)
        async with limit:
            outputs = await _call(stage.handler, context, threads)
        return Succeeded(_outputs_json(outputs))
    except Fail as refusal:
        return Failed(_refused(refusal))
    except asyncio.CancelledError as error:
        if _is_cancelled():
            raise
        return Failed(_unforeseen(error), error)
    except BaseException as error:  # SystemExit too: a handler does not end the worker
        return Failed(_timed_out(stage)) if limit.expired() else Failed(_unforeseen(error), error)


def _context(pipeline: Pipeline, claim: Claim, artifacts_dir: Path) -> Context:
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
    )


def _payload(pipeline: Pipeline, claim: Claim) -> Any:
    try:
        return pipeline.read_payload(json.loads(claim.payload_json))
    except ValueError as error:
        raise Fail("payload_unreadable", "The payload no longer fits the pipeline's payload model.") from error


async def _call(handler: Handler, context: Context, threads: Threads) -> Any:
    if _is_async(handler):
        value, failure = await _in_a_task(_contained(handler(context)))
    else:
        value, failure = await threads.run(_contained_plain, handler, context)
        if inspect.isawaitable(value):  # a plain function around an async one
            value, failure = await _in_a_task(_contained(value))
    if failure is not None:
        raise failure
    return value


async def _in_a_task(handling: Coroutine[Any, Any, _Ended]) -> _Ended:
    """Run a handler in a task of its own; one that does not end when it is cancelled is left behind."""
    task = asyncio.create_task(handling)
    try:
        await asyncio.wait({task})
    finally:
        if not task.done():
            task.cancel()
            with anyio.move_on_after(CANCEL_SECONDS, shield=True):
                await asyncio.wait({task})
    return task.result()


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


def _outputs_json(outputs: Any) -> str:
    if outputs is None:
        return "{}"
    if not isinstance(outputs, Mapping):
        raise Fail("invalid_outputs", f"A handler returns a mapping or None, not {type(outputs).__name__}.")
    try:
        text = json.dumps(dict(outputs), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise Fail("invalid_outputs", "What the handler returned cannot be written as JSON.") from error
    if size > OUTPUTS_BYTES_LIMIT:
        raise Fail("outputs_too_large", f"Outputs may have {OUTPUTS_BYTES_LIMIT} bytes as JSON, these have {size}.")
    return text


def _refused(refusal: Fail) -> Failure:
    kind, message = getattr(refusal, "kind", None), getattr(refusal, "message", None)
    return Failure(
        kind=kind if is_error_kind(kind) else "internal_error",
        message=_cut(message if isinstance(message, str) else _shown(refusal)),
        retryable=False,
    )


def _timed_out(stage: Stage) -> Failure:
    return Failure(kind="timeout", message=f"The stage took longer than its {stage.timeout_seconds:g} seconds.")


def _unforeseen(error: BaseException) -> Failure:
    return Failure(kind="internal_error", message=_cut(f"{type(error).__name__}: {_shown(error)}"))


def _shown(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # it is the handler's own code
        return "its message cannot be shown"


def _cut(message: str) -> str:
    return message.encode("utf-8", "replace").decode()[:ERROR_MESSAGE_LIMIT]


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
