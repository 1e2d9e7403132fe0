"""Behind a real proxy: the service knows its callers as they are, whatever they say of themselves."""

import asyncio
import subprocess
from asyncio.subprocess import PIPE
from pathlib import Path

import httpx2
import pytest

from tests.deploy.proxies import (
    CADDY_FILE,
    CALLER_ADDRESS,
    NGINX_FILE,
    PROXIES,
    PROXY_ADDRESS,
    StartsProxy,
    behind,
    caddy,
    listening_in,
    nginx,
    port_of,
    request_line,
)
from tests.e2e.home import Home
from tests.support.processes import ServiceProcess, service
from tests.web.asking import check_problem

FORGED_ADDRESS = "203.0.113.9"
FORGED = [
    [("X-Forwarded-For", FORGED_ADDRESS)],
    [("X-Forwarded-For", f"{FORGED_ADDRESS}, {PROXY_ADDRESS}")],
    [("X-Forwarded-For", PROXY_ADDRESS), ("X-Forwarded-For", FORGED_ADDRESS)],
    [("x-forwarded-for", FORGED_ADDRESS), ("X-Forwarded-Proto", "http"), ("X-Forwarded-Host", "evil.example")],
    [("X_Forwarded_For", FORGED_ADDRESS), ("X-Real-IP", FORGED_ADDRESS), ("X-Forwarded-Proto", "wss")],
    [("Forwarded", f"for={FORGED_ADDRESS};proto=http;host=evil.example")],
    [("Connection", "X-Forwarded-For, X-Forwarded-Proto"), ("X-Forwarded-For", FORGED_ADDRESS)],
]


async def seen(running: ServiceProcess, client: httpx2.AsyncClient, sent: list[tuple[str, str]]) -> tuple[str, str]:
    """Send a request with these headers and return the address and scheme that the service saw."""
    request_id = f"seen-{len(running.events('request'))}-{len(sent)}"
    answer = await client.get("/health", headers=[("X-Request-Id", request_id), *sent])
    assert answer.status_code == 200, answer.text
    line = await request_line(running, request_id)
    return line["client"], line["scheme"]


def direct(running: ServiceProcess, source: str) -> httpx2.AsyncClient:
    """Return a client that asks the service itself, from an address."""
    return httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(local_address=source), base_url=running.url)


@pytest.mark.parametrize("proxy", PROXIES)
async def test_the_service_sees_the_callers_address_and_https(proxy: StartsProxy, home: Home) -> None:
    async with (
        behind(proxy, home) as (front, running),
        front.client() as client,
        front.client(source="127.0.0.3") as other,
    ):
        lines = [await seen(running, client, []), await seen(running, other, [])]

    assert lines == [(CALLER_ADDRESS, "https"), ("127.0.0.3", "https")]


@pytest.mark.parametrize("proxy", PROXIES)
async def test_what_a_caller_says_of_its_own_address_is_not_believed(proxy: StartsProxy, home: Home) -> None:
    async with behind(proxy, home) as (front, running), front.client() as client:
        lines = [await seen(running, client, headers) for headers in FORGED]

    assert lines == [(CALLER_ADDRESS, "https")] * len(FORGED)


@pytest.mark.parametrize("trusted", [{}, {"FORWARDED_ALLOW_IPS": "127.0.0.1,10.0.0.0/8"}], ids=["nobody", "others"])
async def test_without_a_proxy_between_a_forged_address_is_not_believed(home: Home, trusted: dict[str, str]) -> None:
    async with service(home.folder, **trusted) as running, direct(running, CALLER_ADDRESS) as client:
        lines = [await seen(running, client, headers) for headers in FORGED]

    assert lines == [(CALLER_ADDRESS, "http")] * len(FORGED)


async def test_a_believed_proxy_is_believed(home: Home) -> None:
    forwarded = [("X-Forwarded-For", FORGED_ADDRESS), ("X-Forwarded-Proto", "https")]
    async with (
        service(home.folder, FORWARDED_ALLOW_IPS=PROXY_ADDRESS) as running,
        direct(running, PROXY_ADDRESS) as client,
    ):
        line = await seen(running, client, forwarded)

    assert line == (FORGED_ADDRESS, "https")


async def test_caddy_without_a_domain_serves_plain_http_and_says_so(home: Home) -> None:
    async with (
        service(home.folder, FORWARDED_ALLOW_IPS=PROXY_ADDRESS) as running,
        caddy(home.folder, port_of(running), scheme="http") as front,
        front.client() as client,
    ):
        line = await seen(running, client, [("X-Forwarded-Proto", "https")])

    assert line == (CALLER_ADDRESS, "http")


@pytest.mark.parametrize("proxy", PROXIES)
async def test_the_limit_of_an_address_counts_each_caller_behind_the_proxy(proxy: StartsProxy, home: Home) -> None:
    async with behind(proxy, home, RATE_LIMIT_CLIENT="3/min") as (front, _):
        token = home.tokens["alice"]
        async with front.client(token) as client, front.client(token, source="127.0.0.3") as other:
            statuses = [(await client.get("/v1/me")).status_code for _ in range(5)]
            forged = await client.get("/v1/me", headers={"X-Forwarded-For": FORGED_ADDRESS})
            others = await other.get("/v1/me")

    assert statuses == [200, 200, 200, 429, 429]
    check_problem(forged, 429, "too_many_requests")
    assert others.status_code == 200


@pytest.mark.parametrize("proxy", PROXIES)
async def test_each_header_that_says_where_a_request_came_from_is_sent_on_once(proxy: StartsProxy, home: Home) -> None:
    forged = [(name, FORGED_ADDRESS) for name in ("X-Forwarded-For", "X-Forwarded-For", "X-Forwarded-Host")]
    async with (
        service(home.folder) as running,
        listening_in(running) as between,
        proxy(home.folder, between.port) as front,
        front.client() as client,
    ):
        await client.get("/health", headers=[*forged, ("X-Forwarded-Proto", "http")])

    [received] = between.received
    lines = received.decode().lower().split("\r\n")
    assert sorted(line for line in lines if line.startswith("x-forwarded-") and "host" not in line) == [
        f"x-forwarded-for: {CALLER_ADDRESS}",
        "x-forwarded-proto: https",
    ]
    assert len([line for line in lines if line.startswith("x-forwarded-host: localhost")]) == 1
    assert len([line for line in lines if line.startswith("host: localhost")]) == 1
    assert FORGED_ADDRESS not in received.decode()


@pytest.mark.parametrize("proxy", PROXIES)
async def test_connections_to_the_service_are_kept_for_the_next_caller(proxy: StartsProxy, home: Home) -> None:
    async with (
        service(home.folder) as running,
        listening_in(running) as between,
        proxy(home.folder, between.port) as front,
    ):
        for _ in range(4):
            async with front.client() as client:
                await client.get("/health", headers={"Connection": "close"})

    assert [received.count(b"GET /health HTTP/1.1\r\n") for received in between.received] == [4]


@pytest.mark.parametrize("proxy", PROXIES)
async def test_callers_may_speak_http_2(proxy: StartsProxy, home: Home) -> None:
    command = [
        *("curl", "--silent", "--show-error", "--http2", "--ipv4", "--interface", CALLER_ADDRESS),
        *("--header", "X-Request-Id: request-1", "--header", f"X-Forwarded-For: {FORGED_ADDRESS}"),
        *("--write-out", " %{http_version} %{http_code}"),
    ]
    async with behind(proxy, home) as (front, running):
        url = f"https://localhost:{front.port}/health"
        curl = await asyncio.create_subprocess_exec(*command, "--cacert", str(front.authority), url, stdout=PIPE)
        asked, _ = await curl.communicate()
        line = await request_line(running, "request-1")

    assert asked == b'{"status":"ok"} 2 200'
    assert (line["client"], line["scheme"]) == (CALLER_ADDRESS, "https")


@pytest.mark.parametrize("proxy", PROXIES)
async def test_metrics_are_not_to_be_had_through_the_proxy(proxy: StartsProxy, home: Home) -> None:
    async with behind(proxy, home, METRICS_PORT="0") as (front, _), front.client(home.tokens["root"]) as client:
        answer = await client.get("/metrics")

    check_problem(answer, 404, "not_found")


async def test_nginx_sends_callers_without_tls_to_the_same_path_of_its_own_name(home: Home) -> None:
    async with nginx(home.folder, 1) as front, httpx2.AsyncClient() as client:
        url = f"http://127.0.0.1:{front.plain_port}/v1/tasks?limit=1"
        answer = await client.get(url, headers={"Host": "evil.example"})

    assert answer.status_code == 308
    assert answer.headers["location"] == "https://cabinet.example.com/v1/tasks?limit=1"


@pytest.mark.parametrize("proxy", PROXIES)
async def test_no_log_of_the_proxy_shows_a_token(proxy: StartsProxy, home: Home) -> None:
    token = home.tokens["alice"]
    changes = [("lb_try_duration 30s", "lb_try_duration 100ms")] if proxy is caddy else []
    async with behind(proxy, home, *changes) as (front, running), front.client(token) as client:
        await client.get("/v1/me")
        await running.kill()
        failed = await client.post("/v1/tasks", json={})
        logged = front.logged()

    assert failed.status_code == 503
    assert "/v1/tasks" in logged
    assert token not in logged
    assert token.rpartition(".")[2] not in logged


def test_the_shipped_files_are_whole_as_they_are(tmp_path: Path) -> None:
    assert NGINX_FILE.read_text().count("cabinet.example.com") >= 4
    checked = subprocess.run(
        ["caddy", "validate", "--adapter", "caddyfile", "--config", str(CADDY_FILE)],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CABINET_SITE": "cabinet.example.com"},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip

    assert checked.returncode == 0, checked.stderr
    assert "Valid configuration" in checked.stdout + checked.stderr
