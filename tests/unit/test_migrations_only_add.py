"""Migrations only add: the version before goes on working on the newer schema while it is being replaced."""

import re
from pathlib import Path

import pytest

from app.db.queries import open_dialect_marks
from app.db.sqlite import split_statements

FOLDER = Path(__file__).parents[2] / "sql" / "migrations"

BEFORE_THE_FIRST_RELEASE = 3
"""Up to this version nobody had a database to keep."""

COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
NEW_TABLE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)")
NEW_COLUMN = re.compile(r"ALTER TABLE (\w+) ADD (?:COLUMN )?(?!CONSTRAINT\b)(\w+) ")
SECOND_CLAUSE = re.compile(r", *(ADD|ALTER|DROP|RENAME)\b")
UNIQUE_INDEX = re.compile(r"CREATE UNIQUE INDEX \w+ ON (\w+)")
FILLED = re.compile(r"UPDATE (\w+) SET (\w+) = (?:(?!, *\w+ =).)*$")

GRANTED = ("users", "scopes_json")
"""A migration that introduces a scope grants it to the super_admins (design §4)."""


def takes_away(script: str) -> list[str]:
    """Return the statements of a migration, on either engine, that the version before might not survive."""
    found: dict[str, None] = {}
    for engine in ("sqlite", "postgres"):
        opened = open_dialect_marks(script, engine=engine)
        statements = [
            " ".join(COMMENT.sub(" ", statement).split()).rstrip(";") for statement in split_statements(opened)
        ]
        new_tables = {new[1] for statement in statements if (new := NEW_TABLE.match(statement))}
        new_columns = {(new[1], new[2]) for statement in statements if (new := NEW_COLUMN.match(statement))}
        found |= {each: None for each in statements if each and not _only_adds(each, new_tables, new_columns)}
    return list(found)


def _only_adds(statement: str, new_tables: set[str], new_columns: set[tuple[str, str]]) -> bool:
    if unique := UNIQUE_INDEX.match(statement):
        return unique[1] in new_tables
    if filled := FILLED.match(statement):
        return filled[1] in new_tables or (filled[1], filled[2]) in new_columns | {GRANTED}
    if NEW_COLUMN.match(statement):
        is_one = not SECOND_CLAUSE.search(statement)
        return is_one and ("NOT NULL" not in statement or "DEFAULT" in statement)
    return statement.startswith(("CREATE TABLE ", "CREATE INDEX ", "INSERT INTO "))


def test_migrations_of_released_versions_take_nothing_away() -> None:
    taken = {path.name: takes_away(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.sql"))}

    assert {name: found for name, found in taken.items() if int(name[:4]) > BEFORE_THE_FIRST_RELEASE and found} == {}
    assert taken["0003_worker.sql"] != []  # made a table anew, and shows that this finds it


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE notes (id TEXT NOT NULL, text TEXT NOT NULL); CREATE UNIQUE INDEX notes_text ON notes (text);",
        "CREATE INDEX tasks_by_day ON tasks (created_at);",
        "ALTER TABLE tasks ADD COLUMN note TEXT;",
        "ALTER TABLE tasks ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;",
        "ALTER TABLE tasks ADD COLUMN day TEXT; UPDATE tasks SET day = substr(created_at, 1, 10);",
        "-- why; not what\nUPDATE users SET scopes_json = '[\"a;b\"]' WHERE role = 'super_admin';",
    ],
)
def test_what_adds_is_let_through(script: str) -> None:
    assert takes_away(script) == []


@pytest.mark.parametrize(
    "script",
    [
        "DROP TABLE tasks;",
        "DROP INDEX tasks_by_day;",
        "DELETE FROM tasks;",
        "ALTER TABLE tasks RENAME TO jobs;",
        "ALTER TABLE tasks RENAME COLUMN reference TO name;",
        "ALTER TABLE tasks DROP COLUMN reference;",
        "ALTER TABLE tasks ADD COLUMN priority INTEGER NOT NULL;",
        "ALTER TABLE tasks ADD CONSTRAINT one CHECK (1 = 1);",
        "CREATE UNIQUE INDEX tasks_reference ON tasks (reference);",
        "CREATE TRIGGER no AFTER INSERT ON tasks BEGIN SELECT 1; END;",
        "/* add */ DROP TABLE tasks;",
        "/* postgres: DROP TABLE tasks; */ CREATE TABLE a (id TEXT);",
        "ALTER TABLE tasks ADD COLUMN n TEXT, DROP COLUMN reference;",
        "UPDATE tasks SET status = 'failed';",
        "ALTER TABLE tasks ADD COLUMN n TEXT; UPDATE tasks SET n = 'a', status = 'failed';",
    ],
)
def test_what_takes_away_is_found(script: str) -> None:
    assert len(takes_away(script)) == 1, takes_away(script)
