"""Bodies that come too late: the caller is told with a 408, nothing is carried out, and the connection ends."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from app.web import server as module
from tests.support.house import House, open_house
from tests.support.metrics import counted
from tests.web.lines import TIMEOUT_SECONDS, Line, serving

CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
BODY = b'{"payload": {}}'
SMUGGLED = b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Open a house where a body has as little time as on the server of these tests, and let alice in."""
    async with open_house(tmp_path, receive_timeout_seconds=TIMEOUT_SECONDS) as opened:
        await opened.let_in("alice")
        yield opened


def head(house: House, more: bytes) -> bytes:
    """Return the head of a request of alice's to create a task."""
    identity = house.headers("alice")["Authorization"].encode()
    return (
        b"POST /v1/tasks HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\n"
        b"Authorization: " + identity + b"\r\n" + more
    )


async def trickle(line: Line, pieces: list[bytes]) -> bytes:
    """Send pieces slowly until the other side closes; return what it said."""
    reading = asyncio.ensure_future(line.rest())
    for piece in pieces:
        await line.send(piece)
        await asyncio.wait([reading], timeout=0.02)
        if reading.done():
            break
    async with asyncio.timeout(5):
        return await reading


@pytest.mark.parametrize(
    ("more", "pieces"),
    [
        (b"Content-Length: 5000\r\n\r\n", []),
        (b"Content-Length: 5000\r\n\r\n", [b" "] * 1_000),
        (CHUNKED, []),
        (CHUNKED, [b"1\r\n \r\n"] * 1_000),
        (CHUNKED + b"f\r\n" + BODY, []),
        (CHUNKED + b"f\r\n" + BODY + b"\r\n0\r\n", [b"X: y\r\n"] * 1_000),
        (CHUNKED, [b"0"] * 1_000),
    ],
    ids=["silence", "one by one", "no chunk", "chunk by chunk", "no last chunk", "fields without end", "half a chunk"],
)
async def test_a_body_that_does_not_arrive_in_time_is_told_so(house: House, more: bytes, pieces: list[bytes]) -> None:
    async with serving(house.container.application()) as place:
        line = await place.connect()
        await line.send(head(house, more))

        received = await trickle(line, pieces)

    start, _, body = received.partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in start.lower()
    assert b"x-frame-options: deny" in start.lower()
    assert json.loads(body)["code"] == "request_timeout"
    assert (await house.client.get("/v1/tasks", headers=house.headers("alice"))).json()["items"] == []
    assert counted(house.container.metrics).by("cabinet_http_requests_total", "status")["408"] == 1


async def test_what_comes_behind_a_body_that_was_too_late_is_no_request(house: House) -> None:
    paths: list[str] = []
    application = house.container.application()

    async def watching(scope: Scope, receive: Receive, send: Send) -> None:
        paths.append(scope["path"])
        await application(scope, receive, send)

    async with serving(watching) as place:
        line = await place.connect()
        await line.send(head(house, b"Content-Length: 1\r\n\r\n"))
        await line.reader.readuntil(b"\r\n\r\n")
        await line.send(b"x" + SMUGGLED)
        await line.rest()

    assert paths == ["/v1/tasks"]


async def test_a_slow_body_that_arrives_in_time_is_taken(house: House) -> None:
    async with serving(house.container.application()) as place:
        line = await place.connect()
        await line.send(head(house, b"Content-Length: %d\r\n\r\n" % len(BODY)))
        for byte in BODY:
            await line.send(bytes([byte]))
            await asyncio.sleep(TIMEOUT_SECONDS / 5 / len(BODY))

        status, _ = await line.answer()

    assert status == 201


async def test_a_body_behind_a_slow_request_has_its_own_time(house: House) -> None:
    async with serving(house.container.application()) as place:
        line = await place.connect()
        created = await house.create("alice", "first")
        waiting = f"GET {created.headers['location']}?wait={TIMEOUT_SECONDS * 2} HTTP/1.1\r\nHost: a\r\nAuthorization: "
        await line.send(waiting.encode() + house.headers("alice")["Authorization"].encode() + b"\r\n\r\n")
        await line.send(head(house, b"Content-Length: %d\r\n\r\n" % len(BODY)) + BODY[:5])

        waited, _ = await line.answer()
        await line.send(BODY[5:])
        status, _ = await line.answer()

    assert (waited, status) == (200, 201)


async def test_the_connection_is_cut_if_nobody_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)
    async with serving() as place:
        line = await place.connect()
        await line.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab")

        async with asyncio.timeout(5):
            received = await line.rest()

    assert received == b""
