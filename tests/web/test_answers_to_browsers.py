"""Answers to browsers: each carries the security headers, none sets a cookie, and a cookie changes nothing."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.repositories.tasks import TasksRepository
from app.web import server as module
from tests.support.house import House, open_house
from tests.web import lines
from tests.web.lines import serving

SECURITY_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), display-capture=(), geolocation=(), microphone=(), midi=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
STRICT = "max-age=31536000"

Ask = Callable[[httpx2.AsyncClient, dict[str, str]], Awaitable[httpx2.Response]]

ANSWERS: dict[str, tuple[int, Ask]] = {
    "created": (201, lambda client, me: client.post("/v1/tasks", json={"payload": {}}, headers=me)),
    "seen": (200, lambda client, me: client.get("/v1/me", headers=me)),
    "headed": (200, lambda client, me: client.head("/v1/me", headers=me)),
    "healthy": (200, lambda client, _: client.get("/health")),
    "bad": (400, lambda client, _: client.get("/a//b")),
    "nobody": (401, lambda client, _: client.get("/v1/me")),
    "forbidden": (403, lambda client, me: client.get("/v1/users", headers=me)),
    "unknown path": (404, lambda client, _: client.get("/nowhere")),
    "unknown method": (405, lambda client, _: client.delete("/v1/tasks")),
    "options": (405, lambda client, _: client.options("/v1/tasks")),
    "too large": (413, lambda client, me: client.post("/v1/tasks", content=b" " * 2_000_000, headers=me)),
    "not JSON": (415, lambda client, me: client.post("/v1/tasks", content=b"{}", headers=me)),
    "invalid": (422, lambda client, me: client.post("/v1/tasks", json={}, headers=me)),
    "broken": (500, lambda client, me: client.get("/v1/tasks", headers=me)),
    "not HTTP": (400, lambda client, _: client.request("BREW", "/health")),
}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give requests time also on a busy machine: nothing here is about deadlines."""
    monkeypatch.setattr(lines, "TIMEOUT_SECONDS", 10)


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """Open a house in which alice's list of tasks is broken."""

    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(TasksRepository, "page", broken)
    async with open_house(tmp_path, public_origin="http://cabinet.test") as opened:
        await opened.let_in("alice")
        yield opened


@pytest.fixture
async def browser(house: House) -> AsyncIterator[httpx2.AsyncClient]:
    """Serve the house on a socket, and return a client of it."""
    async with (
        serving(house.container.application()) as place,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{place.port}") as client,
    ):
        yield client


@pytest.mark.parametrize(("status", "ask"), ANSWERS.values(), ids=ANSWERS)
async def test_every_kind_of_answer_has_the_security_headers_and_no_cookie(
    house: House, browser: httpx2.AsyncClient, status: int, ask: Ask
) -> None:
    answer = await ask(browser, house.headers("alice", **{"Idempotency-Key": "k"}))

    assert answer.status_code == status
    assert {name: answer.headers.get_list(name) for name in SECURITY_HEADERS} == {
        name: [value] for name, value in SECURITY_HEADERS.items()
    }
    assert {"set-cookie", "server", "strict-transport-security"}.isdisjoint(answer.headers)


async def test_one_connection_too_many_has_the_security_headers_too(
    browser: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECTION_LIMIT", 1)

    answer = await browser.get("/health")

    assert answer.status_code == 503
    assert {name: answer.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS


async def test_browsers_are_told_to_come_by_https_alone_where_callers_do(tmp_path: Path) -> None:
    async with open_house(tmp_path, public_origin="https://cabinet.test") as house:
        answers = [
            await house.client.get("/health"),
            await house.client.get("/v1/me"),
            await house.client.get("/nowhere"),
            await house.client.get("/a//b"),
        ]

    assert [answer.status_code for answer in answers] == [200, 401, 404, 400]
    assert [answer.headers.get_list("strict-transport-security") for answer in answers] == [[STRICT]] * 4


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/me", "/v1/tasks/nothing", "/nowhere"])
@pytest.mark.parametrize(
    "cookie", ["session=alice", "Authorization=Bearer x", "a=1; a=2; $Version=1", "\x7f;;;==", "x" * 8_000]
)
async def test_a_cookie_changes_nothing(house: House, path: str, cookie: str) -> None:
    def essence(answer: httpx2.Response) -> tuple[int, list[str], Any]:
        body = answer.json()
        return answer.status_code, sorted(answer.headers), {**body, "request_id": "", "checks": ""}

    without = await house.client.get(path)
    with_cookie = await house.client.get(path, headers=[(b"Cookie", cookie.encode())])

    assert essence(with_cookie) == essence(without)


async def test_a_token_in_a_cookie_lets_nobody_in(house: House) -> None:
    token = house.headers("alice")["Authorization"]

    answers = [
        await house.client.get("/v1/me", headers={"Cookie": f"{name}={token.removeprefix(prefix)}"})
        for name in ("Authorization", "token", "session")
        for prefix in ("", "Bearer ")
    ]

    assert {answer.status_code for answer in answers} == {401}
