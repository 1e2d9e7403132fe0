"""Targets: on the real server, what could be read as another path or host is a 400 before anything is routed."""

import json
from collections.abc import AsyncIterator

import pytest

from tests.support.house import House
from tests.web import lines
from tests.web.asking import HOST, ask, check_problem
from tests.web.lines import Place, serving

HOSTILE = [
    # dots, raw and escaped, whole or half
    b"/..", b"/../health", b"/v1/..", b"/v1/../health", b"/v1/tasks/../../health", b"/./health", b"/health/.",
    b"/%2e%2e/health", b"/v1/%2E%2E/health", b"/v1/.%2e/health", b"/v1/%2e./health", b"/%2e/health", b"/health/%2e",
    # empty segments
    b"//", b"//health", b"/v1//me", b"/health//", b"//cabinet.test/health",
    # slashes and backslashes that are hidden
    b"/v1%2fme", b"/v1%2Fme", b"/%2fhealth", b"/v1/..%2fhealth",
    b"/v1%5cme", b"/..%5chealth", b"/v1\\me", b"/v1\\..\\health",
    # control characters, raw and escaped
    b"/health%00", b"/health%0a", b"/health%0d%0aX:%20y", b"/health%1f", b"/health%7f", b"/%c2%80", b"/%c2%9f",
    b"/health\x00", b"/health\x01", b"/health\x1f", b"/health\x7f", b"/health\t", b"/he alth",
    # escapes that are none
    b"/%", b"/health%", b"/%2", b"/%zz", b"/%u002e", b"/health%-1", b"/%+1",
    # bytes that are not UTF-8, raw and escaped
    b"/%ff", b"/%c3", b"/%c0%af", b"/%c0%ae%c0%ae/", b"/%ed%a0%80", b"/%f5%80%80%80", b"/\xff", b"/\xc3\xa4",
    # characters that belong escaped
    b"/{id}", b"/<b>", b'/"', b"/a|b", b"/a^b", b"/`", b"/[a]",
    # no path at all, or one with a fragment
    b"*", b"health", b"?a=1", b"cabinet.test:80", b"/health#", b"/health#/../v1/me", b"/health?a#b",
    # another host, or no path on this one
    b"http://other.test/health", b"http://cabinet.test@other.test/health", b"http://cabinet.test:81/health",
    b"http://cabinet.test", b"http://cabinet.test?a=1", b"http:///health", b"http:/health",
    b"ftp://cabinet.test/health", b"http://cabinet.test/../health", b"http://cabinet.test//health",
]  # fmt: skip

SOUND = {
    b"/health": 200,
    b"/%68ealth": 200,
    b"/%68%65%61%6c%74%68": 200,
    b"http://cabinet.test/health": 200,
    b"HTTP://Cabinet.Test/health": 200,
    b"/": 404,
    b"/health/": 404,
    b"/...": 404,
    b"/.well-known/x": 404,
    b"/a.b/..c/d..": 404,
    b"/%252e%252e/health": 404,
    b"/%c3%a4%20%e2%82%ac": 404,
    b"/~a-b_c.d!$&'()*+,;=:@": 404,
    b"/health?a=/../%2f//": 422,
    b"/v1/me": 401,
}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give requests time also on a busy machine: nothing here is about deadlines."""
    monkeypatch.setattr(lines, "TIMEOUT_SECONDS", 10)


@pytest.fixture
async def place(house: House) -> AsyncIterator[Place]:
    """Serve the house on a socket."""
    async with serving(house.container.application()) as opened:
        yield opened


async def asked(place: Place, target: bytes, method: bytes = b"GET") -> tuple[int, str]:
    """Send a request whose target is exactly this; return status and code."""
    line = await place.connect()
    await line.send(method + b" " + target + b" HTTP/1.1\r\nHost: cabinet.test\r\n\r\n")
    status, body = await line.answer()
    return status, json.loads(body).get("code", "")


async def test_no_hostile_target_is_routed(place: Place) -> None:
    answers = {target: await asked(place, target) for target in HOSTILE}

    passed = {target: answer for target, answer in answers.items() if answer != (400, "bad_request")}
    assert passed == {}


async def test_every_sound_target_reaches_its_route(place: Place) -> None:
    answers = {target: (await asked(place, target))[0] for target in SOUND}

    assert answers == SOUND


async def test_the_server_as_a_whole_has_no_options(place: Place) -> None:
    assert await asked(place, b"*", b"OPTIONS") == (400, "bad_request")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "PROPFIND"])
async def test_a_hostile_target_is_refused_before_its_method_or_its_caller_is_looked_at(
    house: House, method: str
) -> None:
    await house.let_in("alice")
    identity = (b"authorization", house.headers("alice")["Authorization"].encode())

    answer = await ask(house.container.application(), method, "/v1/tasks/..%2fme", headers=[HOST, identity])

    check_problem(answer, 400, "bad_request")


async def test_a_url_of_another_host_is_refused_whatever_the_host_header_names(place: Place) -> None:
    line = await place.connect()
    await line.send(b"GET http://cabinet.test/health HTTP/1.1\r\nHost: other.test\r\n\r\n")

    status, _ = await line.answer()

    assert status == 400


async def test_an_id_that_is_escaped_is_the_same_id(house: House, place: Place) -> None:
    await house.let_in("alice")
    task_id = (await house.create("alice", "k")).json()["id"]
    line = await place.connect()
    escaped = "".join(f"%{ord(letter):02x}" for letter in task_id)
    identity = house.headers("alice")["Authorization"]

    await line.send(f"GET /v1/tasks/{escaped} HTTP/1.1\r\nHost: a\r\nAuthorization: {identity}\r\n\r\n".encode())
    status, body = await line.answer()

    assert (status, json.loads(body)["id"]) == (200, task_id)
