"""The loader of named SQL: what it reads, and every way out of the portable subset that it closes (design §4)."""

import ast
from pathlib import Path

import pytest

from app.db.queries import load_queries, open_dialect_marks, parse_query
from app.errors import BadQueries
from app.main import SQL

ENGINES = ("sqlite", "postgres")


def write_file(folder: Path, text: str, name: str = "things.sql") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder


# Reading -------------------------------------------------------------------------------------------------------------


def test_a_file_of_blocks_becomes_queries_by_file_and_verb(tmp_path: Path) -> None:
    folder = write_file(
        tmp_path,
        """-- All about things.
-- name: by_id
-- Why it is so.
SELECT id
FROM things
WHERE id = :id

-- name: add
INSERT INTO things (id, note) VALUES (:id, :note) RETURNING id
""",
    )

    queries = load_queries(folder, engine="sqlite")

    assert set(queries) == {"things.by_id", "things.add"}
    assert queries["things.by_id"].text == "SELECT id FROM things WHERE id = :id"
    assert queries["things.add"].parameters == {"id", "note"}
    assert [queries[name].writes for name in ("things.by_id", "things.add")] == [False, True]


def test_a_parameter_that_is_named_twice_is_one() -> None:
    query = parse_query("things.between", "SELECT :a, :b, :a", engine="sqlite")

    assert query.parameters == {"a", "b"}


def test_a_colon_in_a_comment_names_no_parameter() -> None:
    query = parse_query("things.all", "SELECT 1 -- see :this\n/* and :that */", engine="sqlite")

    assert query.parameters == frozenset()


@pytest.mark.parametrize(
    ("text", "writes"),
    [
        ("SELECT 1", False),
        ("SELECT id FROM things FOR UPDATE", False),
        ("SELECT updated_at, deleted FROM inserts", False),
        ("SELECT 'INSERT INTO things'", False),
        ("INSERT INTO things (id) VALUES (:id) RETURNING id", True),
        ("UPDATE things SET id = :id RETURNING id", True),
        ("DELETE FROM things WHERE id = :id RETURNING id", True),
        ("WITH due AS (SELECT 1) UPDATE things SET id = 1 FROM due RETURNING id", True),
    ],
)
def test_the_loader_knows_what_writes(text: str, writes: bool) -> None:
    assert parse_query("things.do", text, engine="sqlite").writes is writes


@pytest.mark.parametrize(
    "text",
    [
        "insert into things (id) values (:id)",
        "Update things SET id = :id",
        "delete FROM things",
    ],
)
def test_a_write_in_small_letters_is_a_write_too(text: str) -> None:
    with pytest.raises(BadQueries, match="RETURNING"):
        parse_query("things.do", text, engine="sqlite")


def test_each_engine_opens_its_own_marks_and_no_others() -> None:
    text = "SELECT id FROM things /* postgres: FOR UPDATE */ /* sqlite: LIMIT 1 */ /* a comment */"

    opened = [parse_query("things.one", text, engine=engine).text for engine in ENGINES]

    assert opened == ["SELECT id FROM things LIMIT 1", "SELECT id FROM things FOR UPDATE"]


def test_a_mark_may_hold_parameters_and_lines() -> None:
    text = "SELECT 1 /* sqlite:\n+ :more\n*/"

    assert parse_query("things.one", text, engine="sqlite").parameters == {"more"}
    assert parse_query("things.one", text, engine="postgres").parameters == frozenset()


def test_marks_are_opened_in_scripts_too() -> None:
    assert open_dialect_marks("CREATE TABLE t (n) /* sqlite: STRICT */;", engine="sqlite").split() == [
        "CREATE", "TABLE", "t", "(n)", "STRICT", ";",
    ]  # fmt: skip


# What is refused -----------------------------------------------------------------------------------------------------

FORBIDDEN = [
    ("BEGIN", "belongs to the store"),
    ("COMMIT", "belongs to the store"),
    ("ROLLBACK", "belongs to the store"),
    ("rollback", "belongs to the store"),
    ("SAVEPOINT a", "belongs to the store"),
    ("RELEASE a", "belongs to the store"),
    ("PRAGMA synchronous = OFF", "belongs to the store"),
    ("ATTACH 'other.db' AS other", "belongs to the store"),
    ("DETACH other", "belongs to the store"),
    ("VACUUM INTO 'copy.db'", "belongs to the store"),
    ("INSERT OR ROLLBACK INTO things (id) VALUES (1) RETURNING id", "belongs to the store"),
    ("INSERT OR REPLACE INTO things (id) VALUES (1) RETURNING id", "REPLACE"),
    ("REPLACE INTO things (id) VALUES (1) RETURNING id", "REPLACE"),
    ("SELECT :id::text", "::"),
    ("SELECT 7 % 2", "%"),
    ("SELECT id FROM things WHERE id = ?", "parameters have names"),
    ("SELECT 1; SELECT 2", "one statement"),
    ("SELECT 1;", "one statement"),
    ("SELECT id FROM things WHERE note = 'a:b'", "colon in a literal"),
    ("INSERT INTO things (id) VALUES (:id)", "does not say RETURNING"),
    ("UPDATE things SET id = :id", "does not say RETURNING"),
    ("DELETE FROM things", "does not say RETURNING"),
    ("DELETE FROM things -- RETURNING id", "does not say RETURNING"),
    ("UPDATE things SET note = 'RETURNING'", "does not say RETURNING"),
]


@pytest.mark.parametrize(("text", "why"), FORBIDDEN)
@pytest.mark.parametrize("engine", ENGINES)
def test_what_leaves_the_portable_subset_is_refused_by_name(engine: str, text: str, why: str) -> None:
    with pytest.raises(BadQueries, match=rf"^things\.do .*{why}"):
        parse_query("things.do", text, engine=engine)


@pytest.mark.parametrize("text", ["SELECT 'it''s 100% done; isn''t it?'", "SELECT REPLACE(note, 'a', 'b') FROM things"])
def test_what_only_looks_forbidden_is_let_through(text: str) -> None:
    assert parse_query("things.do", text, engine="sqlite").text == text


@pytest.mark.parametrize("text", ["END", "END TRANSACTION", "ABORT", "START TRANSACTION"])
def test_a_transaction_verb_by_its_other_name_is_refused(text: str) -> None:
    with pytest.raises(BadQueries):
        parse_query("things.do", text, engine="sqlite")


@pytest.mark.parametrize(
    "text", ["DROP TABLE things", "CREATE TABLE things (id TEXT)", "ALTER TABLE things ADD a TEXT"]
)
def test_a_change_of_the_schema_is_no_querys_business(text: str) -> None:
    with pytest.raises(BadQueries):
        parse_query("things.do", text, engine="sqlite")


def test_a_case_may_end() -> None:
    assert not parse_query("things.do", "SELECT CASE WHEN :id = 1 THEN 1 ELSE 0 END", engine="sqlite").writes


def test_a_literal_stays_as_it_was_written() -> None:
    text = "SELECT 'two  spaces', 'a -- b'"

    assert parse_query("things.do", text, engine="sqlite").text == text


def test_what_hides_in_a_mark_is_refused_where_it_is_opened() -> None:
    with pytest.raises(BadQueries):
        parse_query("things.do", "SELECT 1 /* sqlite: ; ROLLBACK */", engine="sqlite")


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    folder = write_file(tmp_path, "-- name: a\nSELECT 1\n-- name: a\nSELECT 2\n")

    with pytest.raises(BadQueries, match=r"things\.a is there twice"):
        load_queries(folder, engine="sqlite")


def test_sql_before_the_first_name_is_refused(tmp_path: Path) -> None:
    folder = write_file(tmp_path, "SELECT 1\n-- name: a\nSELECT 2\n")

    with pytest.raises(BadQueries, match=r"things\.sql"):
        load_queries(folder, engine="sqlite")


def test_a_folder_without_queries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadQueries, match="no queries"):
        load_queries(tmp_path, engine="sqlite")


# Ours ----------------------------------------------------------------------------------------------------------------


def names_in_repositories() -> set[str]:
    """Return every text in app/repositories that has the form of a query's name."""
    found: set[str] = set()
    for path in (SQL.parent / "app" / "repositories").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                stem, dot, verb = node.value.partition(".")
                if dot and stem.replace("_", "a").isalpha() and verb.replace("_", "a").isalpha():
                    found.add(node.value)
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_the_repositories_use_exactly_the_queries_that_there_are(engine: str) -> None:
    assert names_in_repositories() == set(load_queries(SQL / "queries", engine=engine))


def test_both_engines_have_the_same_queries_with_the_same_parameters() -> None:
    sqlite, postgres = (load_queries(SQL / "queries", engine=engine) for engine in ENGINES)

    assert {name: (query.parameters, query.writes) for name, query in sqlite.items()} == {
        name: (query.parameters, query.writes) for name, query in postgres.items()
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_no_query_leaves_a_mark_or_a_star(engine: str) -> None:
    for name, query in load_queries(SQL / "queries", engine=engine).items():
        assert "/*" not in query.text, name
        assert "SELECT *" not in query.text, name
        assert "RETURNING *" not in query.text, name
