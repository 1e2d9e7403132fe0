"""Replays: a signed request is taken once, whatever became of it, also after a SIGKILL and by many at once."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from app.ids import new_id
from tests.e2e.attacks import REFUSED, Bench, furnish, port_of
from tests.e2e.home import Home, until
from tests.e2e.test_signed_requests import SETTINGS, verdict
from tests.support.processes import service
from tests.support.signers import Message, json_message, task_message

COPIES = 20
KEY_BODY = b'{"public_key":"11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=","name":"copied"}'
ONCE: dict[str, Callable[[Bench], Message]] = {
    "GET": lambda bench: bench.get(),
    "HEAD": lambda bench: bench.get("/v1/tasks", method="HEAD"),
    "GET with a wait": lambda bench: bench.get(f"/v1/tasks/{new_id()}?wait=1"),
    "POST": lambda bench: bench.task(),
    "DELETE": lambda bench: bench.get(bench.spare, method="DELETE"),
    "/ready in detail": lambda bench: bench.get("/ready"),
}
REFUSED_FIRST: dict[str, tuple[Callable[[Bench], Message], tuple[int, str]]] = {
    "role": (lambda bench: bench.get("/v1/users"), (403, "role_too_low")),
    "scope": (lambda bench: bench.bob.sign(task_message("key-1")), (403, "scope_missing")),
    "inactive user": (lambda bench: bench.sleeping.sign(task_message("key-1")), (403, "inactive_user")),
    "a field": (lambda bench: bench.alice.sign(json_message("POST", "/v1/keys", b'{"a":1}')), (422, "invalid_content")),
    "no JSON": (lambda bench: bench.alice.sign(json_message("POST", "/v1/keys", b"{")), (400, "bad_request")),
    "a query": (lambda bench: bench.get("/v1/me?a=b"), (422, "invalid_content")),
    "media type": (
        lambda bench: bench.alice.sign(task_message("key-1").put("Content-Type", "text/plain")),
        (415, "unsupported_media_type"),
    ),
    "nothing there": (lambda bench: bench.get(f"/v1/tasks/{new_id()}"), (404, "not_found")),
    "a key that is used": (
        lambda bench: bench.alice.sign(task_message("used", '{"b":1}')),
        (422, "idempotency_key_reused"),
    ),
}


async def statuses(bench: Bench, messages: Mapping[str, Message]) -> dict[str, int]:
    """Send each message and return what it is answered."""
    return {name: (await bench.send(message)).status_code for name, message in messages.items()}


def made(bench: Bench) -> dict[str, Message]:
    """Sign one of each anew."""
    return {name: make(bench) for name, make in ONCE.items()}


async def test_a_request_is_taken_once_in_one_process_and_after_a_kill(home: Home) -> None:
    async with service(home.folder, MEASURED="no", **SETTINGS) as running:
        bench = await furnish(running, home)
        sent = made(bench)
        first = await statuses(bench, sent)
        again = await statuses(bench, sent)
        await running.kill()

    async with service(home.folder, **SETTINGS) as running:
        bench = replace(bench, port=port_of(running))
        late = await statuses(bench, sent)
        anew = await statuses(bench, made(bench))

    assert first == anew == dict.fromkeys(ONCE, 200) | {"GET with a wait": 404, "POST": 201}
    assert again == late == dict.fromkeys(ONCE, 401)


async def test_a_request_that_was_refused_is_not_taken_later_though_it_could_be(home: Home) -> None:
    async with service(home.folder, **SETTINGS) as running, running.client(home.tokens["root"]) as root:
        bench = await furnish(running, home)
        users = {user["subject"]: user["id"] for user in (await root.get("/v1/users")).json()["items"]}
        await root.patch(f"/v1/users/{users['integration:bob']}", json={"scopes": []})
        await bench.send(bench.alice.sign(task_message("used", '{"a":1}')))
        sent = {name: make(bench) for name, (make, _) in REFUSED_FIRST.items()}
        first = {name: verdict(await bench.send(message)) for name, message in sent.items()}

        cures = [
            await root.patch(f"/v1/users/{users['alice']}", json={"role": "admin"}),
            await root.patch(
                f"/v1/users/{users['alice']}", json={"scopes": ["users.read", "tasks.read", "tasks.create"]}
            ),
            await root.patch(f"/v1/users/{users['integration:bob']}", json={"scopes": ["tasks.create"]}),
            await root.patch(f"/v1/users/{users['integration:sleeping']}", json={"is_active": True}),
        ]
        again = {name: verdict(await bench.send(message)) for name, message in sent.items()}
        anew = {name: (await bench.send(make(bench))).status_code for name, (make, _) in REFUSED_FIRST.items()}

    assert [cure.status_code for cure in cures] == [200] * 4
    assert first == {name: answer for name, (_, answer) in REFUSED_FIRST.items()}
    assert again == dict.fromkeys(REFUSED_FIRST, REFUSED)
    assert (anew["role"], anew["scope"], anew["inactive user"]) == (200, 201, 201)


async def test_of_many_copies_at_once_one_passes(home: Home) -> None:
    async with service(home.folder, **SETTINGS) as running:
        bench = await furnish(running, home)
        message = bench.alice.sign(json_message("POST", "/v1/keys", KEY_BODY))
        before = home.one("SELECT COUNT(*) FROM signing_keys")

        answers = await asyncio.gather(*(bench.send(message) for _ in range(COPIES)))
        after = home.one("SELECT COUNT(*) FROM signing_keys")

    assert sorted(answer.status_code for answer in answers) == [201] + [401] * (COPIES - 1)
    assert after[0] - before[0] == 1


async def test_a_nonce_is_used_up_for_its_key_whatever_else_is_signed_with_it(home: Home) -> None:
    nonce = {"nonce": '"0123456789abcdef"'}
    async with service(home.folder, **SETTINGS) as running:
        bench = await furnish(running, home)
        first = await bench.send(bench.get(parameters=nonce))

        others = [
            await bench.send(bench.get(parameters=nonce | {"created": bench.at(-2), "expires": bench.at(30)})),
            await bench.send(bench.get("/v1/tasks", parameters=nonce)),
            await bench.send(bench.task(parameters=nonce)),
            await bench.send(bench.get(parameters=nonce, label="other")),
        ]
        of_another_key = await bench.send(bench.bob.sign(Message(), parameters=nonce))
        in_capitals = await bench.send(bench.get(parameters={"nonce": nonce["nonce"].upper()}))

    assert [verdict(answer) for answer in others] == [REFUSED] * 4
    assert [answer.status_code for answer in (first, of_another_key, in_capitals)] == [200, 200, 200]


async def test_what_was_refused_for_its_signature_uses_no_nonce_up(home: Home) -> None:
    async with service(home.folder, **SETTINGS) as running:
        bench = await furnish(running, home)
        good = bench.get()
        forged = good.but(target="/v1/tasks")

        answers = [await bench.send(each) for each in (forged, good, forged)]

    assert [answer.status_code for answer in answers] == [401, 200, 401]


@pytest.mark.parametrize("means", ["the key is revoked", "the user is put to sleep", "nothing"])
async def test_whoever_waits_is_looked_at_again(home: Home, means: str) -> None:
    async with service(home.folder, **SETTINGS) as running, running.client(home.tokens["root"]) as root:
        bench = await furnish(running, home)
        task = (await bench.send(bench.task())).headers["Location"]
        [user] = [each for each in (await root.get("/v1/users")).json()["items"] if each["subject"] == "alice"]
        message = bench.get(f"{task}?wait=20", parameters={"nonce": '"the-nonce-of-the-wait"'})
        waiting = asyncio.create_task(bench.send(message))
        await until(lambda: home.rows("SELECT 1 FROM nonces WHERE nonce = 'the-nonce-of-the-wait'"))

        match means:
            case "the key is revoked":
                done = await root.delete(f"/v1/keys/{bench.alice.key_id}")
            case "the user is put to sleep":
                done = await root.patch(f"/v1/users/{user['id']}", json={"is_active": False})
            case _:
                done = await root.post(f"{task}/cancel")
        answer = await waiting

    told = {"the key is revoked": REFUSED, "the user is put to sleep": (403, "inactive_user")}
    assert done.status_code == 200, done.text
    assert verdict(answer) == told.get(means, (200, None))
