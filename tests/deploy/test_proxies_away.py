"""While the service is away: the proxy answers as the service would, or holds requests, and sends none twice."""

import asyncio
from pathlib import Path

import httpx2
import pytest

from app.errors import Unavailable
from tests.deploy.proxies import (
    PROXIES,
    PROXY_ADDRESS,
    Change,
    StartsProxy,
    caddy,
    free_port,
    nginx,
    upstream,
)
from tests.e2e.home import Home
from tests.support.processes import service
from tests.web.asking import check_problem

IMPATIENT: dict[StartsProxy, list[Change]] = {nginx: [], caddy: [("lb_try_duration 30s", "lb_try_duration 1s")]}
OWN_503 = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 7\r\n"
    b'Content-Length: 15\r\nConnection: close\r\n\r\n{"code":"mine"}'
)
HELD_SECONDS = 2
"""How long a test keeps the service away while requests are held; Caddy would hold them for 30."""


async def create(client: httpx2.AsyncClient, key: str) -> httpx2.Response:
    """Send a create."""
    return await client.post("/v1/tasks", json={"payload": {}}, headers={"Idempotency-Key": key})


@pytest.mark.parametrize("proxy", PROXIES)
async def test_a_service_that_is_away_is_a_503_that_says_when_to_try_again(proxy: StartsProxy, home: Home) -> None:
    port = free_port()
    async with proxy(home.folder, port, *IMPATIENT[proxy]) as front, front.client(home.tokens["alice"]) as client:
        away = [await client.get("/health"), await create(client, "key-1"), await client.request("PATCH", "/v1/me")]
        async with service(home.folder, PORT=str(port), FORWARDED_ALLOW_IPS=PROXY_ADDRESS):
            there = await create(client, "key-1")

    for answer in away:
        check_problem(answer, 503, "unavailable")
        assert answer.headers["retry-after"] == str(Unavailable.retry_after_seconds)
        assert answer.headers["cache-control"] == "no-store"
    assert there.status_code == 201


@pytest.mark.parametrize("proxy", PROXIES)
async def test_a_503_of_the_service_itself_passes_as_it_is(proxy: StartsProxy, tmp_path: Path) -> None:
    async with upstream(OWN_503) as service_, proxy(tmp_path, service_.port) as front, front.client() as client:
        answer = await client.post("/v1/tasks", json={})

    assert (answer.status_code, answer.json()) == (503, {"code": "mine"})
    assert answer.headers["retry-after"] == "7"


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize("proxy", PROXIES)
async def test_a_request_that_has_reached_the_service_is_not_sent_again(
    proxy: StartsProxy, method: str, tmp_path: Path
) -> None:
    async with (
        upstream(b"") as dying,
        proxy(tmp_path, dying.port, *IMPATIENT[proxy]) as front,
        front.client() as client,
    ):
        answer = await client.request(method, "/v1/tasks", json={"payload": {}}, headers={"Idempotency-Key": "key-1"})

    check_problem(answer, 503, "unavailable")
    assert [received.startswith(method.encode()) for received in dying.received] == [True]


async def test_caddy_holds_requests_until_the_service_is_there(home: Home) -> None:
    port = free_port()
    async with caddy(home.folder, port) as front, front.client(home.tokens["alice"]) as client:
        held = [
            asyncio.ensure_future(client.get("/v1/me")),
            asyncio.ensure_future(client.post("/v1/stages/pause")),
            asyncio.ensure_future(create(client, "key-1")),
        ]
        answered, _ = await asyncio.wait(held, timeout=HELD_SECONDS)
        async with service(home.folder, PORT=str(port), FORWARDED_ALLOW_IPS=PROXY_ADDRESS):
            statuses = [(await answer).status_code for answer in held]
            again = await create(client, "key-1")

    assert answered == set()
    assert statuses[:2] == [200, 403]
    assert statuses[2] in (201, 503)  # before 2.11.2 Caddy cannot send a body after a connection that was refused
    assert again.status_code == 201
    assert home.rows("SELECT COUNT(*) FROM tasks") == [(1,)]
