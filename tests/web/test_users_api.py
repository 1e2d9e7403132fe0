"""Users over HTTP: who am I, who is there, and the rules of changing somebody."""

import asyncio
from typing import Any

import httpx2
import pytest

from app.domain.scopes import ALL_SCOPES, DEFAULT_SCOPES
from app.domain.users import Role, User
from app.errors import Conflict
from app.security.actor import Actor
from app.services import users
from app.services.users import ChangeUser
from tests.support.house import House
from tests.web.asking import check_problem, pointers, rows


async def change(house: House, subject: str, target: User, /, **body: Any) -> httpx2.Response:
    """Change a user as a subject."""
    return await house.client.patch(f"/v1/users/{target.id}", json=body, headers=house.headers(subject))


async def active_super_admins(house: House) -> list[str]:
    """Return the ids of the super_admins who are left."""
    return await house.store.read(lambda work: work.users.active_super_admin_ids())


async def test_everybody_sees_who_they_are_and_what_they_may(house: House) -> None:
    alice = await house.let_in("alice@example.com", scopes=frozenset({"tasks.read", "tasks.create"}))

    answer = await house.client.get("/v1/me", headers=house.headers("alice@example.com"))

    assert answer.json() == {
        "id": alice.id,
        "subject": "alice@example.com",
        "role": "user",
        "scopes": ["tasks.create", "tasks.read"],
    }


async def test_an_admin_sees_all_users_newest_first(house: House) -> None:
    everybody = [await house.let_in(subject) for subject in ("one", "two")]
    everybody.append(await house.let_in("admin", Role.ADMIN))

    listed = await house.client.get("/v1/users", headers=house.headers("admin"))
    one = await house.client.get(f"/v1/users/{everybody[0].id}", headers=house.headers("admin"))

    assert [item["id"] for item in listed.json()["items"]] == [user.id for user in everybody[::-1]]
    assert one.json() == listed.json()["items"][-1]
    assert one.json() == {
        "id": everybody[0].id,
        "subject": "one",
        "role": "user",
        "scopes": sorted(DEFAULT_SCOPES[Role.USER]),
        "is_active": True,
        "created_at": everybody[0].created_at,
        "updated_at": everybody[0].updated_at,
    }


@pytest.mark.parametrize("body", [{"role": "user"}, {"scopes": []}, {"is_active": False}, {"is_active": True}])
@pytest.mark.parametrize("role", [Role.ADMIN, Role.SUPER_ADMIN])
async def test_nobody_changes_themselves(house: House, role: Role, body: dict[str, Any]) -> None:
    await house.let_in("other", Role.SUPER_ADMIN)
    me = await house.let_in("me", role, scopes=ALL_SCOPES)
    before = rows(house)

    answer = await change(house, "me", me, **body)

    check_problem(answer, 403, "not_allowed_on_user")
    assert rows(house) == before


@pytest.mark.parametrize("role", [Role.ADMIN, Role.SUPER_ADMIN])
@pytest.mark.parametrize("body", [{"role": "user"}, {"scopes": []}, {"is_active": False}])
async def test_an_admin_acts_on_nobody_of_an_equal_or_higher_role(
    house: House, role: Role, body: dict[str, Any]
) -> None:
    await house.let_in("admin", Role.ADMIN, scopes=ALL_SCOPES)
    target = await house.let_in("target", role)
    before = rows(house)

    answer = await change(house, "admin", target, **body)

    check_problem(answer, 403, "not_allowed_on_user")
    assert rows(house) == before


@pytest.mark.parametrize(
    "body",
    [
        {"role": "admin"},
        {"role": "super_admin"},
        {"role": "admin", "scopes": []},
        {"scopes": ["audit.read"]},
        {"role": "user", "scopes": ["tasks.read", "audit.read"]},
        {"is_active": False, "scopes": ["audit.read"]},
    ],
)
async def test_an_admin_grants_neither_their_own_role_nor_a_scope_they_lack(house: House, body: dict[str, Any]) -> None:
    await house.let_in("admin", Role.ADMIN, scopes=ALL_SCOPES - {"audit.read"})
    target = await house.let_in("target")
    before = rows(house)

    answer = await change(house, "admin", target, **body)

    check_problem(answer, 403, "not_allowed_on_user")
    assert rows(house) == before


async def test_an_admin_changes_what_they_may_and_leaves_scopes_that_they_lack(house: House) -> None:
    await house.let_in("admin", Role.ADMIN, scopes=frozenset({"users.manage"}))
    target = await house.let_in("target", scopes=frozenset({"tasks.read", "audit.read"}))

    narrowed = await change(house, "admin", target, scopes=["audit.read"])
    stopped = await change(house, "admin", target, is_active=False)

    assert narrowed.json()["scopes"] == ["audit.read"]
    assert (stopped.json()["is_active"], stopped.json()["scopes"]) == (False, ["audit.read"])
    assert stopped.json()["updated_at"] > target.updated_at


async def test_a_super_admin_may_do_both(house: House) -> None:
    await house.let_in("root", Role.SUPER_ADMIN, scopes=frozenset({"users.manage"}))
    target = await house.let_in("target")

    raised = await change(house, "root", target, role="super_admin")
    given = await change(house, "root", target, scopes=["audit.read"])
    lowered = await change(house, "root", target, role="user")

    assert raised.json()["scopes"] == sorted(ALL_SCOPES)
    assert given.json()["scopes"] == ["audit.read"]
    assert lowered.json()["role"] == "user"


async def test_a_new_role_brings_its_usual_scopes_unless_scopes_are_named(house: House) -> None:
    await house.let_in("root", Role.SUPER_ADMIN)
    target = await house.let_in("target", scopes=frozenset({"users.manage"}))

    promoted = await change(house, "root", target, role="admin")
    demoted = await change(house, "root", target, role="user", scopes=["tasks.read"])
    same = await change(house, "root", target, role="user", is_active=True)

    assert promoted.json()["scopes"] == sorted(DEFAULT_SCOPES[Role.ADMIN])
    assert demoted.json()["scopes"] == ["tasks.read"]
    assert same.json()["scopes"] == ["tasks.read"]


@pytest.mark.parametrize(
    ("body", "places"),
    [
        ({}, [""]),
        ({"role": None, "scopes": None, "is_active": None}, [""]),
        ({"is_active": 1}, ["/is_active"]),
        ({"is_active": "true"}, ["/is_active"]),
        ({"subject": "other"}, ["/subject"]),
        ({"scopes": ["nothing.there"]}, ["/scopes"]),
    ],
)
async def test_a_change_of_nothing_or_of_what_cannot_change_is_refused(
    house: House, body: dict[str, Any], places: list[str]
) -> None:
    await house.let_in("root", Role.SUPER_ADMIN)
    target = await house.let_in("target")

    answer = await change(house, "root", target, **body)

    assert pointers(answer) == places


@pytest.mark.parametrize("body", [{"role": "admin"}, {"role": "user"}, {"is_active": False}])
async def test_two_demotions_of_the_last_two_super_admins_at_once_leave_one(house: House, body: dict[str, Any]) -> None:
    one = await house.let_in("one", Role.SUPER_ADMIN)
    two = await house.let_in("two", Role.SUPER_ADMIN)

    answers = await asyncio.gather(change(house, "one", two, **body), change(house, "two", one, **body))

    assert sorted(answer.status_code for answer in answers) == [200, 403]
    assert len(await active_super_admins(house)) == 1


async def test_many_super_admins_who_demote_each_other_leave_one(house: House) -> None:
    names = [f"root-{number}" for number in range(6)]
    everybody = {name: await house.let_in(name, Role.SUPER_ADMIN) for name in names}

    answers = await asyncio.gather(
        *[
            change(house, actor, target, role="user")
            for actor in names
            for name, target in everybody.items()
            if name != actor
        ]
    )

    assert {answer.status_code for answer in answers} <= {200, 403, 409}
    assert len(await active_super_admins(house)) >= 1


@pytest.mark.parametrize(
    "wanted", [{"role": Role.ADMIN}, {"role": Role.USER}, {"is_active": False}, {"role": Role.USER, "is_active": True}]
)
async def test_the_last_active_super_admin_stays_even_if_somebody_may_act_on_them(
    house: House, wanted: dict[str, Any]
) -> None:
    last = await house.let_in("last", Role.SUPER_ADMIN)
    await house.let_in("asleep", Role.SUPER_ADMIN, is_active=False)
    actor = Actor(id="elsewhere", subject="elsewhere", role=Role.SUPER_ADMIN, scopes=ALL_SCOPES)

    with pytest.raises(Conflict, match="last active super_admin"):
        await house.store.write(lambda work: users.change(work, actor, ChangeUser(user_id=last.id, **wanted)))

    assert await active_super_admins(house) == [last.id]
