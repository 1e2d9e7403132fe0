"""Query plans on SQLite: what is asked often walks an index and sorts nothing (design §4)."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.db.migrations import load_migrations
from app.db.queries import load_queries
from app.db.sqlite import SqliteConnectionFactory
from app.main import SQL
from tests.support.database import NOW

QUERIES = load_queries(SQL / "queries", engine="sqlite")

MAY_SCAN = {
    "jobs.unknown_stages": "an admin's question; it looks at every job",
    "users.add": "the plan names children of a foreign key, which the engine skips unless a constraint was deferred",
}
"""Queries that read a whole table, each with its reason."""

WALKS = {
    "jobs.claim": "jobs_due",
    "jobs.leased_until": "jobs_leased",
    "jobs.next_due": "jobs_due",
    "tasks.page_of_status": "tasks_by_status",
    "tasks.page_of_creator": "tasks_by_creator",
    "tasks.page_of_reference": "tasks_by_reference",
    "access_requests.page_of_status": "access_requests_by_status",
    "users.active_super_admins": "users_active_super_admins",
}
"""The index that a query must walk."""

SORTS = {"outputs.of_task": "a handful of rows, by the moment at which they were made"}
"""Queries that sort what they found, each with its reason."""


@pytest.fixture
async def plans() -> AsyncIterator[dict[str, list[str]]]:
    """The plan of every query that is more than a plain insert, line by line."""
    async with SqliteConnectionFactory(None).schema_target() as target:
        for migration in load_migrations(SQL / "migrations", engine="sqlite"):
            await target.apply(
                migration.script, version=migration.version, name=migration.name, checksum="", applied_at=NOW
            )

        def explain(raw: Any) -> dict[str, list[str]]:
            return {
                name: [
                    row["detail"]
                    for row in raw.execute(f"EXPLAIN QUERY PLAN {query.text}", dict.fromkeys(query.parameters, 1))
                ]
                for name, query in QUERIES.items()
            }

        yield await target._connection.run(explain)


def scans(plan: list[str]) -> list[str]:
    """Return the lines that read a whole table; those of json_each, of a CTE or of an index of a part are none."""
    return [
        line for line in plan if line.startswith("SCAN") and "INDEX" not in line and line.split()[1] not in NO_TABLE
    ]


NO_TABLE = {"json_each", "due", "CONSTANT"}


async def test_nothing_reads_a_whole_table_without_a_reason(plans: dict[str, list[str]]) -> None:
    found = {name: lines for name, plan in plans.items() if (lines := scans(plan))}

    assert set(found) == set(MAY_SCAN), found


@pytest.mark.parametrize("name", WALKS)
async def test_what_is_asked_often_walks_its_index(plans: dict[str, list[str]], name: str) -> None:
    assert any(f"INDEX {WALKS[name]}" in line for line in plans[name]), plans[name]


@pytest.mark.parametrize("name", sorted(name for name in QUERIES if "page" in name or name == "attempts.of_task"))
async def test_a_page_begins_at_its_key(plans: dict[str, list[str]], name: str) -> None:
    assert any(line.startswith("SEARCH") and "<?" in line for line in plans[name]), plans[name]


async def test_nothing_is_sorted_that_an_index_has_in_order(plans: dict[str, list[str]]) -> None:
    sorted_by_hand = {name for name, plan in plans.items() if any("TEMP B-TREE" in line for line in plan)}

    assert sorted_by_hand <= set(SORTS) | set(MAY_SCAN), {name: plans[name] for name in sorted_by_hand}


@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for name, query in QUERIES.items()
        if "WHERE" in query.text and "page" not in name and name not in MAY_SCAN and "INSERT" not in query.text
    ),
)
async def test_a_row_is_found_by_a_key(plans: dict[str, list[str]], name: str) -> None:
    assert any(line.startswith("SEARCH") or "USING" in line for line in plans[name]), plans[name]
