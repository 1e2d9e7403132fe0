"""What one attempt is told, and how long it may take."""

import asyncio
import io
import json
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel, ValidationError, field_validator

from app.log import bound
from app.pipelines import Context
from app.worker.execution import Outcome, Succeeded
from tests.worker.bench import TASK, Bench, failure, message


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Handlers run with their tasks' folders in a temporary one."""
    return Bench(tmp_path)


async def seen(bench: Bench, **claim: Any) -> Context:
    """Return the context that a handler gets for a claim."""
    contexts: list[Context] = []
    outcome = await bench.run(contexts.append, **claim)
    assert outcome == Succeeded("{}")
    return contexts[0]


# The context ---------------------------------------------------------------------------------------------------------


async def test_a_handler_is_told_everything_about_its_attempt(bench: Bench) -> None:
    context = await seen(bench, attempt=3)

    assert (context.task_id, context.reference, context.stage, context.attempt) == (TASK, "order 7", "work", 3)
    assert context.payload == {"n": 1}


async def test_the_idempotency_key_is_the_same_in_every_attempt_of_a_stage(bench: Bench) -> None:
    first = await seen(bench, attempt=1, lease_token="a")
    second = await seen(bench, attempt=2, lease_token="b")
    other = await seen(bench, task_id=TASK[:-1] + "2")

    assert first.idempotency_key == second.idempotency_key == f"{TASK}:work"
    assert other.idempotency_key != first.idempotency_key


async def test_a_handler_sees_what_earlier_stages_handed_on(bench: Bench) -> None:
    context = await seen(bench, outputs_json={"parse": '{"n":1}', "photos": "{}"})

    assert context.outputs == {"parse": {"n": 1}, "photos": {}}


async def test_the_folder_belongs_to_the_task_and_exists_for_its_owner_alone(bench: Bench) -> None:
    context = await seen(bench)

    assert context.folder == bench.folder / TASK
    assert context.folder.is_dir()
    assert context.folder.stat().st_mode & 0o777 == 0o700


async def test_files_in_the_folder_are_there_in_the_next_attempt(bench: Bench) -> None:
    first = await seen(bench)
    (first.folder / "page.html").write_text("half")

    second = await seen(bench, attempt=2)

    assert (second.folder / "page.html").read_text() == "half"


async def test_a_folder_that_cannot_be_made_fails_the_attempt(bench: Bench) -> None:
    (bench.folder / TASK).write_text("a file lies in the way")

    outcome = await bench.run(lambda _context: None)

    assert failure(outcome) == ("internal_error", True)


async def test_a_handlers_log_lines_carry_the_task_and_the_stage(bench: Bench, log: io.StringIO) -> None:
    def handler(context: Context) -> None:
        context.log.info("looking")

    with bound(task=TASK):
        await bench.run(handler)

    [line] = [json.loads(text) for text in log.getvalue().splitlines()]
    assert (line["event"], line["logger"], line["task_id"]) == ("looking", "stage.work", TASK)


# Payload models ------------------------------------------------------------------------------------------------------


class Listing(BaseModel):
    """A payload."""

    n: int


class Moody(BaseModel):
    """A payload whose model breaks."""

    n: int

    @field_validator("n")
    @classmethod
    def break_down(cls, _n: int) -> int:
        """Raise what pydantic lets through."""
        raise ZeroDivisionError


async def test_a_handler_gets_the_payload_as_the_pipelines_model(bench: Bench) -> None:
    contexts: list[Context] = []

    await bench.run(contexts.append, payload=Listing)

    assert contexts[0].payload == Listing(n=1)


async def test_a_payload_that_no_longer_fits_the_model_is_refused_for_good(bench: Bench) -> None:
    outcome = await bench.run(lambda _context: None, payload=Listing, payload_json='{"n":"many"}')

    assert failure(outcome) == ("payload_unreadable", False)
    assert "many" not in message(outcome)


async def test_a_model_that_breaks_fails_the_attempt_alone(bench: Bench) -> None:
    outcome = await bench.run(lambda _context: None, payload=Moody)

    assert failure(outcome) == ("internal_error", True)


async def test_a_validation_error_of_the_handlers_own_is_an_error_like_others(bench: Bench) -> None:
    def handler(context: Context) -> None:
        with pytest.raises(ValidationError):
            Listing.model_validate({})
        Listing.model_validate({})

    outcome = await bench.run(handler)

    assert failure(outcome) == ("internal_error", True)


# Time limits ---------------------------------------------------------------------------------------------------------


async def test_an_async_handler_is_cancelled_at_its_time_limit(bench: Bench) -> None:
    ends: list[str] = []

    async def handler(context: Context) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    outcome = await bench.run(handler, timeout_seconds=0.01)

    assert failure(outcome) == ("timeout", True)
    assert message(outcome) == "The stage took longer than its 0.01 seconds."
    assert ends == ["cancelled"]


async def test_a_thread_that_overruns_its_time_limit_is_given_up(bench: Bench) -> None:
    gate = threading.Event()

    outcome = await bench.run(lambda _context: gate.wait(60) and None, timeout_seconds=0.01)

    gate.set()
    assert failure(outcome) == ("timeout", True)


async def test_threads_that_were_given_up_do_not_stop_others(bench: Bench) -> None:
    gate = threading.Event()
    slots = int(bench.threads.limiter.total_tokens)
    for _ in range(slots):
        await bench.run(lambda _context: gate.wait(60) and None, timeout_seconds=0.01)

    outcome = await bench.run(lambda _context: {"n": 1})

    gate.set()
    assert outcome == Succeeded('{"n":1}')


async def test_what_a_handler_raises_at_its_time_limit_is_still_a_time_out(bench: Bench) -> None:
    async def handler(context: Context) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("could not clean up")

    outcome = await bench.run(handler, timeout_seconds=0.01)

    assert failure(outcome) == ("timeout", True)


async def test_a_time_out_of_the_handlers_own_is_an_error_like_others(bench: Bench) -> None:
    async def handler(context: Context) -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    outcome = await bench.run(handler)

    assert failure(outcome) == ("internal_error", True)


async def test_the_cancellation_of_the_attempt_itself_passes_through(bench: Bench) -> None:
    outcomes: list[Outcome] = []
    started = asyncio.Event()

    async def handler(context: Context) -> None:
        started.set()
        await asyncio.Event().wait()

    async def attempt(scope: anyio.CancelScope) -> None:
        with scope:
            outcomes.append(await bench.run(handler))

    scope = anyio.CancelScope()
    running = asyncio.create_task(attempt(scope))
    await started.wait()
    scope.cancel()
    await running

    assert scope.cancelled_caught
    assert outcomes == []
