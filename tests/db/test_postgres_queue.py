"""The queue on a real PostgreSQL: the claim's own dialect, run by two workers at once (design §4, §6)."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from app.clock import Timestamp, later
from app.db.migrations import load_migrations
from app.db.queries import load_queries
from app.main import SQL
from tests.db.records import STAGES
from tests.support.database import NOW
from tests.support.postgres import numbered

QUERIES = load_queries(SQL / "queries", engine="postgres")


@pytest.fixture
async def workers(address: str) -> AsyncIterator[tuple[Any, Any]]:
    """Two connections to one schema of their own, which is there for both and dropped at the end."""
    settings = {"search_path": "queue"}
    first, second = [await asyncpg.connect(address, server_settings=settings) for _ in range(2)]
    await first.execute("CREATE SCHEMA queue")
    try:
        for migration in load_migrations(SQL / "migrations", engine="postgres"):
            await first.execute(migration.script)
        await first.execute(
            "INSERT INTO users (id, role, scopes_json, is_active, created_at, updated_at, subject)"
            " VALUES ('u', 'user', '[]', 1, '', '', 'alice')"
        )
        yield first, second
    finally:
        await second.close()
        await first.execute("DROP SCHEMA queue CASCADE")
        await first.close()


async def run(connection: Any, name: str, **parameters: Any) -> list[dict[str, Any]]:
    """Run a query."""
    text, names = numbered(QUERIES[name].text)
    return [dict(row) for row in await connection.fetch(text, *(parameters[each] for each in names))]


async def stand(connection: Any, stage: str, **ages: float) -> None:
    """Queue a task at a stage for each name and age in seconds."""
    for task_id, age in ages.items():
        await connection.execute(
            "INSERT INTO tasks (id, created_by, status, created_at, updated_at, first_stage, payload_json)"
            " VALUES ($1, 'u', 'open', '', '', 'parse', '{}')",
            task_id,
        )
        await run(connection, "jobs.add", task_id=task_id, stage=stage, run_at=later(NOW, -age))


async def claim(connection: Any, token: str, *, limit: int = 10, stages: str = '["parse", "photos"]') -> list[str]:
    """Claim jobs; return the tasks, sorted."""
    claimed = await run(
        connection,
        "jobs.claim",
        lease_token=token,
        worker="w",
        lease_expires_at=later(NOW, 30),
        stages_json=stages,
        now=NOW,
        limit=limit,
        suspicious=2,
    )
    assert {row["stage_started_at"] for row in claimed} <= {NOW}
    return sorted(row["task_id"] for row in claimed)


async def test_the_oldest_due_are_claimed_whichever_stage_they_stand_at(workers: tuple[Any, Any]) -> None:
    worker, _ = workers
    await stand(worker, "parse", a=10, b=4, c=1, not_yet=-1)
    await stand(worker, "photos", d=9, e=8, f=2)
    await stand(worker, "export", another=99)

    claims = [await claim(worker, token, limit=2) for token in ("1", "2", "3", "4")]

    assert claims == [["a", "d"], ["b", "e"], ["c", "f"], []]


async def test_of_jobs_due_at_once_the_older_task_is_claimed_first(workers: tuple[Any, Any]) -> None:
    worker, _ = workers
    await stand(worker, "parse", b=5, d=5)
    await stand(worker, "photos", c=5, a=5)

    claims = [await claim(worker, token, limit=1) for token in ("1", "2", "3", "4")]

    assert claims == [["a"], ["b"], ["c"], ["d"]]


@pytest.mark.parametrize("stages", ["[]", '["export"]'])
async def test_a_stage_that_was_not_asked_for_is_left(workers: tuple[Any, Any], stages: str) -> None:
    worker, _ = workers
    await stand(worker, "parse", a=1)

    assert await claim(worker, "1", stages=stages) == []


async def test_two_workers_at_once_neither_wait_nor_take_the_same(workers: tuple[Any, Any]) -> None:
    one, other = workers
    await stand(one, "parse", a=6, b=5, c=4, d=3)

    async with one.transaction():
        mine = await claim(one, "1", limit=2)
        async with other.transaction():
            await other.execute("SET LOCAL lock_timeout = '1s'")
            others = await claim(other, "2", limit=2)

    # LIMIT comes after SKIP LOCKED, so nobody goes without because the oldest are taken just now
    assert (mine, others) == (["a", "b"], ["c", "d"])
    assert await claim(one, "3") == []


async def test_leases_that_somebody_else_takes_back_just_now_are_passed_over(workers: tuple[Any, Any]) -> None:
    one, other = workers
    await stand(one, "parse", a=2, b=1)
    await claim(one, "1")

    async with one.transaction():
        first = await run(one, "jobs.leased_until", moment=later(NOW, 30), limit=1)
        second = await run(other, "jobs.leased_until", moment=later(NOW, 30), limit=1)

    assert sorted(row["task_id"] for row in (*first, *second)) == ["a", "b"]


async def test_heads_tell_of_each_stage_when_its_oldest_falls_due(workers: tuple[Any, Any]) -> None:
    worker, _ = workers
    await stand(worker, "parse", a=5, b=9)
    await stand(worker, "photos", c=-3)

    heads = await run(worker, "jobs.heads", stages_json='["parse", "photos", "export"]')

    told: dict[str, Timestamp | None] = {row["stage"]: row["run_at"] for row in heads}
    assert told == {"parse": later(NOW, -9), "photos": later(NOW, 3), "export": None}
    assert set(told) < set(STAGES)
