"""Progress: what a handler tells of itself is written down now and then, and can be read while it runs."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest

from app.domain.jobs import ProgressTold
from app.domain.tasks import TaskFilter
from app.errors import StorageBusy
from app.pipelines import Context, Pipeline, Stage
from app.pipelines.context import PROGRESS_MESSAGE_LIMIT
from app.services import tasks
from app.services.pages import PageCommand
from app.services.tasks import ListTasks
from app.unit import UnitOfWork
from app.worker.worker import Worker
from tests.worker.cases import add_tasks, attempts, pipeline_of, standing
from tests.worker.desk import Desk
from tests.worker.shift import PATIENCE_SECONDS, FaultyStore, Gate

T = TypeVar("T")


class CountingStore(FaultyStore):
    """A store that counts the units that write."""

    writes = 0

    async def write(self, body: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """Count, and write."""
        self.writes += 1
        return await super().write(body)


@asynccontextmanager
async def at_work(desk: Desk, **more: Any) -> AsyncIterator[tuple[Worker, Context]]:
    """Let a worker run a task as far as the gate, and let it end when the block does."""
    gate = Gate()
    worker = desk.worker(gate.pipeline(), **more)
    step = asyncio.create_task(worker.step())
    async with asyncio.timeout(PATIENCE_SECONDS):
        context = await gate.begun.get()
        try:
            yield worker, context
        finally:
            gate.open.set()
            await step


def context_of() -> Context:
    """Return a context of an attempt that nobody runs."""
    return Context(
        task_id="task",
        reference=None,
        stage="parse",
        attempt=1,
        payload={},
        outputs={},
        folder=None,  # type: ignore[arg-type]  # nobody looks into it
        log=logging.getLogger("stage.parse"),
    )


async def test_what_a_handler_tells_can_be_read_while_it_runs(desk: Desk) -> None:
    task_id = await desk.add_task()
    async with at_work(desk) as (worker, context):
        before = await standing(desk, task_id)
        context.progress(0.25, "1 of 4 pictures")
        desk.clock.move(3)

        await worker.upkeep.tell_progress_once()

        told = ProgressTold(fraction=0.25, message="1 of 4 pictures", told_at=desk.clock.now())
        assert before.progress is None
        assert (await standing(desk, task_id)).progress == told
        assert [attempt.progress for attempt in await attempts(desk, task_id)] == [told]


async def test_lists_show_progress_too(desk: Desk) -> None:
    await desk.add_task()
    async with at_work(desk) as (worker, context):
        context.progress(0.5)
        await worker.upkeep.tell_progress_once()

        command = ListTasks(page=PageCommand(), wanted=TaskFilter())
        page = await desk.store.read(lambda work: tasks.list_tasks(work, desk.actor, command))

        assert [found.progress and found.progress.fraction for found in page.items] == [0.5]


async def test_a_handler_in_a_thread_tells_as_well(desk: Desk) -> None:
    task_id = await desk.add_task()
    told, leave = threading.Event(), threading.Event()

    def handler(context: Context) -> None:
        context.progress(0.5, "half")
        told.set()
        leave.wait(PATIENCE_SECONDS)

    worker = desk.worker(Pipeline([Stage("parse", handler)]))
    step = asyncio.create_task(worker.step())
    await asyncio.to_thread(told.wait, PATIENCE_SECONDS)

    await worker.upkeep.tell_progress_once()

    shown = (await standing(desk, task_id)).progress
    leave.set()
    await step
    assert shown is not None
    assert (shown.fraction, shown.message) == (0.5, "half")


async def test_however_often_a_handler_tells_one_unit_writes_the_last_word(desk: Desk) -> None:
    task_id = await desk.add_task()
    store = CountingStore(desk.store)
    async with at_work(desk, store=store) as (worker, context):
        store.writes = 0
        for number in range(10_000):
            context.progress(number / 10_000, f"row {number}")

        await worker.upkeep.tell_progress_once()
        await worker.upkeep.tell_progress_once()

        shown = (await standing(desk, task_id)).progress
        assert store.writes == 1
        assert shown is not None
        assert (shown.fraction, shown.message) == (1.0, "row 9999")


async def test_one_unit_writes_what_several_attempts_have_told(desk: Desk) -> None:
    added = await add_tasks(desk, 3)
    store, gate = CountingStore(desk.store), Gate()
    worker = desk.worker(gate.pipeline(), store=store, concurrency=3)
    step = asyncio.create_task(worker.step())
    contexts = {context.task_id: context for context in [await gate.begun.get() for _ in added]}
    for number, task_id in enumerate(added[:2]):
        contexts[task_id].progress((number + 1) / 10)
    store.writes = 0

    await worker.upkeep.tell_progress_once()

    shown, writes = [(await standing(desk, task_id)).progress for task_id in added], store.writes
    gate.open.set()
    await step
    assert writes == 1
    assert [progress and progress.fraction for progress in shown] == [0.1, 0.2, None]


async def test_a_later_word_replaces_an_earlier_one_even_if_it_goes_back(desk: Desk) -> None:
    task_id = await desk.add_task()
    async with at_work(desk) as (worker, context):
        context.progress(0.9, "nearly")
        await worker.upkeep.tell_progress_once()
        context.progress(0.1)
        await worker.upkeep.tell_progress_once()

        shown = (await standing(desk, task_id)).progress
        assert shown is not None
        assert (shown.fraction, shown.message) == (0.1, "")


async def test_the_same_word_told_again_is_written_again_with_its_time(desk: Desk) -> None:
    task_id = await desk.add_task()
    async with at_work(desk) as (worker, context):
        context.progress(0.5, "waiting")
        await worker.upkeep.tell_progress_once()
        desk.clock.move(60)
        context.progress(0.5, "waiting")

        await worker.upkeep.tell_progress_once()

        shown = (await standing(desk, task_id)).progress
        assert shown is not None
        assert shown.told_at == desk.clock.now()


async def test_what_the_database_could_not_take_is_written_the_next_time(desk: Desk) -> None:
    task_id = await desk.add_task()
    store = FaultyStore(desk.store)
    async with at_work(desk, store=store) as (worker, context):
        context.progress(0.5)
        store.faults = [StorageBusy()]
        with pytest.raises(StorageBusy):
            await worker.upkeep.tell_progress_once()

        await worker.upkeep.tell_progress_once()

        assert (await standing(desk, task_id)).progress is not None


async def test_an_attempt_that_has_ended_keeps_what_it_had_told(desk: Desk) -> None:
    task_id = await desk.add_task()
    async with at_work(desk) as (worker, context):
        context.progress(0.7, "still there")
        await worker.upkeep.tell_progress_once()
        context.progress(0.8)
    await worker.upkeep.tell_progress_once()

    [attempt] = await attempts(desk, task_id)

    assert attempt.progress is not None
    assert (attempt.progress.fraction, attempt.outcome) == (0.7, "succeeded")
    assert (await standing(desk, task_id)).progress is None


async def test_nothing_is_written_through_a_lost_lease(desk: Desk) -> None:
    task_id = await desk.add_task()
    async with at_work(desk) as (worker, context):
        context.progress(0.7)
        desk.clock.move(31)
        await desk.take_back()
        [_] = await desk.claim(worker="two")
        before = await desk.everything()

        await worker.upkeep.tell_progress_once()

        assert await desk.everything() == before
        assert (await standing(desk, task_id)).progress is None


async def test_every_attempt_begins_without_progress(desk: Desk) -> None:
    task_id = await desk.add_task()
    async with at_work(desk) as (worker, context):
        context.progress(0.7)
        await worker.upkeep.tell_progress_once()
        desk.clock.move(31)
        await desk.take_back()
        await desk.claim(worker="two")

        shown = [attempt.progress and attempt.progress.fraction for attempt in await attempts(desk, task_id)]
        assert shown == [0.7, None]


async def test_a_word_told_after_the_end_of_the_stage_is_not_the_next_ones(desk: Desk) -> None:
    kept: list[Context] = []
    gate = Gate()

    async def first(context: Context) -> None:
        kept.append(context)

    task_id = await desk.add_task()
    worker = desk.worker(pipeline_of("parse", "photos", parse=first, photos=gate))
    await worker.step()
    step = asyncio.create_task(worker.step())
    await gate.begun.get()
    kept[0].progress(0.5)

    await worker.upkeep.tell_progress_once()

    shown = (await standing(desk, task_id)).progress
    gate.open.set()
    await step
    assert shown is None


async def test_no_word_is_no_write(desk: Desk) -> None:
    await desk.add_task()
    store = CountingStore(desk.store)
    async with at_work(desk, store=store) as (worker, _):
        store.writes = 0

        await worker.upkeep.tell_progress_once()

        assert store.writes == 0


@pytest.mark.parametrize(
    ("fraction", "kept"),
    [(0, 0.0), (1, 1.0), (-0.5, 0.0), (7, 1.0), (0.12345, 0.123), (0.9996, 1.0), (True, 1.0)],
)
async def test_a_fraction_is_kept_in_thousandths_between_nothing_and_all(
    desk: Desk, fraction: float, kept: float
) -> None:
    task_id = await desk.add_task()
    async with at_work(desk) as (worker, context):
        context.progress(fraction)
        await worker.upkeep.tell_progress_once()

        shown = (await standing(desk, task_id)).progress
        assert shown is not None
        assert shown.fraction == kept


@pytest.mark.parametrize("fraction", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_refused(fraction: float) -> None:
    context = context_of()

    with pytest.raises(ValueError, match="a fraction from 0 to 1"):
        context.progress(fraction)

    assert context.signals.progress is None


def test_what_is_no_number_at_all_is_a_mistake_of_the_handler() -> None:
    with pytest.raises(TypeError):
        context_of().progress("half")  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("ä" * (PROGRESS_MESSAGE_LIMIT + 1), "ä" * PROGRESS_MESSAGE_LIMIT),
        ("half \ud800", "half ?"),
        ("a \x00 inside", "a \ufffd inside"),
        (12, "12"),
    ],
    ids=["long", "half a surrogate pair", "NUL", "a number"],
)
async def test_a_message_is_kept_as_text_of_bounded_length(desk: Desk, message: Any, kept: str) -> None:
    task_id = await desk.add_task()
    async with at_work(desk) as (worker, context):
        context.progress(0.5, message)
        await worker.upkeep.tell_progress_once()

        shown = (await standing(desk, task_id)).progress
        assert shown is not None
        assert shown.message == kept


async def test_a_wrong_word_fails_the_attempt_and_not_the_worker(desk: Desk) -> None:
    def handler(context: Context) -> None:
        context.progress(float("nan"))

    task_id = await desk.add_task()

    await desk.worker(Pipeline([Stage("parse", handler)])).step()

    assert await desk.history(task_id) == [("parse", 1, "failed", "internal_error")]
