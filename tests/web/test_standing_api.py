"""A task over HTTP while an attempt runs or waits: progress, the next attempt, and what the history keeps of each."""

from typing import Any
from unittest.mock import ANY

import pytest

from tests.web.shop import NOW, Shop

HALF = {"fraction": 0.5, "message": "half of the pages", "told_at": "2026-11-22T20:19:03.000000Z"}


async def moments(shop: Shop, task: str) -> dict[str, Any]:
    """Return what a task shows of its attempts."""
    shown = await shop.seen(f"/v1/tasks/{task}", "alice")
    listed = await shop.seen("/v1/tasks", "alice")
    assert {**listed["items"][0], "payload": shown["payload"]} == shown
    return {name: shown[name] for name in ("stage_status", "attempt", "next_attempt_at", "progress")}


async def newest(shop: Shop, task: str, subject: str = "alice") -> dict[str, Any]:
    """Return the newest attempt of a task."""
    shown: dict[str, Any] = (await shop.seen(f"/v1/tasks/{task}/history", subject))["items"][0]
    return shown


async def test_progress_shows_while_an_attempt_runs_and_stays_in_the_history(shop: Shop) -> None:
    task = await shop.make({"parse": {"hold": 0.5}})
    queued = await moments(shop, task)
    async with shop.working(task):
        untold = await moments(shop, task)
        shop.clock.move(3)
        await shop.worker.upkeep.tell_progress_once()
        running, attempt = await moments(shop, task), await newest(shop, task)
    after, ended = await moments(shop, task), await newest(shop, task)

    assert queued == {"stage_status": "queued", "attempt": 0, "next_attempt_at": NOW, "progress": None}
    assert untold == {"stage_status": "running", "attempt": 1, "next_attempt_at": None, "progress": None}
    assert running == {"stage_status": "running", "attempt": 1, "next_attempt_at": None, "progress": HALF}
    assert after == {"stage_status": "queued", "attempt": 0, "next_attempt_at": NOW, "progress": None}
    assert attempt == {
        "stage": "parse",
        "attempt": 1,
        "worker": ANY,
        "started_at": NOW,
        "ended_at": None,
        "outcome": None,
        "error_kind": None,
        "error_message": None,
        "traceback": None,
        "milliseconds": None,
        "progress": HALF,
    }
    assert ended == attempt | {"ended_at": HALF["told_at"], "outcome": "succeeded", "milliseconds": 3_000}


@pytest.mark.parametrize(
    ("payload", "status", "attempt"), [({"retry": 600}, "failed", 1), ({"snooze": 600}, "queued", 0)]
)
async def test_a_task_that_waits_shows_when_its_next_attempt_may_begin(
    shop: Shop, payload: dict[str, Any], status: str, attempt: int
) -> None:
    task = await shop.make({"charge": payload})

    await shop.work()

    assert await moments(shop, task) == {
        "stage_status": status,
        "attempt": attempt,
        "next_attempt_at": "2026-11-22T20:29:00.000000Z",
        "progress": None,
    }


async def test_a_retry_shows_that_the_next_attempt_is_due_now(shop: Shop) -> None:
    task = await shop.make({"charge": {"retry": 600}})
    await shop.work()
    shop.clock.move(7)

    answer = await shop.post(f"/v1/tasks/{task}/retry", {"reason": "the bank is open"})

    assert (answer.status_code, answer.json()["next_attempt_at"]) == (200, "2026-11-22T20:19:07.000000Z")


@pytest.mark.parametrize("payload", [{}, {"parse": {"fail": "No."}}])
async def test_a_task_that_has_ended_has_no_next_attempt(shop: Shop, payload: dict[str, Any]) -> None:
    task = await shop.make(payload)

    await shop.work()

    assert (await moments(shop, task))["next_attempt_at"] is None


async def test_the_history_says_where_an_error_was_raised(shop: Shop) -> None:
    task = await shop.make({"parse": {"error": "the page is empty"}})

    await shop.work()

    attempt = await newest(shop, task)
    assert (attempt["error_kind"], attempt["error_message"]) == ("internal_error", "ValueError: the page is empty")
    first, *_, last = attempt["traceback"].splitlines()
    assert (first, last) == ("Traceback (most recent call last):", "ValueError: the page is empty")
    assert "raise ValueError(message)" in attempt["traceback"]
    assert "execution.py" not in attempt["traceback"]


async def test_a_traceback_stands_nowhere_but_in_the_history(shop: Shop) -> None:
    task = await shop.make({"parse": {"error": "the page is empty"}})
    await shop.work()
    paths = [f"/v1/tasks/{task}", f"/v1/tasks/{task}/explain", f"/v1/tasks/{task}/outputs", "/v1/tasks", "/v1/stats",
             "/v1/stages", "/v1/dead-letters", "/v1/dead-letters/groups"]  # fmt: skip

    answers = [await shop.get(path) for path in paths]

    assert [path for path, answer in zip(paths, answers, strict=True) if "Traceback" in answer.text] == []
