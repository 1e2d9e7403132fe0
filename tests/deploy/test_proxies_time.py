"""Time before and behind a proxy: who is slow is cut off, who waits for a task is not."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from app.web.schemas import WAIT_LIMIT_SECONDS
from app.web.server import KEEP_ALIVE_SECONDS
from tests.deploy.proxies import (
    CADDY_FILE,
    NGINX_FILE,
    PROXIES,
    Change,
    Line,
    StartsProxy,
    behind,
    caddy,
    nginx,
    open_line,
    port_of,
    seconds,
)
from tests.e2e.home import Home, until
from tests.support.processes import ServiceProcess, service

GATED = {"PIPELINE": "tests.support.pipelines:gated"}
SOON = {"RECEIVE_TIMEOUT_SECONDS": "1"}

SHORT: dict[StartsProxy, list[Change]] = {
    nginx: [
        ("client_header_timeout 10s;", "client_header_timeout 1s;"),
        ("client_body_timeout 10s;", "client_body_timeout 1s;"),
        ("send_timeout 10s;", "send_timeout 1s;"),
        ("keepalive_timeout 60s;", "keepalive_timeout 1s;"),
    ],
    caddy: [("read_header 10s", "read_header 1s"), ("idle 1m", "idle 1s")],
}
"""Everything that a proxy sets for callers who are silent, short enough for a test."""

UNBUFFERED: Change = ("proxy_request_buffering on;", "proxy_request_buffering off;")


def head_of(home: Home, length: int) -> bytes:
    """Return the head of a create with a body of so many bytes."""
    return (
        f"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {home.tokens['alice']}\r\n"
        "Idempotency-Key: key-1\r\nContent-Type: application/json\r\nX-Request-Id: trickled-1\r\n"
        f"Connection: close\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


async def trickle(line: Line, until_done: asyncio.Future[Any]) -> None:
    """Send a body's spaces one by one, far more often than any silence is cut, until something has happened."""
    async with asyncio.timeout(20):
        while not until_done.done():
            await line.send(b" ")
            await asyncio.wait([until_done], timeout=0.1)


def arrived(running: ServiceProcess) -> list[int]:
    """Return how the service answered the trickled create, as far as it knows of it."""
    return [line["status"] for line in running.events("request") if line["request_id"] == "trickled-1"]


@pytest.mark.parametrize("begun", [b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n"], ids=["silent", "half a head"])
@pytest.mark.parametrize("proxy", PROXIES)
async def test_the_proxy_cuts_who_sends_no_request(proxy: StartsProxy, home: Home, begun: bytes) -> None:
    async with behind(proxy, home, *SHORT[proxy]) as (front, _), front.line() as line:
        await line.send(begun)

        received = await line.rest()

    assert b" 200 " not in received


@pytest.mark.parametrize("begun", [b"", b"GET /health HTTP/1.1\r\n", b"half a body"])
async def test_the_service_cuts_who_sends_no_request_by_itself(home: Home, begun: bytes) -> None:
    sent = head_of(home, 100) + b"{" if begun == b"half a body" else begun
    async with service(home.folder, **SOON) as running, open_line(port_of(running)) as line:
        await line.send(sent)

        received = await line.rest()

    assert b"HTTP/1.1 20" not in received


async def test_the_service_cuts_a_body_that_trickles(home: Home) -> None:
    async with service(home.folder, **SOON) as running, open_line(port_of(running)) as line:
        await line.send(head_of(home, 10_000))
        reading = asyncio.ensure_future(line.rest())

        await trickle(line, reading)
        await until(lambda: arrived(running))

    assert reading.result().startswith(b"HTTP/1.1 408 ")
    assert arrived(running) == [408]


@pytest.mark.parametrize(("proxy", "changes"), [(caddy, []), (nginx, [UNBUFFERED])], ids=["caddy", "unbuffered nginx"])
async def test_the_service_cuts_a_body_that_trickles_through_a_proxy(
    proxy: StartsProxy, changes: list[Change], home: Home
) -> None:
    async with behind(proxy, home, *changes, **SOON) as (front, running), front.line() as line:
        await line.send(head_of(home, 10_000))
        reading = asyncio.ensure_future(line.rest())

        await trickle(line, reading)
        await until(lambda: arrived(running))

    assert reading.result().startswith(b"HTTP/1.1 408 ")
    assert arrived(running) == [408]
    assert home.rows("SELECT id FROM tasks") == []


async def test_a_body_that_trickles_waits_in_nginx_and_takes_nothing_of_the_service(home: Home) -> None:
    body = b'{"payload": {}}'
    async with behind(nginx, home, *SHORT[nginx], **SOON) as (front, running), front.line() as line:
        await line.send(head_of(home, len(body) + 25))
        for _ in range(25):
            await line.send(b" ")
            await asyncio.sleep(0.1)
        before = arrived(running)
        await line.send(body)
        received = await line.rest()

    assert before == []
    assert received.startswith(b"HTTP/1.1 201 ")


async def test_nginx_cuts_a_body_that_stops(home: Home) -> None:
    async with behind(nginx, home, *SHORT[nginx]) as (front, running), front.line() as line:
        await line.send(head_of(home, 100) + b"{")

        received = await line.rest()
        await running.terminate()

    assert b" 20" not in received
    assert arrived(running) == []


@pytest.mark.parametrize("proxy", PROXIES)
async def test_a_caller_who_waits_is_answered_when_the_task_ends(proxy: StartsProxy, home: Home) -> None:
    async with (
        behind(proxy, home, *SHORT[proxy], **SOON, **GATED) as (front, _),
        front.client(home.tokens["alice"]) as client,
    ):
        created = await client.post("/v1/tasks", json={"payload": {}}, headers={"Idempotency-Key": "key-1"})
        task_id = created.json()["id"]
        await home.until_running(task_id)
        waiting = asyncio.ensure_future(client.get(f"/v1/tasks/{task_id}", params={"wait": WAIT_LIMIT_SECONDS}))
        too_long = await client.get(f"/v1/tasks/{task_id}", params={"wait": 2.5})
        was_waiting = not waiting.done()
        home.open_gate()
        answer = await waiting

    assert (too_long.status_code, too_long.json()["status"]) == (200, "running")
    assert was_waiting
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")


@pytest.mark.parametrize(
    ("path", "name"),
    [(NGINX_FILE, "proxy_read_timeout"), (CADDY_FILE, "response_header_timeout")],
)
def test_proxies_wait_longer_than_the_service_takes_for_any_answer(path: Path, name: str) -> None:
    longest = WAIT_LIMIT_SECONDS + Settings.model_fields["request_timeout_seconds"].default

    assert longest < seconds(path.read_text(), name) <= longest + 30


def test_proxies_close_what_is_idle_before_the_service_does() -> None:
    kept_by_nginx, _, _ = NGINX_FILE.read_text().partition("server {")

    assert seconds(kept_by_nginx, "keepalive_timeout") < KEEP_ALIVE_SECONDS
    assert seconds(CADDY_FILE.read_text(), "keepalive") < KEEP_ALIVE_SECONDS


def test_nginx_gives_the_service_as_long_to_take_a_request_as_the_service_itself() -> None:
    receive_seconds = Settings.model_fields["receive_timeout_seconds"].default

    assert seconds(NGINX_FILE.read_text(), "proxy_send_timeout") == receive_seconds


def test_caddy_lets_the_service_cut_a_body_before_it_does_so_itself() -> None:
    text = CADDY_FILE.read_text()
    longest = seconds(text, "lb_try_duration") + Settings.model_fields["receive_timeout_seconds"].default

    assert seconds(text, "read_body") > longest
