"""The server on a real socket: who does not send a request in time is cut, all others are left alone."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from app.metrics import Metrics
from app.web import server as module
from app.web.envelope import Envelope
from app.web.server import HEAD_BYTES_LIMIT, PIPELINE_LIMIT
from tests.support.house import House
from tests.support.metrics import counted
from tests.web.lines import TIMEOUT_SECONDS, Line, Place, serving


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    """Serve the echo."""
    async with serving() as opened:
        yield opened


async def trickle(line: Line, data: bytes) -> tuple[bytes, float]:
    """Send bytes one by one until the connection is cut; return what was answered and how many seconds it lived."""
    started = time.monotonic()
    reading = asyncio.ensure_future(line.rest())
    for byte in data:
        await line.send(bytes([byte]))
        await asyncio.wait([reading], timeout=0.02)
        if reading.done():
            break
    async with asyncio.timeout(5):
        return await reading, time.monotonic() - started


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab"],
)
async def test_a_connection_that_falls_silent_is_cut(place: Place, begun: bytes) -> None:
    line = await place.connect()
    await line.send(begun)

    async with asyncio.timeout(5):
        received = await line.rest()

    assert received == b""


async def test_a_head_that_trickles_is_cut(place: Place) -> None:
    received, seconds = await trickle(await place.connect(), b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1_000)

    assert received == b""
    assert TIMEOUT_SECONDS * 0.9 < seconds < 3


@pytest.mark.parametrize(
    "head", [b"Content-Length: 5000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 1_000]
)
async def test_a_body_that_trickles_is_cut(place: Place, head: bytes) -> None:
    line = await place.connect()
    await line.send(b"POST / HTTP/1.1\r\nHost: a\r\n")

    received, seconds = await trickle(line, head + b"a" * 5_000)

    assert received == b""
    assert TIMEOUT_SECONDS * 0.9 < seconds < 3


async def test_a_body_that_trickles_is_cut_also_if_nobody_reads_it(place: Place) -> None:
    line = await place.connect()
    await line.send(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n")
    answered = await line.answer()

    _, seconds = await trickle(line, b"a" * 5_000)

    assert answered == (200, b"/unread:")
    assert seconds < 3


@pytest.mark.parametrize("piece", [b"X: " + b"a" * 8_000 + b"\r\n", b"a" * 8_000], ids=["many headers", "one header"])
async def test_a_head_without_end_is_cut(place: Place, piece: bytes) -> None:
    line = await place.connect()
    reading = asyncio.ensure_future(line.rest())
    await line.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: ")
    sent = 0

    async with asyncio.timeout(5):
        while not reading.done() and sent < 200 * HEAD_BYTES_LIMIT:
            await line.send(piece)
            sent += len(piece)
            await asyncio.sleep(0)
        received = await reading

    assert b"200" not in received
    assert sent < 200 * HEAD_BYTES_LIMIT


async def test_a_slow_handler_is_left_alone(place: Place) -> None:
    line = await place.connect()
    await line.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")

    assert await line.answer() == (200, b"/slow:")


async def test_a_kept_connection_is_left_alone_and_its_next_request_has_its_own_time(place: Place) -> None:
    line = await place.connect()
    answers = []
    for number in range(3):
        await line.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
        answers.append(await line.answer())
        await asyncio.sleep(TIMEOUT_SECONDS * 1.3)

    await line.send(b"GET / HTTP/1.1\r\n")
    async with asyncio.timeout(5):
        cut = await line.rest()

    assert answers == [(200, b"/%d:" % number) for number in range(3)]
    assert cut == b""


async def test_requests_in_one_packet_are_answered_in_their_order(place: Place) -> None:
    line = await place.connect()
    requests = [b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx" % number for number in range(20)]

    await line.send(b"".join(requests))

    assert [await line.answer() for _ in requests] == [(200, b"/%d:x" % number) for number in range(20)]


@pytest.mark.parametrize("kilobytes", [60, 70, 200, 1_000])
async def test_a_large_body_in_one_go_with_its_head_is_no_endless_head(place: Place, kilobytes: int) -> None:
    line = await place.connect()
    body = b"x" * kilobytes * 1_024

    await line.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    assert await line.answer() == (200, b"/:" + body)


async def test_very_many_requests_in_one_go_are_no_endless_head(place: Place) -> None:
    line = await place.connect()
    count, padding = PIPELINE_LIMIT, b"x" * (2 * HEAD_BYTES_LIMIT // PIPELINE_LIMIT)
    request = b"GET / HTTP/1.1\r\nHost: a\r\nX-Padding: " + padding + b"\r\n\r\n"

    sending = asyncio.ensure_future(line.send(request * count))
    answers = [await line.answer() for _ in range(count)]
    await sending

    assert set(answers) == {(200, b"/:")}


async def test_a_caller_that_sends_request_upon_request_and_reads_no_answer_is_cut(place: Place) -> None:
    line = await place.connect()

    await line.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" * (PIPELINE_LIMIT + 50))
    received = await line.rest()

    assert received.count(b"HTTP/1.1 200") <= 1


async def test_requests_behind_a_slow_one_are_answered_too(place: Place) -> None:
    line = await place.connect()
    slow = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"

    await line.send(slow + slow)
    await line.send(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")

    assert [await line.answer() for _ in range(3)] == [(200, b"/slow:"), (200, b"/slow:"), (200, b"/next:")]


@pytest.mark.parametrize("apart", [False, True], ids=["with its head", "on its own"])
async def test_a_request_whose_body_comes_behind_a_slow_one_does_not_cut_it(place: Place, apart: bool) -> None:
    line = await place.connect()
    await line.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
    await asyncio.sleep(0.05 if apart else 0)
    await line.send(b"POST /next HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n")
    await asyncio.sleep(0.05 if apart else 0)
    await line.send(b"x")

    assert [await line.answer() for _ in range(2)] == [(200, b"/slow:"), (200, b"/next:x")]


async def test_half_a_request_behind_a_whole_one_is_cut(place: Place) -> None:
    line = await place.connect()
    await line.send(b"GET /whole HTTP/1.1\r\nHost: a\r\n\r\nGET /half HT")
    answered = await line.answer()

    received, seconds = await trickle(line, b"T" * 1_000)

    assert answered == (200, b"/whole:")
    assert b"200" not in received
    assert seconds < 3


async def test_fields_behind_a_chunked_body_are_no_headers(house: House) -> None:
    await house.let_in("alice")
    identity = house.headers("alice")["Authorization"].encode()
    async with serving(house.container.application()) as place:
        line = await place.connect()
        await line.send(b"POST /v1/tasks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n")
        await line.send(b"Content-Type: application/json\r\nIdempotency-Key: k\r\n\r\n")
        await line.send(b'e\r\n{"payload":{}}\r\n0\r\nAuthorization: ' + identity + b"\r\n\r\n")

        status, _ = await line.answer()

    assert status == 401


@pytest.mark.parametrize("piece", [b"X-Field: 1\r\n" * 500, b"a" * 6_000], ids=["many fields", "one field"])
async def test_fields_behind_a_chunked_body_are_bounded(place: Place, piece: bytes) -> None:
    line = await place.connect()
    reading = asyncio.ensure_future(line.rest())
    await line.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ")
    sent = 0

    while not reading.done() and sent < 20 * HEAD_BYTES_LIMIT:
        await line.send(piece)
        sent += len(piece)
        await asyncio.sleep(0)
    await line.rest() if reading.done() else line.writer.close()

    assert sent < 20 * HEAD_BYTES_LIMIT


async def test_who_wants_to_speak_something_else_is_answered_in_http(place: Place) -> None:
    line = await place.connect()
    await line.send(b"GET /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")

    assert await line.answer() == (200, b"/up:")


async def test_what_is_not_http_is_answered_with_a_problem(house: House) -> None:
    async with serving(house.container.application()) as place:
        line = await place.connect()
        await line.send(b"nonsense\r\n\r\n")

        received = await line.rest()

    assert received.startswith(b"HTTP/1.1 400")
    assert b"content-type: application/problem+json" in received.lower()


async def test_too_many_connections_are_told_when_to_try_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTION_LIMIT", 1)
    async with serving(house.container.application()) as place, httpx2.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{place.port}/v1/me")

    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["connection"] == "close"
    assert counted(house.container.metrics).by("cabinet_http_requests_total", "status") == {"503": 1}


async def test_a_request_that_the_end_of_the_grace_cuts_is_told_to_come_again() -> None:
    begun, metrics = asyncio.Event(), Metrics()

    async def hang(*_: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with serving(Envelope(hang, metrics=metrics)) as place:
        line = await place.connect()
        await line.send(b"GET /v1/me HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        await asyncio.wait_for(begun.wait(), 10)

        for task in list(place.server.server_state.tasks):
            task.cancel()
        received = (await line.rest()).lower()

    assert received.startswith(b"http/1.1 503")
    assert b"retry-after: " in received
    assert b"x-request-id: " in received
    assert b'"code":"unavailable"' in received
    assert counted(metrics).by("cabinet_http_requests_total", "status") == {"503": 1}


@pytest.mark.parametrize("limit", [1, 2_048], ids=["too many connections", "not HTTP"])
async def test_an_answer_that_comes_before_the_application_has_an_id_and_the_security_headers(
    house: House, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(module, "CONNECTION_LIMIT", limit)
    async with serving(house.container.application()) as place:
        line = await place.connect()
        await line.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" if limit == 1 else b"nonsense\r\n\r\n")

        received = (await line.rest()).lower()

    assert b"x-content-type-options: nosniff\r\n" in received
    assert b"x-request-id: " in received
    assert b'"request_id":"' in received


async def test_a_server_that_is_told_to_stop_finishes_what_it_has_begun() -> None:
    async with serving() as place:
        line = await place.connect()
        await line.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(0.05)

        place.server.stop()
        answered = await line.answer()

    assert answered == (200, b"/slow:")


async def test_a_server_that_is_told_twice_ends_at_once() -> None:
    async with serving() as place:
        line = await place.connect()
        await line.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(0.05)

        place.server.stop()
        place.server.stop()
        received = await line.rest()

    assert place.server.force_exit
    assert b"HTTP/1.1 200" not in received
