"""Backup and restore on the command line: what is printed to which stream, and the exit codes; in this process."""

import errno
import hashlib
import os
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.db.ownership import own, restoring
from tests.support.database import connect
from tests.unit.conftest import Run


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A folder for backups."""
    folder = tmp_path / "backups"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def backup(run: Run, target: Path) -> Path:
    """A backup of a database that has the user alice; bob has come since."""
    run("admin", "users", "add", "alice")
    printed = run("admin", "backup", "backups").stdout
    run("admin", "users", "add", "bob")
    return Path(printed.split("  ")[0])


def subjects(run: Run, **changes: str) -> list[str]:
    """Return who is a user, the newest first."""
    return [line.split()[3] for line in run("admin", "users", "list", **changes).stdout.splitlines()]


def change(path: Path, sql: str) -> None:
    """Change a file past the commands, and forget its checksum."""
    path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)
    with closing(connect(path)) as connection:
        connection.execute(sql)


# Backup --------------------------------------------------------------------------------------------------------------


def test_a_backup_prints_one_line_with_path_size_time_and_checksum(run: Run, target: Path) -> None:
    run("migrate")

    result = run("admin", "backup", "backups", "--keep", "3")

    assert result.exit_code == 0
    (path,) = target.glob("*.db")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    pattern = rf"{path}  {path.stat().st_size} bytes  \d+\.\d\d seconds  sha256 {sha256}\n"
    assert re.fullmatch(pattern, result.stdout)
    assert result.stderr == ""


def test_a_backup_is_taken_of_a_database_that_is_behind_this_version(run: Run, target: Path, tmp_path: Path) -> None:
    run("migrate")
    change(tmp_path / "cabinet.db", "DELETE FROM schema_migrations WHERE version > 2")

    result = run("admin", "backup", "backups", APP_ENV="test")

    assert result.exit_code == 0
    with closing(connect(*target.glob("*.db"))) as connection:
        assert connection.execute("SELECT MAX(version) FROM schema_migrations").fetchone() == (2,)


@pytest.mark.parametrize("keep", ["0", "-1", "some", "10001"])
def test_a_number_to_keep_that_makes_no_sense_is_wrong_use(run: Run, target: Path, keep: str) -> None:
    result = run("admin", "backup", "backups", "--keep", keep)

    assert result.exit_code == 2
    assert "--keep" in result.stderr


def test_without_a_database_a_backup_makes_none(run: Run, target: Path, tmp_path: Path) -> None:
    result = run("admin", "backup", "backups")

    assert result.exit_code == 1
    assert result.stderr == f"cabinet: There is no database at {tmp_path}/cabinet.db; set DB_PATH to where it lies.\n"
    assert list(tmp_path.glob("cabinet.db*")) == []


def test_a_target_that_is_no_folder_is_told_with_the_command_that_makes_one(run: Run) -> None:
    run("migrate")

    result = run("admin", "backup", "no such place")

    assert result.exit_code == 1
    told = "cabinet: no such place is not a folder; make it with: mkdir -p -m 700 'no such place'"
    assert result.stderr.splitlines()[-1] == told


def test_a_backup_beside_others_that_lie_in_the_future_warns_of_the_clock(run: Run, target: Path) -> None:
    run("migrate")
    (target / "cabinet-99991231T000000.000000Z.db").touch()

    result = run("admin", "backup", "backups", "--keep", "2")

    assert result.exit_code == 0
    told = "1 backup there with a time that lies ahead, such as cabinet-99991231T000000.000000Z.db"
    assert result.stderr.startswith(told)


@pytest.mark.parametrize("name", ["x" * 300, "loop"], ids=["too long", "loop"])
@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_name_that_leads_nowhere_is_one_sentence(run: Run, tmp_path: Path, command: str, name: str) -> None:
    run("migrate")
    (tmp_path / "loop").symlink_to("loop")

    result = run("admin", command, name)

    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("cabinet: ")
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_place_that_may_not_be_looked_into_is_one_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    run("migrate")
    look = os.stat

    def refuse(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("private/place"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path, **options)

    monkeypatch.setattr(os, "stat", refuse)
    result = run("admin", command, "private/place")

    assert result.exit_code == 1
    assert re.match(r"cabinet: \S*private/place: Permission denied\.", result.stderr.splitlines()[-1])


def test_a_name_that_is_no_text_is_one_sentence(run: Run, tmp_path: Path) -> None:
    run("migrate")
    odd = tmp_path / "odd\udcff"
    odd.mkdir(mode=0o700)

    result = run("admin", "backup", str(odd))

    assert result.exit_code == 1
    assert "is not UTF-8; choose another" in result.stderr
    assert [path.name for path in odd.iterdir()] == [".cabinet-backup.lock"]


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_a_target_that_others_may_write_is_refused_with_the_command_that_mends_it(
    run: Run, target: Path, mode: int
) -> None:
    run("migrate")
    target.chmod(mode)

    result = run("admin", "backup", "backups")

    assert result.exit_code == 1
    told = "cabinet: backups may be written by others than its owner; run: chmod go-w backups"
    assert result.stderr.splitlines()[-1] == told
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("arguments", [["backup", "backups"], ["restore", "some.db"]], ids=" ".join)
def test_a_service_in_memory_has_nothing_to_back_up_or_restore(run: Run, target: Path, arguments: list[str]) -> None:
    result = run("admin", *arguments, USE_SQLITE="false")

    assert result.exit_code == 1
    assert "USE_SQLITE is false" in result.stderr


# Restore -------------------------------------------------------------------------------------------------------------


def test_a_restore_brings_back_what_was_and_tells_where_the_other_lies(run: Run, backup: Path, tmp_path: Path) -> None:
    refused = run("admin", "restore", str(backup))
    result = run("admin", "restore", str(backup), "--replace")

    assert refused.exit_code == 1
    assert "with --replace it is moved aside, not deleted" in refused.stderr
    assert result.exit_code == 0, result.stderr
    (aside,) = tmp_path.glob("cabinet.db.before-restore-*")
    size = backup.stat().st_size
    assert result.stdout == f"the database before it: {aside}\nrestored: {tmp_path}/cabinet.db  {size} bytes\n"
    assert result.stderr == ""
    assert subjects(run) == ["alice"]
    assert subjects(run, DB_PATH=str(aside)) == ["bob", "alice"]


def test_a_restore_without_a_checksum_says_so(run: Run, backup: Path) -> None:
    backup.with_name(f"{backup.name}.sha256").unlink()

    result = run("admin", "restore", str(backup), "--replace")

    assert result.exit_code == 0
    assert result.stderr == f"there is no {backup}.sha256; only SQLite's own checks were made\n"


def test_a_backup_that_is_behind_is_restored_and_the_next_step_told(run: Run, backup: Path) -> None:
    change(backup, "DELETE FROM schema_migrations WHERE version > 2")

    result = run("admin", "restore", str(backup), "--replace")

    assert result.exit_code == 0
    assert "it is behind this version (worker, signing_keys, audit): run cabinet migrate\n" in result.stdout


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("INSERT INTO schema_migrations VALUES (999, 'later', 'x', 'y')", "The database is ahead of this version"),
        ("UPDATE schema_migrations SET checksum = 'x' WHERE version = 1", "Migration 0001_initial was applied from"),
    ],
)
def test_a_backup_that_is_ahead_or_changed_ends_with_4_and_changes_nothing(
    run: Run, backup: Path, sql: str, told: str
) -> None:
    change(backup, sql)

    result = run("admin", "restore", str(backup), "--replace")

    assert result.exit_code == 4
    assert result.stderr.startswith(f"cabinet: {told}")
    assert subjects(run) == ["bob", "alice"]


def test_a_restore_while_the_database_is_served_is_refused(run: Run, backup: Path, tmp_path: Path) -> None:
    with own(tmp_path / "cabinet.db"):
        result = run("admin", "restore", str(backup), "--replace")

    assert result.exit_code == 1
    assert "is served by another process" in result.stderr
    assert subjects(run) == ["bob", "alice"]


def test_after_an_interrupted_restore_a_backup_is_refused_and_restoring_again_mends_it(
    run: Run, backup: Path, tmp_path: Path
) -> None:
    database = tmp_path / "cabinet.db"
    database.rename(tmp_path / "moved")
    restoring(database).touch()

    refused = run("admin", "backup", "backups")
    result = run("admin", "restore", str(backup))

    assert refused.exit_code == 1
    assert "a restore was interrupted" in refused.stderr
    assert result.exit_code == 0
    assert subjects(run) == ["alice"]


@pytest.mark.parametrize("command", [["backup"], ["restore"]], ids=" ".join)
def test_both_commands_explain_themselves_and_miss_their_argument(run: Run, command: list[str]) -> None:
    explained, bare = run("admin", *command, "--help"), run("admin", *command)

    assert explained.stdout.startswith(f"Usage: cabinet admin {command[0]} ")
    assert (explained.exit_code, bare.exit_code) == (0, 2)
