"""Tokens over HTTP: shown once, for whom one may act upon, for no longer than allowed."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.clock import seconds_between
from app.domain.scopes import ALL_SCOPES
from app.domain.users import Role, User
from tests.support.clocks import HandClock
from tests.support.house import House, open_house
from tests.web.asking import check_problem, pointers, rows


async def grant(house: House, subject: str, target: User, ttl_seconds: Any = 60) -> httpx2.Response:
    """Ask for a token for a user, as a subject."""
    body = {"ttl_seconds": ttl_seconds}
    return await house.client.post(f"/v1/users/{target.id}/tokens", json=body, headers=house.headers(subject))


async def test_a_token_is_shown_once_and_works(house: House) -> None:
    await house.let_in("root", Role.SUPER_ADMIN)
    alice = await house.let_in("alice")
    before = rows(house)

    answer = await grant(house, "root", alice)
    token = answer.json()["token"]
    me = await house.client.get("/v1/me", headers={"Authorization": f"Bearer {token}"})

    assert answer.status_code == 201
    assert set(answer.json()) == {"token", "token_type", "subject", "expires_at"}
    assert (answer.json()["token_type"], answer.json()["subject"]) == ("Bearer", "alice")
    assert me.json()["id"] == alice.id
    assert rows(house) == before
    assert answer.headers["cache-control"] == "no-store"


async def test_two_tokens_are_never_the_same(house: House) -> None:
    await house.let_in("root", Role.SUPER_ADMIN)
    alice = await house.let_in("alice")

    tokens = {(await grant(house, "root", alice)).json()["token"] for _ in range(5)}

    assert len(tokens) == 5


async def test_a_token_works_until_the_second_in_which_it_expires(tmp_path: Path) -> None:
    clock = HandClock()
    async with open_house(tmp_path, clock=clock) as house:
        await house.let_in("root", Role.SUPER_ADMIN)
        answer = await grant(house, "root", await house.let_in("alice"), 60)
        headers = {"Authorization": f"Bearer {answer.json()['token']}"}

        clock.move(59.9)
        before = await house.client.get("/v1/me", headers=headers)
        clock.move(0.1)
        after = await house.client.get("/v1/me", headers=headers)

        assert seconds_between(HandClock().now(), answer.json()["expires_at"]) == 60
        assert before.status_code == 200
        check_problem(after, 401, "not_authenticated")


async def test_a_token_lives_at_least_a_second_and_at_most_as_long_as_allowed(tmp_path: Path) -> None:
    async with open_house(tmp_path, token_ttl_max=3_600) as house:
        await house.let_in("root", Role.SUPER_ADMIN)
        alice = await house.let_in("alice")

        allowed = [await grant(house, "root", alice, seconds) for seconds in (1, 3_600)]
        refused = [
            await grant(house, "root", alice, seconds)
            for seconds in (0, -1, 3_601, 10**30, True, "60", 60.0, 1.5, None)
        ]

        assert [answer.status_code for answer in allowed] == [201, 201]
        assert [pointers(answer) for answer in refused] == [["/ttl_seconds"]] * len(refused)


async def test_a_user_who_is_not_active_gets_no_token(house: House) -> None:
    await house.let_in("root", Role.SUPER_ADMIN)
    former = await house.let_in("former", is_active=False)

    answer = await grant(house, "root", former)

    check_problem(answer, 409, "conflict")


@pytest.mark.parametrize("role", [Role.ADMIN, Role.SUPER_ADMIN])
async def test_an_admin_gets_no_token_for_an_equal_or_higher_role(house: House, role: Role) -> None:
    await house.let_in("admin", Role.ADMIN, scopes=ALL_SCOPES)
    target = await house.let_in("target", role)

    answer = await grant(house, "admin", target)

    check_problem(answer, 403, "not_allowed_on_user")


async def test_an_admin_gets_no_token_for_themselves(house: House) -> None:
    admin = await house.let_in("admin", Role.ADMIN, scopes=ALL_SCOPES)

    answer = await grant(house, "admin", admin)

    check_problem(answer, 403, "not_allowed_on_user")


async def test_an_admin_gets_a_token_for_a_user_and_a_super_admin_for_everybody(house: House) -> None:
    await house.let_in("admin", Role.ADMIN, scopes=ALL_SCOPES)
    root = await house.let_in("root", Role.SUPER_ADMIN)
    other = await house.let_in("other", Role.SUPER_ADMIN)
    alice = await house.let_in("alice")

    answers = [
        await grant(house, "admin", alice),
        await grant(house, "root", other),
        await grant(house, "root", root),
    ]

    assert [answer.status_code for answer in answers] == [201, 201, 201]
