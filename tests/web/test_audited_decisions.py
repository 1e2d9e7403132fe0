"""Every decision leaves a row in the audit, in the unit that carries it out; what changes nothing leaves none."""

import json
from typing import Any

import httpx2
import pytest

from app.domain.audit import Action, Deed
from app.domain.users import Role
from app.errors import StorageFull
from app.ids import new_id
from app.repositories.audit_events import AuditEventsRepository
from tests.support.database import driver
from tests.web.asking import check_problem, rows
from tests.web.shop import Shop

COLUMNS = (
    "actor_id, subject, action, target_kind, target_id, before_json, after_json, reason, request_id, outcome, code"
)
PUBLIC_KEY = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="  # RFC 8032 §7.1, test 1


def audited(shop: Shop) -> list[dict[str, Any]]:
    """Return what the audit holds, oldest first; what users were made with before is left out."""
    connection = driver.connect(str(shop.house.container.settings.db_path))
    try:
        found = connection.execute(f"SELECT {COLUMNS} FROM audit_events ORDER BY seq").fetchall()
    finally:
        connection.close()
    return [dict(zip(COLUMNS.split(", "), row, strict=True)) for row in found]


def newest(shop: Shop) -> dict[str, Any]:
    """Return the newest event with its JSON read."""
    event = audited(shop)[-1]
    for name in ("before", "after"):
        text = event.pop(f"{name}_json")
        event[name] = None if text is None else json.loads(text)
    return event


def allowed(shop: Shop, answer: httpx2.Response, subject: str, **fields: Any) -> dict[str, Any]:
    """Return the event of something that was let happen."""
    who = {"actor_id": shop.users[subject].id, "subject": subject} if subject else {"actor_id": None, "subject": None}
    plain = {"before": None, "after": None, "reason": None, "outcome": "allowed", "code": None}
    return {**plain, **who, "request_id": answer.headers["x-request-id"], **fields}


@pytest.mark.parametrize(("fields", "after"), [({}, None), ({"reference": "order 7"}, {"reference": "order 7"})])
async def test_a_created_task_is_kept_with_its_reference_and_nothing_of_its_payload(
    shop: Shop, fields: dict[str, str], after: dict[str, str] | None
) -> None:
    answer = await shop.house.create("alice", "key", {"card": "4111"}, **fields)

    assert newest(shop) == allowed(
        shop,
        answer,
        "alice",
        action="task.created",
        target_kind="task",
        target_id=answer.json()["id"],
        after=after,
    )


async def test_a_replay_is_no_decision(shop: Shop) -> None:
    await shop.house.create("alice", "key")

    await shop.house.create("alice", "key")

    assert [event["action"] for event in audited(shop)] == ["task.created"]


async def test_a_retry_is_kept_with_where_the_task_stood_before_and_after(shop: Shop) -> None:
    [task] = await shop.make_dead("no card")

    body = {"reason": "mended", "override_dead_letter": True, "confirm_side_effects": True}
    answer = await shop.post(f"/v1/tasks/{task}/retry", body)

    assert newest(shop) == allowed(
        shop,
        answer,
        "admin",
        action="task.retried",
        target_kind="task",
        target_id=task,
        before={"stage": "charge", "status": "dead_letter", "cancel_by": None},
        after={"stage": "charge", "status": "queued", "cancel_by": None},
        reason="mended",
    )


async def test_a_cancel_is_kept_once(shop: Shop) -> None:
    task = await shop.make()

    answer = await shop.post(f"/v1/tasks/{task}/cancel", {"reason": "a mistake"}, "alice")
    await shop.post(f"/v1/tasks/{task}/cancel", {"reason": "again"}, "alice")

    assert newest(shop) == allowed(
        shop,
        answer,
        "alice",
        action="task.cancelled",
        target_kind="task",
        target_id=task,
        before={"stage": "parse", "status": "queued", "cancel_by": None},
        after={"stage": "parse", "status": "cancelled", "cancel_by": None},
        reason="a mistake",
    )
    assert [event["action"] for event in audited(shop)] == ["task.created", "task.cancelled"]


async def test_a_cancel_of_what_runs_is_kept_once_too(shop: Shop) -> None:
    task = await shop.make({"parse": {"hold": 0.5}})
    async with shop.working(task):
        await shop.post(f"/v1/tasks/{task}/cancel", {"reason": "a mistake"}, "alice")
        await shop.post(f"/v1/tasks/{task}/cancel", {"reason": "again"}, "alice")
        kept = [(event["action"], event["reason"]) for event in audited(shop)]

    assert kept == [("task.created", None), ("task.cancelled", "a mistake")]


async def test_a_pause_and_its_end_are_kept_once_each(shop: Shop) -> None:
    paused = await shop.post("/v1/stages/charge/pause", {"reason": "the bank is down"})
    await shop.post("/v1/stages/charge/pause", {"reason": "still"})
    first = newest(shop)
    resumed = await shop.post("/v1/stages/charge/resume", {"reason": "it is up"})
    await shop.post("/v1/stages/charge/resume", {"reason": "is it?"})

    target = {"target_kind": "stage", "target_id": "charge"}
    assert first == allowed(shop, paused, "admin", action="stage.paused", reason="the bank is down", **target)
    assert newest(shop) == allowed(shop, resumed, "admin", action="stage.resumed", reason="it is up", **target)
    assert len(audited(shop)) == 2


async def test_a_rescue_is_kept_when_it_begins_and_when_it_is_stopped_but_not_its_dry_run(shop: Shop) -> None:
    await shop.make_dead("no card")
    asked = {"reason": "mended", "stage": "charge", "confirm_side_effects": True}

    await shop.post("/v1/dead-letters/rescues", asked)
    started = await shop.post("/v1/dead-letters/rescues", {**asked, "dry_run": False})
    rescue = started.json()["rescue"]["id"]
    begun = newest(shop)
    stopped = await shop.post(f"/v1/dead-letters/rescues/{rescue}/stop", {"reason": "enough"})
    await shop.post(f"/v1/dead-letters/rescues/{rescue}/stop", {"reason": "enough"})

    target = {"target_kind": "rescue", "target_id": rescue}
    wanted = {"stage": "charge", "error_kind": None, "signature": None, "from_stage": None}
    after = {**wanted, "confirm_side_effects": True, "matched": 1}
    assert begun == allowed(shop, started, "admin", action="rescue.started", after=after, reason="mended", **target)
    assert newest(shop) == allowed(
        shop,
        stopped,
        "admin",
        action="rescue.stopped",
        after={"status": "stopped", "rescued": 0},
        reason="enough",
        **target,
    )
    assert [event["action"] for event in audited(shop)].count("rescue.stopped") == 1


async def test_asking_for_access_is_kept_once_and_names_nobody(shop: Shop) -> None:
    body = {"requested_by": "integration:parser", "reason": "parses", "public_key": PUBLIC_KEY}

    asked = await shop.house.client.post("/v1/access-requests", json=body)
    await shop.house.client.post("/v1/access-requests", json=body)

    assert newest(shop) == allowed(
        shop,
        asked,
        "",
        action="access.asked",
        target_kind="access_request",
        target_id=asked.json()["id"],
        after={
            "requested_by": "integration:parser",
            "fingerprint": "SHA256:bbXpuKG6zhzdmnxq256TlqzFBzRl2f6OOg722cYNbU8",
        },
        reason="parses",
    )
    assert len(audited(shop)) == 1


async def test_an_approval_is_kept_with_the_user_and_the_key_that_it_makes(shop: Shop) -> None:
    body = {"requested_by": "integration:parser", "public_key": PUBLIC_KEY}
    request = (await shop.house.client.post("/v1/access-requests", json=body)).json()["id"]

    answer = await shop.post(f"/v1/access-requests/{request}/approve", {"scopes": ["tasks.create"], "reason": "known"})
    await shop.post(f"/v1/access-requests/{request}/approve", {"scopes": ["tasks.create"]})

    user = answer.json()["user"]["id"]
    [_, approved, key] = audited(shop)
    assert json.loads(approved["after_json"]) == {
        "requested_by": "integration:parser",
        "fingerprint": "SHA256:bbXpuKG6zhzdmnxq256TlqzFBzRl2f6OOg722cYNbU8",
        "user_id": user,
        "role": "user",
        "scopes": ["tasks.create"],
        "is_active": True,
    }
    assert (approved["action"], approved["target_id"], approved["reason"]) == ("access.approved", request, "known")
    assert (key["action"], key["target_id"], key["subject"]) == ("key.added", request, "admin")


async def test_a_rejection_is_kept_with_its_reason(shop: Shop) -> None:
    request = (await shop.house.client.post("/v1/access-requests", json={"requested_by": "mallory"})).json()["id"]

    answer = await shop.post(f"/v1/access-requests/{request}/reject", {"reason": "unknown"})

    assert newest(shop) == allowed(
        shop,
        answer,
        "admin",
        action="access.rejected",
        target_kind="access_request",
        target_id=request,
        after={"requested_by": "mallory"},
        reason="unknown",
    )


async def test_a_change_of_a_user_is_kept_with_before_and_after(shop: Shop) -> None:
    await shop.house.let_in("root", Role.SUPER_ADMIN)
    bob = shop.users["bob"]

    body = {"role": "admin", "scopes": ["tasks.read"], "is_active": False, "reason": "left"}
    await shop.house.client.patch(f"/v1/users/{bob.id}", json=body, headers=shop.house.headers("root"))

    event = newest(shop)
    before = {"role": "user", "scopes": ["tasks.cancel", "tasks.create", "tasks.read"], "is_active": True}
    assert (event["action"], event["target_id"], event["reason"]) == ("user.changed", bob.id, "left")
    assert event["before"] == before
    assert event["after"] == {"role": "admin", "scopes": ["tasks.read"], "is_active": False}


async def test_a_granted_token_is_kept_by_its_id_and_not_itself(shop: Shop) -> None:
    await shop.house.let_in("root", Role.SUPER_ADMIN)
    path = f"/v1/users/{shop.users['bob'].id}/tokens"

    answer = await shop.post(path, {"ttl_seconds": 60}, "root")

    event = newest(shop)
    assert (event["action"], event["target_kind"], event["subject"]) == ("token.granted", "user", "root")
    assert set(event["after"]) == {"token_id", "ttl_seconds"}
    assert answer.json()["token"] not in json.dumps(audited(shop))


async def test_keys_are_kept_when_they_come_and_go(shop: Shop) -> None:
    added = await shop.post("/v1/keys", {"public_key": PUBLIC_KEY, "name": "laptop"}, "alice")
    key = added.json()["id"]
    headers = shop.house.headers("alice")
    for _ in range(2):
        await shop.house.client.delete(f"/v1/keys/{key}", headers=headers)

    events = audited(shop)
    shown = {
        "user_id": shop.users["alice"].id,
        "name": "laptop",
        "fingerprint": "SHA256:bbXpuKG6zhzdmnxq256TlqzFBzRl2f6OOg722cYNbU8",
    }
    assert [(event["action"], event["target_id"]) for event in events] == [("key.added", key), ("key.revoked", key)]
    assert json.loads(events[0]["after_json"]) == json.loads(events[1]["before_json"]) == shown


async def test_what_is_refused_by_the_content_or_the_state_leaves_nothing(shop: Shop) -> None:
    await shop.house.create("alice", "key", reference="")
    await shop.post(f"/v1/tasks/{new_id()}/cancel", None, "alice")
    await shop.post("/v1/stages/nowhere/pause", {"reason": "why"})

    assert audited(shop) == []


async def test_without_its_audit_nothing_is_done(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(_self: AuditEventsRepository, _deed: Deed, **_at: Any) -> None:
        raise StorageFull

    monkeypatch.setattr(AuditEventsRepository, "add", full)

    created = await shop.house.create("alice", "key")
    paused = await shop.post("/v1/stages/charge/pause", {"reason": "why"})

    check_problem(created, 503, "storage_full")
    check_problem(paused, 503, "storage_full")
    assert (rows(shop.house)["tasks"], rows(shop.house)["pauses"]) == ([], [])


async def test_an_event_that_the_database_swallows_takes_its_deed_with_it(shop: Shop) -> None:
    quiet = "CREATE TRIGGER quiet BEFORE INSERT ON audit_events BEGIN SELECT RAISE(IGNORE); END"
    connection = driver.connect(str(shop.house.container.settings.db_path), isolation_level=None)
    connection.execute(quiet)
    connection.close()

    created = await shop.house.create("alice", "key")

    check_problem(created, 500, "internal_error")
    assert rows(shop.house)["tasks"] == []


def test_every_action_has_a_test_here() -> None:
    tested = {
        "access.asked", "access.approved", "access.rejected", "user.changed", "token.granted", "key.added",
        "key.revoked", "task.created", "task.retried", "task.cancelled", "rescue.started", "rescue.stopped",
        "stage.paused", "stage.resumed",
    }  # fmt: skip
    elsewhere = {"user.added", "request.denied"}  # the command line; tests/web/test_denials.py

    assert {action.value for action in Action} == tested | elsewhere
