"""Limits before and behind a proxy: they agree, and what one of the two reads otherwise than the other is refused."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import httpx2
import pytest

from app.settings import Settings
from app.web.envelope import HEADERS_BYTES_LIMIT, TARGET_BYTES_LIMIT
from tests.deploy.proxies import (
    CALLER_ADDRESS,
    PROXIES,
    Line,
    StartsProxy,
    behind,
    nginx,
    open_line,
    port_of,
    request_line,
)
from tests.e2e.home import Home
from tests.support.processes import service
from tests.web.asking import check_problem

BODY_LIMIT_BYTES: int = Settings.model_fields["body_limit_bytes"].default
FORGED = b"X-Forwarded-For: 203.0.113.9\r\nX-Request-Id: smuggled-1\r\n"
SMUGGLED = b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + FORGED + b"\r\n"


def body_of(size: int) -> bytes:
    """Return a create of exactly so many bytes."""
    empty = json.dumps({"payload": {"text": ""}}).encode()
    return empty.replace(b'""', b'"%b"' % (b"a" * (size - len(empty))))


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    """Send a body without telling its length before."""
    for start in range(0, len(body), 65_536):
        yield body[start : start + 65_536]


@pytest.mark.parametrize("has_length", [True, False], ids=["with length", "chunked"])
@pytest.mark.parametrize("proxy", PROXIES)
async def test_the_largest_body_passes_and_one_byte_more_is_a_problem(
    proxy: StartsProxy, home: Home, has_length: bool
) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": "key-1"}
    bodies = [body_of(BODY_LIMIT_BYTES + more) for more in (0, 1, 1_000_000)]
    async with behind(proxy, home) as (front, _), front.client(home.tokens["alice"]) as client:
        answers = [
            await client.post("/v1/tasks", content=body if has_length else in_pieces(body), headers=headers)
            for body in bodies
        ]

    assert answers[0].status_code == 201
    for answer in answers[1:]:
        problem = check_problem(answer, 413, "payload_too_large")
        assert str(BODY_LIMIT_BYTES) in problem["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Long": "a" * (HEADERS_BYTES_LIMIT + 1)},
        {f"X-Long-{number}": "a" * 400 for number in range(50)},
        {"X-Long": "a" * 500_000},
        {f"X-Long-{number}": "a" for number in range(200)},
    ],
    ids=["one long", "many", "one very long", "too many"],
)
@pytest.mark.parametrize("proxy", PROXIES)
async def test_too_many_headers_are_refused(proxy: StartsProxy, home: Home, headers: dict[str, str]) -> None:
    async with behind(proxy, home) as (front, _), front.client() as client:
        answer = await client.get("/health", headers=headers)
        after = await client.get("/health")

    assert answer.status_code in (400, 431)
    assert after.status_code == 200


@pytest.mark.parametrize("proxy", PROXIES)
async def test_the_largest_head_that_the_service_takes_passes_the_proxy(proxy: StartsProxy, home: Home) -> None:
    target = "/v1/tasks?reference=" + "a" * (TARGET_BYTES_LIMIT - len("/v1/tasks?reference="))
    headers = {"X-Request-Id": "request-1", "X-Long": "a" * (HEADERS_BYTES_LIMIT - 1_500)}
    async with behind(proxy, home) as (front, running), front.client(home.tokens["alice"]) as client:
        answer = await client.get(target, headers=headers)
        line = await request_line(running, "request-1")

    assert (answer.status_code, line["status"]) == (422, 422)


async def test_what_nginx_refuses_itself_is_a_problem_too(home: Home) -> None:
    async with behind(nginx, home) as (front, _), front.client() as client:
        headers = await client.get("/health", headers={"X-Long": "a" * 20_000})
        target = await client.get("/health?" + "a" * 20_000)
        plain = await httpx2.AsyncClient().get(f"http://localhost:{front.port}/health")

    for answer in (headers, target, plain):
        check_problem(answer, 400, "bad_request")


MALFORMED = {
    "two hosts": b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\nX-A: b\r\n\r\n",
    "length and chunked": b"POST /v1/access-requests HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (len(SMUGGLED) + 5),
    "chunked and length": b"POST /v1/access-requests HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /v1/access-requests HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"
    b"Content-Length: %d\r\n\r\n" % len(SMUGGLED),
    "a signed length": b"POST /v1/access-requests HTTP/1.1\r\nHost: localhost\r\nContent-Length: +0\r\n\r\n",
    "an unknown encoding": b"POST /v1/access-requests HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n"
    b"Content-Length: %d\r\n\r\n" % len(SMUGGLED),
    "a space before the colon": b"POST /v1/access-requests HTTP/1.1\r\nHost: localhost\r\n"
    b"Transfer-Encoding : chunked\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED),
    "a chunk size that is none": b"POST /v1/access-requests HTTP/1.1\r\nHost: localhost\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
    "a header on two lines": b"POST /v1/access-requests HTTP/1.1\r\nHost: localhost\r\n"
    b"Transfer-Encoding:\r\n chunked\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED),
}

HARMLESS = ("two hosts", "no host")
"""Where such a request ends is clear, so the connection may go on."""


@pytest.mark.parametrize("proxy", PROXIES)
async def test_no_request_reaches_the_service_inside_another(proxy: StartsProxy, home: Home) -> None:
    async with behind(proxy, home) as (front, running):
        one_after_the_other = await answered(front.line(), SMUGGLED + SMUGGLED)
        answers = {name: await answered(front.line(), sent + SMUGGLED) for name, sent in MALFORMED.items()}
        await running.terminate()

    lines = [line for line in running.events("request") if line["route"] != "/ready"]
    assert one_after_the_other == [200, 200, 200]
    assert [name for name, statuses in answers.items() if statuses[0] < 400] == []
    assert {line["client"] for line in lines} == {CALLER_ADDRESS}
    assert len(lines) <= 3 + sum(len(statuses) for statuses in answers.values())


@pytest.mark.parametrize("name", MALFORMED)
async def test_the_service_refuses_by_itself_what_can_be_read_in_two_ways(name: str, home: Home) -> None:
    async with service(home.folder) as running:
        answers = await answered(open_line(port_of(running)), MALFORMED[name] + SMUGGLED)

    assert answers[0] == 400
    assert len(answers) == 1 or name in HARMLESS


async def answered(opened: AbstractAsyncContextManager[Line], sent: bytes) -> list[int]:
    """Send bytes and one last request on a connection, and return the statuses of what came back until its end."""
    last = b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    async with opened as line:
        await line.send(sent + last)
        received = await line.rest()
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]
