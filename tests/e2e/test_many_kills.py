"""Thirty deaths at random: a thousand tasks go through five stages, and the file is judged by SQL of the test's own."""

import asyncio
import random

import httpx2
import pytest

from tests.e2e.home import Home
from tests.support.pipelines import NAMES
from tests.support.processes import NOT_MEASURED, ServiceProcess, service

TASKS = 1_000
KILLS = 30
CLIENTS = 16
PAYLOAD_LENGTH = 200
CREATED_PER_LIFE = 50
MOST_PER_LIFE = 200
"""Stages that are recorded before a kill at most; fewer than are created, so that there is always work."""

BUSY = {
    "PIPELINE": "tests.support.pipelines:busy",
    "WORKER_CONCURRENCY": "8",
    "WORKER_LEASE_SECONDS": "1800",
    **NOT_MEASURED,
}
"""A lease that outlasts the test: work is only taken up in time by taking leases back."""


async def create_all(home: Home, running: ServiceProcess, keys: list[str]) -> dict[str, str]:
    """Create a task for each key as far as the service lives; return those that were answered."""
    answered: dict[str, str] = {}
    waiting = iter(keys)

    async def lane(client: httpx2.AsyncClient) -> None:
        for key in waiting:
            payload = {"key": key, "text": "x" * PAYLOAD_LENGTH}
            try:
                answer = await client.post("/v1/tasks", json={"payload": payload}, headers={"Idempotency-Key": key})
            except httpx2.TransportError:
                return
            if answer.status_code == 503:  # it is about to die
                return
            assert answer.status_code == 201, answer.text
            answered[key] = answer.json()["id"]

    async with running.client(home.tokens["alice"]) as client:
        await asyncio.gather(*(lane(client) for _ in range(CLIENTS)))
    return answered


async def until_some_more_succeeded(home: Home, more: int, creating: asyncio.Task[dict[str, str]]) -> None:
    """Wait until so many more stages are recorded than now, or all is created and nothing is left to do."""

    def recorded() -> int:
        return int(home.one("SELECT COUNT(*) FROM attempts WHERE outcome = 'succeeded'")[0])

    goal = recorded() + more
    async with asyncio.timeout(60):
        while recorded() < goal and not (creating.done() and home.one("SELECT COUNT(*) FROM jobs") == (0,)):
            await asyncio.sleep(0.005)


@pytest.mark.timeout(400)
async def test_thirty_kills_lose_no_task_repeat_no_success_and_leave_each_output_once(home: Home) -> None:
    chance = random.Random(20_261_123)  # noqa: S311 when to kill is no secret
    keys = [f"order-{number}" for number in range(TASKS)]
    first: dict[str, str] = {}

    for death in range(KILLS):
        async with service(home.folder, **BUSY) as running:
            missing = [key for key in keys if key not in first]
            creating = asyncio.create_task(create_all(home, running, missing[:CREATED_PER_LIFE]))
            await until_some_more_succeeded(home, chance.randrange(1, MOST_PER_LIFE), creating)
            await running.kill()
            first |= await creating
        assert running.events("storage_failed") == [], death

    async with service(home.folder, **BUSY) as running:
        again = await create_all(home, running, keys)
        async with asyncio.timeout(120):
            while home.one("SELECT COUNT(*) FROM jobs") != (0,):
                await asyncio.sleep(0.05)
        code = await running.terminate()

    assert code == 0
    assert {key: again[key] for key in first} == first
    assert home.rows("PRAGMA integrity_check") == [("ok",)]
    assert home.rows("SELECT status, COUNT(*) FROM tasks GROUP BY status") == [("succeeded", TASKS)]
    assert home.one("SELECT COUNT(*), COUNT(DISTINCT task_id) FROM idempotency_keys") == (TASKS, TASKS)
    assert home.rows("SELECT task_id FROM jobs") == []
    assert home.rows("SELECT task_id FROM attempts WHERE outcome IS NULL") == []
    successes = home.rows(
        "SELECT stage, COUNT(*), COUNT(DISTINCT task_id) FROM attempts WHERE outcome = 'succeeded' GROUP BY stage"
    )
    assert sorted(successes) == sorted((name, TASKS, TASKS) for name in NAMES)
    outputs = home.rows("SELECT stage, COUNT(*), COUNT(DISTINCT task_id) FROM outputs GROUP BY stage")
    assert sorted(outputs) == sorted((name, TASKS, TASKS) for name in NAMES)
    assert home.rows(BY_A_LOST_LEASE) == []
    assert home.rows(OUT_OF_TURN) == []
    [(lost,)] = home.rows("SELECT COUNT(*) FROM attempts WHERE outcome = 'lease_expired'")
    assert lost >= KILLS / 2, "the kills met nobody at work"


BY_A_LOST_LEASE = """
    SELECT outputs.task_id, outputs.stage
    FROM outputs
    JOIN tasks ON tasks.id = outputs.task_id
    LEFT JOIN attempts ON
        attempts.task_id = outputs.task_id AND attempts.stage = outputs.stage AND attempts.outcome = 'succeeded'
        AND attempts.ended_at = outputs.created_at
    WHERE attempts.lease_token IS NULL OR json_extract(outputs.value_json, '$.attempt_of') <> outputs.task_id
"""
"""Outputs that no recorded success has written in its own unit."""

OUT_OF_TURN = """
    SELECT later.task_id, later.stage
    FROM attempts AS later
    JOIN attempts AS earlier ON earlier.task_id = later.task_id AND earlier.outcome = 'succeeded'
    WHERE later.started_at > earlier.ended_at AND later.stage = earlier.stage
"""
"""Attempts of a stage that began after the stage had succeeded."""
