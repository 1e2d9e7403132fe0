"""Looking at a database file: nothing changes, whoever else has it open; what is broken in it is found."""

import os
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.db.inspection import InspectedSchema, damage, log_of, open_unchanged, owned_since, owner_of, unless_restored
from app.db.ownership import alone, own, share
from app.errors import AlreadyOwned, Defect
from tests.support.database import connect, driver

TABLES = (
    "CREATE TABLE parents (n INTEGER PRIMARY KEY)",
    "CREATE TABLE children"
    " (n INTEGER PRIMARY KEY, parent INTEGER REFERENCES parents (n), size INTEGER CHECK (size > 0))",
    "CREATE INDEX children_by_size ON children (size)",
    "INSERT INTO parents VALUES (1)",
    "WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 2000)"
    " INSERT INTO children SELECT n, 1, n FROM c",
)


def trace_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of change of every file but the log's index, which every reader writes."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.iterdir())
        if not path.name.endswith("-shm")
    }


def make(path: Path, *statements: str) -> None:
    """Make a database, and do something to it with its rules switched off."""
    with closing(connect(path)) as raw:
        raw.execute("PRAGMA journal_mode = WAL").fetchall()
        for statement in TABLES:
            raw.execute(statement)
        raw.execute("PRAGMA ignore_check_constraints = ON")
        for statement in statements:
            raw.execute(statement)


def crash(path: Path) -> None:
    """Leave a database with a log, as a process that was killed does."""
    living = path.parent / "living"
    living.mkdir()
    with closing(connect(living / path.name)) as raw:
        raw.execute("PRAGMA journal_mode = WAL").fetchall()
        raw.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        for statement in TABLES:
            raw.execute(statement)
        shutil.copy(living / path.name, path)
        shutil.copy(log_of(living / path.name), log_of(path))
    shutil.rmtree(living)


def names_in(folder: Path) -> list[str]:
    """Return what lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def rows_in(raw: Any) -> int:
    """Count the children."""
    return int(raw.execute("SELECT COUNT(*) FROM children").fetchone()[0])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database lies."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder / "a b%20.db"  # a name that is no URI


# No trace ------------------------------------------------------------------------------------------------------------


def test_a_database_that_was_closed_stays_as_it_is_and_nothing_lies_beside_it(path: Path) -> None:
    make(path)
    before = trace_of(path.parent)

    with open_unchanged(path) as raw:
        rows, lines = rows_in(raw), damage(raw, limit=5)

    assert (rows, lines) == (2000, [])
    assert trace_of(path.parent) == before
    assert names_in(path.parent) == [path.name]


def test_the_log_of_a_crashed_process_is_read_and_neither_copied_nor_removed(path: Path) -> None:
    crash(path)
    before = trace_of(path.parent)

    with open_unchanged(path) as raw:
        rows, lines = rows_in(raw), damage(raw, limit=5)

    assert (rows, lines) == (2000, [])
    assert trace_of(path.parent) == before
    assert set(before) == {path.name, f"{path.name}-wal"}


def test_beside_a_writer_the_log_stays_and_the_writer_goes_on(path: Path) -> None:
    with closing(connect(path)) as writer:
        writer.execute("PRAGMA journal_mode = WAL").fetchall()
        writer.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        for statement in TABLES:
            writer.execute(statement)
        size = log_of(path).stat().st_size

        with open_unchanged(path) as raw:
            rows = rows_in(raw)
            writer.execute("INSERT INTO parents VALUES (2)")

        assert rows == 2000
        assert log_of(path).stat().st_size > size
        assert writer.execute("SELECT COUNT(*) FROM parents").fetchone() == (2,)


def test_a_file_that_is_not_there_is_not_made(path: Path) -> None:
    with pytest.raises(driver.OperationalError), open_unchanged(path):
        pass

    assert names_in(path.parent) == []


@pytest.mark.parametrize("statement", ["INSERT INTO parents VALUES (9)", "DROP TABLE children", "VACUUM"])
def test_the_connection_refuses_to_write(path: Path, statement: str) -> None:
    make(path)

    with open_unchanged(path) as raw, pytest.raises(driver.OperationalError, match="readonly"):
        raw.execute(statement)


async def test_the_schema_refuses_to_be_changed(path: Path) -> None:
    make(path)

    with open_unchanged(path) as raw:
        applied = await InspectedSchema(raw).applied()
        with pytest.raises(Defect, match="0001_what was about to be applied"):
            await InspectedSchema(raw).apply("SELECT 1", version=1, name="0001_what", checksum="", applied_at="")

    assert applied == []


# Damage --------------------------------------------------------------------------------------------------------------


def test_a_row_that_breaks_a_rule_is_found(path: Path) -> None:
    make(path, "UPDATE children SET size = -1 WHERE n = 7")

    with open_unchanged(path) as raw:
        lines = damage(raw, limit=5)

    assert lines == ["CHECK constraint failed in children"]


def test_a_row_that_names_one_that_is_gone_is_found(path: Path) -> None:
    make(path, "UPDATE children SET parent = 99 WHERE n = 7")

    with open_unchanged(path) as raw:
        lines = damage(raw, limit=5)

    assert lines == ["a row of children names one of parents that is not there"]


def test_a_page_of_nonsense_is_found_and_no_more_lines_are_told_than_wanted(path: Path) -> None:
    make(path)
    with path.open("r+b") as file:
        file.seek(5 * 4096)
        file.write(b"\xa5" * 4096 * 3)

    with open_unchanged(path) as raw:
        lines = damage(raw, limit=3)

    assert 1 <= len(lines) <= 3


@pytest.mark.parametrize("limit", [1, 4])
def test_a_thousand_faults_are_cut(path: Path, limit: int) -> None:
    make(path, "UPDATE children SET parent = 99")

    with open_unchanged(path) as raw:
        lines = damage(raw, limit=limit)

    assert len(lines) == limit


def test_ctrl_c_ends_a_long_look(path: Path) -> None:
    make(path)

    with open_unchanged(path) as raw:
        raw.set_progress_handler(lambda: True, 1)  # what SQLite is told when Ctrl-C came
        with pytest.raises(KeyboardInterrupt):
            damage(raw, limit=5)


# Who serves ----------------------------------------------------------------------------------------------------------


def test_the_owner_of_a_file_is_told_by_its_pid(path: Path) -> None:
    with own(path):
        held = owner_of(path)
        again = owner_of(path)

    assert held == again == str(os.getpid())
    assert owner_of(path) is None


def test_since_when_a_file_is_held_is_told_by_the_lock(path: Path) -> None:
    before = owned_since(path)
    with own(path):
        pass
    lock = path.with_name(path.name + ".lock")
    os.utime(lock, (0, 1.5))
    earlier = owned_since(path)
    with own(path):
        held = owned_since(path)

    assert before is None
    assert earlier == "1970-01-01T00:00:01.500000Z"
    assert held is not None
    assert held > earlier


def test_asking_who_serves_makes_no_lock_and_keeps_none(path: Path) -> None:
    asked = owner_of(path)

    assert asked is None
    assert names_in(path.parent) == []
    with own(path):
        pass
    owner_of(path)
    with own(path):  # would be refused if the question still held the lock
        pass


def test_while_a_file_is_looked_at_no_restore_begins(path: Path) -> None:
    with share(path):
        pass

    with unless_restored(path) as is_free, pytest.raises(AlreadyOwned), alone(path):
        pass

    assert is_free
    with alone(path):
        pass


def test_while_a_restore_is_under_way_no_file_is_looked_at(path: Path) -> None:
    with alone(path), unless_restored(path) as is_free:
        pass

    assert not is_free


def test_where_nobody_has_been_looking_makes_no_lock(path: Path) -> None:
    with unless_restored(path) as is_free:
        left = names_in(path.parent)

    assert (is_free, left) == (True, [])


def test_who_looks_is_in_nobodys_way_but_a_restores(path: Path) -> None:
    with own(path), share(path):
        pass

    with unless_restored(path), unless_restored(path) as is_free, share(path), own(path):
        pass

    assert is_free
