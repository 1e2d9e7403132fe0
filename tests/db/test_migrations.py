"""Migrations: read in order, applied once each in one transaction, or verified; what does not fit is refused (§4)."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from app.db.migrations import MigrationsRunner, load_migrations
from app.db.sqlite import SqliteConnectionFactory, split_statements
from app.errors import MigrationFailed, SchemaMismatch
from app.main import SQL
from tests.support.clocks import HandClock
from tests.support.database import connect

FIRST = {"0001_first.sql": "CREATE TABLE a (n INTEGER);", "0002_second.sql": "CREATE TABLE b (n INTEGER);"}


def write_files(folder: Path, files: dict[str, str]) -> Path:
    """Make a folder of migrations."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def runner(folder: Path) -> MigrationsRunner:
    """Return what applies the migrations of a folder."""
    return MigrationsRunner(load_migrations(folder, engine="sqlite"), clock=HandClock())


async def apply(folder: Path, path: Path) -> list[str]:
    """Apply the migrations of a folder to a file."""
    async with SqliteConnectionFactory(path).schema_target() as target:
        return await runner(folder).apply(target)


async def verify(folder: Path, path: Path) -> None:
    """Verify a file against the migrations of a folder."""
    async with SqliteConnectionFactory(path).schema_target() as target:
        await runner(folder).verify(target)


def tables(path: Path) -> set[str]:
    """Return the tables of a file."""
    connection = connect(path)
    try:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        connection.close()


def ledger(path: Path) -> list[Any]:
    """Return the rows of a file's ledger."""
    connection = connect(path)
    try:
        return connection.execute("SELECT * FROM schema_migrations ORDER BY version").fetchall()
    finally:
        connection.close()


# Applying ------------------------------------------------------------------------------------------------------------


async def test_migrations_are_applied_in_order_and_written_down(tmp_path: Path) -> None:
    folder, path = write_files(tmp_path / "sql", FIRST), tmp_path / "cabinet.db"

    applied = await apply(folder, path)

    assert applied == ["first", "second"]
    assert tables(path) == {"a", "b", "schema_migrations"}
    assert [(row[0], row[1], row[3]) for row in ledger(path)] == [
        (1, "first", HandClock().now()),
        (2, "second", HandClock().now()),
    ]
    assert all(len(row[2]) == 64 for row in ledger(path))


async def test_the_second_time_there_is_nothing_to_do(tmp_path: Path) -> None:
    folder, path = write_files(tmp_path / "sql", FIRST), tmp_path / "cabinet.db"
    await apply(folder, path)
    before = ledger(path)

    assert await apply(folder, path) == []
    assert ledger(path) == before
    await verify(folder, path)


async def test_only_what_is_new_is_applied(tmp_path: Path) -> None:
    folder, path = write_files(tmp_path / "sql", FIRST), tmp_path / "cabinet.db"
    await apply(folder, path)
    write_files(folder, {"0003_third.sql": "INSERT INTO a VALUES (3);"})

    assert await apply(folder, path) == ["third"]


async def test_several_at_once_apply_each_migration_once(tmp_path: Path) -> None:
    files = {f"{number:04}_n.sql": f"CREATE TABLE t{number} (n INTEGER);" for number in range(1, 8)}
    folder, path = write_files(tmp_path / "sql", files), tmp_path / "cabinet.db"

    applied = await asyncio.gather(*(apply(folder, path) for _ in range(5)))

    assert sum(map(len, applied)) == 7
    assert len(ledger(path)) == 7


async def test_our_own_migrations_apply_and_verify(tmp_path: Path) -> None:
    path = tmp_path / "cabinet.db"

    applied = await apply(SQL / "migrations", path)
    await verify(SQL / "migrations", path)

    assert applied[:2] == ["initial", "queue"]


# Refusing ------------------------------------------------------------------------------------------------------------


async def test_a_file_that_has_changed_since_is_refused(tmp_path: Path) -> None:
    folder, path = write_files(tmp_path / "sql", FIRST), tmp_path / "cabinet.db"
    await apply(folder, path)
    write_files(folder, {"0001_first.sql": FIRST["0001_first.sql"] + " -- a word more"})

    for do in (apply, verify):
        with pytest.raises(SchemaMismatch, match="0001_first was applied from a file that has changed since"):
            await do(folder, path)


async def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    folder, path = write_files(tmp_path / "sql", FIRST), tmp_path / "cabinet.db"
    await apply(folder, path)
    (folder / "0002_second.sql").unlink()

    for do in (apply, verify):
        with pytest.raises(SchemaMismatch, match="ahead of this version: it holds migration 0002_second"):
            await do(folder, path)


async def test_a_database_that_is_behind_does_not_verify_and_is_not_changed(tmp_path: Path) -> None:
    folder, path = write_files(tmp_path / "sql", FIRST), tmp_path / "cabinet.db"

    with pytest.raises(SchemaMismatch, match=r"0001_first, 0002_second.*cabinet migrate.*RUN_MIGRATIONS=1"):
        await verify(folder, path)

    assert tables(path) == set()


@pytest.mark.parametrize(
    "broken",
    [
        "CREATE TABLE c (n INTEGER); INSERT INTO c VALUES (1); CREATE TABLE a (n INTEGER);",
        "CREATE TABLE c (n INTEGER); INSERT INTO nowhere VALUES (1);",
        "CREATE TABLE c (n INTEGER); this is no SQL;",
    ],
    ids=["there already", "not there", "no SQL"],
)
async def test_a_file_that_fails_half_way_leaves_no_trace(tmp_path: Path, broken: str) -> None:
    folder, path = write_files(tmp_path / "sql", FIRST), tmp_path / "cabinet.db"
    await apply(folder, path)
    before = ledger(path)
    write_files(folder, {"0003_broken.sql": broken, "0004_never.sql": "CREATE TABLE d (n INTEGER);"})

    with pytest.raises(MigrationFailed, match="0003_broken could not be applied and left no trace"):
        await apply(folder, path)

    assert tables(path) == {"a", "b", "schema_migrations"}
    assert ledger(path) == before


@pytest.mark.parametrize("verb", ["COMMIT", "END", "ROLLBACK"])
async def test_a_file_that_ends_the_transaction_itself_is_refused_and_leaves_no_trace(
    tmp_path: Path, verb: str
) -> None:
    script = f"CREATE TABLE c (n INTEGER); {verb}; CREATE TABLE d (n INTEGER);"
    folder, path = write_files(tmp_path / "sql", {"0001_broken.sql": script}), tmp_path / "cabinet.db"

    with pytest.raises(MigrationFailed):
        await apply(folder, path)

    assert tables(path) <= {"schema_migrations"}


async def test_the_migrations_before_a_broken_one_stay_applied(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "sql", FIRST | {"0003_broken.sql": "no SQL;"})
    path = tmp_path / "cabinet.db"

    with pytest.raises(MigrationFailed):
        await apply(folder, path)

    assert [row[0] for row in ledger(path)] == [1, 2]


async def test_a_migration_that_breaks_a_foreign_key_is_refused(tmp_path: Path) -> None:
    script = (
        "CREATE TABLE a (n INTEGER PRIMARY KEY); CREATE TABLE b (n INTEGER REFERENCES a (n)); INSERT INTO b VALUES (1);"
    )
    folder, path = write_files(tmp_path / "sql", {"0001_first.sql": script}), tmp_path / "cabinet.db"

    with pytest.raises(MigrationFailed, match="FOREIGN KEY"):
        await apply(folder, path)


# Reading -------------------------------------------------------------------------------------------------------------


def test_each_engine_reads_its_own_files_and_the_common_ones(tmp_path: Path) -> None:
    folder = write_files(
        tmp_path,
        {
            "0001_first.sql": "CREATE TABLE a (n INTEGER) /* sqlite: STRICT */;",
            "0002_second.sqlite.sql": "SELECT 'sqlite';",
            "0002_second.postgres.sql": "SELECT 'postgres';",
            "notes.txt": "not SQL",
        },
    )

    sqlite, postgres = (load_migrations(folder, engine=engine) for engine in ("sqlite", "postgres"))

    assert [migration.script for migration in sqlite] == ["CREATE TABLE a (n INTEGER)  STRICT ;", "SELECT 'sqlite';"]
    assert postgres[1].script == "SELECT 'postgres';"
    assert sqlite[0].checksum == postgres[0].checksum
    assert [(migration.version, migration.name) for migration in sqlite] == [(1, "first"), (2, "second")]


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (["0001_a.sql", "0003_c.sql"], "without a gap"),
        (["0002_b.sql"], "without a gap"),
        (["0000_a.sql", "0001_b.sql"], "without a gap"),
        ([], "without a gap"),
        (["0001_a.sql", "0001_b.sql"], "version 1 is there twice"),
        (["0001_a.sql", "0001_a.sqlite.sql"], "version 1 is there twice"),
        (["1_a.sql"], "NNNN_what"),
        (["0001-a.sql"], "NNNN_what"),
        (["0001_A.sql"], "NNNN_what"),
        (["0001_a.mysql.sql"], "NNNN_what"),
        (["initial.sql"], "NNNN_what"),
    ],
)
def test_files_that_do_not_count_are_refused(tmp_path: Path, files: list[str], why: str) -> None:
    folder = write_files(tmp_path, dict.fromkeys(files, "SELECT 1;"))

    with pytest.raises(MigrationFailed, match=why):
        load_migrations(folder, engine="sqlite")


# Statements ----------------------------------------------------------------------------------------------------------

TRIGGER = """CREATE TRIGGER t AFTER INSERT ON a BEGIN
    INSERT INTO b VALUES (new.n);
    UPDATE b SET n = CASE WHEN n = 1 THEN 2 ELSE 3 END;
END;"""


@pytest.mark.parametrize(
    ("script", "statements"),
    [
        ("SELECT 1; SELECT 2;", ["SELECT 1;", "SELECT 2;"]),
        ("SELECT 1; SELECT 2", ["SELECT 1;", "SELECT 2;"]),
        ("SELECT 'a;b'; SELECT 'it''s; so';", ["SELECT 'a;b';", "SELECT 'it''s; so';"]),
        ('CREATE TABLE "odd;name" (n); SELECT 1;', ['CREATE TABLE "odd;name" (n);', "SELECT 1;"]),
        ("-- one; comment\nSELECT 1; /* two; */ SELECT 2;", ["-- one; comment\nSELECT 1;", "/* two; */ SELECT 2;"]),
        (f"{TRIGGER}\nSELECT 1;", [TRIGGER, "SELECT 1;"]),
        ("", []),
        ("  \n;\n", []),
    ],
)
def test_a_script_is_split_where_statements_end(script: str, statements: list[str]) -> None:
    found = [statement for statement in split_statements(script) if statement.strip(" ;\n")]

    assert found == statements


async def test_a_comment_after_the_last_statement_is_no_fault(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "sql", {"0001_first.sql": "CREATE TABLE a (n INTEGER);\n-- the end\n"})

    assert await apply(folder, tmp_path / "cabinet.db") == ["first"]


async def test_a_trigger_in_a_migration_works(tmp_path: Path) -> None:
    script = f"CREATE TABLE a (n INTEGER); CREATE TABLE b (n INTEGER); {TRIGGER} INSERT INTO a VALUES (1);"
    folder, path = write_files(tmp_path / "sql", {"0001_first.sql": script}), tmp_path / "cabinet.db"

    await apply(folder, path)

    connection = connect(path)
    assert connection.execute("SELECT n FROM b").fetchall() == [(2,)]
    connection.close()
