"""Heads of requests: hosts, doubled headers, and limits on how much there may be."""

import pytest

from tests.support.house import House
from tests.web.asking import HOST, JSON, ask, bearer, check_problem, claims


@pytest.mark.parametrize("headers", [[], [JSON], [HOST, HOST], [HOST, (b"host", b"other.test")]])
async def test_a_request_has_exactly_one_host(house: House, headers: list[tuple[bytes, bytes]]) -> None:
    answer = await ask(house.container.application(), headers=headers)

    check_problem(answer, 400, "bad_request")


@pytest.mark.parametrize("path", ["/v1/me", "/v1/access-requests", "/health"])
async def test_two_identities_are_none(house: House, path: str) -> None:
    await house.let_in("alice")
    identity = (b"authorization", bearer(claims("alice"))["Authorization"].encode())

    answer = await ask(house.container.application(), path=path, headers=[HOST, identity, identity])

    check_problem(answer, 400, "bad_request")


async def test_two_idempotency_keys_are_none(house: House) -> None:
    await house.let_in("alice")
    headers = [HOST, JSON, (b"authorization", house.headers("alice")["Authorization"].encode())]
    keys = [(b"idempotency-key", b"k"), (b"idempotency-key", b"k")]

    answer = await ask(
        house.container.application(), "POST", "/v1/tasks", headers=[*headers, *keys], body=[b'{"payload": {}}']
    )

    check_problem(answer, 400, "bad_request")


async def test_the_number_of_headers_is_bounded(house: House) -> None:
    app = house.container.application()

    hundred = await ask(app, headers=[HOST, *[(b"x-%d" % number, b"") for number in range(99)]])
    more = await ask(app, headers=[HOST, *[(b"x-%d" % number, b"") for number in range(100)]])

    assert hundred.status_code == 200
    check_problem(more, 400, "bad_request")


async def test_the_bytes_of_headers_are_bounded(house: House) -> None:
    app = house.container.application()
    room = 16_384 - len(b"".join(HOST)) - len(b"x-long")

    fitting = await ask(app, headers=[HOST, (b"x-long", b"a" * room)])
    too_many = await ask(app, headers=[HOST, (b"x-long", b"a" * (room + 1))])

    assert fitting.status_code == 200
    check_problem(too_many, 400, "bad_request")


async def test_the_bytes_of_path_and_query_are_bounded(house: House) -> None:
    app = house.container.application()

    long_path = await ask(app, path="/" + "a" * 8_191)
    too_long_path = await ask(app, path="/" + "a" * 8_192)
    too_long_query = await ask(app, query=b"a" * 8_185)

    check_problem(long_path, 404, "not_found")
    check_problem(too_long_path, 400, "bad_request")
    check_problem(too_long_query, 400, "bad_request")


async def test_forwarded_headers_and_method_overrides_change_nothing(house: House) -> None:
    await house.let_in("alice")
    headers = {"X-HTTP-Method-Override": "DELETE", "X-Forwarded-Host": "evil", "X-Original-URL": "/v1/users"}

    answer = await house.client.get("/v1/me", headers=house.headers("alice", **headers))

    assert answer.json()["subject"] == "alice"


async def test_head_is_answered_as_get_without_a_body(house: House) -> None:
    await house.let_in("alice")
    headers = house.headers("alice")

    got = await house.client.get("/v1/me", headers=headers)
    headed = await house.client.head("/v1/me", headers=headers)

    assert (headed.status_code, headed.content) == (200, b"")
    assert headed.headers["content-length"] == got.headers["content-length"]
