"""Keys over HTTP: adding, seeing and revoking one's own or those of users below one, limits, and rotation."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.domain.keys import KEYS_LIMIT, fingerprint
from app.domain.scopes import ALL_SCOPES, DEFAULT_SCOPES, TASKS_READ, USERS_MANAGE
from app.domain.users import Role, User
from app.ids import is_id, new_id
from tests.support.clocks import HandClock
from tests.support.house import House, open_house
from tests.support.signers import Message, Signer, json_message, public_text, seconds_of, send_by
from tests.web.asking import check_problem, pointers

MANAGER = DEFAULT_SCOPES[Role.ADMIN] | {USERS_MANAGE}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A service that callers see under an origin, with one user of each kind."""
    async with open_house(tmp_path, clock=HandClock(), public_origin="https://cabinet.test") as opened:
        yield opened


@pytest.fixture
async def people(house: House) -> dict[str, User]:
    """Users of every role; `clerk` is an admin without the scope for users."""
    return {
        "alice": await house.let_in("alice"),
        "bob": await house.let_in("bob"),
        "rich": await house.let_in("rich", scopes=ALL_SCOPES),
        "asleep": await house.let_in("asleep", is_active=False),
        "clerk": await house.let_in("clerk", Role.ADMIN),
        "admin": await house.let_in("admin", Role.ADMIN, scopes=MANAGER),
        "peer": await house.let_in("peer", Role.ADMIN, scopes=MANAGER),
        "root": await house.let_in("root", Role.SUPER_ADMIN),
        "other root": await house.let_in("other-root", Role.SUPER_ADMIN),
    }


def a_key() -> str:
    """Make a public key."""
    return public_text(Ed25519PrivateKey.generate())


async def add(house: House, subject: str, user: User | None = None, **body: Any) -> httpx2.Response:
    """Send POST /v1/keys."""
    whose = {} if user is None else {"user_id": user.id}
    fields = {"public_key": a_key(), "name": "rigel"} | whose | body
    return await house.client.post("/v1/keys", json=fields, headers=house.headers(subject))


async def added(house: House, subject: str, user: User | None = None) -> dict[str, Any]:
    """Add a key and return what is shown of it."""
    answer = await add(house, subject, user)
    assert answer.status_code == 201, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def seen(house: House, subject: str, **query: Any) -> httpx2.Response:
    """Send GET /v1/keys."""
    return await house.client.get("/v1/keys", params=query, headers=house.headers(subject))


async def revoke(house: House, subject: str, key_id: str, **more: Any) -> httpx2.Response:
    """Send DELETE /v1/keys/{id}."""
    return await house.client.request("DELETE", f"/v1/keys/{key_id}", headers=house.headers(subject), **more)


async def me(house: House, signer: Signer) -> httpx2.Response:
    """Send a signed GET /v1/me."""
    return await send_by(house.client, signer.sign(Message()))


def at(house: House) -> Signer:
    """Return a signer with a new key, which goes by the clock of the house."""
    return Signer(key_id="", now=seconds_of(house.container.clock))


async def with_key(house: House, subject: str) -> Signer:
    """Give somebody a new key and return its signer."""
    signer = at(house)
    answer = await add(house, subject, public_key=public_text(signer.private_key))
    return replace(signer, key_id=answer.json()["id"])


async def test_ones_own_key_is_shown_whole_and_signs_at_once(house: House, people: dict[str, User]) -> None:
    signer = at(house)
    key = public_text(signer.private_key)

    answer = await add(house, "alice", public_key=key, name="the host rigel")

    shown = answer.json()
    assert answer.status_code == 201
    assert is_id(shown["id"])
    assert shown == {
        "id": shown["id"],
        "user_id": people["alice"].id,
        "subject": "alice",
        "name": "the host rigel",
        "public_key": key,
        "fingerprint": fingerprint(key),
        "created_at": house.container.clock.now(),
        "revoked_at": None,
    }
    signed = await me(house, replace(signer, key_id=shown["id"]))
    assert (signed.status_code, signed.json()["subject"]) == (200, "alice")


@pytest.mark.parametrize(
    ("actor", "target", "is_let"),
    [
        ("alice", "alice", True),
        ("alice", "bob", False),
        ("alice", "root", False),
        ("clerk", "clerk", True),
        ("clerk", "alice", False),
        ("rich", "bob", False),
        ("admin", "alice", True),
        ("admin", "rich", False),
        ("admin", "peer", False),
        ("admin", "root", False),
        ("root", "alice", True),
        ("root", "admin", True),
        ("root", "other root", True),
    ],
)
async def test_who_may_add_see_and_revoke_whose_keys(
    house: House, people: dict[str, User], actor: str, target: str, is_let: bool
) -> None:
    user = people[target]
    own = await added(house, user.subject)

    answers = [
        await add(house, actor, user),
        await seen(house, actor, user_id=user.id),
        await revoke(house, actor, own["id"]),
    ]

    lacks_scopes_alone = (actor, target) == ("admin", "rich")  # which it cannot hand out, but take away
    seeing = is_let or lacks_scopes_alone
    for answer, expected, good in zip(answers, (is_let, seeing, seeing), (201, 200, 200), strict=True):
        if expected:
            assert answer.status_code == good, answer.text
        else:
            check_problem(answer, 403, "not_allowed_on_user")
    [listed] = [key for key in (await seen(house, user.subject)).json()["items"] if key["id"] == own["id"]]
    assert (listed["revoked_at"] is not None) == seeing


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"public_key": "AAAA"}, "/public_key"),
        ({"public_key": "AQ" + "A" * 41 + "="}, "/public_key"),
        ({"public_key": 7}, "/public_key"),
        ({"public_key": None}, "/public_key"),
        ({"name": ""}, "/name"),
        ({"name": "x" * 101}, "/name"),
        ({"name": "a\x1bb"}, "/name"),
        ({"user_id": "alice"}, "/user_id"),
        ({"private_key": "x"}, "/private_key"),
    ],
)
async def test_a_bad_field_is_named(house: House, people: dict[str, User], body: dict[str, Any], pointer: str) -> None:
    answer = await add(house, "alice", **body)

    assert pointers(answer) == [pointer]
    assert (await seen(house, "alice")).json()["items"] == []


async def test_nobody_who_is_not_there_or_not_active_gets_a_key(house: House, people: dict[str, User]) -> None:
    unknown = await add(house, "root", user_id=new_id())
    asleep = await add(house, "root", people["asleep"])

    check_problem(unknown, 404, "not_found")
    check_problem(asleep, 409, "conflict")


async def test_a_user_has_so_many_live_keys_and_no_more(house: House, people: dict[str, User]) -> None:
    keys = [await added(house, "alice") for _ in range(KEYS_LIMIT)]

    refused = await add(house, "alice")
    await revoke(house, "alice", keys[0]["id"])
    taken = await add(house, "alice")
    of_another = await add(house, "bob")

    check_problem(refused, 409, "conflict")
    assert (taken.status_code, of_another.status_code) == (201, 201)


async def test_two_keys_work_side_by_side_until_the_old_one_is_revoked(house: House, people: dict[str, User]) -> None:
    old, new = await with_key(house, "alice"), at(house)
    body = f'{{"public_key":"{public_text(new.private_key)}","name":"new"}}'.encode()
    added_by_old = await send_by(house.client, old.sign(json_message("POST", "/v1/keys", body)))
    new = replace(new, key_id=added_by_old.json()["id"])

    both = [await me(house, signer) for signer in (old, new)]
    gone = new.sign(Message(method="DELETE", target=f"/v1/keys/{old.key_id}"))
    revoked = await send_by(house.client, gone)
    after = [await me(house, signer) for signer in (old, new)]

    assert [answer.status_code for answer in (*both, revoked)] == [200, 200, 200]
    assert [answer.status_code for answer in after] == [401, 200]


async def test_a_key_can_revoke_itself_and_is_refused_from_then_on(house: House, people: dict[str, User]) -> None:
    signer = await with_key(house, "alice")
    message = signer.sign(Message(method="DELETE", target=f"/v1/keys/{signer.key_id}"))

    first = await send_by(house.client, message)
    again = await send_by(house.client, message)

    assert first.json()["revoked_at"] == house.container.clock.now()
    check_problem(again, 401, "bad_signature")


async def test_revoking_again_changes_nothing(house: House, people: dict[str, User]) -> None:
    key = await added(house, "alice")
    clock = house.container.clock
    first = await revoke(house, "alice", key["id"], json={"reason": "lost"})
    assert isinstance(clock, HandClock)
    clock.move(100)

    again = await revoke(house, "alice", key["id"])

    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json() == first.json()


@pytest.mark.parametrize("key_id", ["019aabcd-0000-7000-8000-000000000001", "none", "A" * 36])
async def test_a_key_that_is_not_there_is_not_found(house: House, people: dict[str, User], key_id: str) -> None:
    answer = await revoke(house, "root", key_id)

    check_problem(answer, 404, "not_found")


async def test_keys_are_walked_newest_first_the_revoked_ones_too(house: House, people: dict[str, User]) -> None:
    keys = [await added(house, "alice") for _ in range(5)]
    await added(house, "bob")
    await revoke(house, "alice", keys[0]["id"])

    first = (await seen(house, "alice", limit=2)).json()
    second = (await seen(house, "alice", limit=2, cursor=first["next"])).json()
    third = (await seen(house, "alice", limit=2, cursor=second["next"])).json()

    walked = [key["id"] for page in (first, second, third) for key in page["items"]]
    assert walked == [key["id"] for key in keys[::-1]]
    assert third["next"] is None
    assert third["items"][0]["revoked_at"] is not None


async def test_nobody_sees_keys_without_saying_who_they_are(house: House, people: dict[str, User]) -> None:
    answers = [
        await house.client.get("/v1/keys"),
        await house.client.post("/v1/keys", json={}),
        await house.client.delete(f"/v1/keys/{new_id()}"),
    ]

    for answer in answers:
        check_problem(answer, 401, "not_authenticated")


async def test_a_key_says_nothing_of_its_user_after_the_user_was_put_to_sleep(
    house: House, people: dict[str, User]
) -> None:
    signer = await with_key(house, "alice")
    path = f"/v1/users/{people['alice'].id}"

    await house.client.patch(path, json={"is_active": False}, headers=house.headers("root"))
    asleep = await me(house, signer)
    await house.client.patch(path, json={"is_active": True, "scopes": [TASKS_READ]}, headers=house.headers("root"))
    awake = await me(house, signer)

    check_problem(asleep, 403, "inactive_user")
    assert awake.json()["scopes"] == [TASKS_READ]
