"""How a program gets in without a secret: it asks with its public key, is approved, and signs; until it is revoked."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.domain.keys import fingerprint
from app.domain.users import Role
from app.security.nonces import prune_nonces
from app.security.signatures import ACCEPT_SIGNATURE, SKEW_SECONDS, WINDOW_SECONDS
from tests.support.clocks import HandClock
from tests.support.house import House, open_house
from tests.support.signers import Message, Signer, public_text, seconds_of, send_by, sign_independently, task_message
from tests.web.asking import check_problem, pointers, rows

ORIGIN = "https://cabinet.test"
SUBJECT = "integration:parser"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A service with an admin, whose clock stands still."""
    async with open_house(tmp_path, clock=HandClock(), public_origin=ORIGIN) as opened:
        await opened.let_in("root", Role.SUPER_ADMIN)
        yield opened


def a_program(house: House) -> Signer:
    """Make a program's key, which nobody knows yet."""
    return Signer(key_id="", now=seconds_of(house.container.clock))


async def ask(house: House, signer: Signer | None, subject: str = SUBJECT) -> httpx2.Response:
    """Ask for access, with a key if there is one."""
    key = {} if signer is None else {"public_key": public_text(signer.private_key)}
    return await house.client.post("/v1/access-requests", json={"requested_by": subject} | key)


async def decide(house: House, request_id: str, decision: str = "approve", **body: Any) -> httpx2.Response:
    """Answer a request as root."""
    path = f"/v1/access-requests/{request_id}/{decision}"
    return await house.client.post(path, json=body, headers=house.headers("root"))


async def get_in(house: House, subject: str = SUBJECT) -> Signer:
    """Ask and be approved."""
    signer = a_program(house)
    asked = await ask(house, signer, subject)
    assert (await decide(house, asked.json()["id"])).status_code == 200
    return replace(signer, key_id=asked.json()["id"])


async def me(house: House, signer: Signer) -> httpx2.Response:
    """Send a signed GET /v1/me."""
    return await send_by(house.client, signer.sign(Message()))


async def test_a_program_gets_in_with_its_request_and_no_secret_is_handed_over(house: House) -> None:
    signer = a_program(house)

    asked = await ask(house, signer)
    signer = replace(signer, key_id=asked.json()["id"])
    too_early = await me(house, signer)
    approved = await decide(house, signer.key_id, scopes=["tasks.create", "tasks.read"])
    created = await send_by(house.client, sign_independently(task_message("key-1"), signer, origin=ORIGIN))

    assert asked.json() == {"id": signer.key_id, "status": "pending"}
    check_problem(too_early, 401, "bad_signature")
    assert approved.json()["access_request"]["fingerprint"] == fingerprint(public_text(signer.private_key))
    assert created.status_code == 201
    assert created.json()["created_by"] == approved.json()["user"]["id"]
    assert (await me(house, signer)).json() == {
        "id": approved.json()["user"]["id"],
        "subject": SUBJECT,
        "role": "user",
        "scopes": ["tasks.create", "tasks.read"],
    }
    keys = (await send_by(house.client, signer.sign(Message(target="/v1/keys")))).json()["items"]
    assert [(key["id"], key["name"], key["revoked_at"]) for key in keys] == [(signer.key_id, "access request", None)]


async def test_the_admin_sees_which_key_asks(house: House) -> None:
    signer = a_program(house)
    asked = await ask(house, signer)

    shown = await house.client.get(f"/v1/access-requests/{asked.json()['id']}", headers=house.headers("root"))

    key = public_text(signer.private_key)
    assert (shown.json()["public_key"], shown.json()["fingerprint"]) == (key, fingerprint(key))


@pytest.mark.parametrize("first_has_a_key", [True, False])
async def test_asking_again_does_not_swap_the_key_of_a_request_that_waits(house: House, first_has_a_key: bool) -> None:
    first, second = a_program(house), a_program(house)
    asked = await ask(house, first if first_has_a_key else None)
    again = await ask(house, second)
    request_id = asked.json()["id"]

    await decide(house, request_id)

    answers = [await me(house, replace(signer, key_id=request_id)) for signer in (first, second)]
    assert again.json() == asked.json()
    assert [answer.status_code for answer in answers] == ([200, 401] if first_has_a_key else [401, 401])


async def test_an_approval_for_another_key_is_refused_and_one_for_this_key_is_not(house: House) -> None:
    hasty, program = a_program(house), a_program(house)
    meant = fingerprint(public_text(program.private_key))
    first = (await ask(house, hasty)).json()["id"]

    refused = await decide(house, first, fingerprint=meant)
    await decide(house, first, "reject")
    second = (await ask(house, program)).json()["id"]
    approved = await decide(house, second, fingerprint=meant)

    assert "another fingerprint" in check_problem(refused, 409, "conflict")["detail"]
    assert approved.json()["access_request"]["fingerprint"] == meant


async def test_an_approval_that_means_a_key_is_refused_if_there_is_none(house: House) -> None:
    request = (await ask(house, None)).json()["id"]

    refused = await decide(house, request, fingerprint=fingerprint(public_text(a_program(house).private_key)))

    check_problem(refused, 409, "conflict")


async def test_asking_again_without_a_key_keeps_the_key(house: House) -> None:
    signer = a_program(house)
    asked = await ask(house, signer)
    await ask(house, None)

    await decide(house, asked.json()["id"])

    assert (await me(house, replace(signer, key_id=asked.json()["id"]))).status_code == 200


async def test_a_rejected_key_is_no_key_and_the_next_request_has_its_own(house: House) -> None:
    rejected, signer = a_program(house), a_program(house)
    first = await ask(house, rejected)
    await decide(house, first.json()["id"], "reject")
    second = await ask(house, signer)

    await decide(house, second.json()["id"])

    assert second.json()["id"] != first.json()["id"]
    assert rows(house)["access_requests"]
    for key_id in (first.json()["id"], second.json()["id"]):
        check_problem(await me(house, replace(rejected, key_id=key_id)), 401, "bad_signature")
    assert (await me(house, replace(signer, key_id=second.json()["id"]))).status_code == 200


async def test_approving_again_makes_no_second_key(house: House) -> None:
    signer = await get_in(house)

    again = await decide(house, signer.key_id)

    keys = (await send_by(house.client, signer.sign(Message(target="/v1/keys")))).json()["items"]
    assert again.status_code == 200
    assert len(keys) == 1


async def test_a_revoked_key_does_not_come_back_by_approving_its_request_again(house: House) -> None:
    signer = await get_in(house)
    await house.client.delete(f"/v1/keys/{signer.key_id}", headers=house.headers("root"))

    again = await decide(house, signer.key_id)

    assert again.status_code == 200
    check_problem(await me(house, signer), 401, "bad_signature")


async def test_who_is_a_user_already_gets_no_key_by_asking(house: House) -> None:
    await house.let_in(SUBJECT)
    signer = a_program(house)
    asked = await ask(house, signer)

    approved = await decide(house, asked.json()["id"])

    check_problem(approved, 409, "conflict")
    check_problem(await me(house, replace(signer, key_id=asked.json()["id"])), 401, "bad_signature")


async def test_two_subjects_with_the_same_key_are_told_apart_by_its_id(house: House) -> None:
    signer = a_program(house)
    ids = [(await ask(house, signer, subject)).json()["id"] for subject in ("one", "two")]
    for request_id in ids:
        await decide(house, request_id)

    subjects = [(await me(house, replace(signer, key_id=key_id))).json()["subject"] for key_id in ids]
    crossed = replace(signer, key_id=ids[0]).sign(Message()).edit("signature-input", ids[0], ids[1])

    assert subjects == ["one", "two"]
    check_problem(await send_by(house.client, crossed), 401, "bad_signature")


async def test_the_same_key_twice_is_two_keys_of_which_each_is_revoked_for_itself(house: House) -> None:
    signer = await get_in(house)
    body = {"public_key": public_text(signer.private_key), "name": "again"}
    second = await house.client.post("/v1/keys", json=body, headers=house.headers(SUBJECT))

    await house.client.delete(f"/v1/keys/{signer.key_id}", headers=house.headers("root"))

    answers = [await me(house, replace(signer, key_id=key_id)) for key_id in (signer.key_id, second.json()["id"])]
    assert [answer.status_code for answer in answers] == [401, 200]


@pytest.mark.parametrize("key", ["", "AAAA", "AQ" + "A" * 41 + "=", 7, ["x"]])
async def test_a_request_with_a_bad_key_is_told_so(house: House, key: Any) -> None:
    body = {"requested_by": SUBJECT, "public_key": key}

    answer = await house.client.post("/v1/access-requests", json=body)

    assert pointers(answer) == ["/public_key"]
    assert rows(house)["access_requests"] == []


async def test_what_is_public_takes_no_notice_of_a_signature(house: House) -> None:
    stranger = replace(a_program(house), key_id="nobody")

    answer = await send_by(house.client, stranger.sign(Message(target="/health")))

    assert answer.status_code == 200


async def test_a_refused_signature_is_told_what_is_asked_for_and_not_what_is_wrong(house: House) -> None:
    signer = await get_in(house)
    used = signer.sign(Message())
    await send_by(house.client, used)
    wrong = [used, used.drop("signature"), signer.sign(Message()).but(target="/v1/tasks"),
             replace(signer, key_id="nobody").sign(Message())]  # fmt: skip

    answers = [await send_by(house.client, message) for message in wrong]

    told = [check_problem(answer, 401, "bad_signature")["detail"] for answer in answers]
    assert len(set(told)) == 1
    assert {answer.headers["accept-signature"] for answer in answers} == {ACCEPT_SIGNATURE}
    assert all(answer.headers["www-authenticate"] for answer in answers)


@pytest.mark.parametrize("seconds", [0, 30, WINDOW_SECONDS, WINDOW_SECONDS + SKEW_SECONDS, 66, 125, 125.000001, 1_000])
async def test_no_replay_passes_at_any_time_whatever_was_forgotten(house: House, seconds: float) -> None:
    clock = house.container.clock
    assert isinstance(clock, HandClock)
    signer = await get_in(house)
    message = signer.sign(Message())
    first = await send_by(house.client, message)
    clock.move(seconds)

    pruned = await prune_nonces(house.store)
    again = await send_by(house.client, message)

    assert first.status_code == 200
    check_problem(again, 401, "bad_signature")
    assert pruned == (1 if seconds > 2 * WINDOW_SECONDS + SKEW_SECONDS else 0)
    assert (await me(house, signer)).status_code == 200
