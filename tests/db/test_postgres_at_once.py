"""Two processes at once on a real PostgreSQL: one of them gets a nonce, and nobody changes a user behind another."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from app.db.migrations import load_migrations
from app.db.queries import load_queries
from app.main import SQL
from tests.support.postgres import numbered

QUERIES = load_queries(SQL / "queries", engine="postgres")


@pytest.fixture
async def processes(address: str) -> AsyncIterator[tuple[Any, Any]]:
    """Two connections to one schema of their own, in which there is one live key, `k`."""
    first, second = [await asyncpg.connect(address, server_settings={"search_path": "at_once"}) for _ in range(2)]
    await first.execute("CREATE SCHEMA at_once")
    try:
        for migration in load_migrations(SQL / "migrations", engine="postgres"):
            await first.execute(migration.script)
        await first.execute(
            "INSERT INTO users (id, role, scopes_json, is_active, created_at, updated_at, subject)"
            " VALUES ('u', 'user', '[]', 1, '', '', 'alice')"
        )
        await run(first, "signing_keys.add", id="k", user_id="u", public_key="", name="", created_at="")
        yield first, second
    finally:
        await second.close()
        await first.execute("DROP SCHEMA at_once CASCADE")
        await first.close()


async def run(connection: Any, query: str, /, **parameters: Any) -> list[dict[str, Any]]:
    """Run a query."""
    text, names = numbered(QUERIES[query].text)
    return [dict(row) for row in await connection.fetch(text, *(parameters[each] for each in names))]


async def take(connection: Any, nonce: str = "n") -> bool:
    """Use a nonce of the key up."""
    return await run(connection, "nonces.take", key_id="k", nonce=nonce, expires_at="2026") != []


async def until_waiting(connection: Any, other: Any) -> None:
    """Wait until the other connection waits for a lock."""
    sql = "SELECT wait_event_type FROM pg_stat_activity WHERE pid = $1"
    async with asyncio.timeout(10):
        while await connection.fetchval(sql, other.get_server_pid()) != "Lock":
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("first_commits", [True, False])
async def test_whoever_comes_second_waits_for_the_first_and_gets_it_only_if_that_failed(
    processes: tuple[Any, Any], first_commits: bool
) -> None:
    first, second = processes
    transaction = first.transaction()
    await transaction.start()
    assert await take(first)
    waiting = asyncio.create_task(take(second))
    await until_waiting(first, second)

    await (transaction.commit() if first_commits else transaction.rollback())

    assert await waiting is not first_commits


async def test_a_revoked_key_takes_nothing_and_what_ran_out_is_forgotten(processes: tuple[Any, Any]) -> None:
    first, second = processes
    assert await take(first)

    await run(first, "signing_keys.revoke", id="k", revoked_at="2026")

    assert not await take(second, "m")
    assert await run(second, "nonces.prune", until="2026", limit=1) == []
    assert await run(second, "nonces.prune", until="2027", limit=1) == [{"key_id": "k"}]


async def test_who_changes_a_user_waits_for_who_does_already_and_sees_what_they_did(
    processes: tuple[Any, Any],
) -> None:
    first, second = processes
    transaction = first.transaction()
    await transaction.start()
    await run(first, "users.to_change", id="u")
    waiting = asyncio.create_task(run(second, "users.to_change", id="u"))
    await until_waiting(first, second)

    changed = {"role": "user", "scopes_json": "[]", "is_active": 0, "updated_at": "2026"}
    await run(first, "users.change", id="u", **changed)
    await transaction.commit()

    [seen] = await waiting
    assert seen["is_active"] == 0


async def test_who_only_reads_a_user_waits_for_nobody(processes: tuple[Any, Any]) -> None:
    first, second = processes
    async with first.transaction():
        await run(first, "users.to_change", id="u")

        async with asyncio.timeout(10):
            [seen] = await run(second, "users.by_subject", subject="alice")

    assert seen["is_active"] == 1
