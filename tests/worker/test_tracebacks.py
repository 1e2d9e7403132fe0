"""Tracebacks: the history shows where a handler failed, from the handler on, bounded, and never the payload."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import pytest
from pydantic import BaseModel

from app.domain.dead_letters import DeadLetterFilter
from app.domain.jobs import TRACEBACK_LIMIT
from app.pipelines import Context, Fail, Pipeline, Retry, RetryPolicy, Snooze, Stage
from app.services import dead_letters
from app.services.dead_letters import ListDeadLetters
from app.services.pages import PageCommand
from app.services.tasks import AttemptView
from app.web import rendering, rendering_pipeline
from tests.worker.cases import attempts, explained, lose_worker, standing
from tests.worker.desk import Desk
from tests.worker.shift import PATIENCE_SECONDS

SECRET = "4711-0815-secret"

Handler = Callable[[Context], Any]


async def traceback(desk: Desk, handler: Handler, *, payload: type[BaseModel] | None = None, **more: Any) -> str | None:
    """Run a handler once and return the traceback that the history shows."""
    task_id = await desk.add_task(payload={"card": SECRET})
    pipeline = Pipeline([Stage("parse", handler, retry=RetryPolicy(max_attempts=1), **more)], payload=payload)
    await desk.worker(pipeline).step()
    [attempt] = await attempts(desk, task_id)
    assert attempt.outcome == "failed"
    return attempt.traceback


async def shown(desk: Desk, handler: Handler, **more: Any) -> str:
    """Return the traceback that there must be."""
    text = await traceback(desk, handler, **more)
    assert text is not None
    return text


def break_down() -> NoReturn:
    """Fail below the handler."""
    raise ValueError("it broke")


async def breaks(context: Context) -> None:
    """Handle by breaking."""
    break_down()


def breaks_in_a_thread(context: Context) -> None:
    """Handle by breaking, in a thread."""
    break_down()


def breaks_when_awaited(context: Context) -> Awaitable[None]:
    """Handle by handing a coroutine on."""
    return breaks(context)


@pytest.mark.parametrize("handler", [breaks, breaks_in_a_thread, breaks_when_awaited])
async def test_a_traceback_begins_in_the_handler_and_ends_where_it_broke(desk: Desk, handler: Handler) -> None:
    text = await shown(desk, handler)

    lines = text.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: it broke"
    assert [line.rsplit(" ", 1)[1] for line in lines if line.startswith("  File")][-2:] == [
        breaks_in_a_thread.__name__ if handler is breaks_in_a_thread else "breaks",
        "break_down",
    ]
    assert text.count("  File") == 2
    assert "app/worker" not in text


@pytest.mark.parametrize("error", [Retry("later", kind="closed"), Fail("no_stock", "sold out")])
async def test_what_a_handler_raises_on_purpose_has_its_place_too(desk: Desk, error: Exception) -> None:
    def handler(context: Context) -> None:
        raise error

    text = await shown(desk, handler)

    assert "in handler" in text
    assert text.endswith(str(error))


async def test_causes_are_shown_with_their_places(desk: Desk) -> None:
    def handler(context: Context) -> None:
        try:
            break_down()
        except ValueError as error:
            raise Fail("no_stock", "sold out") from error

    text = await shown(desk, handler)

    assert "in break_down" in text
    assert text.index("ValueError: it broke") < text.index("The above exception was the direct cause")
    assert text.endswith("Fail: sold out")


async def test_what_was_being_handled_is_shown_unless_it_is_hidden(desk: Desk) -> None:
    def handler(context: Context) -> None:
        try:
            break_down()
        except ValueError:
            raise KeyError("a") from None

    def handler_too(context: Context) -> None:
        try:
            break_down()
        except ValueError:
            raise KeyError("a")  # noqa: B904 what came before is the case under test

    assert "it broke" not in await shown(desk, handler)
    assert "During handling of the above exception" in await shown(desk, handler_too)


async def test_all_of_a_group_are_shown(desk: Desk) -> None:
    async def handler(context: Context) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(breaks(context))
            group.create_task(breaks(context))

    text = await shown(desk, handler)

    assert "ExceptionGroup: unhandled errors in a TaskGroup (2 sub-exceptions)" in text
    assert text.count("ValueError: it broke") == 2


async def test_cabinets_own_frames_are_left_out_of_causes_too(desk: Desk) -> None:
    def handler(context: Context) -> dict[str, object]:
        return {"picture": object()}

    text = await shown(desk, handler)

    assert text.endswith("Fail: What the handler returned cannot be written as JSON.")
    assert "TypeError: Object of type object is not JSON serializable" in text
    assert "app/worker" not in text


async def test_a_long_traceback_keeps_its_end(desk: Desk) -> None:
    def handler(context: Context) -> None:
        raise ValueError("a" * TRACEBACK_LIMIT + " end")

    text = await shown(desk, handler)

    assert len(text) == TRACEBACK_LIMIT
    assert text.startswith("…aaa")
    assert text.endswith("aaa end")


async def test_a_traceback_of_just_the_limit_is_whole(desk: Desk) -> None:
    def handler(context: Context) -> None:
        raise ValueError("a" * length)

    length = 1
    length += TRACEBACK_LIMIT - len(await shown(desk, handler))

    text = await shown(desk, handler)

    assert len(text) == TRACEBACK_LIMIT
    assert text.startswith("Traceback")


async def test_a_handler_that_calls_itself_without_end_keeps_the_innermost_frames(desk: Desk) -> None:
    def deeper(depth: int) -> None:
        if depth == 0:
            break_down()
        deeper(depth - 1)

    def handler(context: Context) -> None:
        deeper(200)

    text = await shown(desk, handler)

    assert len(text) < TRACEBACK_LIMIT
    assert "in handler" not in text
    assert "in break_down" in text


async def test_what_the_database_could_not_hold_is_replaced(desk: Desk) -> None:
    def handler(context: Context) -> None:
        raise ValueError("half \ud800 and nothing \x00")

    text = await shown(desk, handler)

    assert text.endswith("ValueError: half ? and nothing \ufffd")


class Mute(Exception):
    """An error whose message cannot be shown."""

    def __str__(self) -> str:
        """Fail."""
        raise RuntimeError("mute")


class Shy(Fail):
    """An error of which a part fails when it is looked at."""

    harm: BaseException = RuntimeError("shy")

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]  # it is the handlers' own code: anything may be there
        """Fail."""
        raise self.harm


class Deadly(Shy):
    """An error of which a part raises what no `except Exception` catches when it is looked at."""

    harm = BaseException("the end")


async def test_an_error_without_words_is_shown_with_its_place(desk: Desk) -> None:
    def handler(context: Context) -> None:
        raise Mute

    text = await shown(desk, handler)

    assert "in handler" in text
    assert await desk.rows("SELECT error_message FROM attempts") == [("Mute: its message cannot be shown",)]


@pytest.mark.parametrize("error", [Shy("no_stock", "sold out"), Deadly("no_stock", "sold out")], ids=["shy", "deadly"])
async def test_an_error_that_breaks_when_it_is_looked_at_harms_nobody(desk: Desk, error: Shy) -> None:
    def handler(context: Context) -> None:
        raise error

    text = await traceback(desk, handler)

    assert text is None
    assert await desk.rows("SELECT error_kind, error_message FROM attempts") == [("no_stock", "sold out")]


class Order(BaseModel):
    """A payload that the task's own does not fit."""

    card: int


async def test_a_payload_that_cannot_be_read_is_not_shown(desk: Desk) -> None:
    text = await shown(desk, breaks, payload=Order)

    assert text.endswith("Fail: The payload no longer fits the pipeline's payload model.")
    assert SECRET not in text
    assert SECRET not in json.dumps(await desk.rows("SELECT * FROM attempts"))
    assert SECRET not in json.dumps(await desk.rows("SELECT * FROM dead_letters"))


async def test_a_local_value_is_not_shown(desk: Desk) -> None:
    def handler(context: Context) -> None:
        card = context.payload["card"]
        assert card
        break_down()

    assert SECRET not in await shown(desk, handler)


async def test_a_stage_that_takes_too_long_has_no_traceback(desk: Desk) -> None:
    async def handler(context: Context) -> None:
        await asyncio.sleep(PATIENCE_SECONDS)

    assert await traceback(desk, handler, timeout_seconds=0.001) is None


async def test_a_thread_that_takes_too_long_has_no_traceback(desk: Desk) -> None:
    leave = threading.Event()

    def handler(context: Context) -> None:
        leave.wait(PATIENCE_SECONDS)

    text = await traceback(desk, handler, timeout_seconds=0.001)
    leave.set()

    assert text is None


async def test_attempts_that_did_not_fail_have_no_traceback(desk: Desk) -> None:
    def handler(context: Context) -> Snooze | None:
        return Snooze(1) if not told else None

    told: list[str] = []
    task_id = await desk.add_task()
    await lose_worker(desk)
    worker = desk.worker(Pipeline([Stage("parse", handler)]))
    await worker.step()
    told.append("enough")
    desk.clock.move(1)
    await worker.step()

    shown = [(attempt.outcome, attempt.traceback) for attempt in await attempts(desk, task_id)]

    assert shown == [("lease_expired", None), ("snoozed", None), ("succeeded", None)]


async def test_a_traceback_is_shown_in_the_history_alone(desk: Desk) -> None:
    text = await shown(desk, breaks)
    [(task_id,)] = await desk.rows("SELECT id FROM tasks")
    command = ListDeadLetters(page=PageCommand(), wanted=DeadLetterFilter())
    page = await desk.store.read(lambda work: dead_letters.list_dead_letters(work, desk.actor, command))

    elsewhere = [
        rendering.standing(await standing(desk, task_id)),
        rendering_pipeline.explanation(await explained(desk, task_id)),
        *[rendering_pipeline.dead_letter(letter) for letter in page.items],
    ]

    [attempt] = await attempts(desk, task_id)
    assert rendering.attempt(AttemptView(attempt, is_content_shown=True))["traceback"] == text
    assert "traceback" not in rendering.attempt(AttemptView(attempt, is_content_shown=False))
    assert "break_down" not in json.dumps(elsewhere)
