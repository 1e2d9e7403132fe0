"""GET /v1/audit-events: the newest first, filtered, walked by cursor, and only for those who may."""

from typing import Any

import pytest

from app.domain.audit import Action, Author, Deed, TargetKind
from app.domain.scopes import AUDIT_READ, DEFAULT_SCOPES
from app.domain.users import Role
from app.ids import new_id
from tests.support.house import House
from tests.support.trails import ALICE, a_deed, keep
from tests.web.asking import check_problem
from tests.web.test_lists import ids, walk

PATH = "/v1/audit-events"
BOB = new_id()


@pytest.fixture
async def kept(house: House) -> House:
    """A house with an admin and four events."""
    await house.let_in("admin", Role.ADMIN)
    bob = Author(user_id=BOB, subject="https://login.example.com#bob", request_id="r-2")
    await keep(
        house.store,
        a_deed(1),
        Deed(
            author=bob,
            action=Action.TASK_CREATED,
            target_kind=TargetKind.TASK,
            target_id="target-2",
            after={"reference": "a&b"},
        ),
        a_deed(2, author=bob, code="not_allowed_on_user"),
        Deed(
            author=Author(user_id=None, subject=None),
            action=Action.REQUEST_DENIED,
            target_kind=TargetKind.ROUTE,
            target_id="POST /v1/tasks",
            code="not_authenticated",
            occurrences=40,
        ),
    )
    return house


async def found(house: House, **query: str) -> list[str]:
    """Return the ids of the events that a query finds."""
    answer = await house.client.get(PATH, params=query, headers=house.headers("admin"))
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


async def test_an_event_is_shown_whole(kept: House) -> None:
    answer = await kept.client.get(PATH, headers=kept.headers("admin"))

    denied, _, created, changed = answer.json()["items"]
    assert answer.json()["next"] is None
    assert changed == {
        "id": "1",
        "at": changed["at"],
        "actor": {"id": ALICE, "subject": "alice@example.com"},
        "action": "user.changed",
        "target": {"kind": "user", "id": "target-1"},
        "before": {"role": "user", "number": 1},
        "after": {"role": "admin", "number": 1},
        "reason": "She asked: “please”.",
        "request_id": "request-1",
        "outcome": "allowed",
        "code": None,
        "occurrences": 1,
    }
    assert (created["before"], created["after"], created["reason"]) == (None, {"reference": "a&b"}, None)
    assert denied == {
        "id": "4",
        "at": changed["at"],
        "actor": {"id": None, "subject": None},
        "action": "request.denied",
        "target": {"kind": "route", "id": "POST /v1/tasks"},
        "before": None,
        "after": None,
        "reason": None,
        "request_id": None,
        "outcome": "denied",
        "code": "not_authenticated",
        "occurrences": 40,
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["4", "3", "2", "1"]),
        ({"actor_id": BOB}, ["3", "2"]),
        ({"action": "user.changed"}, ["3", "1"]),
        ({"action": "task.created"}, ["2"]),
        ({"target_id": "target-2"}, ["3", "2"]),
        ({"target_id": "POST /v1/tasks"}, ["4"]),
        ({"outcome": "denied"}, ["4", "3"]),
        ({"outcome": "allowed"}, ["2", "1"]),
        ({"actor_id": BOB, "target_id": "target-2", "action": "user.changed", "outcome": "denied"}, ["3"]),
        ({"actor_id": BOB, "outcome": "denied", "action": "task.created"}, []),
        ({"target_id": "nothing"}, []),
    ],
)
async def test_events_are_filtered(kept: House, query: dict[str, str], expected: list[str]) -> None:
    assert await found(kept, **query) == expected


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1] * 4), (3, [3, 1]), (4, [4]), (200, [4])])
async def test_events_are_walked_to_their_end_newest_first(kept: House, limit: int, sizes: list[int]) -> None:
    pages = await walk(kept, "admin", f"{PATH}?limit={limit}")

    assert [len(page) for page in pages] == sizes
    assert ids(pages) == ["4", "3", "2", "1"]


async def test_a_filter_holds_for_every_page(kept: House) -> None:
    pages = await walk(kept, "admin", f"{PATH}?limit=1&actor_id={BOB}")

    assert ids(pages) == ["3", "2"]


async def test_what_is_kept_while_walking_moves_nothing(kept: House) -> None:
    headers = kept.headers("admin")
    first = (await kept.client.get(f"{PATH}?limit=2", headers=headers)).json()
    await keep(kept.store, a_deed(9))

    second = (await kept.client.get(f"{PATH}?limit=2&cursor={first['next']}", headers=headers)).json()

    assert ids([first["items"], second["items"]]) == ["4", "3", "2", "1"]


async def test_a_page_has_fifty_unless_told_otherwise(house: House) -> None:
    await house.let_in("admin", Role.ADMIN)
    await keep(house.store, *(a_deed(number) for number in range(51)))

    assert [len(page) for page in await walk(house, "admin", PATH)] == [50, 1]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"cursor": "x"}, "/query/cursor"),
        ({"cursor": "-1"}, "/query/cursor"),
        ({"cursor": "\N{ARABIC-INDIC DIGIT ONE}"}, "/query/cursor"),
        ({"cursor": "1.0"}, "/query/cursor"),
        ({"cursor": " 1"}, "/query/cursor"),
        ({"cursor": ""}, "/query/cursor"),
        ({"cursor": "1" * 19}, "/query/cursor"),
        ({"cursor": "1\n"}, "/query/cursor"),
        ({"limit": "0"}, "/query/limit"),
        ({"limit": "201"}, "/query/limit"),
        ({"actor_id": "alice"}, "/query/actor_id"),
        ({"action": "task.eaten"}, "/query/action"),
        ({"outcome": "maybe"}, "/query/outcome"),
        ({"target_id": ""}, "/query/target_id"),
        ({"target_id": "a\x00b"}, "/query/target_id"),
        ({"target_id": "a\n"}, "/query/target_id"),
        ({"target_id": "a" * 256}, "/query/target_id"),
        ({"subject": "alice"}, "/query/subject"),
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(kept: House, query: dict[str, str], pointer: str) -> None:
    answer = await kept.client.get(PATH, params=query, headers=kept.headers("admin"))

    body: dict[str, Any] = check_problem(answer, 422, "invalid_content")
    assert [fault["pointer"] for fault in body["errors"]] == [pointer]


@pytest.mark.parametrize(
    ("cursor", "expected"), [("0", []), ("1", []), ("3", ["2", "1"]), ("9" * 18, ["4", "3", "2", "1"])]
)
async def test_a_cursor_may_be_any_position(kept: House, cursor: str, expected: list[str]) -> None:
    assert await found(kept, cursor=cursor) == expected


async def test_only_admins_with_the_scope_see_events(kept: House) -> None:
    await kept.let_in("user", scopes=frozenset({AUDIT_READ}))
    await kept.let_in("scopeless", Role.ADMIN, scopes=DEFAULT_SCOPES[Role.ADMIN] - {AUDIT_READ})
    await kept.let_in("root", Role.SUPER_ADMIN)

    answers = {subject: await kept.client.get(PATH, headers=kept.headers(subject)) for subject in ("user", "scopeless")}

    check_problem(answers["user"], 403, "role_too_low")
    check_problem(answers["scopeless"], 403, "scope_missing")
    check_problem(await kept.client.get(PATH), 401, "not_authenticated")
    assert (await kept.client.get(PATH, headers=kept.headers("root"))).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_there_is_no_way_to_change_an_event(kept: House, method: str) -> None:
    answer = await kept.client.request(method, PATH, headers=kept.headers("admin"))

    check_problem(answer, 405, "method_not_allowed")
