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
    "audit_seals.last": "the first row from the end is taken",
    "jobs.unknown_stages": "an admin's question; it looks at every job",
    "users.add": "the plan names children of a foreign key, which the engine skips unless a constraint was deferred",
    "workers.remove_dead": "a row for each worker, and there is no more than a handful",
}
"""Queries that read a whole table, each with its reason."""

MAY_SCAN_INDEX = {
    "dead_letters.count_by_stage": "an admin's question; it counts all dead letters, without their messages",
    "dead_letters.groups": "an admin's question; it groups all dead letters, without their messages",
    "jobs.leased_by_worker": "the index holds leased jobs only, as many as there are slots",
    "pauses.all": "a row for each stage that is paused",
    "pauses.stages": "a row for each stage that is paused",
    "pipeline_states.count_active": "the index holds what has not ended",
    "rescues.count_running": "the index holds what runs, which is capped",
    "rescues.next_running": "the index holds what runs, and the first row is taken",
    "tasks.count_by_status": "an admin's question; it counts all tasks",
    "users.active_super_admins": "the index holds nobody else",
    "workers.alive": "a row for each worker, and there is no more than a handful",
}
"""Queries that read a whole index, each with its reason."""

WALKS = {
    "jobs.claim": "INDEX jobs_due (stage=? AND run_at<?)",
    "jobs.claim_suspect": "INDEX jobs_suspect (run_at<?)",
    "jobs.heads": "INDEX jobs_due (stage=?)",
    "jobs.next_waits_since": "INDEX jobs_due (stage=?)",
    "jobs.ahead": "INDEX jobs_due (stage=? AND run_at<?)",
    "jobs.leased_until": "INDEX jobs_leased (lease_expires_at<?)",
    "jobs.cancelled_until": "INDEX jobs_cancelled (cancel_by<?)",
    "jobs.leased_by_worker": "INDEX jobs_leased",
    "attempt_minutes.since": "PRIMARY KEY (minute>?)",
    "attempt_minutes.prune": "PRIMARY KEY (minute<?)",
    "attempts.forget_snoozes": "PRIMARY KEY (task_id=? AND lease_token<?)",
    "audit_events.final": "INTEGER PRIMARY KEY (rowid>?)",
    "audit_events.between": "INTEGER PRIMARY KEY (rowid>? AND rowid<?)",
    "audit_events.count_after": "INTEGER PRIMARY KEY (rowid>?)",
    "audit_events.page": "INTEGER PRIMARY KEY (rowid<?)",
    "audit_events.page_of_action": "INDEX audit_events_by_action (action=? AND seq<?)",
    "audit_events.page_of_actor": "INDEX audit_events_by_actor (actor_id=? AND seq<?)",
    "audit_events.page_of_denied": "INDEX audit_events_denied (seq<?)",
    "audit_events.page_of_target": "INDEX audit_events_by_target (target_id=? AND seq<?)",
    "audit_seals.next": "INTEGER PRIMARY KEY (rowid>?)",
    "dead_letters.page_of_signature": "INDEX dead_letters_by_signature (signature=? AND task_id<?)",
    "dead_letters.next_of_signature": "INDEX dead_letters_by_signature (signature=? AND task_id>?)",
    "dead_letters.next_to_rescue": "PRIMARY KEY (task_id>?)",
    "dead_letters.groups": "COVERING INDEX dead_letters_by_signature",
    "dead_letters.count_by_stage": "COVERING INDEX dead_letters_by_stage",
    "idempotency_keys.oldest": "INDEX idempotency_keys_by_task (task_id>?)",
    "idempotency_keys.prune": "INDEX idempotency_keys_by_task (task_id=?)",
    "outputs.drop_stages": "PRIMARY KEY (task_id=? AND stage=?)",
    "pipeline_states.count_active": "COVERING INDEX pipeline_states_active",
    "pruned_folders.next": "(task_id>?)",
    "rescues.count_running": "INDEX rescues_running",
    "rescues.next_running": "INDEX rescues_running",
    "tasks.count_by_status": "COVERING INDEX tasks_by_status",
    "tasks.oldest": "(id>?)",
    "tasks.page_of_status": "INDEX tasks_by_status (status=? AND id<?)",
    "tasks.page_of_creator": "INDEX tasks_by_creator (created_by=? AND id<?)",
    "tasks.page_of_reference": "INDEX tasks_by_reference (reference=? AND id<?)",
    "access_requests.page_of_status": "INDEX access_requests_by_status (status=? AND id<?)",
    "users.active_super_admins": "INDEX users_active_super_admins",
}
"""The index that a query must walk, and from where."""

SORTS = {
    "outputs.of_task": "a handful of rows, by the moment at which they were made",
    "jobs.claim": "at most so many rows of each stage as are wanted, of which the oldest are taken",
    "jobs.leased_by_worker": "as many rows as there are slots",
    "dead_letters.groups": "one row for each group, by size",
}
"""Queries that sort what they found, each with its reason."""

NO_TABLE = {"json_each", "stages", "due", "grouped", "before", "CONSTANT"}
"""What is read whole and is a parameter, or a part of the query that has found its rows."""


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


def scans(plan: list[str], *, of_indexes: bool = False) -> list[str]:
    """Return the lines that read a whole table, or a whole index."""
    lines = [line for line in plan if line.startswith("SCAN") and line.split()[1] not in NO_TABLE]
    return [line for line in lines if ("INDEX" in line) is of_indexes]


async def test_nothing_reads_a_whole_table_without_a_reason(plans: dict[str, list[str]]) -> None:
    found = {name: lines for name, plan in plans.items() if (lines := scans(plan))}

    assert set(found) == set(MAY_SCAN), found


async def test_nothing_reads_a_whole_index_without_a_reason(plans: dict[str, list[str]]) -> None:
    found = {name: lines for name, plan in plans.items() if (lines := scans(plan, of_indexes=True))}

    assert set(found) == set(MAY_SCAN_INDEX), found


@pytest.mark.parametrize("name", WALKS)
async def test_what_is_asked_often_walks_its_index(plans: dict[str, list[str]], name: str) -> None:
    assert any(WALKS[name] in line for line in plans[name]), plans[name]


async def test_each_stage_is_asked_for_its_own_oldest_jobs_and_only_those_are_looked_at(
    plans: dict[str, list[str]],
) -> None:
    assert plans["jobs.claim"][:6] == [
        "MATERIALIZE due",
        "SCAN stages VIRTUAL TABLE INDEX 1:",
        "SEARCH oldest USING PRIMARY KEY (task_id=?)",
        "CORRELATED LIST SUBQUERY 1",
        "SEARCH jobs USING INDEX jobs_due (stage=? AND run_at<?)",
        "USE TEMP B-TREE FOR ORDER BY",
    ]


async def test_whether_a_key_names_a_task_is_read_from_an_index_alone(plans: dict[str, list[str]]) -> None:
    assert "SEARCH idempotency_keys USING COVERING INDEX idempotency_keys_by_task (task_id=?)" in plans["tasks.oldest"]


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
