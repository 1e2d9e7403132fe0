"""Access requests over HTTP: asking, listing, approving and rejecting."""

import asyncio
from collections import Counter
from typing import Any

import httpx2
import pytest

from app.domain.scopes import ALL_SCOPES, DEFAULT_SCOPES
from app.domain.users import Role
from app.services import access
from tests.support.house import House
from tests.web.asking import check_problem, pointers, rows


async def ask_in(house: House, subject: str = "newcomer", **more: Any) -> httpx2.Response:
    """Ask for access, as nobody."""
    return await house.client.post("/v1/access-requests", json={"requested_by": subject, **more})


async def decide(
    house: House, subject: str, request_id: str, decision: str, body: dict[str, Any] | None = None
) -> httpx2.Response:
    """Answer a request as a subject."""
    path = f"/v1/access-requests/{request_id}/{decision}"
    return await house.client.post(path, json=body or {}, headers=house.headers(subject))


async def test_asking_is_answered_with_an_id_and_no_more(house: House) -> None:
    answer = await ask_in(house, reason="to parse listings")

    assert answer.status_code == 202
    assert answer.json() == {"id": answer.json()["id"], "status": "pending"}


async def test_asking_again_returns_the_pending_request(house: House) -> None:
    first = await ask_in(house, reason="the first reason")

    again = await ask_in(house, reason="another reason")

    assert (again.status_code, again.json()) == (202, first.json())
    assert [row[-2] for row in rows(house)["access_requests"]] == ["the first reason"]


async def test_the_answer_does_not_tell_whether_the_subject_is_a_user(house: House) -> None:
    await house.let_in("member")
    await house.let_in("former", is_active=False)

    answers = [await ask_in(house, subject) for subject in ("member", "former", "stranger")]

    assert {answer.status_code for answer in answers} == {202}
    assert {tuple(answer.json()) for answer in answers} == {("id", "status")}
    assert {answer.json()["status"] for answer in answers} == {"pending"}
    assert len({frozenset(answer.headers) for answer in answers}) == 1


async def test_a_subject_that_was_answered_may_ask_again(house: House) -> None:
    await house.let_in("root", Role.SUPER_ADMIN)
    first = (await ask_in(house)).json()["id"]
    await decide(house, "root", first, "reject")

    again = await ask_in(house)

    assert again.json()["status"] == "pending"
    assert again.json()["id"] != first


async def test_pending_requests_are_capped(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "PENDING_LIMIT", 2)
    await house.let_in("root", Role.SUPER_ADMIN)
    first = await ask_in(house, "first")
    await ask_in(house, "second")

    third = await ask_in(house, "third")
    known = await ask_in(house, "first")
    await decide(house, "root", first.json()["id"], "reject")
    later = await ask_in(house, "third")

    check_problem(third, 429, "too_many_requests")
    assert third.headers["retry-after"] == "3600"
    assert (known.status_code, known.json()) == (202, first.json())
    assert later.status_code == 202


@pytest.mark.parametrize("subject", ["", "a b", "a\n", "ä", "a" * 256, "user#name", "a\x00", None, 7])
async def test_a_subject_that_cannot_be_one_is_refused(house: House, subject: Any) -> None:
    answer = await ask_in(house, subject)

    assert pointers(answer) == ["/requested_by"]


@pytest.mark.parametrize("reason", ["", "a" * 1_001, "a\x00b", 7])
async def test_a_reason_that_cannot_be_kept_is_refused(house: House, reason: Any) -> None:
    answer = await ask_in(house, reason=reason)

    assert pointers(answer) == ["/reason"]


async def test_an_admin_sees_requests_newest_first_and_by_status(house: House) -> None:
    admin = await house.let_in("admin", Role.ADMIN)
    ids = [(await ask_in(house, f"s{number}", reason="please")).json()["id"] for number in range(3)]
    await decide(house, "admin", ids[0], "reject")
    headers = house.headers("admin")

    everything = await house.client.get("/v1/access-requests", headers=headers)
    pending = await house.client.get("/v1/access-requests?status=pending", headers=headers)
    one = await house.client.get(f"/v1/access-requests/{ids[0]}", headers=headers)

    assert [item["id"] for item in everything.json()["items"]] == ids[::-1]
    assert [item["id"] for item in pending.json()["items"]] == ids[:0:-1]
    assert one.json() == everything.json()["items"][-1]
    assert one.json() == {
        "id": ids[0],
        "requested_by": "s0",
        "reason": "please",
        "public_key": None,
        "fingerprint": None,
        "status": "rejected",
        "requested_at": one.json()["requested_at"],
        "resolved_at": one.json()["resolved_at"],
        "resolved_by": admin.id,
    }


@pytest.mark.parametrize("role", list(Role))
async def test_an_approval_makes_a_user_with_the_usual_scopes_of_the_role(house: House, role: Role) -> None:
    root = await house.let_in("root", Role.SUPER_ADMIN)
    request_id = (await ask_in(house)).json()["id"]

    answer = await decide(house, "root", request_id, "approve", {"role": role})
    me = await house.client.get("/v1/me", headers=house.headers("newcomer"))

    decision = answer.json()
    assert answer.status_code == 200
    assert (decision["access_request"]["status"], decision["access_request"]["resolved_by"]) == ("approved", root.id)
    assert (decision["user"]["role"], decision["user"]["scopes"]) == (role, sorted(DEFAULT_SCOPES[role]))
    assert decision["user"]["is_active"] is True
    assert me.json() == {name: decision["user"][name] for name in ("id", "subject", "role", "scopes")}


async def test_an_approval_may_name_scopes(house: House) -> None:
    await house.let_in("root", Role.SUPER_ADMIN)
    request_id = (await ask_in(house)).json()["id"]

    answer = await decide(house, "root", request_id, "approve", {"scopes": ["tasks.read", "audit.read"]})

    assert (answer.json()["user"]["role"], answer.json()["user"]["scopes"]) == ("user", ["audit.read", "tasks.read"])


async def test_an_approval_without_any_body_makes_a_user(house: House) -> None:
    await house.let_in("admin", Role.ADMIN)
    request_id = (await ask_in(house)).json()["id"]

    answer = await house.client.post(f"/v1/access-requests/{request_id}/approve", headers=house.headers("admin"))

    assert answer.json()["user"]["role"] == "user"


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"role": "king"}, "/role"),
        ({"scopes": ["tasks.fly"]}, "/scopes"),
        ({"scopes": "tasks.read"}, "/scopes"),
        ({"scopes": ["tasks.read"] * 12}, "/scopes"),
        ({"is_active": True}, "/is_active"),
    ],
)
async def test_an_approval_of_what_there_is_not_is_refused(house: House, body: dict[str, Any], place: str) -> None:
    await house.let_in("root", Role.SUPER_ADMIN)
    request_id = (await ask_in(house)).json()["id"]

    answer = await decide(house, "root", request_id, "approve", body)

    assert pointers(answer) == [place]


@pytest.mark.parametrize("decision", ["approve", "reject"])
async def test_the_same_decision_again_answers_with_the_present_state(house: House, decision: str) -> None:
    await house.let_in("root", Role.SUPER_ADMIN)
    await house.let_in("admin", Role.ADMIN)
    request_id = (await ask_in(house)).json()["id"]
    first = await decide(house, "root", request_id, decision)
    before = rows(house)

    again = await decide(house, "admin", request_id, decision)

    assert (again.status_code, again.json()) == (200, first.json())
    assert rows(house) == before


@pytest.mark.parametrize(("first", "other"), [("approve", "reject"), ("reject", "approve")])
async def test_the_other_decision_is_a_conflict(house: House, first: str, other: str) -> None:
    await house.let_in("root", Role.SUPER_ADMIN)
    request_id = (await ask_in(house)).json()["id"]
    await decide(house, "root", request_id, first)
    before = rows(house)

    answer = await decide(house, "root", request_id, other)

    check_problem(answer, 409, "conflict")
    assert rows(house) == before


async def test_a_subject_that_is_a_user_already_cannot_be_approved(house: House) -> None:
    await house.let_in("root", Role.SUPER_ADMIN)
    await house.let_in("member", is_active=False)
    request_id = (await ask_in(house, "member")).json()["id"]
    before = rows(house)

    answer = await decide(house, "root", request_id, "approve", {"role": "super_admin"})

    check_problem(answer, 409, "conflict")
    assert rows(house) == before


@pytest.mark.parametrize(
    "body",
    [
        {"role": "admin"},
        {"role": "super_admin"},
        {"role": "admin", "scopes": []},
        {"scopes": ["users.manage"]},
        {"scopes": ["tasks.read", "users.manage"]},
    ],
)
async def test_an_admin_grants_neither_admin_nor_a_scope_they_lack(house: House, body: dict[str, Any]) -> None:
    await house.let_in("admin", Role.ADMIN)
    request_id = (await ask_in(house)).json()["id"]
    before = rows(house)

    answer = await decide(house, "admin", request_id, "approve", body)

    check_problem(answer, 403, "not_allowed_on_user")
    assert rows(house) == before


async def test_an_admin_grants_a_scope_they_have_whatever_their_role_has_usually(house: House) -> None:
    await house.let_in("admin", Role.ADMIN, scopes=ALL_SCOPES)
    request_id = (await ask_in(house)).json()["id"]

    answer = await decide(house, "admin", request_id, "approve", {"scopes": ["users.manage"]})

    assert answer.json()["user"]["scopes"] == ["users.manage"]


async def test_an_admin_without_the_usual_scopes_of_a_user_cannot_grant_them_silently(house: House) -> None:
    await house.let_in("admin", Role.ADMIN, scopes=frozenset({"access.decide"}))
    request_id = (await ask_in(house)).json()["id"]

    answer = await decide(house, "admin", request_id, "approve")

    check_problem(answer, 403, "not_allowed_on_user")


async def test_a_rejection_makes_nobody(house: House) -> None:
    await house.let_in("admin", Role.ADMIN)
    request_id = (await ask_in(house)).json()["id"]

    answer = await decide(house, "admin", request_id, "reject")
    me = await house.client.get("/v1/me", headers=house.headers("newcomer"))

    assert (answer.json()["access_request"]["status"], answer.json()["user"]) == ("rejected", None)
    check_problem(me, 403, "unknown_subject")


async def test_many_decisions_at_once_are_one_decision(house: House) -> None:
    await house.let_in("one", Role.ADMIN)
    await house.let_in("two", Role.ADMIN)
    request_id = (await ask_in(house)).json()["id"]

    answers = await asyncio.gather(
        *[
            decide(house, actor, request_id, decision)
            for _ in range(5)
            for actor in ("one", "two")
            for decision in ("approve", "reject")
        ]
    )

    present = (await house.client.get(f"/v1/access-requests/{request_id}", headers=house.headers("one"))).json()
    assert Counter(answer.status_code for answer in answers) == {200: 10, 409: 10}
    assert {answer.json()["access_request"]["resolved_by"] for answer in answers if answer.status_code == 200} == {
        present["resolved_by"]
    }


async def test_many_who_ask_for_one_subject_at_once_are_one_request(house: House) -> None:
    answers = await asyncio.gather(*[ask_in(house) for _ in range(20)])

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
