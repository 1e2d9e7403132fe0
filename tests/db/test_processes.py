"""Real processes on one file: migrating together, being refused, owning it, and letting go when killed (design §4)."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.db.ownership import own
from app.errors import AlreadyOwned
from app.main import SQL
from app.settings_checks import is_temporary
from tests.support.database import connect
from tests.support.processes import ROOT, environment, run_cabinet, service

MIGRATIONS = len({path.name[:4] for path in (SQL / "migrations").glob("*.sql")})


# Migrating -----------------------------------------------------------------------------------------------------------


def applied(path: Path) -> list[int]:
    """Return the versions in a file's ledger."""
    connection = connect(path)
    try:
        return [row[0] for row in connection.execute("SELECT version FROM schema_migrations ORDER BY version")]
    finally:
        connection.close()


def start_migrate(folder: Path) -> subprocess.Popen[str]:
    """Start `cabinet migrate` and do not wait for it."""
    return subprocess.Popen(
        [sys.executable, "-m", "app", "migrate"],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_that_migrate_together_apply_each_migration_once(tmp_path: Path) -> None:
    together = [start_migrate(tmp_path) for _ in range(4)]

    outcomes = [process.communicate(timeout=60) for process in together]

    assert [process.returncode for process in together] == [0] * 4, outcomes
    said = " ".join(out for out, _ in outcomes)
    assert [said.count(name) for name in ("initial", "queue")] == [1, 1]
    assert applied(tmp_path / "cabinet.db") == [*range(1, MIGRATIONS + 1)]


@pytest.fixture
def lasting() -> Iterator[Path]:
    """A folder that prod accepts: under no temporary folder, and its owner's alone."""
    places = (place for place in (ROOT, Path.home(), Path("/var/lib")) if not is_temporary(place))
    folder = Path(tempfile.mkdtemp(dir=next(places), prefix=".cabinet-test-"))
    yield folder
    shutil.rmtree(folder)


def test_prod_checks_refuses_migrates_and_serves(lasting: Path) -> None:
    prod = {"APP_ENV": "prod", "PIPELINE": "tests.support.pipelines:quiet"}

    refused = run_cabinet(lasting, "serve", **prod)
    behind = run_cabinet(lasting, "migrate", "--check", **prod)
    untouched = tables(lasting / "cabinet.db")
    migrated = run_cabinet(lasting, "migrate", **prod)
    checked = run_cabinet(lasting, "migrate", "--check", **prod)

    for outcome in (refused, behind):
        (sentence,) = [line for line in outcome.stderr.splitlines() if line.startswith("cabinet: ")]
        assert outcome.returncode == 4, outcome.stderr
        assert "The database is behind this version" in sentence
        assert "Traceback" not in outcome.stderr
    assert untouched == set()
    assert (migrated.returncode, checked.returncode) == (0, 0), migrated.stderr + checked.stderr


async def test_prod_applies_migrations_when_it_is_told_to(lasting: Path) -> None:
    async with service(lasting, APP_ENV="prod", RUN_MIGRATIONS="1") as running:
        names = [line["name"] for line in running.events("migration_applied")]
        assert await running.terminate() == 0

    assert names[:2] == ["initial", "queue"]
    assert applied(lasting / "cabinet.db") == [*range(1, MIGRATIONS + 1)]


def test_a_changed_and_a_newer_database_are_refused_with_one_sentence(tmp_path: Path) -> None:
    assert run_cabinet(tmp_path, "migrate").returncode == 0
    connection = connect(tmp_path / "cabinet.db")

    connection.execute("INSERT INTO schema_migrations VALUES (999, 'later', 'x', 'y')")
    newer = run_cabinet(tmp_path, "migrate")
    connection.execute("DELETE FROM schema_migrations WHERE version = 999")
    connection.execute("UPDATE schema_migrations SET checksum = 'another' WHERE version = 1")
    changed = run_cabinet(tmp_path, "migrate", "--check")
    connection.close()

    assert (newer.returncode, changed.returncode) == (4, 4)
    assert newer.stderr.startswith("cabinet: The database is ahead of this version: it holds migration 0999_later")
    assert changed.stderr.startswith("cabinet: Migration 0001_initial was applied from a file that has changed since")


def test_a_file_that_is_no_database_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "cabinet.db").write_bytes(b"This is a letter, not a database. " * 1_000)
    processes = [start_migrate(tmp_path) for _ in range(8)]

    said = [process.communicate(timeout=60)[1].splitlines() for process in processes]

    assert {process.returncode for process in processes} == {1}
    assert [len(lines) for lines in said] == [1] * 8, said


def tables(path: Path) -> set[str]:
    """Return the tables of a file; none if there is no file."""
    if not path.exists():
        return set()
    connection = connect(path)
    try:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        connection.close()


# Owning --------------------------------------------------------------------------------------------------------------


def test_a_second_owner_is_refused_and_pointed_to_postgresql(tmp_path: Path) -> None:
    path = tmp_path / "cabinet.db"

    with (
        own(path),
        pytest.raises(AlreadyOwned, match=rf"cabinet\.db is served by .*pid {os.getpid()}.*PostgreSQL"),
        own(path),
    ):
        pass


def test_an_owner_that_lets_go_makes_room_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "cabinet.db"
    with pytest.raises(ValueError, match="ended badly"), own(path):
        raise ValueError("ended badly")

    with own(path):
        pass


def test_the_lock_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with own(tmp_path / "cabinet.db"):
            mode = (tmp_path / "cabinet.db.lock").stat().st_mode & 0o777
    finally:
        os.umask(before)

    assert mode == 0o600


def test_different_files_have_different_owners(tmp_path: Path) -> None:
    with own(tmp_path / "one.db"), own(tmp_path / "two.db"):
        pass


def test_a_file_has_one_owner_whatever_path_leads_to_it(tmp_path: Path) -> None:
    path, link = tmp_path / "cabinet.db", tmp_path / "link" / "other.db"
    link.parent.mkdir()
    path.touch()
    link.symlink_to(path)

    with own(path), pytest.raises(AlreadyOwned), own(link):
        pass


async def test_a_serving_process_keeps_a_second_out_and_lets_administration_in(tmp_path: Path) -> None:
    async with service(tmp_path) as running:
        second = run_cabinet(tmp_path, "serve")
        beside = run_cabinet(tmp_path, "admin", "users", "add", "alice@example.com")
        async with running.client() as client:
            still = await client.get("/ready")
        await running.kill()

    assert second.returncode == 1
    assert f"pid {running.process.pid}" in second.stderr
    assert "PostgreSQL" in second.stderr
    assert "Traceback" not in second.stderr
    assert beside.returncode == 0, beside.stderr
    assert still.status_code == 200
    async with service(tmp_path) as next_one:
        assert await next_one.terminate() == 0
    assert subjects(tmp_path / "cabinet.db") == ["alice@example.com"]


def subjects(path: Path) -> list[str]:
    """Return the subjects of a file's users."""
    connection: sqlite3.Connection = connect(path)
    try:
        return [row[0] for row in connection.execute("SELECT subject FROM users")]
    finally:
        connection.close()
