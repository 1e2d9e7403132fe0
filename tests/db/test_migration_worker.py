"""Migration 0003 on a database that has been in use: everything is kept, and dead letters are found (design §4)."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from app.db.migrations import load_migrations
from app.db.sqlite import SqliteConnectionFactory, split_statements
from app.main import SQL
from tests.support.database import NOW

USED = """
INSERT INTO users (id, role, scopes_json, is_active, created_at, updated_at, subject)
VALUES ('u1', 'super_admin', '["users.manage"]', 1, 't0', 't1', 'alice'), ('u2', 'user', '[]', 0, 't0', 't1', 'bob');

INSERT INTO access_requests (id, requested_by, status, requested_at, resolved_at, resolved_by, reason)
VALUES ('r1', 'bob', 'approved', 't0', 't1', 'u1', 'work'), ('r2', 'eve', 'pending', 't0', NULL, NULL, NULL);

INSERT INTO tasks (id, created_by, status, created_at, updated_at, reference, first_stage, payload_json)
VALUES
    ('waiting', 'u1', 'open', 't0', 't0', 'order 7', 'parse', '{"n":1}'),
    ('running', 'u1', 'running', 't0', 't1', NULL, 'parse', '{}'),
    ('done', 'u2', 'succeeded', 't0', 't2', NULL, 'parse', '{}'),
    ('dead', 'u2', 'failed', 't0', 't9', NULL, 'parse', '{}'),
    ('dead early', 'u2', 'failed', 't0', 't8', NULL, 'parse', '{}');

INSERT INTO pipeline_states (task_id, stage, status, attempt, last_error_kind, is_terminal, updated_at)
VALUES
    ('waiting', 'parse', 'failed', 1, 'timeout', 0, 't3'),
    ('running', 'photos', 'running', 2, 'timeout', 0, 't4'),
    ('done', 'cleanup', 'succeeded', 1, NULL, 1, 't5'),
    ('dead', 'publish', 'dead_letter', 3, 'http_gone', 1, 't9'),
    ('dead early', 'parse', 'dead_letter', 1, NULL, 1, 't8');

INSERT INTO idempotency_keys (actor_id, idem_key, task_id, created_at, fingerprint, replays)
VALUES ('u1', 'k1', 'waiting', 't0', 'f1', 0), ('u2', 'k1', 'dead', 't0', 'f2', 3);

INSERT INTO jobs (task_id, stage, run_at, crashes, lease_token, worker, lease_expires_at)
VALUES ('waiting', 'parse', 't6', 1, NULL, NULL, NULL), ('running', 'photos', 't0', 0, 'l3', 'w1', 't7');

INSERT INTO attempts (
    task_id, lease_token, stage, attempt, worker, started_at, ended_at, outcome, error_kind, error_message
)
VALUES
    ('waiting', 'l0', 'parse', 1, 'w1', 't1', 't3', 'failed', 'timeout', 'It took too long.'),
    ('running', 'l1', 'parse', 1, 'w1', 't1', 't2', 'succeeded', NULL, NULL),
    ('running', 'l2', 'photos', 1, 'w1', 't2', 't3', 'released', NULL, NULL),
    ('running', 'l3', 'photos', 2, 'w1', 't4', NULL, NULL, NULL, NULL),
    ('done', 'l1', 'cleanup', 1, 'w2', 't1', 't5', 'succeeded', NULL, NULL),
    ('dead', 'l1', 'publish', 1, 'w1', 't1', 't2', 'failed', 'timeout', 'It took too long.'),
    ('dead', 'l4', 'publish', 2, 'w1', 't3', 't4', 'lease_expired', 'lease_expired', 'The worker was lost.'),
    ('dead', 'l5', 'publish', 3, 'w1', 't5', 't6', 'failed', 'http_gone', 'The page of Zoë''s shop is gone.'),
    ('dead', 'l6', 'publish', 3, 'w1', 't7', 't8', 'released', NULL, NULL);

INSERT INTO outputs (task_id, stage, value_json, created_at) VALUES ('done', 'parse', '{"a":1}', 't2');

INSERT INTO probes (name, written_at) VALUES ('write', 't1');
"""
TABLES = (
    "users", "access_requests", "tasks", "pipeline_states", "idempotency_keys", "jobs", "attempts", "outputs", "probes",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Used:
    """A database as it was before migration 0003, with rows in every table."""

    migrate: Callable[[], Awaitable[Any]]
    rows: Callable[[str], Awaitable[list[dict[str, Any]]]]

    async def every_row(self) -> dict[str, list[dict[str, Any]]]:
        """Return what the tables hold."""
        return {table: await self.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES}


@asynccontextmanager
async def on_sqlite() -> AsyncIterator[Used]:
    """A database in use on SQLite, migrated as the service migrates it."""
    first, second, third = load_migrations(SQL / "migrations", engine="sqlite")[:3]
    async with SqliteConnectionFactory(None).schema_target() as target:

        async def apply(migration: Any) -> None:
            await target.apply(
                migration.script, version=migration.version, name=migration.name, checksum="", applied_at=NOW
            )

        async def rows(text: str) -> list[dict[str, Any]]:
            found = await target._connection.run(lambda raw: raw.execute(text).fetchall())
            return [dict(row) for row in found]

        await apply(first)
        await apply(second)
        for statement in split_statements(USED):
            await rows(statement)
        yield Used(lambda: apply(third), rows)


@asynccontextmanager
async def on_postgres(address: str) -> AsyncIterator[Used]:
    """A database in use on PostgreSQL, in a transaction that is rolled back."""
    first, second, third = load_migrations(SQL / "migrations", engine="postgres")[:3]
    connection = await asyncpg.connect(address, statement_cache_size=0)
    transaction = connection.transaction()
    await transaction.start()

    async def rows(text: str) -> list[dict[str, Any]]:
        return [dict(row) for row in await connection.fetch(text)]

    try:
        for script in (first.script, second.script, USED):
            await connection.execute(script)
        yield Used(lambda: connection.execute(third.script), rows)
    finally:
        await transaction.rollback()
        await connection.close()


@pytest.fixture(params=["sqlite", "postgres"])
async def used(request: pytest.FixtureRequest, address: str) -> AsyncIterator[Used]:
    """A database in use, on each engine in turn."""
    async with on_sqlite() if request.param == "sqlite" else on_postgres(address) as opened:
        yield opened


async def test_every_row_is_kept_and_what_is_new_is_not_known_of_it(used: Used) -> None:
    before = await used.every_row()

    await used.migrate()

    after = await used.every_row()
    assert all(before.values())
    for table in TABLES:
        new = dict.fromkeys(after[table][0].keys() - before[table][0].keys())
        assert after[table] == [row | new for row in before[table]], table


async def test_attempts_and_jobs_get_what_they_had_not(used: Used) -> None:
    before = await used.every_row()

    await used.migrate()

    after = await used.every_row()
    new = {table: after[table][0].keys() - before[table][0].keys() for table in TABLES}
    assert {table: columns for table, columns in new.items() if columns} == {
        "attempts": {"traceback", "milliseconds", "progress_permille", "progress_message", "progress_at"},
        "jobs": {"stage_started_at", "cancel_by"},
    }


async def test_each_dead_letter_is_among_the_dead_letters_with_the_last_message_of_its_attempts(used: Used) -> None:
    await used.migrate()

    letters = await used.rows("SELECT * FROM dead_letters ORDER BY task_id")

    pattern = "(from before messages were grouped)"
    assert letters == [
        {
            "task_id": "dead",
            "stage": "publish",
            "error_kind": "http_gone",
            "error_message": "The page of Zoë's shop is gone.",
            "signature": "earlier.publish.http_gone",
            "pattern": pattern,
            "died_at": "t9",
        },
        {
            "task_id": "dead early",
            "stage": "parse",
            "error_kind": "unknown",
            "error_message": "",
            "signature": "earlier.parse.unknown",
            "pattern": pattern,
            "died_at": "t8",
        },
    ]


async def test_the_rules_of_attempts_hold_as_before_and_the_new_outcomes_are_taken(used: Used) -> None:
    await used.migrate()

    for outcome in ("snoozed", "cancelled"):
        await used.rows(f"UPDATE attempts SET outcome = '{outcome}' WHERE lease_token = 'l5' RETURNING task_id")

    (attempt,) = await used.rows("SELECT outcome FROM attempts WHERE lease_token = 'l5'")
    assert attempt == {"outcome": "cancelled"}


@pytest.mark.parametrize("task_id", ["dead", "nobody's"])
async def test_an_attempt_is_still_the_only_one_of_its_lease_at_a_task_that_is_there(used: Used, task_id: str) -> None:
    await used.migrate()

    with pytest.raises(Exception, match=r"(?i)unique|foreign key"):
        await used.rows(
            "INSERT INTO attempts (task_id, lease_token, stage, attempt, worker, started_at)"
            f" VALUES ('{task_id.replace(chr(39), chr(39) * 2)}', 'l5', 'publish', 4, 'w1', 't9') RETURNING task_id"
        )


async def test_nothing_of_the_old_attempts_is_left_behind(used: Used) -> None:
    await used.migrate()

    with pytest.raises(Exception, match="attempts_before"):
        await used.rows("SELECT * FROM attempts_before")
