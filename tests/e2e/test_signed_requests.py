"""Signed requests against a real server: every attack is refused without a trace, and its neighbour passes."""

import json
from typing import Any

import httpx2
import pytest

from app.security.signatures import ACCEPT_SIGNATURE
from tests.e2e.attack_tables import ATTACKS
from tests.e2e.attacks import HOST, ORIGIN, REFUSED, Attack, Verdict, add_key, furnish
from tests.e2e.home import Home
from tests.support.processes import service
from tests.support.signers import Message, json_message, sign_independently, task_message

SETTINGS = {"PUBLIC_ORIGIN": ORIGIN, "WORKER_EMBEDDED": "false"}
COUNTED = ("tasks", "idempotency_keys", "signing_keys", "users", "access_requests")


def verdict(answer: httpx2.Response) -> Verdict:
    """Return status and code; nothing has a code if it has no body."""
    return answer.status_code, answer.json().get("code") if answer.content else None


def kept(home: Home) -> dict[str, Any]:
    """Return what a refused request leaves as it was."""
    return {table: set(home.rows(f"SELECT * FROM {table}")) for table in COUNTED}


def expected(attack: Attack, answer: httpx2.Response) -> Verdict:
    """Return what an attack is to be answered; an answer to HEAD has no code."""
    return attack.answer if answer.content else (attack.answer[0], None)


def test_there_are_more_than_a_hundred_attacks() -> None:
    assert sum(len(table) for table in ATTACKS.values()) > 100


@pytest.mark.parametrize("family", ATTACKS)
async def test_every_attack_is_refused_without_a_trace_and_its_neighbour_passes(home: Home, family: str) -> None:
    attacks = ATTACKS[family]
    async with service(home.folder, **SETTINGS) as running:
        bench = await furnish(running, home)
        before, nonces = kept(home), home.one("SELECT COUNT(*) FROM nonces")

        answers = {name: await bench.send(attack.tried(bench)) for name, attack in attacks.items()}
        after, used = kept(home), home.one("SELECT COUNT(*) FROM nonces")
        passed = {name: await bench.send(attack.control(bench)) for name, attack in attacks.items()}
        log = running.events("signature_refused")

    refused = [answer for answer in answers.values() if answer.status_code == 401 and answer.content]
    assert {name: verdict(answer) for name, answer in answers.items()} == {
        name: expected(attack, answers[name]) for name, attack in attacks.items()
    }
    assert {
        name: (answer.status_code, answer.text) for name, answer in passed.items() if answer.status_code > 201
    } == {}
    assert after == before
    assert used[0] - nonces[0] == sum(answer.status_code == 403 for answer in answers.values())
    assert len({answer.json()["detail"] for answer in refused}) == 1
    assert {answer.headers["Accept-Signature"] for answer in refused} == {ACCEPT_SIGNATURE}
    assert len(log) == sum(answer.status_code == 401 for answer in answers.values())


async def test_the_independent_signer_gets_in_with_every_kind_of_request(home: Home) -> None:
    async with service(home.folder, **SETTINGS) as running:
        bench = await furnish(running, home)
        sent = [
            Message(),
            Message(method="HEAD", target="/v1/tasks?limit=2"),
            Message(target="/v1/tasks?limit=2&status=open"),
            task_message("key-1", '{"a": "\\u00e9"}'),
            task_message("key-1", '{"a": "\\u00e9"}'),
            Message(target="/v1/keys").add("If-Match", '"1"'),
            json_message("DELETE", bench.spare, b'{"reason": "lost"}'),
        ]

        answers = [await bench.send(sign_independently(each, bench.alice, origin=ORIGIN)) for each in sent]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 201, 201, 200, 200]
    assert answers[0].json()["subject"] == "alice"
    assert answers[3].content == answers[4].content
    assert answers[4].headers["Idempotent-Replayed"] == "true"


async def test_a_revoked_key_is_refused_with_the_next_request_also_if_it_was_revoked_beside(home: Home) -> None:
    async with service(home.folder, **SETTINGS) as running:
        bench = await furnish(running, home)
        async with running.client(home.tokens["alice"]) as client:
            first, second = await add_key(client), await add_key(client)
            before = [await bench.send(bench.by(signer)) for signer in (first, second)]
            gone = await bench.send(first.sign(Message(method="DELETE", target=f"/v1/keys/{first.key_id}")))
        home.rows("UPDATE signing_keys SET revoked_at = created_at WHERE id = :id", id=second.key_id)

        after = [await bench.send(bench.by(signer)) for signer in (first, second, bench.alice)]

    assert [answer.status_code for answer in (*before, gone)] == [200, 200, 200]
    assert [verdict(answer) for answer in after] == [REFUSED, REFUSED, (200, None)]


async def test_a_key_of_low_order_does_not_get_in(home: Home) -> None:
    neutral = json.dumps({"public_key": "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "name": "weak"}).encode()
    async with service(home.folder, **SETTINGS) as running:
        bench = await furnish(running, home)

        added = await bench.send(bench.alice.sign(json_message("POST", "/v1/keys", neutral)))
        body = neutral.replace(b'"name"', b'"requested_by"')
        asked = await bench.send(json_message("POST", "/v1/access-requests", body))

    assert (verdict(added), verdict(asked)) == ((422, "invalid_content"), (422, "invalid_content"))


async def test_without_a_public_origin_no_signature_is_good_and_tokens_still_are(home: Home) -> None:
    async with service(home.folder, WORKER_EMBEDDED="false") as running:
        bench = await furnish(running, home)
        here = f"127.0.0.1:{bench.port}"

        answers = [await bench.send(bench.by(bench.alice, authority=name)) for name in (HOST, here, "", "None")]
        with_token = await bench.send(Message().add("Authorization", f"Bearer {bench.token}"))

    assert [verdict(answer) for answer in answers] == [REFUSED] * 4
    assert with_token.status_code == 200


@pytest.mark.parametrize(
    ("origin", "authority"),
    [
        ("http://Cabinet.Example.com:80", "cabinet.example.com"),
        ("https://cabinet.example.com:443", "cabinet.example.com"),
        ("http://cabinet.example.com:443", "cabinet.example.com:443"),
        ("http://[::1]:8000", "[::1]:8000"),
    ],
)
async def test_the_origin_is_normalised_as_the_rfc_has_it(home: Home, origin: str, authority: str) -> None:
    async with service(home.folder, WORKER_EMBEDDED="false", PUBLIC_ORIGIN=origin) as running:
        bench = await furnish(running, home)

        own = await bench.send(bench.by(bench.alice, authority=authority))
        independent = await bench.send(sign_independently(Message(), bench.alice, origin=origin))
        other = await bench.send(bench.by(bench.alice, authority=f"{authority}0"))

    assert (own.status_code, independent.status_code, other.status_code) == (200, 200, 401)
