"""What the real server refuses before anybody is asked who they are, in one table; nothing behind it is smuggled in."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from starlette.types import Receive, Scope, Send

from app.web.envelope import HEADER_COUNT_LIMIT, HEADERS_BYTES_LIMIT, TARGET_BYTES_LIMIT
from tests.support.house import House
from tests.web import lines
from tests.web.lines import Place, serving

GET = b"GET /health HTTP/1.1\r\n"
POST = b"POST /v1/access-requests HTTP/1.1\r\nContent-Type: application/json\r\n"
HOST = b"Host: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
END = b"\r\n"
LAST = b"0\r\n\r\n"
SMUGGLED = b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n"
"""A request that stands where one reader sees a body and another the next request."""

OPEN, CLOSED = "open", "closed"
BODY_LIMIT_BYTES = 16_384

TABLE = {
    # what is sent, the answer, its code, and the connection after it
    # hosts and versions
    "no host": (GET + END, 400, "bad_request", OPEN),
    "two hosts": (GET + HOST + b"Host: b\r\n" + END, 400, "bad_request", OPEN),
    "the same host twice": (GET + HOST + HOST + END, 400, "bad_request", OPEN),
    "HTTP/0.9": (b"GET /health\r\n\r\n", 400, "bad_request", CLOSED),
    "HTTP/0.9 by name": (b"GET /health HTTP/0.9\r\n" + HOST + END, 400, "bad_request", CLOSED),
    "HTTP/1.2": (b"GET /health HTTP/1.2\r\n" + HOST + END, 400, "bad_request", CLOSED),
    "HTTP/2.0": (b"GET /health HTTP/2.0\r\n" + HOST + END, 400, "bad_request", CLOSED),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_request", CLOSED),
    "a tunnel": (b"CONNECT a:1 HTTP/1.1\r\n" + HOST + END, 400, "bad_request", CLOSED),
    # limits
    "too many headers": (GET + HOST + b"X: y\r\n" * HEADER_COUNT_LIMIT + END, 400, "bad_request", OPEN),
    "too long headers": (GET + HOST + b"X: " + b"y" * HEADERS_BYTES_LIMIT + END * 2, 400, "bad_request", OPEN),
    "too long a path": (b"GET /" + b"y" * TARGET_BYTES_LIMIT + b" HTTP/1.1\r\n" + HOST + END, 400, "bad_request", OPEN),
    "too long a query": (
        b"GET /health?" + b"y" * TARGET_BYTES_LIMIT + b" HTTP/1.1\r\n" + HOST + END, 400, "bad_request", OPEN,
    ),
    "too long a body": (
        POST + HOST + b"Content-Length: %d\r\n" % (BODY_LIMIT_BYTES + 1) + END + b" " * (BODY_LIMIT_BYTES + 1),
        413, "payload_too_large", OPEN,
    ),
    "too long a body in chunks": (
        POST + HOST + CHUNKED + END + (b"1000\r\n" + b" " * 4_096 + b"\r\n") * 5 + LAST, 413, "payload_too_large", OPEN,
    ),
    "too deep a body": (
        POST + HOST + b"Content-Length: 200\r\n" + END + b"[" * 100 + b"]" * 100, 400, "bad_request", OPEN,
    ),
    # lengths that two readers could read differently
    "length and chunks": (
        POST + HOST + b"Content-Length: 5\r\n" + CHUNKED + END + LAST + SMUGGLED, 400, "bad_request", CLOSED,
    ),
    "chunks and length": (
        POST + HOST + CHUNKED + b"Content-Length: 5\r\n" + END + LAST + SMUGGLED, 400, "bad_request", CLOSED,
    ),
    "two lengths": (
        POST + HOST + b"Content-Length: 0\r\nContent-Length: 34\r\n" + END + SMUGGLED, 400, "bad_request", CLOSED,
    ),
    "the same length twice": (
        POST + HOST + b"Content-Length: 2\r\nContent-Length: 2\r\n" + END + b"{}", 400, "bad_request", CLOSED,
    ),
    "a list of lengths": (POST + HOST + b"Content-Length: 2, 2\r\n" + END + b"{}", 400, "bad_request", CLOSED),
    "a length with a sign": (POST + HOST + b"Content-Length: +2\r\n" + END + b"{}", 400, "bad_request", CLOSED),
    "a length below nothing": (POST + HOST + b"Content-Length: -1\r\n" + END + SMUGGLED, 400, "bad_request", CLOSED),
    "a length of nothing": (POST + HOST + b"Content-Length: \r\n" + END + SMUGGLED, 400, "bad_request", CLOSED),
    "a length in hexadecimal": (POST + HOST + b"Content-Length: 0x2\r\n" + END + b"{}", 400, "bad_request", CLOSED),
    "chunks twice": (POST + HOST + CHUNKED * 2 + END + LAST + SMUGGLED, 400, "bad_request", CLOSED),
    "chunks, then not": (
        POST + HOST + b"Transfer-Encoding: chunked, identity\r\n" + END + LAST, 400, "bad_request", CLOSED,
    ),
    "not chunks": (POST + HOST + b"Transfer-Encoding: identity\r\n" + END + SMUGGLED, 400, "bad_request", CLOSED),
    "nearly chunks": (
        POST + HOST + b"Transfer-Encoding: xchunked\r\n" + END + LAST + SMUGGLED, 400, "bad_request", CLOSED,
    ),
    "zipped chunks": (
        POST + HOST + b"Transfer-Encoding: gzip, chunked\r\n" + END + b"2\r\n{}\r\n" + LAST, 400, "bad_request", OPEN,
    ),
    "chunks with a space": (POST + HOST + b"Transfer-Encoding : chunked\r\n" + END + LAST, 400, "bad_request", CLOSED),
    "chunks in HTTP/1.0": (
        b"POST /v1/tasks HTTP/1.0\r\n" + HOST + CHUNKED + END + LAST + SMUGGLED, 401, "not_authenticated", CLOSED,
    ),
    "a chunk below nothing": (POST + HOST + CHUNKED + END + b"-1\r\nx\r\n" + LAST, 400, "bad_request", CLOSED),
    "a chunk beyond numbers": (POST + HOST + CHUNKED + END + b"f" * 17 + END, 400, "bad_request", CLOSED),
    "a chunk longer than it says": (POST + HOST + CHUNKED + END + b"1\r\nxy\r\n" + LAST, 400, "bad_request", CLOSED),
    "chunks with bare line feeds": (POST + HOST + CHUNKED + END + b"1\nx\n0\n\n", 400, "bad_request", CLOSED),
    "another protocol with a body": (
        b"POST /v1/tasks HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 34\r\n" + END
        + SMUGGLED, 400, "bad_request", CLOSED,
    ),
    # names and values
    "a folded header": (GET + HOST + b"X: b\r\n folded\r\n" + END, 400, "bad_request", CLOSED),
    "a folded host": (GET + b"X: b\r\n Host: a\r\n" + END, 400, "bad_request", CLOSED),
    "a first header that is folded": (GET + b" Host: a\r\n" + END, 400, "bad_request", CLOSED),
    "a space in a name": (GET + HOST + b"X Y: 1\r\n" + END, 400, "bad_request", CLOSED),
    "a space behind a name": (GET + b"Host : a\r\n" + END, 400, "bad_request", CLOSED),
    "a bracket in a name": (GET + HOST + b"X(: 1\r\n" + END, 400, "bad_request", CLOSED),
    "a NUL in a name": (GET + HOST + b"X\x00Y: 1\r\n" + END, 400, "bad_request", CLOSED),
    "a letter beyond ASCII in a name": (GET + HOST + b"X\xe4: 1\r\n" + END, 400, "bad_request", CLOSED),
    "no name": (GET + HOST + b": 1\r\n" + END, 400, "bad_request", CLOSED),
    "no colon": (GET + HOST + b"X\r\n" + END, 400, "bad_request", CLOSED),
    "a NUL in a value": (GET + HOST + b"X: b\x00c\r\n" + END, 400, "bad_request", CLOSED),
    "a control character in a value": (GET + HOST + b"X: b\x01c\r\n" + END, 400, "bad_request", CLOSED),
    "a bare carriage return": (GET + HOST + b"X: b\rY: c\r\n" + END, 400, "bad_request", CLOSED),
    "a bare line feed": (GET + b"Host: a\nX: b\r\n" + END, 400, "bad_request", CLOSED),
    "bare line feeds alone": (b"GET /health HTTP/1.1\nHost: a\n\n", 400, "bad_request", CLOSED),
    "nonsense": (b"nonsense\r\n\r\n", 400, "bad_request", CLOSED),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "bad_request", CLOSED),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Watched:
    """A server, and the paths of all requests that came as far as the application."""

    place: Place
    paths: list[str]


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give requests time also on a busy machine: nothing here is about deadlines."""
    monkeypatch.setattr(lines, "TIMEOUT_SECONDS", 10)


@pytest.fixture
async def watched(house: House) -> AsyncIterator[Watched]:
    """Serve the house, and watch what comes in."""
    application, paths = house.container.application(), list[str]()

    async def watching(scope: Scope, receive: Receive, send: Send) -> None:
        paths.append(scope["path"])
        await application(scope, receive, send)

    async with serving(watching) as place:
        yield Watched(place, paths)


@pytest.mark.parametrize(("sent", "status", "code", "after"), TABLE.values(), ids=TABLE)
async def test_what_is_refused_is_answered_with_a_problem_and_nothing_is_smuggled(
    watched: Watched, sent: bytes, status: int, code: str, after: str
) -> None:
    line = await watched.place.connect()
    await line.send(sent)

    answered, body = await line.answer()
    if after == OPEN:
        await line.send(GET + HOST + END)
        next_status, _ = await line.answer()
    else:
        next_status, rest = 200, await line.rest()
        assert rest == b""

    assert (answered, next_status) == (status, 200)
    assert f'"code":"{code}"'.encode() in body
    assert "/version" not in watched.paths


@pytest.mark.parametrize(
    "behind",
    [b"Connection: close\r\n\r\n", b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"],
    ids=["after the last request", "after another protocol"],
)
@pytest.mark.parametrize("is_apart", [False, True], ids=["in one go", "apart"])
async def test_what_comes_behind_the_last_request_is_none(watched: Watched, behind: bytes, is_apart: bool) -> None:
    line = await watched.place.connect()
    pieces = [GET + HOST + behind, SMUGGLED] if is_apart else [GET + HOST + behind + SMUGGLED]

    for piece in pieces:
        await line.send(piece)
    received = await line.rest()

    assert (received.count(b"HTTP/1.1 "), watched.paths) == (1, ["/health"])
    assert b"\r\nconnection: close\r\n" in received.lower()


async def test_a_body_that_looks_like_a_request_is_a_body(watched: Watched) -> None:
    line = await watched.place.connect()
    head = GET + HOST + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED)

    await line.send(head + SMUGGLED)
    first, _ = await line.answer()
    await line.send(GET + HOST + END)
    second, _ = await line.answer()

    assert (first, second, watched.paths) == (200, 200, ["/health", "/health"])


async def test_a_body_that_looks_like_a_request_and_comes_after_another_protocol_is_none(watched: Watched) -> None:
    line = await watched.place.connect()
    head = POST + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED)

    for piece in (head, SMUGGLED[:5], SMUGGLED[5:]):
        await line.send(piece)
    status, _ = await line.answer()
    await line.rest()

    assert (status, watched.paths) == (400, ["/v1/access-requests"])
