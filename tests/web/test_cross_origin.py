"""Cross origin: a page of another origin reads nothing in a browser unless its origin is listed, then what it needs."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.house import House, open_house
from tests.web import lines
from tests.web.asking import check_problem
from tests.web.lines import serving

DESK = "https://desk.example.com"
STALL = "http://localhost:5173"
STRANGERS = (
    "https://evil.example.com", "https://desk.example.com.evil.example.com", "https://xdesk.example.com",
    "http://desk.example.com", "https://desk.example.com:8443", "https://desk.example.com/", "https://DESK.example.com",
    "https://desk.example.com, https://evil.example.com", "null", "*", "",
)  # fmt: skip

SIMPLE_METHODS = {"GET", "HEAD", "POST"}
SIMPLE_HEADERS = {"accept", "accept-language", "content-language"}
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
ALWAYS_READABLE = {"cache-control", "content-language", "content-length", "content-type", "expires", "last-modified"}


class Blocked(Exception):
    """The browser keeps the answer from the page."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of an origin in a browser that does as the Fetch standard says (§3.3, §4.8), as far as it matters here."""

    origin: str
    client: httpx2.AsyncClient

    async def fetch(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, **body: Any
    ) -> httpx2.Response:
        """Return the answer with the headers that the page may read; raises Blocked."""
        request = self.client.build_request(method, path, headers={**(headers or {}), "Origin": self.origin}, **body)
        named = {name for name in request.headers if name in {*map(str.lower, headers or {}), "content-type"}}
        if method not in SIMPLE_METHODS or named - SIMPLE_HEADERS:
            await self._preflight(method, path, named)
        answer = await self.client.send(request)
        self._check_origin(answer)
        readable = ALWAYS_READABLE | _names(answer, "access-control-expose-headers")
        shown = [(name, value) for name, value in answer.headers.items() if name in readable]
        return httpx2.Response(answer.status_code, headers=shown, content=answer.content)

    async def _preflight(self, method: str, path: str, named: set[str]) -> None:
        asking = {"Origin": self.origin, "Access-Control-Request-Method": method}
        asking["Access-Control-Request-Headers"] = ",".join(sorted(named))
        answer = await self.client.options(path, headers=asking)
        self._check_origin(answer)
        if not answer.is_success:
            raise Blocked("preflight")
        if method.lower() not in _names(answer, "access-control-allow-methods") | {"get", "head", "post"}:
            raise Blocked("method")
        if named - SIMPLE_HEADERS - _names(answer, "access-control-allow-headers"):
            raise Blocked("headers")

    def _check_origin(self, answer: httpx2.Response) -> None:
        if answer.headers.get_list("access-control-allow-origin") != [self.origin]:
            raise Blocked("origin")


def _names(answer: httpx2.Response, header: str) -> set[str]:
    return {name.strip().lower() for name in answer.headers.get(header, "").split(",")} - {""}


def told(answer: httpx2.Response) -> dict[str, str]:
    """Return what an answer says about origins."""
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give requests time also on a busy machine: nothing here is about deadlines."""
    monkeypatch.setattr(lines, "TIMEOUT_SECONDS", 10)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Open a house that lists two origins, with alice in it."""
    async with open_house(tmp_path, cors_origins=(DESK, STALL)) as opened:
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


@pytest.mark.parametrize("origin", [DESK, STALL])
async def test_a_page_of_a_listed_origin_does_all_that_a_client_does(
    house: House, browser: httpx2.AsyncClient, origin: str
) -> None:
    page, me = Page(origin, browser), house.headers("alice")
    key = {"Idempotency-Key": "k", "X-Request-Id": "request-1", "If-Match": "*"}
    signed = {"Signature": "x", "Signature-Input": "x", "Content-Digest": "x"}

    created = await page.fetch("POST", "/v1/tasks", me | key, json={"payload": {}})
    replayed = await page.fetch("POST", "/v1/tasks", me | key, json={"payload": {}})
    seen = await page.fetch("GET", created.headers["location"], me)
    headed = await page.fetch("HEAD", "/v1/tasks", me)
    patched = await page.fetch("PATCH", "/v1/users/nobody", me, json={})
    deleted = await page.fetch("DELETE", "/v1/tasks", me)
    strange = await page.fetch("GET", "/v1/me", signed)

    assert (created.status_code, created.headers["x-request-id"]) == (201, "request-1")
    assert replayed.headers["idempotent-replayed"] == "true"
    assert seen.json()["id"] == created.json()["id"]
    assert (headed.status_code, patched.status_code, deleted.status_code) == (200, 403, 405)
    assert strange.status_code == 401
    assert "www-authenticate" in strange.headers


async def test_a_page_may_read_what_is_left_of_its_quota_and_where_the_list_goes_on(tmp_path: Path) -> None:
    async with open_house(tmp_path, cors_origins=(DESK,), rate_limit_client="3/h") as house:
        await house.let_in("alice")
        me, page = house.headers("alice"), Page(DESK, house.client)
        await house.create("alice", "a")
        await house.create("alice", "b")

        listed = await page.fetch("GET", "/v1/tasks?limit=1", me)
        refused = await page.fetch("GET", "/v1/tasks", me)

    assert {"link", "ratelimit", "ratelimit-policy"} <= set(listed.headers)
    assert (refused.status_code, "retry-after" in refused.headers) == (429, True)


@pytest.mark.parametrize("origin", STRANGERS)
async def test_a_page_of_another_origin_reads_nothing(house: House, browser: httpx2.AsyncClient, origin: str) -> None:
    page = Page(origin, browser)

    with pytest.raises(Blocked, match="origin"):
        await page.fetch("GET", "/health")
    with pytest.raises(Blocked, match="origin"):
        await page.fetch("POST", "/v1/tasks", house.headers("alice", **{"Idempotency-Key": "k"}), json={"payload": {}})

    assert (await house.client.get("/v1/tasks", headers=house.headers("alice"))).json()["items"] == []


@pytest.mark.parametrize("origin", STRANGERS)
async def test_another_origin_gets_no_header(house: House, browser: httpx2.AsyncClient, origin: str) -> None:
    answers = [
        await browser.get("/health", headers={"Origin": origin}),
        await browser.get("/nowhere", headers={"Origin": origin}),
        await browser.get("/v1/me", headers={"Origin": origin} | house.headers("alice")),
        await browser.options("/v1/tasks", headers={"Origin": origin} | PREFLIGHT),
    ]

    assert [answer.status_code for answer in answers] == [200, 404, 200, 400]
    assert [told(answer) for answer in answers] == [{}] * 4
    check_problem(answers[-1], 400, "bad_request")


async def test_who_names_no_origin_gets_no_header_and_caches_keep_origins_apart(browser: httpx2.AsyncClient) -> None:
    plain = await browser.get("/health")
    listed = await browser.get("/health", headers={"Origin": DESK})
    stranger = await browser.get("/health", headers={"Origin": STRANGERS[0]})

    assert told(plain) == {}
    assert [answer.headers["vary"] for answer in (plain, listed, stranger)] == ["Origin"] * 3


async def test_a_preflight_runs_no_handler_and_opens_no_unit(
    house: House, browser: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forbidden(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(house.container.store, "read", forbidden)
    monkeypatch.setattr(house.container.store, "write", forbidden)

    answer = await browser.options("/v1/tasks", headers={"Origin": DESK} | PREFLIGHT | house.headers("alice"))

    assert answer.status_code == 200
    assert told(answer)["access-control-allow-origin"] == DESK
    assert "access-control-allow-credentials" not in answer.headers
    assert "x-request-id" in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "asked",
    [
        {"Access-Control-Request-Method": "PUT"},
        {"Access-Control-Request-Method": "post"},
        {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "cookie"},
        {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,x-other"},
        {"Access-Control-Request-Method": "POST", "Access-Control-Request-Private-Network": "true"},
    ],
    ids=repr,
)
async def test_a_preflight_for_more_than_there_is_is_a_problem(
    browser: httpx2.AsyncClient, asked: dict[str, str]
) -> None:
    answer = await browser.options("/v1/tasks", headers={"Origin": DESK} | asked)

    check_problem(answer, 400, "bad_request")
    assert told(answer) == {}


async def test_nothing_says_that_credentials_may_come_along(house: House, browser: httpx2.AsyncClient) -> None:
    answers = [
        await browser.get("/v1/me", headers={"Origin": DESK} | house.headers("alice")),
        await browser.options("/v1/me", headers={"Origin": DESK} | PREFLIGHT),
    ]

    assert {answer.headers["access-control-allow-origin"] for answer in answers} == {DESK}
    assert not [answer for answer in answers if "access-control-allow-credentials" in answer.headers]


async def test_without_a_list_no_answer_speaks_of_origins(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        await house.let_in("alice")
        origin = {"Origin": DESK}
        answers = [
            await house.client.get("/health", headers=origin),
            await house.client.get("/v1/me", headers=origin | house.headers("alice")),
            await house.client.get("/v1/me", headers=origin),
            await house.client.get("/nowhere", headers=origin),
            await house.client.options("/v1/tasks", headers=origin | PREFLIGHT),
        ]

    assert [answer.status_code for answer in answers] == [200, 200, 401, 404, 405]
    assert [told(answer) for answer in answers] == [{}] * 5
    assert not [answer for answer in answers if "vary" in answer.headers]
    check_problem(answers[-1], 405, "method_not_allowed")
