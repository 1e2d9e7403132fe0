"""Explaining over HTTP: why a task is not running, as a cause for programs and a sentence for people."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from app.ids import new_id
from app.services.explain import Cause
from tests.support.house import open_house, quiet_pipeline
from tests.web.asking import check_problem, pointers
from tests.web.shop import NOW, Shop, open_shop

AT = "2026-11-22T20:19:00Z"
"""The beginning as sentences tell it."""


async def explain(shop: Shop, task: str, subject: str = "alice") -> Any:
    """Ask why a task is not running."""
    return await shop.seen(f"/v1/tasks/{task}/explain", subject)


async def test_an_explanation_is_a_cause_a_sentence_facts_and_the_task_itself(shop: Shop) -> None:
    [task] = await shop.make_dead("Order 7 has no card.")

    answer = await shop.get(f"/v1/tasks/{task}/explain", "alice")

    assert answer.status_code == 200
    assert answer.json() == {
        "cause": "dead_letter",
        "sentence": (
            f"It is a dead letter: stage charge failed for good at {AT} with no_card: Order 7 has no card. "
            "It runs again when an admin rescues it."
        ),
        "facts": {
            "ended_at": NOW,
            "error_kind": "no_card",
            "error_message": "Order 7 has no card.",
            "signature": ANY,
        },
        "task": await shop.seen(f"/v1/tasks/{task}"),
    }


async def test_the_signature_of_an_explanation_finds_the_others_of_its_group(shop: Shop) -> None:
    tasks = await shop.make_dead("Order 7 has no card.", "Order 8 has no card.")
    await shop.make_dead("The bank said no.")

    facts = (await explain(shop, tasks[0]))["facts"]
    found = await shop.seen("/v1/dead-letters", signature=facts["signature"])

    assert [item["task_id"] for item in found["items"]] == tasks[::-1]


async def ends_well(shop: Shop) -> str:
    """Let a task succeed."""
    task = await shop.make()
    await shop.work()
    return task


async def is_cancelled(shop: Shop) -> str:
    """Let a task be cancelled."""
    task = await shop.make()
    await shop.post(f"/v1/tasks/{task}/cancel")
    return task


async def waits(shop: Shop) -> str:
    """Let a task wait for its next attempt."""
    task = await shop.make({"charge": {"retry": 600}})
    await shop.work()
    return task


async def snoozes(shop: Shop) -> str:
    """Let a task snooze."""
    task = await shop.make({"charge": {"snooze": 7_200}})
    await shop.work()
    return task


async def finds_everything_paused(shop: Shop) -> str:
    """Let everything and the task's stage be paused."""
    await shop.post("/v1/stages/parse/pause", {"reason": "The printer burns."})
    await shop.post("/v1/stages/pause", {"reason": "We move house."})
    return await shop.make()


async def finds_its_stage_paused(shop: Shop) -> str:
    """Let the task's stage be paused."""
    await shop.post("/v1/stages/parse/pause", {"reason": "The printer burns."})
    return await shop.make()


async def finds_nobody(shop: Shop) -> str:
    """Let nobody work."""
    return await shop.make()


async def is_third_in_line(shop: Shop) -> str:
    """Let two tasks be before it, and a worker be alive."""
    await shop.worker.upkeep.keep_leases_once()
    return [await shop.make() for _ in range(3)][-1]


@pytest.mark.parametrize(
    ("arrange", "cause", "sentence", "facts"),
    [
        (ends_well, "succeeded", f"It has succeeded; its last stage export ended at {AT}.", {"ended_at": NOW}),
        (is_cancelled, "cancelled", f"It was cancelled at stage parse at {AT}.", {"ended_at": NOW}),
        (
            waits,
            "waits_for_next_attempt",
            "Attempt 1 of stage charge failed with bank_busy; the next is due at 2026-11-22T20:29:00Z, in 10 min.",
            {"next_attempt_at": "2026-11-22T20:29:00.000000Z", "error_kind": "bank_busy", "attempt": 1},
        ),
        (
            snoozes,
            "snoozed",
            "Stage charge asked to wait; it is due again at 2026-11-22T22:19:00Z, in 2 h.",
            {"next_attempt_at": "2026-11-22T22:19:00.000000Z"},
        ),
        (
            finds_everything_paused,
            "everything_paused",
            f"Everything has been paused by admin since {AT}: We move house.",
            {"paused_by": ANY, "subject": "admin", "paused_at": NOW, "reason": "We move house."},
        ),
        (
            finds_its_stage_paused,
            "stage_paused",
            f"Stage parse has been paused by admin since {AT}: The printer burns.",
            {"paused_by": ANY, "subject": "admin", "paused_at": NOW, "reason": "The printer burns."},
        ),
        (
            finds_nobody,
            "no_worker",
            "It is due, but no worker is alive: start one that has stage parse.",
            {"alive": 0},
        ),
        (
            is_third_in_line,
            "next_in_line",
            f"It is due since {AT} and a worker has room for it; 2 tasks are before it at stage parse.",
            {"ahead": 2, "due_since": NOW},
        ),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
async def test_every_reason_not_to_run_has_its_own_cause_and_sentence(
    shop: Shop, arrange: Callable[[Shop], Awaitable[str]], cause: str, sentence: str, facts: dict[str, Any]
) -> None:
    task = await arrange(shop)

    shown = await explain(shop, task)

    assert (shown["cause"], shown["sentence"], shown["facts"]) == (cause, sentence, facts)


async def test_a_task_that_runs_is_explained_by_who_holds_it_and_how_far_it_has_come(shop: Shop) -> None:
    task = await shop.make({"charge": {"hold": 0.5}})
    await shop.worker.step()
    async with shop.working(task):
        await shop.worker.upkeep.tell_progress_once()
        running = await explain(shop, task)
        await shop.post(f"/v1/tasks/{task}/cancel")
        stopping = await explain(shop, task)

    worker = running["facts"]["worker"]
    assert (running["cause"], running["facts"]) == (
        "running",
        {"worker": ANY, "lease_expires_at": "2026-11-22T20:19:30.000000Z", "attempt": 1},
    )
    assert running["sentence"] == (
        f"It is running: worker {worker} holds stage charge, attempt 1, 50% done; "
        "its lease lasts until 2026-11-22T20:19:30Z unless it is renewed."
    )
    assert (stopping["cause"], stopping["facts"]["cancel_by"]) == ("stopping", "2026-11-22T20:19:30.000000Z")
    assert stopping["sentence"] == (
        f"It was cancelled; worker {worker} has until 2026-11-22T20:19:30Z to stop stage charge."
    )


async def test_a_worker_that_is_not_heard_of_and_a_worker_that_is_full_are_told_apart(tmp_path: Path) -> None:
    async with open_shop(tmp_path, worker_concurrency=1) as shop:
        held, next_one = await shop.make({"parse": {"hold": 0.5}}), await shop.make()
        async with shop.working(held):
            await shop.worker.upkeep.keep_leases_once()
            full = await explain(shop, next_one)
            shop.clock.move(31)
            silent = await explain(shop, held)

        assert (full["cause"], full["sentence"]) == ("no_free_slot", "It is due, but every slot is taken: 1 of 1.")
        assert full["facts"] == {"slots": 1, "slots_taken": 1, "stuck": 0, "due_since": NOW}
        assert silent["cause"] == "lease_expired"
        assert silent["sentence"].endswith(
            "its lease ran out at 2026-11-22T20:19:30Z, and any living worker takes it back."
        )


async def test_a_task_whose_stage_is_gone_says_which_stages_there_are(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        task = await shop.make({"charge": {"snooze": 60}})
        await shop.work()
        shop.clock.move(60)
    async with open_house(tmp_path, pipeline=quiet_pipeline(), clock=shop.clock) as house:
        answer = await house.client.get(f"/v1/tasks/{task}/explain", headers=house.headers("alice"))

    assert answer.json()["cause"] == "stage_gone"
    assert answer.json()["facts"] == {"stages": ["parse", "photos", "publish", "export", "cleanup"]}
    assert "stage charge, which the pipeline no longer has" in answer.json()["sentence"]


async def test_a_task_is_explained_to_whoever_may_see_it(shop: Shop) -> None:
    task = await shop.make()

    foreign = await shop.get(f"/v1/tasks/{task}/explain", "bob")
    absent = await shop.get(f"/v1/tasks/{new_id()}/explain", "bob")
    by_admin = await shop.get(f"/v1/tasks/{task}/explain", "admin")
    headed = await shop.head(f"/v1/tasks/{task}/explain", "alice")

    assert check_problem(foreign, 404, "not_found")["detail"] == check_problem(absent, 404, "not_found")["detail"]
    assert by_admin.status_code == 200
    assert (headed.status_code, headed.content) == (200, b"")
    assert headed.headers["content-length"] == by_admin.headers["content-length"]


async def test_an_explanation_takes_no_query(shop: Shop) -> None:
    answer = await shop.get(f"/v1/tasks/{await shop.make()}/explain", wait=1)

    assert pointers(answer) == ["/query/wait"]


def test_every_cause_is_a_word_that_programs_can_rely_on() -> None:
    assert {cause.value for cause in Cause} == {
        "succeeded", "cancelled", "dead_letter", "running", "stopping", "lease_expired", "waits_for_next_attempt",
        "snoozed", "waits_after_crash", "everything_paused", "stage_paused", "stage_gone", "no_worker", "no_free_slot",
        "next_in_line",
    }  # fmt: skip
