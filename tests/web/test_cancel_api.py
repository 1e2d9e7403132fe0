"""Cancelling over HTTP: at once if nobody works at the task, else whoever does is told to stop."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from app.ids import new_id
from app.web import guard
from tests.web.asking import check_problem, pointers, rows
from tests.web.shop import NOW, PATIENCE_SECONDS, Shop, ended, logged_text, open_shop, told


async def test_a_task_that_waits_is_cancelled_at_once(shop: Shop) -> None:
    task = await shop.make(reference="order 7")

    answer = await shop.post(f"/v1/tasks/{task}/cancel", {"reason": "ordered twice"}, "alice")
    await shop.work()

    assert answer.status_code == 200
    assert answer.json() == {
        "id": task,
        "reference": "order 7",
        "created_by": shop.users["alice"].id,
        "created_at": NOW,
        "updated_at": NOW,
        "status": "cancelled",
        "stage": "parse",
        "stage_status": "cancelled",
        "attempt": 0,
        "last_error_kind": None,
        "is_dead_letter": False,
        "next_attempt_at": None,
        "cancel_by": None,
        "progress": None,
    }
    assert await shop.seen(f"/v1/tasks/{task}") == answer.json()
    assert (await shop.seen(f"/v1/tasks/{task}/history"))["items"] == []
    assert rows(shop.house)["jobs"] == []


async def test_a_task_that_waits_for_its_next_attempt_is_cancelled_at_once(shop: Shop) -> None:
    task = await shop.make({"charge": {"retry": 600}})
    await shop.work()

    answer = await shop.post(f"/v1/tasks/{task}/cancel", subject="alice")

    shown = answer.json()
    assert (shown["status"], shown["stage"], shown["stage_status"]) == ("cancelled", "charge", "cancelled")
    assert (shown["attempt"], shown["last_error_kind"], shown["next_attempt_at"]) == (1, "bank_busy", None)


@pytest.mark.parametrize("body", [None, {}, {"reason": None}, {"reason": "a" * 1_000}])
async def test_a_reason_may_be_given(shop: Shop, body: dict[str, Any] | None) -> None:
    task = await shop.make()

    answer = await shop.post(f"/v1/tasks/{task}/cancel", body, "alice")

    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")


@pytest.mark.parametrize(
    ("body", "places"),
    [
        ({"reason": ""}, ["/reason"]),
        ({"reason": 7}, ["/reason"]),
        ({"reason": "a\x00"}, ["/reason"]),
        ({"reason": "a" * 1_001}, ["/reason"]),
        ({"reason": "why", "grace_seconds": 0}, ["/grace_seconds"]),
        ([], [""]),
    ],
)
async def test_a_cancel_is_read_strictly(shop: Shop, body: Any, places: list[str]) -> None:
    task = await shop.make()
    before = rows(shop.house)

    answer = await shop.post(f"/v1/tasks/{task}/cancel", body, "alice")

    assert pointers(answer) == places
    assert rows(shop.house) == before


async def test_a_cancel_that_is_not_json_is_refused(shop: Shop) -> None:
    path = f"/v1/tasks/{await shop.make()}/cancel"
    headers = shop.house.headers("alice")

    no_json = await shop.house.client.post(path, content=b"{", headers={**headers, "Content-Type": "application/json"})
    other_type = await shop.house.client.post(path, content=b"reason=x", headers=headers)

    check_problem(no_json, 400, "bad_request")
    check_problem(other_type, 415, "unsupported_media_type")


async def test_cancelling_again_changes_nothing(shop: Shop) -> None:
    task = await shop.make()
    first = await shop.post(f"/v1/tasks/{task}/cancel", subject="alice")
    before = rows(shop.house)
    shop.clock.move(60)

    again = await shop.post(f"/v1/tasks/{task}/cancel", subject="alice")

    assert (again.status_code, again.content) == (200, first.content)
    assert rows(shop.house) == before


@pytest.mark.parametrize(("payload", "status"), [({}, "succeeded"), ({"parse": {"fail": "No."}}, "dead_letter")])
async def test_what_has_ended_cannot_be_cancelled(shop: Shop, payload: dict[str, Any], status: str) -> None:
    task = await shop.make(payload)
    await shop.work()
    before = rows(shop.house)

    answer = await shop.post(f"/v1/tasks/{task}/cancel", subject="alice")

    assert status in check_problem(answer, 409, "conflict")["detail"]
    assert rows(shop.house) == before


async def test_a_user_cancels_their_own_tasks_and_an_admin_any(shop: Shop) -> None:
    of_alice, of_bob = await shop.make(), await shop.make(subject="bob")

    foreign = await shop.post(f"/v1/tasks/{of_bob}/cancel", subject="alice")
    own = await shop.post(f"/v1/tasks/{of_alice}/cancel", subject="alice")
    by_admin = await shop.post(f"/v1/tasks/{of_bob}/cancel")

    absent = await shop.post(f"/v1/tasks/{new_id()}/cancel", subject="alice")
    assert check_problem(foreign, 404, "not_found")["detail"] == check_problem(absent, 404, "not_found")["detail"]
    assert (own.status_code, by_admin.status_code) == (200, 200)
    assert (await shop.seen(f"/v1/tasks/{of_bob}"))["status"] == "cancelled"


@pytest.mark.parametrize("task", ["7", "0190A5D0-0000-7000-8000-000000000001"])
async def test_what_cannot_be_an_id_is_not_there(shop: Shop, task: str) -> None:
    answer = await shop.post(f"/v1/tasks/{task}/cancel")

    check_problem(answer, 404, "not_found")


async def test_a_cancelled_task_is_still_what_its_key_names(shop: Shop) -> None:
    first = await shop.house.create("alice", "k", {"a": 1})
    await shop.post(f"{first.headers['location']}/cancel", subject="alice")

    again = await shop.house.create("alice", "k", {"a": 1})

    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotent-replayed"] == "true"


async def test_cancelled_tasks_are_found_by_their_status(shop: Shop) -> None:
    task, _ = await shop.make(), await shop.make()
    await shop.post(f"/v1/tasks/{task}/cancel", subject="alice")

    found = await shop.seen("/v1/tasks", "alice", status="cancelled")

    assert [item["id"] for item in found["items"]] == [task]


async def test_who_waits_is_answered_at_once_when_a_queued_task_is_cancelled(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "POLL_SECONDS", 1_000)
    task = await shop.make()
    looked, read = asyncio.Event(), shop.house.store.read

    async def read_and_tell(body: Any) -> Any:
        value = await read(body)
        looked.set()
        return value

    monkeypatch.setattr(shop.house.store, "read", read_and_tell)
    waiting = asyncio.create_task(shop.get(f"/v1/tasks/{task}", "alice", wait=60))
    await looked.wait()

    await shop.post(f"/v1/tasks/{task}/cancel")
    async with asyncio.timeout(PATIENCE_SECONDS):
        answer = await waiting

    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")


async def test_a_task_that_runs_is_told_to_stop_until_a_deadline(tmp_path: Path) -> None:
    async with open_shop(tmp_path, cancel_grace_seconds=7) as shop:
        task = await shop.make({"parse": {"hold": 0.5}})
        async with shop.working(task):
            first = await shop.post(f"/v1/tasks/{task}/cancel", subject="alice")
            shop.clock.move(2)
            again = await shop.post(f"/v1/tasks/{task}/cancel", subject="alice")

        shown = first.json()
        assert (shown["status"], shown["stage_status"], shown["attempt"]) == ("running", "running", 1)
        assert (first.status_code, shown["cancel_by"]) == (200, "2026-11-22T20:19:07.000000Z")
        assert again.json() == shown  # the first deadline stands
        assert (await shop.seen(f"/v1/tasks/{task}"))["status"] == "cancelled"


async def test_cancelling_a_running_task_wakes_the_worker_that_runs_it(busy: Shop) -> None:
    task = await busy.make({"parse": {"hold": 0.5}})
    async with asyncio.timeout(PATIENCE_SECONDS):
        await busy.machine.begun.get()

    answer = await busy.post(f"/v1/tasks/{task}/cancel", {"reason": "ordered twice"}, "alice")
    standing = await ended(busy, task)

    assert answer.status_code == 200
    assert not busy.machine.let_on.is_set()
    assert (standing["status"], standing["stage_status"], standing["cancel_by"]) == ("cancelled", "cancelled", None)
    [attempt] = (await busy.seen(f"/v1/tasks/{task}/history"))["items"]
    assert (attempt["stage"], attempt["outcome"], attempt["error_kind"]) == ("parse", "cancelled", None)


async def test_who_waits_is_answered_when_the_worker_has_stopped_a_cancelled_task(
    busy: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "POLL_SECONDS", 1_000)
    task = await busy.make({"parse": {"hold": 0.5}})
    async with asyncio.timeout(PATIENCE_SECONDS):
        await busy.machine.begun.get()

    await busy.post(f"/v1/tasks/{task}/cancel")
    async with asyncio.timeout(PATIENCE_SECONDS):
        answer = await busy.get(f"/v1/tasks/{task}", "alice", wait=60)

    assert answer.json()["status"] == "cancelled"


async def test_the_log_says_who_cancelled_and_why_and_nothing_of_the_payload(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    task = await shop.make({"marked": "payload-secret"}, reference="marked-reference")

    with caplog.at_level(logging.INFO):
        await shop.post(f"/v1/tasks/{task}/cancel", {"reason": "ordered twice"})
        await shop.post(f"/v1/tasks/{new_id()}/cancel", {"reason": "of no task"})
        await shop.post(f"/v1/tasks/{task}/cancel", {"reason": ""})

    assert told(caplog, "cancel_asked") == [
        ("cancel_asked", {"subject": "admin", "task_id": task, "reason": "ordered twice", "cancel_by": None})
    ]
    assert "marked" not in logged_text(caplog)
    assert "secret" not in logged_text(caplog)
