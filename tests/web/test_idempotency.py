"""Idempotency over HTTP: the table of design §5, row by row."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import BaseModel

from app.domain.tasks import TaskStatus
from app.domain.users import Role
from app.pipelines import Pipeline, Stage
from app.repositories.jobs import JobsRepository
from tests.support.house import STAGES, House, open_house, quiet_pipeline
from tests.web.asking import check_problem, rows

TASK_TABLES = ("tasks", "pipeline_states", "jobs")


async def post(house: House, subject: str, key: str, content: str) -> httpx2.Response:
    """Send a create written in exactly these characters."""
    headers = house.headers(subject, **{"Idempotency-Key": key, "Content-Type": "application/json"})
    return await house.client.post("/v1/tasks", content=content, headers=headers)


async def work_once(house: House, times: int = 1) -> None:
    """Let a worker of this house run what is due."""
    worker = house.container.worker()
    for _ in range(times):
        await worker.step()


async def test_the_first_create_is_answered_with_the_task(house: House) -> None:
    alice = await house.let_in("alice")

    answer = await house.create("alice", "key-1", {"a": 1}, reference="order 7")

    body = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/tasks/{body['id']}"
    assert answer.headers["content-type"] == "application/json"
    assert "idempotent-replayed" not in answer.headers
    assert body == {
        "id": body["id"],
        "reference": "order 7",
        "created_by": alice.id,
        "created_at": body["created_at"],
        "status": "open",
        "stage": "parse",
    }


async def test_the_same_create_again_is_answered_with_the_same_bytes(house: House) -> None:
    await house.let_in("alice")
    first = await house.create("alice", "key-1", {"a": 1}, reference="order 7")

    again = await house.create("alice", "key-1", {"a": 1}, reference="order 7")

    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotent-replayed"] == "true"
    assert len(rows(house)["tasks"]) == 1


async def test_the_same_create_has_the_same_bytes_at_every_step_of_its_task(house: House) -> None:
    await house.let_in("alice")
    first = await house.create("alice", "key-1")
    answers = []

    for _ in STAGES:
        await work_once(house)
        answers.append(await house.create("alice", "key-1"))

    standing = (await house.client.get(first.headers["location"], headers=house.headers("alice"))).json()
    assert standing["status"] == TaskStatus.SUCCEEDED
    assert {(answer.status_code, answer.content) for answer in answers} == {(201, first.content)}


async def test_the_same_create_has_the_same_bytes_after_a_restart_with_another_pipeline(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        await house.let_in("alice")
        first = await house.create("alice", "key-1")
    other = Pipeline(quiet_pipeline().stages[2:])
    async with open_house(tmp_path, pipeline=other) as house:
        again = await house.create("alice", "key-1")

    assert again.content == first.content


@pytest.mark.parametrize(
    "written",
    [
        '{"reference":"r","payload":{"b":[1,2.5,"ä"],"a":{"y":1,"x":null}}}',
        '{\n  "payload": {"a": {"x": null, "y": 1},\t"b": [1, 2.5, "\\u00e4"]}, "reference": "\\u0072"}\n',
        '{"payload":{"b":[1,25e-1,"ä"],"a":{"y":1,"x":null}},"reference":"r"}',
    ],
)
async def test_another_serializer_means_the_same(house: House, written: str) -> None:
    await house.let_in("alice")
    first = await post(
        house, "alice", "k", '{"payload": {"a": {"x": null, "y": 1}, "b": [1, 2.5, "ä"]}, "reference": "r"}'
    )

    again = await post(house, "alice", "k", written)

    assert (again.status_code, again.content) == (201, first.content)


@pytest.mark.parametrize(
    "other",
    [
        {"payload": {"a": 2}, "reference": "r"},
        {"payload": {"a": 1}, "reference": "s"},
        {"payload": {"a": 1}},
        {"payload": {"a": 1, "b": None}, "reference": "r"},
        {"payload": {"a": "1"}, "reference": "r"},
        {"payload": {"a": True}, "reference": "r"},
        {"payload": {"a": [1]}, "reference": "r"},
    ],
)
async def test_the_same_key_for_another_command_is_refused_and_nothing_changes(
    house: House, other: dict[str, Any]
) -> None:
    await house.let_in("alice")
    await post(house, "alice", "k", json.dumps({"payload": {"a": 1}, "reference": "r"}))
    before = rows(house)

    answer = await post(house, "alice", "k", json.dumps(other))

    check_problem(answer, 422, "idempotency_key_reused")
    assert rows(house) == before


async def test_the_order_of_a_list_belongs_to_what_was_meant(house: House) -> None:
    await house.let_in("alice")
    await house.create("alice", "k", {"a": [1, 2]})

    answer = await house.create("alice", "k", {"a": [2, 1]})

    check_problem(answer, 422, "idempotency_key_reused")


async def test_a_key_belongs_to_its_actor(house: House) -> None:
    await house.let_in("alice")
    await house.let_in("bob")

    of_alice = await house.create("alice", "k", {"secret": "of alice"})
    of_bob = await house.create("bob", "k", {"other": "of bob"})

    assert of_alice.json()["id"] != of_bob.json()["id"]
    assert "idempotent-replayed" not in of_bob.headers


async def test_a_replay_is_authorised_again_first(house: House) -> None:
    await house.let_in("root", Role.SUPER_ADMIN)
    alice = await house.let_in("alice")
    await house.create("alice", "k")
    refused = []

    for change in ({"scopes": ["tasks.read"]}, {"is_active": False}):
        await house.client.patch(f"/v1/users/{alice.id}", json=change, headers=house.headers("root"))
        refused.append(await house.create("alice", "k"))

    check_problem(refused[0], 403, "scope_missing")
    check_problem(refused[1], 403, "inactive_user")


@pytest.mark.parametrize(
    "key", ["a", "a" * 255, "with space", '"quoted"', '"with \\"quotes\\" inside"', "~!@#$%^&*()_+{}|:<>?", "k,k;p=1"]
)
async def test_a_key_is_up_to_255_printable_characters(house: House, key: str) -> None:
    await house.let_in("alice")
    first = await house.create("alice", key)

    again = await house.create("alice", key)

    assert (first.status_code, again.headers["idempotent-replayed"]) == (201, "true")


async def test_a_bare_and_a_quoted_key_are_the_same(house: House) -> None:
    await house.let_in("alice")
    first = await house.create("alice", "k-1")

    again = await house.create("alice", '"k-1"')

    assert again.content == first.content


@pytest.mark.parametrize(
    "key", [None, b"", b" ", b"a" * 256, b"k\x00", b"k\x7f", "ä".encode(), b'"open', b'""', b"a\tb"]
)
async def test_a_missing_or_malformed_key_is_a_400(house: House, key: bytes | None) -> None:
    await house.let_in("alice")
    headers = [(name.encode(), value.encode()) for name, value in house.headers("alice").items()]
    headers += [] if key is None else [(b"idempotency-key", key)]

    answer = await house.client.post("/v1/tasks", json={"payload": {}}, headers=headers)

    check_problem(answer, 400, "idempotency_key_malformed")
    assert rows(house)["tasks"] == []


async def test_a_refused_create_keeps_nothing_so_the_key_is_free(house: House) -> None:
    await house.let_in("root", Role.SUPER_ADMIN)
    alice = await house.let_in("alice", scopes=frozenset())
    before = rows(house)

    without_scope = await house.create("alice", "k", {"a": 1})
    kept_without_scope = rows(house)
    await house.client.patch(f"/v1/users/{alice.id}", json={"scopes": ["tasks.create"]}, headers=house.headers("root"))
    invalid = await post(house, "alice", "k", '{"payload": {}, "reference": ""}')
    accepted = await house.create("alice", "k", {"a": 2})

    assert kept_without_scope == before
    assert [answer.status_code for answer in (without_scope, invalid, accepted)] == [403, 422, 201]
    assert "idempotent-replayed" not in accepted.headers


async def test_a_create_that_broke_half_way_keeps_nothing_so_the_key_is_free(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.let_in("alice")
    before = rows(house)

    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the last of four inserts")

    with monkeypatch.context() as patched:
        patched.setattr(JobsRepository, "add", broken)
        failed = await house.create("alice", "k", {"a": 1})
    kept = rows(house)
    accepted = await house.create("alice", "k", {"a": 2})

    assert failed.status_code == 500
    assert kept == before
    assert accepted.status_code == 201
    assert {table: len(rows(house)[table]) for table in TASK_TABLES} == dict.fromkeys(TASK_TABLES, 1)


async def test_a_retry_is_answered_as_before_after_the_pipeline_has_become_stricter(tmp_path: Path) -> None:
    class Order(BaseModel):
        number: int

    async with open_house(tmp_path) as house:
        await house.let_in("alice")
        first = await house.create("alice", "key-1", {"a": 1})
    strict = Pipeline([Stage("parse", lambda _context: None)], payload=Order)
    async with open_house(tmp_path, pipeline=strict) as house:
        again = await house.create("alice", "key-1", {"a": 1})
        new = await house.create("alice", "key-2", {"a": 1})

    assert (again.status_code, again.content) == (201, first.content)
    assert new.status_code == 422


async def test_the_same_number_written_otherwise_is_the_same_command(house: House) -> None:
    await house.let_in("alice")
    headers = house.headers("alice", **{"Idempotency-Key": "k", "Content-Type": "application/json"})

    answers = [
        await house.client.post("/v1/tasks", content=f'{{"payload":{{"a":[{number}]}}}}', headers=headers)
        for number in ("100", "1e2", "100.0")
    ]

    assert [answer.status_code for answer in answers] == [201, 201, 201]
    assert len({answer.content for answer in answers}) == 1
