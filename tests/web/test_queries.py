"""Query strings and ids in paths: unknown, repeated and malformed ones are refused, and say where."""

from typing import Any

import pytest

from app.domain.users import Role
from app.ids import new_id
from tests.support.house import House
from tests.web.asking import HOST, ask, check_problem, pointers

NOBODY = "01a206ab-ec79-741d-89db-ba887380d315"
"""An id that nothing has."""


@pytest.mark.parametrize(
    ("query", "places"),
    [
        ("unknown=1", ["/query/unknown"]),
        ("Limit=5", ["/query/Limit"]),
        ("limit=0", ["/query/limit"]),
        ("limit=201", ["/query/limit"]),
        ("limit=-1", ["/query/limit"]),
        ("limit=many", ["/query/limit"]),
        ("limit=", ["/query/limit"]),
        ("limit=1e2", ["/query/limit"]),
        ("limit=" + "9" * 5_000, ["/query/limit"]),
        ("cursor=x", ["/query/cursor"]),
        ("cursor=", ["/query/cursor"]),
        ("cursor=" + "F" * 8 + "-ffff-7fff-bfff-ffffffffffff", ["/query/cursor"]),
        ("status=done", ["/query/status"]),
        ("stage=Parse", ["/query/stage"]),
        ("stage=" + "a" * 65, ["/query/stage"]),
        ("created_by=alice", ["/query/created_by"]),
        ("reference=", ["/query/reference"]),
        ("reference=a%00b", ["/query/reference"]),
        ("reference=" + "a" * 256, ["/query/reference"]),
        ("limit=0&status=x&more=1", ["/query/limit", "/query/more", "/query/status"]),
    ],
)
async def test_a_query_field_that_is_not_valid_is_pointed_to(house: House, query: str, places: list[str]) -> None:
    await house.let_in("alice")

    answer = await house.client.get(f"/v1/tasks?{query}", headers=house.headers("alice"))

    assert sorted(pointers(answer)) == places


@pytest.mark.parametrize(
    "query",
    [
        b"limit=1&limit=1",
        b"limit",
        b"&",
        b"limit=1&&status=open",
        b"reference=%ff",
        b"reference=\xff",
        b"reference=%ed%a0%80",
        b"&".join(b"f%d=1" % number for number in range(21)),
    ],
    ids=lambda query: repr(query[:24]),
)
async def test_a_query_string_that_cannot_be_read_is_a_400(house: House, query: bytes) -> None:
    await house.let_in("alice")
    headers = [HOST, (b"authorization", house.headers("alice")["Authorization"].encode())]

    answer = await ask(house.container.application(), path="/v1/tasks", query=query, headers=headers)

    check_problem(answer, 400, "bad_request")


@pytest.mark.parametrize(
    "path", ["/health", "/version", "/ready", "/v1/me", "/v1/users/{id}", "/v1/tasks/{id}/outputs"]
)
async def test_an_operation_without_a_query_takes_none(house: House, path: str) -> None:
    await house.let_in("root", Role.SUPER_ADMIN)

    answer = await house.client.get(path.format(id=new_id()) + "?a=1", headers=house.headers("root"))

    assert pointers(answer) == ["/query/a"]


@pytest.mark.parametrize(
    "not_an_id",
    [
        "1",
        "nothing",
        "00000000-0000-0000-0000-000000000000",
        NOBODY.upper(),
        NOBODY.replace("-", ""),
        NOBODY + "%20",
        "%252e%252e",
        "%F0%9F%98%80",
        "'%20OR%201=1--",
        "a" * 4_000,
    ],
    ids=lambda text: text[:20],
)
async def test_what_is_no_id_is_not_there(house: House, not_an_id: str) -> None:
    await house.let_in("root", Role.SUPER_ADMIN)
    headers = house.headers("root")
    retry = {"reason": "again"}

    answers = [
        await house.client.get(f"/v1/tasks/{not_an_id}", headers=headers),
        await house.client.get(f"/v1/tasks/{not_an_id}/history", headers=headers),
        await house.client.get(f"/v1/tasks/{not_an_id}/outputs", headers=headers),
        await house.client.post(f"/v1/tasks/{not_an_id}/retry", json=retry, headers=headers),
        await house.client.get(f"/v1/users/{not_an_id}", headers=headers),
        await house.client.patch(f"/v1/users/{not_an_id}", json={"role": "user"}, headers=headers),
        await house.client.get(f"/v1/access-requests/{not_an_id}", headers=headers),
        await house.client.post(f"/v1/access-requests/{not_an_id}/approve", headers=headers),
    ]

    for answer in answers:
        check_problem(answer, 404, "not_found")


async def test_an_id_of_nothing_is_not_there(house: House) -> None:
    await house.let_in("root", Role.SUPER_ADMIN)
    headers = house.headers("root")

    answers = [
        await house.client.get(f"/v1/tasks/{new_id()}?wait=60", headers=headers),
        await house.client.get(f"/v1/tasks/{new_id()}/history", headers=headers),
        await house.client.get(f"/v1/tasks/{new_id()}/outputs", headers=headers),
        await house.client.post(f"/v1/tasks/{new_id()}/retry", json={"reason": "again"}, headers=headers),
        await house.client.get(f"/v1/users/{new_id()}", headers=headers),
        await house.client.patch(f"/v1/users/{new_id()}", json={"role": "user"}, headers=headers),
        await house.client.post(f"/v1/users/{new_id()}/tokens", json={"ttl_seconds": 1}, headers=headers),
        await house.client.get(f"/v1/access-requests/{new_id()}", headers=headers),
        await house.client.post(f"/v1/access-requests/{new_id()}/approve", headers=headers),
        await house.client.post(f"/v1/access-requests/{new_id()}/reject", headers=headers),
    ]

    for answer in answers:
        check_problem(answer, 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/tasks", {"payload": {}}),
        ("POST", "/v1/access-requests", {"requested_by": "newcomer"}),
        ("POST", "/v1/stages/parse/pause", {"reason": "why"}),
        ("POST", "/v1/stages/pause", {"reason": "why"}),
        ("POST", f"/v1/tasks/{new_id()}/cancel", None),
        ("POST", f"/v1/access-requests/{new_id()}/approve", None),
        ("POST", f"/v1/access-requests/{new_id()}/reject", None),
        ("PATCH", f"/v1/users/{new_id()}", {"is_active": False}),
        ("DELETE", f"/v1/keys/{new_id()}", None),
    ],
    ids=["create", "ask", "pause", "pause everything", "cancel", "approve", "reject", "change", "revoke"],
)
async def test_what_is_sent_in_a_body_takes_no_query(house: House, method: str, path: str, body: Any) -> None:
    await house.let_in("root", Role.SUPER_ADMIN)
    headers = house.headers("root", **{"Idempotency-Key": "k"})

    answer = await house.client.request(method, f"{path}?dry_run=true", json=body, headers=headers)

    assert pointers(answer) == ["/query/dry_run"]
