"""Migrations only add: the version before goes on working on the newer schema while it is being replaced."""

import re
from collections.abc import Collection, Iterator
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
APPEND_ONLY_FUNCTION = re.compile(
    r"CREATE FUNCTION (\w+)\(\) RETURNS trigger LANGUAGE plpgsql"
    r" AS \$\$ BEGIN RAISE EXCEPTION '[^']*', TG_TABLE_NAME; END \$\$"
)
APPEND_ONLY_TRIGGER = {
    "sqlite": re.compile(
        r"CREATE TRIGGER \w+ BEFORE (?:INSERT|UPDATE|DELETE) ON (\w+)"
        r"(?: WHEN EXISTS \([^()]*\))? BEGIN SELECT RAISE\(ABORT, '[^']*'\); END"
    ),
    "postgres": re.compile(r"CREATE TRIGGER \w+ BEFORE [A-Z ]+ ON (\w+) FOR EACH STATEMENT EXECUTE FUNCTION (\w+)\(\)"),
}
"""A trigger may do one thing: refuse what would change a row of a table that came with it."""

PIECE = re.compile(r"\$\$.*?\$\$|'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/|;|[^$'\-/;]+|.", re.DOTALL)
UNIQUE_INDEX = re.compile(r"CREATE UNIQUE INDEX \w+ ON (\w+)")
FILLED = re.compile(r"UPDATE (\w+) SET (\w+) = (?:(?!, *\w+ =).)*$")

GRANTED = ("users", "scopes_json")
"""A migration that introduces a scope grants it to the super_admins (design §4)."""


def takes_away(script: str, *, engines: Collection[str] = ("sqlite", "postgres")) -> list[str]:
    """Return the statements of a migration, on these engines, that the version before might not survive."""
    found: dict[str, None] = {}
    for engine in engines:
        opened = open_dialect_marks(script, engine=engine)
        split = split_statements(opened) if engine == "sqlite" else split_for_postgres(opened)
        statements = [" ".join(COMMENT.sub(" ", statement).split()).rstrip(";") for statement in split]
        new = New(statements)
        found |= {each: None for each in statements if each and not _only_adds(each, new, engine)}
    return list(found)


def split_for_postgres(script: str) -> Iterator[str]:
    """Split a script where PostgreSQL does: not inside `$$` bodies, which SQLite does not know."""
    statement = ""
    for piece in PIECE.findall(script):
        if piece == ";":
            yield statement
            statement = ""
        else:
            statement += piece
    yield statement


class New:
    """What a migration makes."""

    def __init__(self, statements: list[str]) -> None:
        self.tables = {new[1] for each in statements if (new := NEW_TABLE.match(each))}
        self.columns = {(new[1], new[2]) for each in statements if (new := NEW_COLUMN.match(each))}
        self.functions = {new[1] for each in statements if (new := APPEND_ONLY_FUNCTION.fullmatch(each))}


def _only_adds(statement: str, new: New, engine: str) -> bool:
    if trigger := APPEND_ONLY_TRIGGER[engine].fullmatch(statement):
        return trigger[1] in new.tables and set(trigger.groups()[1:]) <= new.functions
    if engine == "postgres" and APPEND_ONLY_FUNCTION.fullmatch(statement):
        return True
    if unique := UNIQUE_INDEX.match(statement):
        return unique[1] in new.tables
    if filled := FILLED.match(statement):
        return filled[1] in new.tables or (filled[1], filled[2]) in new.columns | {GRANTED}
    if NEW_COLUMN.match(statement):
        is_one = not SECOND_CLAUSE.search(statement)
        return is_one and ("NOT NULL" not in statement or "DEFAULT" in statement)
    return statement.startswith(("CREATE TABLE ", "CREATE INDEX ", "INSERT INTO "))


def engines_of(path: Path) -> tuple[str, ...]:
    """Return the engines that run a file."""
    named = path.name.split(".")[1:-1]
    return (named[0],) if named else ("sqlite", "postgres")


def test_migrations_of_released_versions_take_nothing_away() -> None:
    taken = {
        path.name: takes_away(path.read_text(encoding="utf-8"), engines=engines_of(path))
        for path in sorted(FOLDER.glob("*.sql"))
    }

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
        "/* add */ DROP TABLE tasks;",
        "/* postgres: DROP TABLE tasks; */ CREATE TABLE a (id TEXT);",
        "ALTER TABLE tasks ADD COLUMN n TEXT, DROP COLUMN reference;",
        "UPDATE tasks SET status = 'failed';",
        "ALTER TABLE tasks ADD COLUMN n TEXT; UPDATE tasks SET n = 'a', status = 'failed';",
    ],
)
def test_what_takes_away_is_found(script: str) -> None:
    assert len(takes_away(script)) == 1, takes_away(script)


MADE = "CREATE TABLE notes (id TEXT NOT NULL);\n"
REFUSING = "BEGIN SELECT RAISE(ABORT, 'no; never'); END;"
FUNCTION = (
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$\nBEGIN\n  RAISE EXCEPTION 'no; % never',"
    " TG_TABLE_NAME;\nEND\n$$;\n"
)
CALLING = "FOR EACH STATEMENT EXECUTE FUNCTION refuse();"


@pytest.mark.parametrize(
    ("engine", "script"),
    [
        ("sqlite", f"{MADE} CREATE TRIGGER t BEFORE UPDATE ON notes {REFUSING}"),
        ("sqlite", f"{MADE} CREATE TRIGGER t BEFORE INSERT ON notes WHEN EXISTS (SELECT 1 FROM notes) {REFUSING}"),
        ("postgres", f"{FUNCTION}{MADE} CREATE TRIGGER t BEFORE UPDATE OR DELETE OR TRUNCATE ON notes {CALLING}"),
    ],
)
def test_a_new_table_may_come_with_triggers_that_refuse(engine: str, script: str) -> None:
    assert takes_away(script, engines=[engine]) == []


@pytest.mark.parametrize(
    ("engine", "script"),
    [
        ("sqlite", "CREATE TRIGGER no AFTER INSERT ON tasks BEGIN SELECT 1; END;"),
        ("sqlite", f"CREATE TRIGGER t BEFORE UPDATE ON tasks {REFUSING}"),
        ("sqlite", f"{MADE} CREATE TRIGGER t BEFORE UPDATE ON tasks {REFUSING}"),
        ("sqlite", f"{MADE} CREATE TRIGGER t BEFORE UPDATE ON notes BEGIN DELETE FROM tasks; END;"),
        ("sqlite", f"{MADE} CREATE TRIGGER t BEFORE UPDATE ON notes BEGIN DELETE FROM tasks; {REFUSING[6:]}"),
        ("sqlite", f"{MADE} CREATE TRIGGER t BEFORE UPDATE ON notes BEGIN SELECT RAISE(ROLLBACK, 'no'); END;"),
        ("postgres", f"{FUNCTION} CREATE TRIGGER t BEFORE UPDATE ON tasks {CALLING}"),
        ("postgres", f"{MADE} CREATE TRIGGER t BEFORE UPDATE ON notes {CALLING}"),
        ("postgres", FUNCTION.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")),
        ("postgres", FUNCTION.replace("BEGIN", "BEGIN DELETE FROM tasks;")),
        ("postgres", FUNCTION.replace("RETURNS trigger", "RETURNS void")),
        ("postgres", f"{FUNCTION} DROP TABLE tasks;"),
    ],
)
def test_no_other_trigger_and_no_other_function_may_come(engine: str, script: str) -> None:
    assert len(takes_away(script, engines=[engine])) == 1, takes_away(script, engines=[engine])
