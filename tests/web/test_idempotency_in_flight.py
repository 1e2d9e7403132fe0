"""The same key in flight: however many ask at once, one task is made and all get the same bytes."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2

from tests.support.house import House
from tests.support.processes import let_in, run_cabinet, service
from tests.web.asking import rows

TIMES = 50
TASK_TABLES = ("tasks", "pipeline_states", "idempotency_keys", "jobs")


def check_one_of_many(answers: list[httpx2.Response]) -> None:
    """Assert that one answer is the first and all others replay its bytes."""
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert Counter(answer.headers.get("idempotent-replayed") for answer in answers) == {None: 1, "true": TIMES - 1}


async def test_fifty_creates_of_one_key_at_once_make_one_task(house: House) -> None:
    await house.let_in("alice")

    answers = await asyncio.gather(*[house.create("alice", "k", {"a": 1}) for _ in range(TIMES)])

    check_one_of_many(answers)
    assert {table: len(rows(house)[table]) for table in TASK_TABLES} == dict.fromkeys(TASK_TABLES, 1)


async def test_fifty_commands_of_one_key_at_once_make_one_task_and_the_others_are_refused(house: House) -> None:
    await house.let_in("alice")

    answers = await asyncio.gather(*[house.create("alice", "k", {"a": number}) for number in range(TIMES)])

    assert Counter(answer.status_code for answer in answers) == {201: 1, 422: TIMES - 1}
    assert {table: len(rows(house)[table]) for table in TASK_TABLES} == dict.fromkeys(TASK_TABLES, 1)


async def test_fifty_keys_at_once_make_fifty_tasks(house: House) -> None:
    await house.let_in("alice")

    answers = await asyncio.gather(*[house.create("alice", f"k-{number}") for number in range(TIMES)])

    assert len({answer.json()["id"] for answer in answers}) == TIMES


async def test_a_create_whose_caller_left_is_replayed_or_made_once(house: House) -> None:
    await house.let_in("alice")
    impatient = [asyncio.ensure_future(house.create("alice", "k")) for _ in range(TIMES)]
    await asyncio.sleep(0)
    for asking in impatient[::2]:
        asking.cancel()
    await asyncio.gather(*impatient, return_exceptions=True)

    answer = await house.create("alice", "k")

    assert answer.headers["idempotent-replayed"] == "true"
    assert len(rows(house)["tasks"]) == 1


async def test_fifty_connections_to_a_real_server_make_one_task(tmp_path: Path) -> None:
    assert run_cabinet(tmp_path, "migrate").returncode == 0
    token = let_in(tmp_path, "alice")
    async with service(tmp_path) as running:
        clients = [running.client(token) for _ in range(TIMES)]
        await asyncio.gather(*[client.get("/health") for client in clients])

        async def create(client: httpx2.AsyncClient) -> Any:
            return await client.post("/v1/tasks", json={"payload": {"a": 1}}, headers={"Idempotency-Key": "k"})

        answers = await asyncio.gather(*map(create, clients))
        listed = await clients[0].get("/v1/tasks")
        await asyncio.gather(*[client.aclose() for client in clients])

    check_one_of_many(answers)
    assert [task["id"] for task in listed.json()["items"]] == [answers[0].json()["id"]]
