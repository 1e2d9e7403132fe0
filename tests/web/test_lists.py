"""Lists over HTTP: walked by cursor to their end, filtered, and each caller sees what is theirs."""

from typing import Any

import httpx2
import pytest

from app.domain.users import Role
from app.ids import new_id
from tests.support.house import House
from tests.web.asking import check_problem


async def walk(house: House, subject: str, path: str) -> list[list[dict[str, Any]]]:
    """Follow `next` to the end and return all pages; the Link header must lead to the same place."""
    pages = []
    at: httpx2.URL | None = httpx2.URL(f"http://cabinet.test{path}")
    while at is not None:
        answer = await house.client.get(at, headers=house.headers(subject))
        assert answer.status_code == 200, answer.text
        pages.append(answer.json()["items"])
        cursor = answer.json()["next"]
        assert ("link" in answer.headers) == (cursor is not None)
        if cursor is None:
            return pages
        link, relation = answer.headers["link"].split("; ")
        assert relation == 'rel="next"'
        at = at.join(link.strip("<>"))
        assert at.params["cursor"] == cursor
    return pages


async def create_some(house: House, subject: str, count: int, **fields: Any) -> list[str]:
    """Create tasks and return their ids, the newest first."""
    answers = [await house.create(subject, new_id(), **fields) for _ in range(count)]
    return [answer.json()["id"] for answer in answers][::-1]


def ids(pages: list[list[dict[str, Any]]]) -> list[str]:
    """Return the ids of all pages."""
    return [item["id"] for page in pages for item in page]


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (4, [4, 1]), (5, [5]), (200, [5])])
async def test_a_list_is_walked_to_its_end_newest_first(house: House, limit: int, sizes: list[int]) -> None:
    await house.let_in("alice")
    created = await create_some(house, "alice", 5)

    pages = await walk(house, "alice", f"/v1/tasks?limit={limit}")

    assert [len(page) for page in pages] == sizes
    assert ids(pages) == created


async def test_an_empty_list_has_no_next(house: House) -> None:
    await house.let_in("alice")

    answer = await house.client.get("/v1/tasks", headers=house.headers("alice"))

    assert answer.json() == {"items": [], "next": None}
    assert "link" not in answer.headers


async def test_a_page_has_fifty_unless_told_otherwise(house: House) -> None:
    await house.let_in("alice")
    await create_some(house, "alice", 51)

    pages = await walk(house, "alice", "/v1/tasks")

    assert [len(page) for page in pages] == [50, 1]


async def test_what_is_made_while_walking_moves_nothing(house: House) -> None:
    await house.let_in("alice")
    created = await create_some(house, "alice", 4)
    headers = house.headers("alice")
    first = (await house.client.get("/v1/tasks?limit=2", headers=headers)).json()
    await create_some(house, "alice", 3)

    second = (await house.client.get(f"/v1/tasks?limit=2&cursor={first['next']}", headers=headers)).json()

    assert ids([first["items"], second["items"]]) == created
    assert second["next"] is None


async def test_a_user_sees_their_own_tasks_and_an_admin_all(house: House) -> None:
    await house.let_in("admin", Role.ADMIN)
    alice, bob = await house.let_in("alice"), await house.let_in("bob")
    of_alice = await create_some(house, "alice", 2)
    of_bob = await create_some(house, "bob", 2)

    assert ids(await walk(house, "alice", "/v1/tasks?limit=1")) == of_alice
    assert ids(await walk(house, "alice", f"/v1/tasks?created_by={alice.id}")) == of_alice
    assert ids(await walk(house, "alice", f"/v1/tasks?created_by={bob.id}")) == []
    assert ids(await walk(house, "admin", "/v1/tasks?limit=3")) == of_bob + of_alice
    assert ids(await walk(house, "admin", f"/v1/tasks?created_by={bob.id}&limit=1")) == of_bob


async def test_a_cursor_of_somebody_elses_task_opens_nothing(house: House) -> None:
    await house.let_in("alice")
    await house.let_in("bob")
    of_alice = await create_some(house, "alice", 1)
    of_bob = await create_some(house, "bob", 1)

    assert ids(await walk(house, "alice", f"/v1/tasks?cursor={of_bob[0]}")) == of_alice
    assert ids(await walk(house, "bob", f"/v1/tasks?cursor={of_bob[0]}")) == []


@pytest.mark.parametrize("reference", ["order 7", "a&b=c#d", "100%", "ä€😀", "+", "a'--"])
async def test_a_list_is_filtered_by_the_exact_reference(house: House, reference: str) -> None:
    await house.let_in("alice")
    await create_some(house, "alice", 1)
    await create_some(house, "alice", 1, reference=reference + "x")
    wanted = await create_some(house, "alice", 3, reference=reference)
    query = httpx2.QueryParams({"limit": "2", "reference": reference})

    pages = await walk(house, "alice", f"/v1/tasks?{query}")

    assert [len(page) for page in pages] == [2, 1]
    assert ids(pages) == wanted
    assert {item["reference"] for page in pages for item in page} == {reference}


async def test_a_list_is_filtered_by_status_and_stage_together_with_the_rest(house: House) -> None:
    await house.let_in("admin", Role.ADMIN)
    alice = await house.let_in("alice")
    await house.let_in("bob")
    started = await create_some(house, "alice", 2, reference="r")
    await house.container.worker().step()
    fresh = await create_some(house, "alice", 2, reference="r")
    others = await create_some(house, "bob", 1)

    async def found(query: str) -> list[str]:
        return ids(await walk(house, "admin", f"/v1/tasks?{query}"))

    assert await found("status=open") == others + fresh
    assert await found("status=running") == started
    assert await found("status=succeeded") == []
    assert await found("stage=photos") == started
    assert await found("stage=parse&status=open&limit=1") == others + fresh
    assert await found("stage=nowhere") == []
    assert await found(f"status=open&created_by={alice.id}") == fresh
    assert await found(f"stage=photos&created_by={alice.id}&reference=r&status=running") == started
    assert await found("reference=r&status=open") == fresh


async def test_an_item_of_a_list_is_what_its_own_path_shows_but_for_the_payload(house: House) -> None:
    await house.let_in("alice")
    created = await house.create("alice", "k", reference="r")

    listed = await house.client.get("/v1/tasks", headers=house.headers("alice"))
    alone = await house.client.get(created.headers["location"], headers=house.headers("alice"))

    assert [{**item, "payload": {}} for item in listed.json()["items"]] == [alone.json()]
    assert alone.json() == {
        **created.json(),
        "updated_at": created.json()["created_at"],
        "stage_status": "queued",
        "attempt": 0,
        "last_error_kind": None,
        "is_dead_letter": False,
        "next_attempt_at": created.json()["created_at"],
        "cancel_by": None,
        "progress": None,
        "payload": {},
    }


@pytest.mark.parametrize("path", ["", "/history", "/outputs", "/explain", "?wait=1"])
async def test_a_foreign_task_is_not_there_for_a_user_and_is_for_an_admin(house: House, path: str) -> None:
    await house.let_in("admin", Role.ADMIN)
    await house.let_in("alice")
    await house.let_in("bob")
    created = await house.create("alice", "k")
    missing = f"/v1/tasks/{new_id()}{path}"

    foreign = await house.client.get(created.headers["location"] + path, headers=house.headers("bob"))
    absent = await house.client.get(missing, headers=house.headers("bob"))
    of_admin = await house.client.get(created.headers["location"] + path, headers=house.headers("admin"))

    body = check_problem(foreign, 404, "not_found")
    assert body["detail"] == check_problem(absent, 404, "not_found")["detail"]
    assert of_admin.status_code == 200


async def test_users_and_access_requests_are_walked_too(house: House) -> None:
    await house.let_in("admin", Role.ADMIN)
    for number in range(4):
        await house.let_in(f"user-{number}")
        await house.client.post("/v1/access-requests", json={"requested_by": f"new-{number}"})

    users = await walk(house, "admin", "/v1/users?limit=2")
    requests = await walk(house, "admin", "/v1/access-requests?limit=3&status=pending")

    assert [[item["subject"] for item in page] for page in users] == [
        ["user-3", "user-2"],
        ["user-1", "user-0"],
        ["admin"],
    ]
    assert [[item["requested_by"] for item in page] for page in requests] == [["new-3", "new-2", "new-1"], ["new-0"]]
