"""Bodies: what is not sound JSON of the expected shape is refused with a sentence, and nothing breaks on the way."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from tests.support.house import House, open_house
from tests.web.asking import HOST, JSON, Headers, ask, check_problem, pointers

LIMIT = 1_048_576


async def send(house: House, content: Any, **headers: str) -> httpx2.Response:
    """Send a body to create a task as alice, who is let in if she is not there yet."""
    if not (await house.store.read(lambda work: work.users.by_subject("alice"))):
        await house.let_in("alice")
    more = {"Content-Type": "application/json", "Idempotency-Key": "k", **headers}
    return await house.client.post("/v1/tasks", content=content, headers=house.headers("alice", **more))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{}}",
        b"nonsense",
        b"{'payload': {}}",
        b'{"payload": {},}',
        b'\xef\xbb\xbf{"payload": {}}',
        b'{"payload": {"a": NaN}}',
        b'{"payload": {"a": Infinity}}',
        b'{"payload": {"a": -Infinity}}',
        b'{"payload": {"a": "\\ud800"}}',
        b'{"payload": {"\\udfff": 1}}',
        b'{"payload": {"a": "\xed\xa0\x80"}}',
        b'{"payload": {"a": "\xff"}}',
        b'{"payload": {"a": "\x00"}}',
        b'{"payload": {"a": 01}}',
        b'{"payload": {"a": "b\nc"}}',
        '{"payload": {}}'.encode("utf-16"),
        b'{"payload": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
        b'{"payload": {"a": ' + b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:24]),
)
async def test_what_is_not_json_is_a_400(house: House, body: bytes) -> None:
    answer = await send(house, body)

    check_problem(answer, 400, "bad_request")


@pytest.mark.parametrize(
    "body",
    [b'{"payload": {"a": 1e400}}', b'{"payload": {"a": -1e400}}', b'{"payload": {"a": ' + b"9" * 10_000 + b"}}"],
    ids=["1e400", "-1e400", "10,000 digits"],
)
async def test_a_number_that_cannot_be_kept_is_refused(house: House, body: bytes) -> None:
    answer = await send(house, body)

    assert answer.status_code in (400, 422)
    check_problem(answer, answer.status_code, answer.json()["code"])


@pytest.mark.parametrize(
    ("body", "places"),
    [
        (b"null", [""]),
        (b"[]", [""]),
        (b'"text"', [""]),
        (b"1", [""]),
        (b"{}", ["/payload"]),
        (b'{"payload": null}', ["/payload"]),
        (b'{"payload": []}', ["/payload"]),
        (b'{"payload": "{}"}', ["/payload"]),
        (b'{"payload": {}, "unknown": 1}', ["/unknown"]),
        (b'{"payload": {}, "task_id": "x", "first_stage": "y"}', ["/first_stage", "/task_id"]),
        (b'{"payload": {}, "reference": 7}', ["/reference"]),
        (b'{"payload": {}, "reference": ""}', ["/reference"]),
        (b'{"payload": {}, "reference": "a\\u0000b"}', ["/reference"]),
        (b'{"payload": {}, "reference": "a\\nb"}', ["/reference"]),
        (b'{"payload": {}, "reference": "a\\n"}', ["/reference"]),
        (b'{"payload": {}, "reference": "' + b"a" * 256 + b'"}', ["/reference"]),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_json_of_the_wrong_shape_is_a_422_with_the_places(house: House, body: bytes, places: list[str]) -> None:
    answer = await send(house, body)

    assert sorted(pointers(answer)) == places


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"": ""},
        {"nul": "a\x00b", "\x00": 1},
        {"deep": [[[[[[[[[[{"a": [{}]}]]]]]]]]]]},
        {"text": "ä€😀\u2028\u202e", "ключ": None},
        {"numbers": [0, -0.0, 1e308, 5e-324, 2**63, -(2**64), 10**4_000]},
        {"true": True, "false": False, "null": None},
        {"long": "x" * 1_000_000},
    ],
    ids=lambda payload: repr(payload)[:24],
)
async def test_whatever_json_can_hold_is_accepted_and_kept(house: House, payload: dict[str, Any]) -> None:
    answer = await send(house, json.dumps({"payload": payload}))
    assert answer.status_code == 201, answer.text

    kept = await house.store.read(lambda work: work.tasks.payload(answer.json()["id"]))

    assert kept is not None
    assert json.loads(kept.json) == payload


@pytest.mark.parametrize("depth", [1, 29, 30])
async def test_json_up_to_the_limit_of_depth_is_accepted(house: House, depth: int) -> None:
    answer = await send(house, b'{"payload": {"a": ' + b"[" * depth + b"]" * depth + b"}}")

    assert answer.status_code == 201


@pytest.mark.parametrize("depth", [31, 200, 1_000, 100_000])
async def test_json_that_is_nested_deeper_is_a_400_that_says_so(house: House, depth: int) -> None:
    answer = await send(house, b'{"payload": {"a": ' + b"[" * depth + b"]" * depth + b"}}")

    body = check_problem(answer, 400, "bad_request")
    assert "nested more than 32 levels" in body["detail"]


async def test_of_a_name_that_comes_twice_the_last_value_counts(house: House) -> None:
    first = await send(house, b'{"payload": {"a": 1}, "payload": {"a": 2}}')

    again = await send(house, b'{"payload": {"a": 2}}')

    assert (first.status_code, again.headers["idempotent-replayed"]) == (201, "true")


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=latin-1",
        "application/jsonp",
        "application/problem+json",
        "application/json, text/plain",
        "application/json; profile=x",
    ],
)
async def test_another_content_type_is_a_415(house: House, content_type: str) -> None:
    answer = await send(house, b'{"payload": {}}', **{"Content-Type": content_type})

    check_problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON", "application/json;charset=utf-8",
                     'application/json; charset="UTF-8"', " application/json "],
)  # fmt: skip
async def test_json_is_named_in_any_case_and_only_as_utf_8(house: House, content_type: str) -> None:
    answer = await send(house, b'{"payload": {}}', **{"Content-Type": content_type})

    assert answer.status_code == 201


async def test_a_missing_content_type_is_a_415_and_two_are_a_400(house: House) -> None:
    await house.let_in("alice")
    app = house.container.application()
    headers = [HOST, (b"idempotency-key", b"k"), (b"authorization", house.headers("alice")["Authorization"].encode())]

    without = await ask(app, "POST", "/v1/tasks", headers=headers, body=[b'{"payload": {}}'])
    with_two = await ask(app, "POST", "/v1/tasks", headers=[*headers, JSON, JSON], body=[b'{"payload": {}}'])

    check_problem(without, 415, "unsupported_media_type")
    check_problem(with_two, 400, "bad_request")


async def test_a_body_that_says_it_is_too_large_is_refused_unread(house: House) -> None:
    headers = [HOST, JSON, (b"content-length", str(LIMIT + 1).encode())]

    answer = await ask(house.container.application(), "POST", "/v1/access-requests", headers=headers, body=())

    check_problem(answer, 413, "payload_too_large")


async def test_a_body_that_turns_out_too_large_is_refused_as_soon_as_it_does(house: House) -> None:
    handed_over = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal handed_over
        while True:
            handed_over += 1
            yield b" " * 65_536

    answer = await house.client.post("/v1/tasks", content=endless(), headers=house.headers("alice"))

    check_problem(answer, 413, "payload_too_large")
    assert handed_over == LIMIT // 65_536 + 1


async def test_a_body_of_exactly_the_limit_is_taken(tmp_path: Any) -> None:
    async with open_house(tmp_path, body_limit_bytes=2_048) as house:
        body = b'{"payload": {}}'

        fitting = await send(house, body.ljust(2_048))
        too_large = await send(house, body.ljust(2_049))

        assert fitting.status_code == 201
        check_problem(too_large, 413, "payload_too_large")


@pytest.mark.parametrize("declared", [b"-1", b"+5", b"1e3", b"0x10", b"five", b"1, 1", b"", b"9" * 400])
async def test_a_length_that_is_no_number_is_refused(house: House, declared: bytes) -> None:
    headers = [HOST, JSON, (b"content-length", declared)]

    answer = await ask(house.container.application(), "POST", "/v1/access-requests", headers=headers, body=[b"{}"])

    assert answer.status_code in (400, 413)


@pytest.mark.parametrize("declared", [b"\xb2", b"1\xb9"])
async def test_a_length_of_superscript_digits_is_refused(house: House, declared: bytes) -> None:
    headers = [HOST, JSON, (b"content-length", declared)]

    answer = await ask(house.container.application(), "POST", "/v1/access-requests", headers=headers, body=[b"{}"])

    assert answer.status_code in (400, 413)


async def test_two_lengths_are_refused(house: House) -> None:
    headers = [HOST, JSON, (b"content-length", b"2"), (b"content-length", b"2")]

    answer = await ask(house.container.application(), "POST", "/v1/access-requests", headers=headers, body=[b"{}"])

    check_problem(answer, 400, "bad_request")


async def test_what_anybody_may_send_is_small(house: House) -> None:
    body = {"requested_by": "alice", "reason": "x" * 20_000}

    answer = await house.client.post("/v1/access-requests", json=body)

    assert answer.status_code == 413


async def test_very_many_unknown_fields_are_one_fault(house: House) -> None:
    await house.let_in("alice")
    headers = house.headers("alice", **{"Idempotency-Key": "k"})

    body: dict[str, Any] = {"payload": {}} | {str(n): n for n in range(10_000)}
    answer = await house.client.post("/v1/tasks", json=body, headers=headers)

    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 1


@pytest.mark.parametrize("path", ["/health", "/version", "/ready", "/v1/me", "/v1/tasks"])
async def test_a_request_that_only_reads_takes_no_body_to_speak_of(house: House, path: str) -> None:
    await house.let_in("alice")
    headers = house.headers("alice")

    much, little = [
        await house.client.request("GET", path, content=b" " * size, headers=headers) for size in (1_025, 1_024)
    ]

    check_problem(much, 413, "payload_too_large")
    assert little.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"Bearer a.b.c")],
        [(b"signature", b"sig=:AA==:")],
        [(b"signature-input", b"sig=()"), (b"signature", b"sig=:AA==:")],
    ],
    ids=["nobody", "no token", "half a signature", "no signature"],
)
async def test_whoever_cannot_be_let_in_is_told_so_before_their_body(house: House, headers: Headers) -> None:
    sent = [HOST, (b"content-length", b"1000000"), *headers]

    answer = await ask(house.container.application(), "POST", "/v1/tasks", headers=sent, body=())

    assert answer.status_code == 401
