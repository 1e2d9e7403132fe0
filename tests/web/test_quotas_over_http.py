"""Rate limits over HTTP: who is counted, what is told, and what is never limited."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.types import ASGIApp

from app.domain.users import Role
from app.main import ASKING_LIMIT
from tests.support.house import House, open_house
from tests.web.asking import HOST, ask, bearer, check_problem, claims
from tests.web.lines import serving

OPERATIONAL = ("/health", "/version", "/ready")


@asynccontextmanager
async def limited_house(folder: Path, **limits: Any) -> AsyncIterator[House]:
    """Open a house with alice and bob, and limits."""
    async with open_house(folder, **limits) as house:
        await house.let_in("alice")
        await house.let_in("bob")
        yield house


def caller(app: ASGIApp, host: str) -> Callable[..., Any]:
    """Return what asks who somebody is, from an address; without a subject as nobody."""

    async def call(subject: str | None = None, path: str = "/v1/me") -> httpx2.Response:
        headers = [HOST]
        if subject is not None:
            headers.append((b"authorization", bearer(claims(subject))["Authorization"].encode()))
        return await ask(app, path=path, headers=headers, client=(host, 5_000))

    return call


async def test_an_address_has_its_own_count_and_is_told_of_it(tmp_path: Path) -> None:
    async with limited_house(tmp_path, rate_limit_client="2/hour") as house:
        app = house.container.application()
        here, there = caller(app, "192.0.2.1"), caller(app, "192.0.2.2")

        answers = [await here("alice"), await here("bob"), await here("alice"), await there("alice")]

        assert [answer.status_code for answer in answers] == [200, 200, 429, 200]
        check_problem(answers[2], 429, "too_many_requests")
        assert [answer.headers["ratelimit-policy"] for answer in answers] == ['"client";q=2;w=3600'] * 4
        assert [answer.headers["ratelimit"].split(";")[1] for answer in answers] == ["r=1", "r=0", "r=0", "r=1"]
        assert 0 < int(answers[2].headers["retry-after"]) <= 1_800
        assert "retry-after" not in answers[0].headers


async def test_all_addresses_of_one_ipv6_network_have_one_count(tmp_path: Path) -> None:
    async with limited_house(tmp_path, rate_limit_client="2/hour") as house:
        app = house.container.application()
        hosts = ["2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:1::3", "2001:db8:0:2::1"]

        answers = [await caller(app, host)("alice") for host in hosts]

        assert [answer.status_code for answer in answers] == [200, 200, 429, 200]


async def test_a_subject_has_its_own_count_wherever_it_comes_from(tmp_path: Path) -> None:
    async with limited_house(tmp_path, rate_limit_actor="2/hour") as house:
        app = house.container.application()

        answers = [await caller(app, f"192.0.2.{number}")("alice") for number in range(3)]
        other = await caller(app, "192.0.2.1")("bob")

        assert [answer.status_code for answer in answers] == [200, 200, 429]
        check_problem(answers[2], 429, "too_many_requests")
        assert answers[2].headers["ratelimit-policy"] == '"actor";q=2;w=3600'
        assert other.status_code == 200


async def test_both_counts_are_told(tmp_path: Path) -> None:
    async with limited_house(tmp_path, rate_limit_client="9/min", rate_limit_actor="5/min") as house:
        answer = await caller(house.container.application(), "192.0.2.1")("alice")

        assert answer.headers["ratelimit-policy"] == '"client";q=9;w=60, "actor";q=5;w=60'
        assert answer.headers["ratelimit"] == '"client";r=8;t=7, "actor";r=4;t=12'


async def test_requests_without_a_good_token_count_for_the_address_and_for_no_subject(tmp_path: Path) -> None:
    async with limited_house(tmp_path, rate_limit_client="3/hour", rate_limit_actor="1/hour") as house:
        app = house.container.application()
        here = caller(app, "192.0.2.1")
        forged = [HOST, (b"authorization", bearer(claims("alice"), secret="f" * 40)["Authorization"].encode())]

        for _ in range(3):
            answer = await ask(app, path="/v1/me", headers=forged, client=("192.0.2.1", 1))
            check_problem(answer, 401, "not_authenticated")
        limited = await here("alice")
        elsewhere = await caller(app, "192.0.2.2")("alice")

        assert (limited.status_code, elsewhere.status_code) == (429, 200)


async def test_a_limited_address_is_refused_before_its_body_is_read(tmp_path: Path) -> None:
    async with limited_house(tmp_path, rate_limit_client="1/hour") as house:
        app = house.container.application()
        await caller(app, "203.0.113.1")()

        answer = await ask(app, "POST", "/v1/access-requests", body=())

        check_problem(answer, 429, "too_many_requests")


async def test_asking_for_access_is_limited_by_address(tmp_path: Path) -> None:
    async with limited_house(tmp_path, rate_limit_client="2/hour") as house:
        answers = [
            await house.client.post("/v1/access-requests", json={"requested_by": f"new-{number}"})
            for number in range(3)
        ]

        assert [answer.status_code for answer in answers] == [202, 202, 429]


async def test_limits_that_are_switched_off_tell_nothing(house: House) -> None:
    answer = await house.client.get("/v1/me")

    assert "ratelimit" not in answer.headers
    assert "ratelimit-policy" not in answer.headers


@pytest.mark.parametrize("path", OPERATIONAL)
async def test_operational_paths_are_not_limited_by_address(tmp_path: Path, path: str) -> None:
    async with limited_house(tmp_path, rate_limit_client="1/hour", rate_limit_actor="1/hour") as house:
        call = caller(house.container.application(), "192.0.2.1")

        answers = [await call(path=path) for _ in range(5)]

        assert {answer.status_code for answer in answers} == {200}


async def test_operational_paths_are_not_limited_by_subject(tmp_path: Path) -> None:
    async with limited_house(tmp_path, rate_limit_client="1/hour", rate_limit_actor="1/hour") as house:
        await house.let_in("watch", Role.ADMIN)
        call = caller(house.container.application(), "192.0.2.1")

        answers = [await call("watch", path) for path in ("/health", "/version") * 2]

        assert {answer.status_code for answer in answers} == {200}


async def test_readiness_is_limited_for_whoever_wants_to_be_identified_and_for_nobody_else(tmp_path: Path) -> None:
    async with limited_house(tmp_path, rate_limit_client="2/hour") as house:
        await house.let_in("watch", Role.ADMIN)
        call = caller(house.container.application(), "192.0.2.1")

        identified = [(await call("watch", "/ready")).status_code for _ in range(3)]
        nobody = [(await call(path="/ready")).status_code for _ in range(3)]

        assert (identified, nobody) == ([200, 200, 429], [200, 200, 200])


@pytest.mark.parametrize(
    ("trusted", "written", "statuses"),
    [
        ((), ["192.0.2.1", "192.0.2.2", "192.0.2.3"], [401, 401, 429]),
        (("127.0.0.1",), ["192.0.2.1", "192.0.2.2", "192.0.2.3"], [401, 401, 401]),
        (("127.0.0.1",), ["6.6.6.1, 192.0.2.1", "6.6.6.2, 192.0.2.1", "6.6.6.3, 192.0.2.1"], [401, 401, 429]),
        (("10.0.0.0/8",), ["192.0.2.1", "192.0.2.2", "192.0.2.3"], [401, 401, 429]),
    ],
    ids=["nobody is trusted", "the proxy is trusted", "what a caller wrote is not", "another proxy is trusted"],
)
async def test_a_forwarded_address_is_believed_only_from_the_proxy_named(
    tmp_path: Path, trusted: tuple[str, ...], written: list[str], statuses: list[int]
) -> None:
    async with (
        limited_house(tmp_path, rate_limit_client="2/hour") as house,
        serving(house.container.application(), forwarded_allow_ips=trusted) as place,
        httpx2.AsyncClient(base_url=f"http://127.0.0.1:{place.port}") as client,
    ):
        answers = [await client.get("/v1/me", headers={"X-Forwarded-For": addresses}) for addresses in written]

        assert [answer.status_code for answer in answers] == statuses


async def test_an_address_asks_for_access_only_now_and_then_and_others_go_on(tmp_path: Path) -> None:
    async with limited_house(tmp_path, rate_limit_client="600/min") as house:
        app = house.container.application()

        async def ask_in(number: int, host: str) -> httpx2.Response:
            body = b'{"requested_by": "newcomer%d"}' % number
            headers = [HOST, (b"content-type", b"application/json")]
            return await ask(app, "POST", "/v1/access-requests", headers=headers, body=[body], client=(host, 5_000))

        here = [await ask_in(number, "192.0.2.1") for number in range(ASKING_LIMIT.count + 1)]
        there = await ask_in(999, "192.0.2.2")
        reading = await caller(app, "192.0.2.1")("alice")

        assert [answer.status_code for answer in here] == [202] * ASKING_LIMIT.count + [429]
        assert (there.status_code, reading.status_code) == (202, 200)
