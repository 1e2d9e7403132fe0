"""Backups of a file: whole or not there, whatever crashes; what is kept and what is refused."""

import errno
import hashlib
import os
import signal
import stat
import subprocess
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.clock import Timestamp, later
from app.db import backups
from app.db.backups import Backup, take
from app.db.ownership import alone, own, restoring
from app.errors import AlreadyOwned, BackupFailed, RestoreInterrupted
from tests.db.crashes import crash_with, failures, make_database, note_order, notes_in, points
from tests.support.database import NOW, connect, driver_error

FIRST = "cabinet-20261122T201900.000000Z.db"
OTHER_FILES = ("cabinet.db", "cabinet-2026.db", "cabinet-20261122T201900.000000Z.db.gz", "notes.txt", "z.partial")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database with one row."""
    path = tmp_path / "cabinet.db"
    make_database(path, "one")
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An empty folder for backups."""
    folder = tmp_path / "backups"
    folder.mkdir(mode=0o700)
    return folder


def shown(target: Path) -> list[str]:
    """Return the names in a folder that do not begin with a dot."""
    return sorted(path.name for path in target.iterdir() if not path.name.startswith("."))


def hidden(target: Path) -> list[str]:
    """Return the names in a folder that begin with a dot, but for the lock."""
    return sorted(path.name for path in target.iterdir() if path.name.startswith(".") and "lock" not in path.name)


def take_at(seconds: float, database: Path, target: Path, *, keep: int | None = None) -> Backup:
    """Take a backup so many seconds after NOW."""
    return take(database, target, at=later(NOW, seconds), keep=keep)


# What a backup is ----------------------------------------------------------------------------------------------------


def test_a_backup_holds_the_rows_under_a_name_that_tells_when(database: Path, target: Path) -> None:
    taken = take(database, target, at=NOW)

    assert taken.path == target / FIRST
    assert shown(target) == [FIRST, f"{FIRST}.sha256"]
    assert hidden(target) == []
    assert notes_in(taken.path) == ["one"]
    assert taken.size_bytes == taken.path.stat().st_size


def test_only_the_owner_may_read_what_a_backup_writes(database: Path, target: Path) -> None:
    umask = os.umask(0)
    try:
        take(database, target, at=NOW)
    finally:
        os.umask(umask)

    assert {stat.S_IMODE(path.stat().st_mode) for path in target.iterdir()} == {0o600}


def test_sha256sum_finds_the_backup_as_it_was_told(database: Path, target: Path) -> None:
    taken = take(database, target, at=NOW)

    checked = subprocess.run(["sha256sum", "-c", f"{FIRST}.sha256"], cwd=target, capture_output=True, check=False)

    assert checked.returncode == 0, checked.stderr
    assert taken.sha256 == hashlib.sha256(taken.path.read_bytes()).hexdigest()


def test_a_backup_holds_what_is_only_in_the_log_and_leaves_the_log_alone(database: Path, target: Path) -> None:
    crash_with(database, "two")
    before = {path: path.read_bytes() for path in (database, database.with_name("cabinet.db-wal"))}

    taken = take(database, target, at=NOW)

    assert notes_in(taken.path) == ["one", "two"]
    assert {path: path.read_bytes() for path in before} == before


def test_a_backup_neither_waits_for_a_writer_nor_sees_what_it_has_not_committed(database: Path, target: Path) -> None:
    with closing(connect(database)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO notes VALUES ('two', 1)")

        taken = take(database, target, at=NOW)

        writer.execute("COMMIT")
    assert notes_in(taken.path) == ["one"]


def test_a_backup_is_taken_beside_the_owner_but_not_beside_a_restore(database: Path, target: Path) -> None:
    with own(database):
        take_at(0, database, target)

    with alone(database), pytest.raises(AlreadyOwned, match="is being restored; try again"):
        take_at(1, database, target)

    assert len(shown(target)) == 2


# Keeping -------------------------------------------------------------------------------------------------------------


def test_keeping_three_leaves_the_newest_three_with_their_checksums_and_every_other_file(
    database: Path, target: Path
) -> None:
    for name in OTHER_FILES:
        (target / name).write_text("mine")
    earlier = [take_at(seconds, database, target).path for seconds in range(4)]

    taken = take_at(4, database, target, keep=3)

    assert taken.removed == tuple(earlier[:2])
    kept = [path.name for path in (*earlier[2:], taken.path)]
    assert shown(target) == sorted([*kept, *(f"{name}.sha256" for name in kept), *OTHER_FILES])


@pytest.mark.parametrize("name", [FIRST, f".{FIRST}.partial"])
def test_a_folder_where_the_database_itself_has_the_name_of_a_backup_is_refused(target: Path, name: str) -> None:
    database = target / name
    make_database(database, "one")

    with pytest.raises(BackupFailed, match="is the database itself and has a name that backups have"):
        take_at(9, database, target, keep=1)

    assert notes_in(database) == ["one"]


def test_a_folder_that_keeps_backups_of_one_database_keeps_none_of_another(
    database: Path, target: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.db"
    make_database(other, "other")
    take_at(0, database, target)

    with pytest.raises(BackupFailed, match=rf"belongs to {database}.*--keep.*remove .*\.cabinet-backup\.lock"):
        take_at(1, other, target, keep=1)
    take_at(2, other, target)
    take_at(3, database, target, keep=3)

    assert len(list(target.glob("*.db"))) == 3


def test_a_database_that_has_moved_keeps_its_backups_once_the_lock_is_removed(
    database: Path, target: Path, tmp_path: Path
) -> None:
    take_at(0, database, target, keep=1)
    moved = database.rename(tmp_path / "moved.db")
    (target / ".cabinet-backup.lock").unlink()

    taken = take_at(1, moved, target, keep=1)

    assert taken.removed == (target / FIRST,)


def test_backups_from_the_future_are_told(database: Path, target: Path) -> None:
    ahead = take_at(60, database, target).path

    taken = take_at(0, database, target)

    assert taken.ahead == (ahead,)


def test_what_root_backs_up_belongs_to_the_owner_of_the_folder(
    database: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, tuple[int, int]] = {}
    if os.getuid() == 0:
        os.chown(target, 65_534, 65_534)
    owner = target.stat().st_uid, target.stat().st_gid

    def note(descriptor: int, user: int, group: int) -> None:
        given[Path(f"/proc/self/fd/{descriptor}").readlink().name] = user, group

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", note)
    take(database, target, at=NOW)

    in_target = (".cabinet-backup.lock", f".{FIRST}.partial", f".{FIRST}.sha256.partial")
    assert {name: given[name] for name in in_target} == dict.fromkeys(in_target, owner)


def test_the_new_backup_is_kept_even_if_the_clock_went_back(database: Path, target: Path) -> None:
    earlier = take_at(0, database, target).path

    taken = take_at(-3_600, database, target, keep=1)

    assert taken.removed == (earlier,)
    assert taken.path.exists()


def test_nothing_is_deleted_for_a_backup_that_failed(
    database: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_at(0, database, target)
    before = shown(target)
    monkeypatch.setattr(backups, "check_whole", refusing)

    with pytest.raises(BackupFailed, match="damaged on purpose"):
        take_at(1, database, target, keep=1)

    assert shown(target) == before
    assert hidden(target) == []


def refusing(_path: Path) -> None:
    """Find fault with every copy."""
    raise BackupFailed("damaged on purpose")


def test_an_old_backup_that_cannot_be_deleted_is_told_and_the_new_one_is_there(
    database: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = take_at(0, database, target).path

    def refuse(source: Path, destination: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", source)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(BackupFailed, match=rf"is taken and whole, but .*{earlier.name} could not be removed"):
        take_at(1, database, target, keep=1)

    assert notes_in(target / "cabinet-20261122T201901.000000Z.db") == ["one"]


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, b""])
def test_where_there_is_no_database_none_is_made(tmp_path: Path, target: Path, content: bytes | None) -> None:
    path = tmp_path / "elsewhere.db"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(BackupFailed, match=r"There is no database at .*elsewhere\.db; set DB_PATH"):
        take(path, target, at=NOW)

    assert path.exists() == (content is not None)
    assert shown(target) == []


def test_after_an_interrupted_restore_a_backup_says_what_to_do(tmp_path: Path, target: Path) -> None:
    path = tmp_path / "cabinet.db"
    restoring(path).touch()

    with pytest.raises(RestoreInterrupted, match="cabinet admin restore"):
        take(path, target, at=NOW)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path, target: Path) -> None:
    path = tmp_path / "letter.db"
    path.write_bytes(b"This is a letter, not a database. " * 1_000)

    with pytest.raises(BackupFailed, match="not whole, or cannot be read"):
        take(path, target, at=NOW)

    assert [*shown(target), *hidden(target)] == []


def test_a_database_whose_rows_break_its_own_rules_is_not_backed_up(database: Path, target: Path) -> None:
    with closing(connect(database)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON").fetchall()
        connection.execute("INSERT INTO notes VALUES ('bad', -1)")

    with pytest.raises(BackupFailed, match="damaged: CHECK constraint failed in notes"):
        take(database, target, at=NOW)

    assert [*shown(target), *hidden(target)] == []


def test_a_database_with_a_row_that_points_to_nothing_is_not_backed_up(database: Path, target: Path) -> None:
    with closing(connect(database)) as connection:
        connection.execute("CREATE TABLE replies (note TEXT REFERENCES notes (note))")
        connection.execute("INSERT INTO replies VALUES ('nothing')")

    with pytest.raises(BackupFailed, match="damaged: row 1 of replies points to nothing in notes"):
        take(database, target, at=NOW)


def test_a_second_backup_into_the_same_folder_at_once_is_refused_and_harms_nothing(
    database: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[BackupFailed] = []

    def meanwhile(_partial: Path) -> None:
        with pytest.raises(BackupFailed, match=r"Another backup into .* is under way") as caught:
            take_at(1, database, target)
        refused.append(caught.value)

    monkeypatch.setattr(backups, "check_whole", meanwhile)
    taken = take_at(0, database, target)

    assert len(refused) == 1
    assert notes_in(taken.path) == ["one"]


def test_a_backup_of_the_same_moment_is_not_overwritten(database: Path, target: Path) -> None:
    first = take(database, target, at=NOW)
    inode = first.path.stat().st_ino

    with pytest.raises(BackupFailed, match="is there already"):
        take(database, target, at=NOW)

    assert first.path.stat().st_ino == inode
    assert hidden(target) == []


def test_a_folder_that_cannot_be_written_is_told_with_its_name(database: Path, target: Path) -> None:
    target.rmdir()

    with pytest.raises(BackupFailed, match=r"backups.*: No such file or directory"):
        take(database, target, at=NOW)


# Crashes and failures ------------------------------------------------------------------------------------------------


def assert_all_whole(target: Path) -> None:
    """Hold everything that has a final name against its checksum and its rows."""
    for path in target.glob("cabinet-*.db"):
        told = backups.checksum_of(path).read_text().split()[0]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == told
        assert notes_in(path) == ["one"]


def test_a_crash_at_any_call_leaves_no_half_backup_and_the_next_one_clears_up(
    database: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(range(0, 1_000, 10))
    now = [0]

    def prepare() -> None:
        now[0] = next(times)

    seen = 0
    for _ in points(monkeypatch, prepare, lambda: take_at(now[0], database, target, keep=2)):
        seen += 1
        assert_all_whole(target)
        take_at(now[0] + 1, database, target)
        assert hidden(target) == []
        names = [path.name for path in target.glob("cabinet-*.db")]
        assert shown(target) == sorted([*names, *(f"{name}.sha256" for name in names)])

    assert seen >= 12


def test_a_failure_at_any_call_leaves_no_half_backup(
    database: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(range(0, 1_000, 10))
    now = [0]

    def prepare() -> None:
        now[0] = next(times)

    seen = 0
    for _ in failures(monkeypatch, prepare, lambda: take_at(now[0], database, target)):
        seen += 1
        assert_all_whole(target)
        assert hidden(target) == []

    assert seen >= 10


def test_a_copy_on_disk_comes_before_its_name(database: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = note_order(monkeypatch)

    take(database, target, at=NOW)

    assert calls == [
        f"fsync .{FIRST}.partial",
        f"fsync .{FIRST}.sha256.partial",
        f"name {FIRST}.sha256",
        f"name {FIRST}",
        "fsync backups",
    ]


@pytest.mark.parametrize(("free", "words"), [(0, "backups is full; make room"), (1, "cannot be read: ")])
def test_a_failure_of_the_disk_is_told_as_a_full_one_where_no_block_is_free(
    database: Path, target: Path, monkeypatch: pytest.MonkeyPatch, free: int, words: str
) -> None:
    def fail(*_arguments: object) -> None:
        raise driver_error(10)

    monkeypatch.setattr(backups, "check_whole", fail)
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=free))
    with pytest.raises(BackupFailed, match=words):
        take(database, target, at=NOW)


@pytest.mark.parametrize("failing", ["VACUUM", "fsync"])
def test_a_full_disk_is_told_in_a_sentence_and_the_folder_is_cleared(
    database: Path, target: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    take_at(0, database, target)
    before = shown(target)
    error = OSError(errno.ENOSPC, "No space left on device") if failing == "fsync" else driver_error(13)

    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(backups, "synchronize" if failing == "fsync" else "check_whole", fail)
    with pytest.raises(BackupFailed, match=r"The disk that holds .*backups is full; make room"):
        take_at(1, database, target, keep=1)

    assert shown(target) == before
    assert hidden(target) == []


def test_a_copy_that_takes_too_long_is_given_up(database: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backups, "SECONDS_LIMIT", -1)
    monkeypatch.setattr(backups, "STEPS_BETWEEN_LOOKS", 1)

    with pytest.raises(BackupFailed, match="took longer than -1 seconds"):
        take(database, target, at=NOW)

    assert [*shown(target), *hidden(target)] == []


def test_ctrl_c_ends_a_copy_that_runs_and_clears_the_folder(
    database: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "STEPS_BETWEEN_LOOKS", 1)
    monotonic = time.monotonic
    looks = [0]

    def looked_at() -> float:
        looks[0] += 1
        if looks[0] == 40:  # in the midst of SQLite's work
            signal.raise_signal(signal.SIGINT)
        return monotonic()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist ignores it
    monkeypatch.setattr(time, "monotonic", looked_at)
    try:
        with pytest.raises(KeyboardInterrupt):
            take(database, target, at=NOW)
    finally:
        signal.signal(signal.SIGINT, before)

    monkeypatch.undo()
    assert [*shown(target), *hidden(target)] == []


def test_the_name_tells_microseconds_so_that_names_sort_as_their_times() -> None:
    names = [backups.stamp(Timestamp(f"2026-11-23T04:10:00.{micros:06}Z")) for micros in (0, 9, 10, 999_999)]

    assert names == sorted(names)
    assert names[0] == "20261123T041000.000000Z"
