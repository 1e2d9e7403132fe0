"""What follows a failed attempt: when the next one comes, and when none does. Every worker is driven step by step."""

from typing import Any

import pytest

from app.pipelines import Context, Fail, Pipeline, RetryPolicy, Stage
from tests.worker.desk import Desk

POLICY = RetryPolicy(max_attempts=3, base_seconds=8, factor=2, cap_seconds=300)


def one_stage(handler: Any, policy: RetryPolicy = POLICY) -> Pipeline:
    """Return a pipeline that has the one stage `parse`."""
    return Pipeline([Stage("parse", handler, retry=policy)])


def broken(context: Context) -> None:
    """Fail, with the number of the attempt."""
    raise RuntimeError(f"attempt {context.attempt}")


async def test_a_step_runs_what_is_due_and_tells_how_much_that_was(desk: Desk) -> None:
    first, second = [await desk.add_task() for _ in range(2)]
    worker = desk.worker(one_stage(lambda context: {"task": context.task_id}), concurrency=4)

    ran = await worker.step()

    assert ran == 2
    assert await worker.step() == 0
    assert [await desk.task_status(task) for task in (first, second)] == ["succeeded", "succeeded"]


async def test_a_task_goes_through_all_stages_in_their_order(desk: Desk) -> None:
    task_id = await desk.add_task()
    worker = desk.worker()

    for _ in range(5):
        assert await worker.step() == 1

    assert await desk.task_status(task_id) == "succeeded"
    assert await desk.state(task_id) == ("cleanup", "succeeded", 1)
    assert [row[0] for row in await desk.history(task_id)] == ["parse", "photos", "publish", "export", "cleanup"]
    assert await desk.rows("SELECT stage, value_json FROM outputs ORDER BY stage") == [
        (stage, f'{{"stage":"{stage}"}}') for stage in ("cleanup", "export", "parse", "photos", "publish")
    ]


@pytest.mark.parametrize(
    ("chance", "run_at"),
    [
        (0.0, "2026-11-22T20:19:00.000000Z"),
        (0.5, "2026-11-22T20:19:04.000000Z"),
        (0.999999, "2026-11-22T20:19:07.999992Z"),
    ],
)
async def test_the_next_attempt_comes_after_a_part_of_the_backoff_that_chance_decides(
    desk: Desk, chance: float, run_at: str
) -> None:
    task_id = await desk.add_task()
    worker = desk.worker(one_stage(broken), chance=chance)

    await worker.step()

    assert await desk.state(task_id) == ("parse", "failed", 1)
    assert await desk.run_at(task_id) == run_at


async def test_the_next_attempt_is_not_claimed_before_its_time_and_is_at_it(desk: Desk) -> None:
    task_id = await desk.add_task()
    worker = desk.worker(one_stage(broken), chance=0.5)
    await worker.step()

    desk.clock.move(3.999999)
    early = await worker.step()
    desk.clock.move(0.000001)
    due = await worker.step()

    assert (early, due) == (0, 1)
    assert await desk.state(task_id) == ("parse", "failed", 2)


async def test_the_backoff_grows_with_every_attempt(desk: Desk) -> None:
    task_id = await desk.add_task()
    worker = desk.worker(one_stage(broken), chance=0.5)
    await worker.step()
    desk.clock.move(4)

    await worker.step()

    assert await desk.run_at(task_id) == "2026-11-22T20:19:12.000000Z"


async def test_the_last_attempt_that_fails_makes_a_dead_letter(desk: Desk) -> None:
    task_id = await desk.add_task()
    worker = desk.worker(one_stage(broken), chance=0)

    ran = [await worker.step() for _ in range(4)]

    assert ran == [1, 1, 1, 0]
    assert await desk.state(task_id) == ("parse", "dead_letter", 3)
    assert await desk.task_status(task_id) == "failed"
    assert await desk.rows("SELECT attempt, error_message FROM attempts ORDER BY attempt") == [
        (number, f"RuntimeError: attempt {number}") for number in (1, 2, 3)
    ]


async def test_a_failure_for_good_is_not_tried_again(desk: Desk) -> None:
    def gone(_context: Context) -> None:
        raise Fail("gone", "The listing is gone.")

    task_id = await desk.add_task()

    await desk.worker(one_stage(gone)).step()

    assert await desk.state(task_id) == ("parse", "dead_letter", 1)
    assert await desk.history(task_id) == [("parse", 1, "failed", "gone")]


async def test_a_stage_with_one_attempt_has_no_second(desk: Desk) -> None:
    task_id = await desk.add_task()

    await desk.worker(one_stage(broken, RetryPolicy(max_attempts=1))).step()

    assert await desk.state(task_id) == ("parse", "dead_letter", 1)


async def test_a_stage_that_succeeds_at_last_leaves_no_error_behind(desk: Desk) -> None:
    def at_last(context: Context) -> dict[str, Any]:
        if context.attempt < 2:
            raise RuntimeError("not yet")
        return {"attempt": context.attempt}

    task_id = await desk.add_task()
    worker = desk.worker(one_stage(at_last), chance=0)

    await worker.step()
    await worker.step()

    assert await desk.one("SELECT status, attempt, last_error_kind FROM pipeline_states") == ("succeeded", 2, None)
    assert [row[2] for row in await desk.history(task_id)] == ["failed", "succeeded"]


async def test_the_next_stage_begins_with_its_own_first_attempt(desk: Desk) -> None:
    attempts: list[tuple[str, int]] = []

    def handler(context: Context) -> None:
        attempts.append((context.stage, context.attempt))
        if attempts == [("parse", 1)]:
            raise RuntimeError("not yet")

    await desk.add_task()
    worker = desk.worker(Pipeline([Stage("parse", handler), Stage("photos", handler)]), chance=0)

    for _ in range(3):
        await worker.step()

    assert attempts == [("parse", 1), ("parse", 2), ("photos", 1)]


async def test_a_failure_of_one_task_leaves_its_neighbours_alone(desk: Desk) -> None:
    good, bad = await desk.add_task(payload={"good": 1}), await desk.add_task()

    def handler(context: Context) -> None:
        if not context.payload:
            raise SystemExit("the whole worker should end")

    await desk.worker(one_stage(handler), concurrency=2).step()

    assert await desk.state(good) == ("parse", "succeeded", 1)
    assert await desk.state(bad) == ("parse", "failed", 1)


async def test_crashes_and_failures_are_counted_apart(desk: Desk) -> None:
    task_id = await desk.add_task()
    for _ in range(POLICY.max_crashes - 1):
        await desk.claim(stages=["parse"])
        await desk.take_back_all()

    await desk.worker(one_stage(broken), chance=0).step()

    assert await desk.state(task_id) == ("parse", "failed", 1)
