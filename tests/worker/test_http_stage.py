"""HttpStage against real servers on the loopback: what is sent, and what becomes of every kind of answer."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from logging import getLogger
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field
from standardwebhooks import Webhook

from app.clock import SystemClock, Timestamp, to_datetime
from app.pipelines import Context, Fail, HttpStage, Pipeline, Retry, RetryPolicy, Snooze
from app.pipelines.http_stage import ANSWER_BYTES_LIMIT, retry_after_seconds
from tests.support.clocks import HandClock

SECRET = "whsec_" + "c2VjcmV0" * 4
PREVIOUS = "whsec_" + "b2xkb25l" * 4
TASK = "0190a5d0-0000-7000-8000-000000000001"

# The server -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """What has arrived."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> dict[str, Any]:
        """What the message holds."""
        held: dict[str, Any] = json.loads(self.body)["data"]
        return held


Reply = bytes | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers each request with the next of its replies, and the last one for ever."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.requests: list[Request] = []
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/work"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *lines = head.decode().removesuffix("\r\n\r\n").split("\r\n")
                headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append(Request(line, headers, body))
                reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                if not isinstance(reply, bytes):
                    return await reply(reader, writer)
                writer.write(reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()


@asynccontextmanager
async def serving(*replies: Reply, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Run a server; at the end nobody is connected to it any more, or the test hangs and says so."""
    server, connected = Server(*replies), set[asyncio.Task[None]]()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connected.add(task)
        await server.serve(reader, writer)

    async with await asyncio.start_server(connection, "127.0.0.1", 0, ssl=tls) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        yield server
        if connected:
            await asyncio.wait(connected)


def reply(status: int, body: bytes = b"", **headers: str) -> bytes:
    """Return an answer's bytes; `retry_after` becomes Retry-After."""
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(body: bytes) -> bytes:
    """Return an answer that does not say how long it is."""
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer nothing, until the other side has gone."""
    await reader.read()


def stalled(beginning: bytes) -> Reply:
    """Return a reply that breaks off and stays connected."""

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        await reader.read()

    return stall


def broken(beginning: bytes) -> Reply:
    """Return a reply that breaks off and ends the connection."""

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        await writer.drain()

    return break_off


# The stage ------------------------------------------------------------------------------------------------------------


def stage_at(url: str, **options: Any) -> HttpStage:
    return HttpStage("work", url, **({"secret": SECRET} | options))


def context_of(**changes: Any) -> Context:
    values: dict[str, Any] = {
        "task_id": TASK,
        "reference": "order 7",
        "stage": "work",
        "attempt": 1,
        "payload": {"text": "à la carte"},
        "outputs": {"parse": {"pages": 3}},
        "folder": Path("unused"),
        "log": getLogger("stage.work"),
    }
    return Context(**(values | changes))


async def run(stage: HttpStage, **changes: Any) -> Any:
    returned = stage.handler(context_of(**changes))
    assert isinstance(returned, Awaitable)
    return await returned


async def returned_of(answer: Reply, **options: Any) -> Any:
    async with serving(answer) as server:
        return await run(stage_at(server.url, **options))


async def retry_of(answer: Reply, **options: Any) -> Retry:
    with pytest.raises(Retry) as raised:
        await returned_of(answer, **options)
    return raised.value


async def fail_of(answer: Reply, **options: Any) -> Fail:
    with pytest.raises(Fail) as raised:
        await returned_of(answer, **options)
    return raised.value


# What is sent ---------------------------------------------------------------------------------------------------------


async def test_the_work_is_posted_with_all_that_an_adapter_needs() -> None:
    async with serving(reply(200)) as server:
        await run(stage_at(server.url + "?tenant=7"), attempt=3)

    [request] = server.requests
    message = json.loads(request.body)
    assert request.line == "POST /work?tenant=7 HTTP/1.1"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["idempotency-key"] == f"{TASK}:work"
    assert message["type"] == "cabinet.stage"
    assert message["data"] == {
        "task_id": TASK,
        "reference": "order 7",
        "stage": "work",
        "attempt": 3,
        "idempotency_key": f"{TASK}:work",
        "payload": {"text": "à la carte"},
        "outputs": {"parse": {"pages": 3}},
    }


async def test_a_request_passes_the_reference_verifier() -> None:
    async with serving(reply(200)) as server:
        await run(stage_at(server.url))

    [request] = server.requests
    assert Webhook(SECRET).verify(request.body, request.headers) == json.loads(request.body)


@pytest.mark.parametrize("known", [SECRET, PREVIOUS])
async def test_while_the_secret_is_replaced_a_request_is_signed_with_both(known: str) -> None:
    async with serving(reply(200)) as server:
        await run(stage_at(server.url, previous_secret=PREVIOUS))

    [request] = server.requests
    assert Webhook(known).verify(request.body, request.headers)


async def test_both_timestamps_are_those_of_the_attempt() -> None:
    clock = HandClock("2026-11-22T20:19:00.500000Z")
    async with serving(reply(200)) as server:
        await run(stage_at(server.url, clock=clock))

    [request] = server.requests
    assert json.loads(request.body)["timestamp"] == "2026-11-22T20:19:00.500000Z"
    assert request.headers["webhook-timestamp"] == str(int(to_datetime(clock.now()).timestamp()))


async def test_every_attempt_carries_the_same_id() -> None:
    async with serving(reply(200)) as server:
        await run(stage_at(server.url), attempt=1)
        await run(stage_at(server.url), attempt=2)

    first, second = server.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == f"{TASK}:work"
    assert (first.data["attempt"], second.data["attempt"]) == (1, 2)


async def test_a_payload_model_is_sent_as_json_by_the_names_that_its_caller_used() -> None:
    class Order(BaseModel):
        placed_at: datetime = Field(alias="placedAt")

    async with serving(reply(200)) as server:
        await run(stage_at(server.url), payload=Order(placedAt=datetime(2026, 11, 22, tzinfo=UTC)))

    assert server.requests[0].data["payload"] == {"placedAt": "2026-11-22T00:00:00Z"}


async def test_half_a_surrogate_pair_in_a_payload_arrives_as_it_is() -> None:
    async with serving(reply(200)) as server:
        await run(stage_at(server.url), payload={"text": "\ud800"})

    assert server.requests[0].data["payload"] == {"text": "\ud800"}


async def test_a_payload_that_json_has_no_form_for_fails_for_good_and_is_not_sent() -> None:
    async with serving(reply(200)) as server:
        with pytest.raises(Fail) as raised:
            await run(stage_at(server.url), payload={"price": float("nan")})

    assert raised.value.kind == "payload_unwritable"
    assert server.requests == []


async def test_headers_of_the_pipeline_are_sent_along() -> None:
    async with serving(reply(200)) as server:
        await run(stage_at(server.url, headers={"Authorization": "Bearer t", "User-Agent": "shop"}))

    [request] = server.requests
    assert request.headers["authorization"] == "Bearer t"
    assert request.headers["user-agent"] == "shop"


async def test_a_proxy_in_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)

    assert await returned_of(reply(200, b'{"n":1}')) == {"n": 1}


# Success --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 299])
async def test_a_json_object_becomes_the_outputs(status: int) -> None:
    assert await returned_of(reply(status, '{"n": 1, "t": "à"}'.encode())) == {"n": 1, "t": "à"}


EMPTY_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"


@pytest.mark.parametrize("answer", [reply(200), reply(200, b" \r\n"), reply(202), EMPTY_CHUNKED])
async def test_an_empty_answer_is_a_success_without_outputs(answer: bytes) -> None:
    assert await returned_of(answer) is None


async def test_no_content_is_a_success_without_outputs() -> None:
    assert await returned_of(b"HTTP/1.1 204 No Content\r\n\r\n") is None


@pytest.mark.parametrize("form", [lambda body: reply(200, body), chunked])
async def test_outputs_may_fill_the_limit(form: Callable[[bytes], bytes]) -> None:
    body = b'{"t":"' + b"x" * (ANSWER_BYTES_LIMIT - 8) + b'"}'

    outputs = await returned_of(form(body))

    assert len(body) == ANSWER_BYTES_LIMIT
    assert len(outputs["t"]) == ANSWER_BYTES_LIMIT - 8


@pytest.mark.parametrize("form", [lambda body: reply(200, body), chunked])
async def test_one_byte_over_the_limit_fails_for_good(form: Callable[[bytes], bytes]) -> None:
    failed = await fail_of(form(b'{"t":"' + b"x" * (ANSWER_BYTES_LIMIT - 7) + b'"}'))

    assert failed.kind == "http_bad_answer"
    assert failed.message.endswith("/work answered 200 with more than 262144 bytes.")


async def test_an_answer_without_an_end_is_read_up_to_the_limit_only() -> None:
    endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n80000\r\n" + b" " * 0x80000

    failed = await fail_of(stalled(endless))

    assert failed.kind == "http_bad_answer"


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"<html>", "a body that is no JSON"),
        (b'{"n": NaN}', "a body that is no JSON"),
        (b'{"n": 1', "a body that is no JSON"),
        (b'{"t": "\xff"}', "a body that is no JSON"),
        (b"[" * 100_000, "a body that is no JSON"),
        (b"[1]", "JSON that is no object"),
        (b"null", "JSON that is no object"),
        (b'"done"', "JSON that is no object"),
    ],
)
async def test_an_answer_that_cannot_be_outputs_fails_for_good(body: bytes, what: str) -> None:
    failed = await fail_of(reply(200, body))

    assert failed.kind == "http_bad_answer"
    assert failed.message.endswith(f"/work answered 200 with {what}.")


async def test_an_answer_that_is_packed_is_not_unpacked() -> None:
    failed = await fail_of(reply(200, b"\x1f\x8b", content_encoding="gzip"))

    assert failed.kind == "http_bad_answer"
    assert "Content-Encoding" in failed.message


async def test_an_adapter_is_asked_not_to_pack_its_answer() -> None:
    async with serving(reply(200, b'{"n":1}', content_encoding="identity")) as server:
        assert await run(stage_at(server.url)) == {"n": 1}

    assert server.requests[0].headers["accept-encoding"] == "identity"


# Snooze ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("retry_after", "seconds"), [("90", 90.0), ("0", 1.0), ("-5", 1.0), ("9" * 400, 604_800.0)])
async def test_accepted_with_retry_after_is_a_snooze(retry_after: str, seconds: float) -> None:
    snooze = await returned_of(reply(202, b'{"ignored": true}', retry_after=retry_after))

    assert isinstance(snooze, Snooze)
    assert snooze.delay_seconds == seconds


async def test_accepted_with_an_unreadable_retry_after_is_not_taken_for_a_success() -> None:
    failed = await fail_of(reply(202, retry_after="soon"))

    assert failed.kind == "http_bad_answer"
    assert failed.message.endswith("202 with a Retry-After that is neither a number of seconds nor a date.")


async def test_retry_after_beside_another_success_means_nothing() -> None:
    assert await returned_of(reply(200, b'{"n":1}', retry_after="90")) == {"n": 1}


# Another attempt ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 500, 501, 502, 503, 504, 505, 599])
async def test_an_answer_that_may_change_asks_for_another_attempt(status: int) -> None:
    retry = await retry_of(reply(status))

    assert retry.kind == "http_unavailable"
    assert retry.after_seconds is None
    assert retry.message.endswith(f"/work answered {status}.")


async def test_too_many_requests_have_a_kind_of_their_own() -> None:
    retry = await retry_of(reply(429, b'{"detail": "60 a minute"}', retry_after="7"))

    assert retry.kind == "http_too_many_requests"
    assert retry.after_seconds == 7.0
    assert retry.message.endswith("answered 429: 60 a minute")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
async def test_another_attempt_waits_for_what_retry_after_says(status: int) -> None:
    assert (await retry_of(reply(status, retry_after="120"))).after_seconds == 120.0


async def test_a_retry_after_that_is_a_date_is_held_against_the_answers_own_date() -> None:
    answer = reply(503, date="Wed, 21 Oct 2015 07:28:00 GMT", retry_after="Wed, 21 Oct 2015 07:29:30 GMT")

    assert (await retry_of(answer)).after_seconds == 90.0


async def test_without_a_date_it_is_held_against_the_clock() -> None:
    clock = HandClock("2026-11-22T20:19:00.000000Z")
    answer = reply(503, retry_after="Sun, 22 Nov 2026 20:20:00 GMT")

    assert (await retry_of(answer, clock=clock)).after_seconds == 60.0


@pytest.mark.parametrize(
    ("text", "date", "seconds"),
    [
        ("0", None, 0.0),
        ("15", None, 15.0),
        (" 15 ", None, 15.0),
        ("-3", None, 0.0),
        ("9" * 400, None, 604_800.0),
        ("Sun, 22 Nov 2026 20:19:30 GMT", None, 30.0),
        ("Sunday, 22-Nov-26 20:19:30 GMT", None, 30.0),
        ("Sun Nov 22 20:19:30 2026", None, 30.0),
        ("Sun, 22 Nov 2026 20:18:00 GMT", None, 0.0),
        ("Sun, 22 Nov 2096 20:18:00 GMT", None, 604_800.0),
        ("Sun, 22 Nov 2026 20:19:30 GMT", "Sun, 22 Nov 2026 20:19:10 GMT", 20.0),
        ("Sun, 22 Nov 2026 20:19:30 GMT", "yesterday", 30.0),
        ("", None, None),
        ("soon", None, None),
        ("1.5", None, None),
        ("1e3", None, None),
        ("\u0663", None, None),
        ("inf", None, None),
        ("Sun, 99 Nov 2026 20:19:30 GMT", None, None),
        ("Sun, 22 Nov 99999 20:19:30 GMT", None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_nonsense_is_ignored(
    text: str, date: str | None, seconds: float | None
) -> None:
    headers = {"retry-after": text} | ({} if date is None else {"date": date})

    assert retry_after_seconds(headers, Timestamp("2026-11-22T20:19:00.000000Z")) == seconds


def test_no_retry_after_says_nothing() -> None:
    assert retry_after_seconds({}, SystemClock().now()) is None


# Failed for good ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422, 499])
async def test_any_other_refusal_fails_for_good(status: int) -> None:
    failed = await fail_of(reply(status))

    assert failed.kind == "http_refused"
    assert failed.message.endswith(f"/work answered {status}.")


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"title": "No", "detail": "no such shop", "error": "x"}', "no such shop"),
        (b'{"error": "no such shop", "message": "x"}', "no such shop"),
        (b'{"error": {"code": 5, "message": "no such shop"}}', "no such shop"),
        (b'{"detail": [{"loc": 1}], "message": "no such shop"}', "no such shop"),
        (b'"no such shop"', "no such shop"),
        (b"no\r\n  such\tshop\n", "no such shop"),
        (b"\x1b[31mno such\x00 shop\xe2\x80\xae", "[31mno such shop"),
        (b"\xff shop", "\ufffd shop"),
        (b"x" * 300, "x" * 300),
        (b"x" * 301, "x" * 299 + "…"),
    ],
)
async def test_what_the_adapter_says_is_shown(body: bytes, detail: str) -> None:
    failed = await fail_of(reply(404, body))

    assert failed.message.partition(" answered 404: ")[2] == detail


@pytest.mark.parametrize("body", [b"{}", b"[1]", b'{"detail": 5}', b'{"error": {"message": 5}}', b"17"])
async def test_an_adapter_that_says_nothing_intelligible_is_not_quoted(body: bytes) -> None:
    assert (await fail_of(reply(404, body))).message.endswith(" answered 404.")


async def test_a_packed_refusal_is_not_quoted() -> None:
    assert (await fail_of(reply(404, b"\x1f\x8b", content_encoding="gzip"))).message.endswith(" answered 404.")


async def test_a_long_refusal_is_not_read_to_its_end() -> None:
    endless = b"HTTP/1.1 404 Not Found\r\nContent-Length: 99999999\r\n\r\n" + b"no such shop " * 2_000

    assert (await fail_of(stalled(endless))).kind == "http_refused"


async def test_a_refusal_that_breaks_off_is_a_refusal_still() -> None:
    failed = await fail_of(broken(b"HTTP/1.1 404 Not Found\r\nContent-Length: 50\r\n\r\nno"))

    assert failed.kind == "http_refused"


# Redirects ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("form", ["/moved?x=1", "moved?x=1", "http://127.0.0.1:{port}/moved?x=1"])
async def test_a_redirect_to_the_same_origin_is_followed_with_the_same_request(status: int, form: str) -> None:
    async with serving(b"", reply(200, b'{"n":1}')) as server:
        server.replies[0] = reply(status, location=form.format(port=server.port))
        outputs = await run(stage_at(server.url))

    first, second = server.requests
    assert outputs == {"n": 1}
    assert second.line == "POST /moved?x=1 HTTP/1.1"
    assert (second.body, second.headers) == (first.body, first.headers)


async def test_three_redirects_are_followed() -> None:
    async with serving(*[reply(307, location=f"/{n}") for n in range(3)], reply(200, b'{"n":1}')) as server:
        assert await run(stage_at(server.url)) == {"n": 1}

    assert [request.line.split()[1] for request in server.requests] == ["/work", "/0", "/1", "/2"]


async def test_a_fourth_redirect_fails_for_good() -> None:
    async with serving(reply(308, location="/again")) as server:
        with pytest.raises(Fail) as raised:
            await run(stage_at(server.url))

    assert raised.value.kind == "http_redirect"
    assert raised.value.message == f"POST {server.url} was redirected more than 3 times."
    assert len(server.requests) == 4


async def test_a_redirect_to_another_port_is_not_followed() -> None:
    async with serving(reply(200)) as other, serving(b"") as server:
        server.replies[0] = reply(307, location=other.url + "?token=abc")
        with pytest.raises(Fail) as raised:
            await run(stage_at(server.url))

    assert raised.value.kind == "http_redirect"
    assert raised.value.message.startswith(f"POST {server.url} answered 307, a redirect to {other.url}; only 307")
    assert other.requests == []


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("http://localhost:{port}/work", "http://localhost:{port}/work"),
        ("//other.example/work", "http://other.example/work"),
        ("https://127.0.0.1:{port}/work", "https://127.0.0.1:{port}/work"),
        ("http://alice:password@127.0.0.1:{port}/work", "http://127.0.0.1:{port}/work"),
        ("ftp://127.0.0.1:{port}/", "ftp://127.0.0.1:{port}/"),
    ],
)
async def test_a_redirect_to_another_origin_fails_for_good_and_says_where_to(location: str, shown: str) -> None:
    async with serving(b"") as server:
        server.replies[0] = reply(308, location=location.format(port=server.port))
        with pytest.raises(Fail) as raised:
            await run(stage_at(server.url))

    assert raised.value.kind == "http_redirect"
    assert f" a redirect to {shown.format(port=server.port)}; " in raised.value.message
    assert "alice" not in raised.value.message
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [300, 301, 302, 303])
async def test_a_redirect_that_would_change_the_method_is_not_followed(status: int) -> None:
    failed = await fail_of(reply(status, location="/shop/7"))

    assert failed.kind == "http_redirect"
    assert f"answered {status}, a redirect to http://127.0.0.1:" in failed.message


@pytest.mark.parametrize("status", [304, 307])
async def test_a_redirect_to_nowhere_fails_for_good(status: int) -> None:
    failed = await fail_of(reply(status))

    assert failed.kind == "http_redirect"
    assert failed.message.endswith(f"answered {status}, which is no result, and named no other place.")


@pytest.mark.parametrize("location", ["mailto:a@b", "javascript:alert(1)", "http://[zz]/", "http://h:port/"])
async def test_a_redirect_to_what_is_no_address_fails_for_good(location: str) -> None:
    failed = await fail_of(reply(307, location=location))

    assert failed.kind == "http_redirect"
    assert failed.message.endswith("answered 307 and a Location that is no http address.")


# No answer ------------------------------------------------------------------------------------------------------------


async def test_an_adapter_that_does_not_listen_may_be_tried_again() -> None:
    async with serving(reply(200)) as server:
        url = server.url

    with pytest.raises(Retry) as raised:
        await run(stage_at(url))

    assert raised.value.kind == "http_unreachable"
    assert raised.value.message.startswith(f"POST {url}: no connection: ")


@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", b"nonsense\r\n\r\n"])
async def test_an_answer_that_breaks_off_may_be_tried_again(beginning: bytes) -> None:
    retry = await retry_of(broken(beginning))

    assert retry.kind == "http_unreachable"
    assert "the connection broke before the answer was complete (" in retry.message


@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
async def test_an_answer_that_does_not_come_in_time_may_be_tried_again(beginning: bytes) -> None:
    retry = await retry_of(stalled(beginning), timeout_seconds=0.05)

    assert retry.kind == "http_timeout"
    assert retry.message.endswith("/work: nothing came for 0.05 seconds.")


async def test_a_connection_that_does_not_come_about_in_time_may_be_tried_again() -> None:
    async with serving(silent) as server:
        url = server.url.replace("http://", "https://")  # it never answers the TLS handshake
        with pytest.raises(Retry) as raised:
            await run(stage_at(url, connect_timeout_seconds=0.05))

    assert raised.value.kind == "http_timeout"
    assert raised.value.message == f"POST {url}: no connection within 0.05 seconds."


async def test_an_attempt_that_is_cancelled_closes_its_connection() -> None:
    has_come, has_gone = asyncio.Event(), asyncio.Event()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        has_come.set()
        await reader.read()
        has_gone.set()

    async with serving(watch) as server:
        attempt = asyncio.create_task(run(stage_at(server.url)))
        await has_come.wait()
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        await has_gone.wait()


# TLS ------------------------------------------------------------------------------------------------------------------

# A key that guards nothing: it is known to everybody, and nobody trusts its certificate, which is for 127.0.0.1.
CERTIFICATE = """
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgKA3DmCRXnuuJ4sKs
79w7rCLpQ2v+6Oz/w4XoY7Vte+ChRANCAATNc2Z2qgd7gZXOZ/prlV8sn+v0CPiX
mC1iCV/pFlz3IIj1QBJscLGOn7Nv/JsuPQKTnhkYQpq7Qz4RCrgiVkj4
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBeDCCAR6gAwIBAgIBATAKBggqhkjOPQQDAjAiMSAwHgYDVQQDDBdhbiBhZGFw
dGVyIG9mIHRoZSB0ZXN0czAgFw0yMDAxMDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAw
MFowIjEgMB4GA1UEAwwXYW4gYWRhcHRlciBvZiB0aGUgdGVzdHMwWTATBgcqhkjO
PQIBBggqhkjOPQMBBwNCAATNc2Z2qgd7gZXOZ/prlV8sn+v0CPiXmC1iCV/pFlz3
IIj1QBJscLGOn7Nv/JsuPQKTnhkYQpq7Qz4RCrgiVkj4o0MwQTAPBgNVHREECDAG
hwR/AAABMA8GA1UdEwEB/wQFMAMBAf8wHQYDVR0OBBYEFAzMqbo51RVLRCBr82oj
i21ElznmMAoGCCqGSM49BAMCA0gAMEUCIQCSUvqkjmfN5ypX/L/a6GAo2aAFaNpf
VFkieOLPjqcNQQIgF4GbztKjlG4mkyuqcgbqqHr1PpmP+dDy5i9zPRmkXS0=
-----END CERTIFICATE-----
"""


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with a key and its self-signed certificate for 127.0.0.1, valid from 2020 to 2120."""
    file = tmp_path / "adapter.pem"
    file.write_text(CERTIFICATE)
    return file


def tls_of(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_an_adapter_whose_certificate_is_not_trusted_gets_nothing(certificate: Path) -> None:
    async with serving(reply(200), tls=tls_of(certificate)) as server:
        with pytest.raises(Retry) as raised:
            await run(stage_at(server.url.replace("http://", "https://")))

    assert raised.value.kind == "http_unreachable"
    assert "certificate verify failed" in raised.value.message
    assert server.requests == []


async def test_a_certificate_of_the_houses_own_is_trusted_by_ssl_cert_file(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with serving(reply(200, b'{"n":1}'), tls=tls_of(certificate)) as server:
        assert await run(stage_at(server.url.replace("http://", "https://"))) == {"n": 1}


async def test_a_certificate_for_another_host_is_refused(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with serving(reply(200), tls=tls_of(certificate)) as server:
        with pytest.raises(Retry) as raised:
            await run(stage_at(f"https://localhost:{server.port}/"))

    assert "certificate verify failed" in raised.value.message
    assert server.requests == []


# What is not shown ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [reply(404), reply(503), reply(200, b"[]"), reply(302, location="/x"), broken(b"")])
async def test_a_message_shows_neither_query_nor_headers_nor_payload(answer: Reply) -> None:
    async with serving(answer) as server:
        stage = stage_at(server.url + "?token=hidden", headers={"authorization": "hidden"})
        with pytest.raises((Fail, Retry)) as raised:
            await run(stage, payload={"name": "hidden"})

    assert str(raised.value).startswith(f"POST {server.url}")
    assert "hidden" not in str(raised.value)


async def test_what_an_adapter_repeats_of_the_request_is_taken_out_of_its_words() -> None:
    echo = reply(400, b"you sent token=hidden-query with Bearer hidden-header")
    async with serving(echo) as server:
        stage = stage_at(server.url + "?token=hidden-query", headers={"authorization": "Bearer hidden-header"})
        with pytest.raises(Fail) as raised:
            await run(stage)

    assert str(raised.value).endswith("answered 400: you sent … with …")


def test_a_stage_shows_neither_its_secret_nor_its_headers_nor_its_query() -> None:
    stage = stage_at("https://shop.example/work?token=hidden", headers={"authorization": "hidden"})

    assert "POST https://shop.example/work" in repr(stage)
    assert "hidden" not in repr(stage)
    assert "c2VjcmV0" not in repr(stage)


# Construction ---------------------------------------------------------------------------------------------------------


def test_an_http_stage_is_a_stage_with_all_that_stages_have() -> None:
    retry = RetryPolicy(max_attempts=2)

    stage = stage_at(
        "https://shop.example",
        retry=retry,
        timeout_seconds=20,
        concurrency=2,
        side_effect=True,
        previous_secret=PREVIOUS,
    )

    assert (stage.name, stage.retry, stage.timeout_seconds) == ("work", retry, 20)
    assert (stage.concurrency, stage.side_effect) == (2, True)
    assert Pipeline([stage]).stage("work") is stage


def test_an_http_stage_has_the_defaults_of_a_stage() -> None:
    stage = stage_at("https://shop.example")

    assert (stage.retry, stage.timeout_seconds, stage.concurrency) == (RetryPolicy(), 300.0, None)
    assert stage.side_effect is False


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", "must be an http or https address with a host"),
        ("/work", "must be an http or https address with a host"),
        ("shop.example/work", "must be an http or https address with a host"),
        ("ftp://shop.example/", "must be an http or https address with a host"),
        ("http:///work", "must be an http or https address with a host"),
        ("http:work", "must be an http or https address with a host"),
        ("http://shop.example:port/", "must be an http or https address with a host"),
        ("http://[zz]/", "must be an http or https address with a host"),
        ("http://shop.example/\n", "must be an http or https address with a host"),
        (None, "must be an http or https address with a host"),
        ("http://shop.example:0/", "must lie between 1 and 65535"),
        ("http://shop.example:65536/", "must lie between 1 and 65535"),
        ("https://hidden@shop.example/", "must hold no user and password"),
        ("https://alice:hidden@shop.example/", "must hold no user and password"),
        ("https://shop.example/#hidden", "must have no fragment"),
    ],
)
def test_an_address_that_cannot_be_posted_to_is_refused_and_not_shown(url: Any, fault: str) -> None:
    with pytest.raises(ValueError, match=f"url of stage work {fault}") as refused:
        stage_at(url)

    assert "hidden" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("argument", ["secret", "previous_secret"])
def test_a_malformed_secret_is_refused_and_not_shown(argument: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument} must be") as refused:
        stage_at("https://shop.example", **{argument: "hidden"})

    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_connection_without_a_time_limit_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="connect_timeout_seconds of stage work must be more than 0"):
        stage_at("https://shop.example", connect_timeout_seconds=seconds)


@pytest.mark.parametrize("seconds", [0, 86_401])
def test_a_time_limit_that_no_stage_may_have_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="time limit of stage work"):
        stage_at("https://shop.example", timeout_seconds=seconds)


@pytest.mark.parametrize("header", ["Content-Type", "host", "Idempotency-Key", "webhook-id", "Webhook-Anything"])
def test_a_header_that_the_stage_sets_itself_is_refused(header: str) -> None:
    with pytest.raises(ValueError, match=f"stage work sets the header {header} itself"):
        stage_at("https://shop.example", headers={header: "x"})


@pytest.mark.parametrize("header", ["", "a b", "a:", "a\r\nb", "ä"])
def test_a_header_without_a_proper_name_is_refused(header: str) -> None:
    with pytest.raises(ValueError, match="stage work cannot send a header with the name"):
        stage_at("https://shop.example", headers={header: "x"})


@pytest.mark.parametrize("value", ["", " hidden", "hidden\r\nx: y", "hidden\n", "hidd\u00e9n", "hidden\x00"])
def test_a_header_with_a_value_that_cannot_be_sent_is_refused_and_not_shown(value: str) -> None:
    with pytest.raises(ValueError, match="the header x-key of stage work must be printable ASCII") as refused:
        stage_at("https://shop.example", headers={"x-key": value})

    assert "hidd" not in str(refused.value)
