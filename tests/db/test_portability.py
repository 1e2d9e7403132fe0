"""Portability: every migration and query on a real PostgreSQL and on SQLite; every rule has a name (design §4)."""

import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from app.db.migrations import load_migrations
from app.db.queries import Query, load_queries
from app.db.sqlite import SqliteConnectionFactory, ThreadConnection, split_statements
from app.main import SQL
from tests.support.database import NOW, driver
from tests.support.postgres import numbered

SQLITE = load_queries(SQL / "queries", engine="sqlite")
POSTGRES = load_queries(SQL / "queries", engine="postgres")
TABLES = {
    "users", "access_requests", "tasks", "pipeline_states", "idempotency_keys", "jobs", "attempts", "outputs", "probes",
    "attempt_minutes", "dead_letters", "rescues", "pauses", "workers", "pruned_folders", "signing_keys", "nonces",
    "audit_events", "audit_seals",
}  # fmt: skip


@pytest.fixture
async def postgres(address: str) -> AsyncIterator[Any]:
    """A connection to PostgreSQL with the whole schema, in a transaction that is rolled back."""
    connection = await asyncpg.connect(address)
    transaction = connection.transaction()
    await transaction.start()
    try:
        for migration in load_migrations(SQL / "migrations", engine="postgres"):
            await connection.execute(migration.script)
        yield connection
    finally:
        await transaction.rollback()
        await connection.close()


@pytest.fixture
async def sqlite() -> AsyncIterator[ThreadConnection]:
    """A connection to SQLite with the whole schema, made as the service makes it."""
    async with SqliteConnectionFactory(None).schema_target() as target:
        for migration in load_migrations(SQL / "migrations", engine="sqlite"):
            await target.apply(
                migration.script, version=migration.version, name=migration.name, checksum="", applied_at=NOW
            )
        yield target._connection


async def rows_of(sqlite: ThreadConnection, text: str) -> list[Any]:
    """Return what SQLite answers."""
    return await sqlite.run(lambda raw: raw.execute(text).fetchall())


# Queries -------------------------------------------------------------------------------------------------------------


async def test_postgres_prepares_every_query_with_every_parameter(postgres: Any) -> None:
    for name, query in POSTGRES.items():
        text, names = numbered(query.text)
        assert set(names) == query.parameters, name

        statement = await postgres.prepare(text)

        assert len(statement.get_parameters()) == len(names), name


async def test_postgres_runs_every_query(postgres: Any) -> None:
    values = {"text": "[]", "int4": 1, "int8": 1}

    for query in POSTGRES.values():
        statement = await postgres.prepare(numbered(query.text)[0])
        given = [values[parameter.name] for parameter in statement.get_parameters()]
        with contextlib.suppress(asyncpg.IntegrityConstraintViolationError):  # the row makes no sense; the query runs
            async with postgres.transaction():
                await statement.fetch(*given)


async def test_every_parameter_has_a_type_that_both_engines_store_alike(postgres: Any) -> None:
    for name, query in POSTGRES.items():
        statement = await postgres.prepare(numbered(query.text)[0])

        types = {parameter.name for parameter in statement.get_parameters()}

        assert types <= {"text", "int4", "int8"}, name


async def test_sqlite_prepares_every_query_with_every_parameter(sqlite: ThreadConnection) -> None:
    def explain(raw: Any, query: Query) -> None:
        raw.execute(f"EXPLAIN {query.text}", dict.fromkeys(query.parameters, 1)).fetchall()

    for query in SQLITE.values():
        await sqlite.run(explain, query)


async def test_sqlite_misses_a_parameter_that_postgres_would_take_for_a_null(sqlite: ThreadConnection) -> None:
    for query in SQLITE.values():
        if query.parameters:
            with pytest.raises(driver.ProgrammingError):
                await sqlite.run(lambda raw, text=query.text: raw.execute(text, {}))


async def test_postgres_returns_the_columns_that_the_text_for_sqlite_names(postgres: Any) -> None:
    for name, query in POSTGRES.items():
        statement = await postgres.prepare(numbered(query.text)[0])
        on_postgres = [attribute.name for attribute in statement.get_attributes()]

        assert on_postgres == returned_columns(SQLITE[name].text), name


def returned_columns(text: str) -> list[str]:
    """Read the names of a query's columns from its text."""
    flat = without_parentheses(text)
    returning = flat.rpartition(" RETURNING ")[2]
    listed = returning if returning != flat else re.search(r"SELECT (.*?) FROM ", flat)[1]  # type: ignore[index]  # every SELECT has a FROM
    return [re.split(r"\bAS |\.", column.strip())[-1] for column in listed.split(",")]


def without_parentheses(text: str) -> str:
    """Return a query without calls' arguments and subqueries, from the innermost out."""
    while (shorter := re.sub(r"\([^()]*\)", "", text)) != text:
        text = shorter
    return text


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("SELECT a, t.b, c AS d FROM t", ["a", "b", "d"]),
        ("SELECT COUNT(*) AS n, SUBSTR(a, 1, 16) AS minute FROM t", ["n", "minute"]),
        ("SELECT EXISTS (SELECT 1 FROM b WHERE (c)) AS has, (SELECT x FROM y) AS z FROM t", ["has", "z"]),
        ("SELECT a FROM (SELECT b, c FROM t) AS d", ["a"]),
        ("INSERT INTO t (a, b) VALUES (:a, COALESCE(:b, 1)) RETURNING a, b", ["a", "b"]),
    ],
)
def test_the_columns_of_a_query_are_read_past_what_is_in_parentheses(text: str, columns: list[str]) -> None:
    assert returned_columns(text) == columns


# Names ---------------------------------------------------------------------------------------------------------------


def named_in_migrations() -> set[str]:
    """Return the names that the migrations give to constraints and indexes."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in (SQL / "migrations").glob("*.sql"))
    return set(re.findall(r"CONSTRAINT ([a-z_]+)", text)) | set(re.findall(r"INDEX ([a-z_]+) ON", text))


async def test_postgres_had_to_invent_no_name(postgres: Any) -> None:
    constraints = await postgres.fetch(
        "SELECT conname FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'"
    )
    indexes = await postgres.fetch("SELECT indexname FROM pg_indexes WHERE schemaname = 'public'")

    found = {row[0] for row in (*constraints, *indexes)}

    assert found == named_in_migrations()


async def test_sqlite_knows_every_rule_by_a_name(sqlite: ThreadConnection) -> None:
    for row in await rows_of(sqlite, "SELECT name, sql FROM sqlite_master WHERE type = 'table'"):
        if row["name"] != "schema_migrations":
            assert unnamed_rules(row["sql"]) == [], row["name"]


async def test_the_ledger_of_migrations_too_knows_every_rule_by_a_name(sqlite: ThreadConnection) -> None:
    (row,) = await rows_of(sqlite, "SELECT sql FROM sqlite_master WHERE name = 'schema_migrations'")

    assert unnamed_rules(row["sql"]) == []


def unnamed_rules(sql: str) -> list[str]:
    """Return the rules of a table that no CONSTRAINT names."""
    flat = " ".join(re.sub(r"--[^\n]*", "", sql).split())
    rules = re.finditer(r"(CONSTRAINT [a-z_]+ )?\b(PRIMARY KEY|UNIQUE|CHECK|REFERENCES|FOREIGN KEY)\b", flat)
    return [rule[0] for rule in rules if rule[1] is None]


@pytest.mark.parametrize("sql", ["CREATE TABLE t (n TEXT PRIMARY KEY)", "CREATE TABLE t (n TEXT, CHECK (n <> ''))"])
def test_a_rule_without_a_name_is_found(sql: str) -> None:
    assert unnamed_rules(sql)


async def test_every_index_of_sqlite_has_a_name_of_ours(sqlite: ThreadConnection) -> None:
    rows = await rows_of(sqlite, "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")

    assert {row["name"] for row in rows} <= named_in_migrations()


# Tables --------------------------------------------------------------------------------------------------------------


async def test_both_engines_have_the_same_tables_and_columns(postgres: Any, sqlite: ThreadConnection) -> None:
    on_postgres = await postgres.fetch(
        "SELECT table_name, column_name, is_nullable FROM information_schema.columns WHERE table_schema = 'public'"
    )
    on_sqlite = await rows_of(
        sqlite,
        "SELECT tables.name, columns.name, CASE columns.\"notnull\" WHEN 1 THEN 'NO' ELSE 'YES' END"
        " FROM sqlite_master AS tables JOIN pragma_table_info(tables.name) AS columns"
        " WHERE tables.type = 'table' AND tables.name <> 'schema_migrations'",
    )

    assert {tuple(row) for row in on_postgres} == {tuple(row) for row in on_sqlite}
    assert {row[0] for row in on_sqlite} == TABLES


SPECIFIED = {
    "users": "id role scopes_json is_active created_at updated_at",
    "access_requests": "id requested_by status requested_at resolved_at resolved_by",
    "tasks": "id created_by status created_at updated_at",
    "pipeline_states": "task_id stage status attempt last_error_kind is_terminal updated_at",
    "idempotency_keys": "actor_id idem_key task_id created_at",
}


@pytest.mark.parametrize("table", SPECIFIED)
async def test_the_tables_of_the_specification_begin_with_its_columns(sqlite: ThreadConnection, table: str) -> None:
    rows = await rows_of(sqlite, f"SELECT name, type FROM pragma_table_info('{table}')")

    columns = SPECIFIED[table].split()

    assert [row["name"] for row in rows][: len(columns)] == columns
    assert {row["type"] for row in rows} <= {"TEXT", "INTEGER"}


async def test_the_key_of_an_idempotency_key_is_actor_and_key(sqlite: ThreadConnection) -> None:
    rows = await rows_of(sqlite, "SELECT name FROM pragma_table_info('idempotency_keys') WHERE pk > 0 ORDER BY pk")

    assert [row["name"] for row in rows] == ["actor_id", "idem_key"]


def test_no_constraint_waits_for_the_commit_and_no_conflict_rolls_back() -> None:
    for path in (SQL / "migrations").glob("*.sql"):
        for statement in split_statements(path.read_text(encoding="utf-8")):
            assert not re.search(r"DEFER|ON CONFLICT|OR ROLLBACK|RAISE\(ROLLBACK", statement, re.IGNORECASE), path.name


async def test_only_tables_that_are_append_only_have_triggers(postgres: Any, sqlite: ThreadConnection) -> None:
    on_postgres = await postgres.fetch(
        "SELECT DISTINCT event_object_table FROM information_schema.triggers WHERE trigger_schema = 'public'"
    )
    on_sqlite = await rows_of(sqlite, "SELECT DISTINCT tbl_name FROM sqlite_master WHERE type = 'trigger'")

    assert {row[0] for row in on_postgres} == {"audit_events", "audit_seals"}
    assert {row[0] for row in on_sqlite} == {"audit_events", "audit_seals"}
