"""Restores into a place: what is refused, what is moved aside, and that no crash mixes two databases."""

import errno
import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.clock import later
from app.db.backups import take
from app.db.ownership import alone, own, refuse_interrupted_restore, restoring, share
from app.db.restores import Restored, restore
from app.errors import AlreadyOwned, BackupFailed, RestoreInterrupted, SchemaMismatch, StartFault
from tests.db.crashes import crash_with, failures, make_database, note_order, notes_in, points
from tests.support.database import NOW, connect

ASIDE = "cabinet.db.before-restore-20261122T201900.000000Z"


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """A backup that holds the row `old`."""
    source, target = tmp_path / "source.db", tmp_path / "backups"
    make_database(source, "old")
    target.mkdir()
    return take(source, target, at=NOW).path


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Where a database may lie, in a folder with nothing else."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder / "cabinet.db"


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """Be root, and note to whom each file was given, by its name."""
    noted: dict[str, tuple[int, int]] = {}

    def note(descriptor: int, user: int, group: int) -> None:
        noted[Path(f"/proc/self/fd/{descriptor}").readlink().name] = user, group

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", note)
    return noted


def restore_into(
    database: Path, backup: Path, *, replace: bool = False, seconds: float = 0, ledger: list[Any] | None = None
) -> Restored:
    """Restore so many seconds after NOW; the ledger that was shown is kept."""

    def missing_in(rows: Sequence[Any]) -> list[str]:
        if ledger is not None:
            ledger.extend(tuple(row) for row in rows)
        return []

    return restore(backup, database, at=later(NOW, seconds), replace=replace, missing_in=missing_in)


def names_beside(database: Path) -> list[str]:
    """Return what lies beside a database, but for the locks."""
    return sorted(path.name for path in database.parent.iterdir() if path.suffix not in (".lock", ".use"))


# What a restore does -------------------------------------------------------------------------------------------------


def test_a_backup_becomes_the_database_where_there_was_none(database: Path, backup: Path) -> None:
    ledger: list[Any] = []

    restored = restore_into(database, backup, ledger=ledger)

    assert notes_in(database) == ["old"]
    assert database.stat().st_mode & 0o777 == 0o600
    assert names_beside(database) == ["cabinet.db"]
    assert (restored.aside, restored.is_vouched_for, restored.missing) == (None, True, ())
    assert restored.size_bytes == backup.stat().st_size
    assert ledger == [(1, "initial", "abc")]
    assert notes_in(backup) == ["old"]


def test_a_database_is_only_replaced_on_demand_and_then_lies_aside_whole(database: Path, backup: Path) -> None:
    make_database(database, "new")
    crash_with(database, "newer")

    with pytest.raises(BackupFailed, match="with --replace it is moved aside, not deleted"):
        restore_into(database, backup)
    refused = notes_in(database)
    restored = restore_into(database, backup, replace=True)

    assert refused == ["new", "newer"]
    assert notes_in(database) == ["old"]
    assert names_beside(database) == ["cabinet.db", ASIDE]
    assert restored.aside == database.with_name(ASIDE)
    assert notes_in(database.with_name(ASIDE)) == ["new", "newer"]


def test_a_broken_database_is_moved_aside_with_its_log_as_it_is(database: Path, backup: Path) -> None:
    log = database.with_name("cabinet.db-wal")
    database.write_bytes(b"This is a letter, not a database. " * 1_000)
    log.write_bytes(b"its log")

    restore_into(database, backup, replace=True)

    assert notes_in(database) == ["old"]
    assert [name for name in names_beside(database) if not name.startswith(ASIDE)] == ["cabinet.db"]
    assert database.with_name(f"{ASIDE}-wal").read_bytes() == b"its log"
    assert database.with_name(ASIDE).read_bytes().startswith(b"This is a letter")


def test_a_link_to_the_database_stays_a_link(tmp_path: Path, database: Path, backup: Path) -> None:
    make_database(database, "new")
    link = tmp_path / "link.db"
    link.symlink_to(database)

    restore_into(link, backup, replace=True)

    assert link.is_symlink()
    assert notes_in(database) == ["old"]


def test_a_log_whose_database_was_deleted_by_hand_is_not_read_into_the_restored_one(
    database: Path, backup: Path
) -> None:
    make_database(database, "new")
    crash_with(database, "newer")
    database.unlink()

    restore_into(database, backup)

    assert notes_in(database) == ["old"]
    assert names_beside(database) == ["cabinet.db", f"{ASIDE}-wal"]


# What is refused -----------------------------------------------------------------------------------------------------


@contextmanager
def as_found(database: Path, backup: Path) -> Iterator[None]:
    """Whatever happens inside, the database is there as before and nothing more lies beside it."""
    make_database(database, "new")
    before = names_beside(database)
    yield
    assert names_beside(database) == before
    assert notes_in(database) == ["new"]


def test_a_backup_that_is_not_there_is_told(database: Path, backup: Path) -> None:
    with as_found(database, backup), pytest.raises(BackupFailed, match=r"There is no backup at .*none\.db"):
        restore_into(database, backup.with_name("none.db"), replace=True)


def test_a_backup_with_another_checksum_is_refused(database: Path, backup: Path) -> None:
    with closing(connect(backup)) as connection:
        connection.execute("INSERT INTO notes VALUES ('forged', 1)")

    with as_found(database, backup), pytest.raises(BackupFailed, match="is not what was backed up"):
        restore_into(database, backup, replace=True)


def test_a_checksum_file_that_holds_none_is_refused(database: Path, backup: Path) -> None:
    backup.with_name(f"{backup.name}.sha256").write_text("see the wiki\n")

    with as_found(database, backup), pytest.raises(BackupFailed, match="holds no line of sha256sum"):
        restore_into(database, backup, replace=True)


def test_without_a_checksum_a_whole_backup_is_taken_and_it_is_told(database: Path, backup: Path) -> None:
    backup.with_name(f"{backup.name}.sha256").unlink()

    restored = restore_into(database, backup)

    assert restored.is_vouched_for is False
    assert notes_in(database) == ["old"]


def test_a_backup_that_was_renamed_together_with_its_checksum_is_still_vouched_for(
    database: Path, backup: Path
) -> None:
    backup.with_name(f"{backup.name}.sha256").rename(backup.with_name("monday.db.sha256"))

    restored = restore_into(database, backup.rename(backup.with_name("monday.db")))

    assert restored.is_vouched_for is True


@pytest.mark.parametrize("cut", [1, 5_000, -3_000])
def test_a_torn_backup_is_refused_even_without_a_checksum(database: Path, backup: Path, cut: int) -> None:
    backup.with_name(f"{backup.name}.sha256").unlink()
    backup.write_bytes(backup.read_bytes()[:cut])

    with (
        as_found(database, backup),
        pytest.raises(BackupFailed, match=r"no whole database|damaged|no database of Cabinet"),
    ):
        restore_into(database, backup, replace=True)


def test_a_backup_whose_rows_break_its_rules_is_refused(database: Path, backup: Path) -> None:
    backup.with_name(f"{backup.name}.sha256").unlink()
    with closing(connect(backup)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON").fetchall()
        connection.execute("INSERT INTO notes VALUES ('bad', -1)")

    with as_found(database, backup), pytest.raises(BackupFailed, match="CHECK constraint failed in notes"):
        restore_into(database, backup, replace=True)


@pytest.mark.parametrize("content", [b"", None])
def test_a_database_that_is_not_cabinets_is_refused(database: Path, tmp_path: Path, content: bytes | None) -> None:
    other = tmp_path / "other.db"
    if content is None:
        with closing(connect(other)) as connection:
            connection.execute("CREATE TABLE songs (title TEXT)")
    else:
        other.write_bytes(content)

    with as_found(database, other), pytest.raises(BackupFailed, match="is no database of Cabinet"):
        restore_into(database, other, replace=True)


def test_a_backup_that_this_version_cannot_read_is_refused(database: Path, backup: Path) -> None:
    def ahead(_rows: Sequence[Any]) -> Sequence[str]:
        raise SchemaMismatch("ahead")

    with as_found(database, backup), pytest.raises(SchemaMismatch, match="ahead"):
        restore(backup, database, at=NOW, replace=True, missing_in=ahead)


def test_a_file_with_a_log_beside_it_is_refused_for_it_is_only_a_part(tmp_path: Path, database: Path) -> None:
    copied = tmp_path / "copied.db"
    make_database(copied, "one")
    crash_with(copied, "two")

    with (
        as_found(database, copied),
        pytest.raises(BackupFailed, match=r"copied\.db-wal lies beside it.*`cabinet admin backup`"),
    ):
        restore_into(database, copied, replace=True)


def test_the_database_itself_is_no_backup(database: Path, backup: Path) -> None:
    with as_found(database, backup), pytest.raises(BackupFailed, match="is the database itself"):
        restore_into(database, database, replace=True)


@pytest.mark.parametrize("has_database", [True, False])
def test_what_an_interrupted_restore_left_is_no_backup_and_stays_as_it_is(
    database: Path, backup: Path, has_database: bool
) -> None:
    left = restoring(database)
    left.write_bytes(backup.read_bytes())
    if has_database:
        make_database(database, "new")

    with pytest.raises(BackupFailed, match="is what an interrupted restore left; name the backup itself"):
        restore_into(database, left, replace=True)

    assert left.read_bytes() == backup.read_bytes()
    assert database.exists() is has_database


def test_a_link_that_leads_to_itself_is_no_backup(database: Path, tmp_path: Path) -> None:
    loop = tmp_path / "loop.db"
    loop.symlink_to(loop)

    with pytest.raises(BackupFailed, match=r"There is no backup at .*loop\.db"):
        restore_into(database, loop)


def test_a_checksum_that_is_no_file_is_refused_and_not_waited_for(database: Path, backup: Path) -> None:
    checksum = backup.with_name(f"{backup.name}.sha256")
    checksum.unlink()
    os.mkfifo(checksum)

    with pytest.raises(BackupFailed, match="holds no line of sha256sum"):
        restore_into(database, backup)


def test_nothing_is_restored_while_a_service_owns_the_database(database: Path, backup: Path) -> None:
    with as_found(database, backup), own(database), pytest.raises(AlreadyOwned, match="is served by another process"):
        restore_into(database, backup, replace=True)


def test_nothing_is_restored_while_a_command_shares_the_database(database: Path, backup: Path) -> None:
    with as_found(database, backup), share(database), pytest.raises(AlreadyOwned, match="in use by another command"):
        restore_into(database, backup, replace=True)


def test_nothing_is_restored_while_another_program_has_the_database_open(
    database: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.restores.WAIT_SECONDS", 0.01)
    with as_found(database, backup), closing(connect(database)) as shell:
        shell.execute("SELECT * FROM notes").fetchall()

        with pytest.raises(BackupFailed, match="in use by another program"):
            restore_into(database, backup, replace=True)


def test_sharing_is_for_many_and_a_restore_for_one(database: Path) -> None:
    database.touch()
    with share(database), share(database), pytest.raises(AlreadyOwned), alone(database):
        pass

    with alone(database), pytest.raises(AlreadyOwned, match="is being restored"), share(database):
        pass


# The look before a start ---------------------------------------------------------------------------------------------


def test_a_child_of_a_command_that_ended_does_not_keep_restores_away(database: Path) -> None:
    (until_ready, ready), (until_over, over) = os.pipe(), os.pipe()
    with warnings.catch_warnings(), share(database):
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads; none is needed there
        child = os.fork()
        if child == 0:
            os.close(over)
            os.write(ready, b"1")
            os.read(until_over, 1)
            os._exit(0)
        os.read(until_ready, 1)

    try:
        with alone(database):
            is_alone = True
    finally:
        for descriptor in (until_ready, ready, until_over, over):
            os.close(descriptor)
        os.waitpid(child, 0)

    assert is_alone


@pytest.mark.parametrize("trace", [".cabinet.db.restoring", "cabinet.db-wal", "cabinet.db-journal"])
def test_without_a_database_but_with_a_trace_of_one_nothing_starts(database: Path, trace: str) -> None:
    database.with_name(trace).touch()

    with pytest.raises(RestoreInterrupted, match=rf"There is no database at .*{trace} is there.*cabinet admin restore"):
        refuse_interrupted_restore(database)
    with pytest.raises(RestoreInterrupted), share(database):
        pass


def test_a_place_without_any_trace_and_one_with_a_database_may_start(database: Path) -> None:
    refuse_interrupted_restore(database)
    database.touch()
    restoring(database).touch()

    refuse_interrupted_restore(database)


# Crashes and failures ------------------------------------------------------------------------------------------------


class Ground:
    """A folder that is made anew for each crash, and what must hold after it."""

    def __init__(self, folder: Path, backup: Path) -> None:
        self.folder, self.backup = folder, backup
        self.database = folder / "cabinet.db"
        self.runs = 0
        self.refused = 0

    def prepare(self) -> None:
        """Begin as after a killed service: the last row is only in the log."""
        self.runs += 1
        self.database = self.folder / str(self.runs) / "cabinet.db"
        self.database.parent.mkdir()
        make_database(self.database, "new")
        crash_with(self.database, "newer")

    def act(self) -> None:
        """Restore."""
        restore_into(self.database, self.backup, replace=True)

    def assert_nothing_is_mixed(self) -> None:
        """Either a database is there that is whole, old or new, or a start is refused."""
        if not self.database.exists():
            self.refused += 1
            with pytest.raises(RestoreInterrupted):
                refuse_interrupted_restore(self.database)
        elif self.is_new():
            assert [name for name in names_beside(self.database) if name.startswith("cabinet.db-")] == []
        else:
            copy = self.copied("look")
            assert notes_in(copy) == ["new", "newer"]

    def is_new(self) -> bool:
        """Tell whether the database is the backup, byte for byte."""
        return self.database.read_bytes() == self.backup.read_bytes()

    def copied(self, name: str) -> Path:
        """Copy the database with its log, so that looking at it changes nothing here."""
        folder = self.database.parent / name
        folder.mkdir()
        for ending in ("", "-wal"):
            source = self.database.with_name(f"cabinet.db{ending}")
            if source.exists():
                (folder / source.name).write_bytes(source.read_bytes())
        return folder / "cabinet.db"

    def assert_again_ends_it_well(self) -> None:
        """The same command once more restores, and the old rows lie aside."""
        restore_into(self.database, self.backup, replace=True, seconds=10)
        assert notes_in(self.database) == ["old"]
        asides = self.database.parent.glob("*.before-restore-*Z")
        assert ["new", "newer"] in [notes_in(path) for path in asides]
        assert not restoring(self.database).exists()


@pytest.fixture(params=[True, False], ids=["folded", "moved with its log"])
def ground(request: pytest.FixtureRequest, tmp_path: Path, backup: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    """Crash ground; the old database's log can be folded into it, or SQLite cannot open it and both are moved."""
    if not request.param:
        monkeypatch.setattr("app.db.restores._fold", lambda _database: None)
    folder = tmp_path / "ground"
    folder.mkdir()
    return Ground(folder, backup)


def test_after_a_crash_at_any_call_nothing_is_mixed_or_lost_and_again_ends_it_well(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in points(monkeypatch, ground.prepare, ground.act):
        ground.assert_nothing_is_mixed()
        ground.assert_again_ends_it_well()

    assert ground.runs > 12
    assert ground.refused >= 2
    assert ground.is_new()


def test_after_a_failure_at_any_call_nothing_is_mixed_or_lost_and_again_ends_it_well(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in failures(monkeypatch, ground.prepare, ground.act):
        ground.assert_nothing_is_mixed()
        ground.assert_again_ends_it_well()

    assert ground.runs > 10
    assert ground.refused >= 2


def test_every_step_is_on_disk_before_the_next_one(
    database: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_database(database, "new")
    database.with_name("cabinet.db-wal").touch()
    monkeypatch.setattr("app.db.restores._fold", lambda _database: None)
    calls = note_order(monkeypatch)

    restore_into(database, backup, replace=True)

    assert calls == [
        "fsync .cabinet.db.restoring",
        f"name {ASIDE}",
        "fsync home",
        f"name {ASIDE}-wal",
        "fsync home",
        "name cabinet.db",
        "fsync home",
    ]


def test_a_bad_backup_after_an_interrupted_restore_does_not_wipe_the_sign_of_it(
    database: Path, backup: Path, tmp_path: Path
) -> None:
    restoring(database).write_bytes(b"half")
    letter = tmp_path / "letter.db"
    letter.write_bytes(b"This is a letter, not a database. " * 1_000)

    with pytest.raises(BackupFailed, match="no whole database"):
        restore_into(database, letter)

    with pytest.raises(RestoreInterrupted):
        refuse_interrupted_restore(database)
    restore_into(database, backup)
    assert notes_in(database) == ["old"]


def test_a_full_disk_leaves_the_database_as_it_was(
    database: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_database(database, "new")
    before = hashlib.sha256(database.read_bytes()).digest()
    monkeypatch.setattr("app.db.restores.synchronize", full)

    with pytest.raises(BackupFailed, match=r"The disk that holds .*home is full"):
        restore_into(database, backup, replace=True)

    assert hashlib.sha256(database.read_bytes()).digest() == before
    assert names_beside(database) == ["cabinet.db"]


def full(_path: Path) -> None:
    """Fail as a full disk does."""
    raise OSError(28, "No space left on device")


# Whom files belong to ------------------------------------------------------------------------------------------------


def owner_of(path: Path) -> tuple[int, int]:
    """Return the user and the group of a file."""
    return path.stat().st_uid, path.stat().st_gid


def give(path: Path) -> None:
    """Give a file to another user, if this one may; if not, it still has an owner."""
    if os.getuid() == 0:
        os.chown(path, 65_534, 65_534)


def test_what_root_restores_belongs_to_the_owner_of_the_database_before_it(
    database: Path, backup: Path, given: dict[str, tuple[int, int]]
) -> None:
    make_database(database, "new")
    give(database)
    owner = owner_of(database)

    restore_into(database, backup, replace=True)

    assert given == dict.fromkeys(("cabinet.db.lock", "cabinet.db.use", ".cabinet.db.restoring"), owner)


def test_what_root_restores_again_belongs_to_whom_the_interrupted_restore_gave_it(
    database: Path, backup: Path, given: dict[str, tuple[int, int]]
) -> None:
    restoring(database).touch()
    give(restoring(database))
    owner = owner_of(restoring(database))

    restore_into(database, backup)

    assert given[".cabinet.db.restoring"] == owner


def test_where_there_was_no_database_what_root_makes_belongs_to_the_owner_of_the_folder(
    database: Path, backup: Path, given: dict[str, tuple[int, int]]
) -> None:
    give(database.parent)
    owner = owner_of(database.parent)

    restore_into(database, backup)

    assert given == dict.fromkeys(("cabinet.db.lock", "cabinet.db.use", ".cabinet.db.restoring"), owner)


def test_a_lock_that_was_there_keeps_its_owner(database: Path, given: dict[str, tuple[int, int]]) -> None:
    database.with_name("cabinet.db.use").touch()

    with share(database):
        pass

    assert given == {}


def test_without_root_nothing_is_given_away(
    database: Path, given: dict[str, tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)

    with share(database):
        pass

    assert given == {}


def test_a_root_that_may_not_give_files_away_goes_on(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", refuse)

    with share(database):
        pass

    assert database.with_name("cabinet.db.use").exists()


@pytest.mark.parametrize(
    ("number", "user", "remedy"),
    [
        (errno.EACCES, 4_711, r"user \d+, and this is user 4711: run cabinet as that user, or: chown 4711 /.*\.use$"),
        (errno.EACCES, os.getuid(), r"Run: chmod u\+rwX /.*\.use$"),
        (errno.EROFS, 4_711, r"Mount it so that it can be written\.$"),
        (errno.ENOSPC, 4_711, "is full; make room"),
    ],
)
def test_a_lock_that_cannot_be_opened_is_told_with_what_to_do(
    database: Path, monkeypatch: pytest.MonkeyPatch, number: int, user: int, remedy: str
) -> None:
    lock = database.with_name("cabinet.db.use")
    lock.touch()

    def fail(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number), str(lock))

    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(StartFault, match=remedy) as refused, share(database):
        pass

    assert str(refused.value).startswith(f"{lock} cannot be opened: {os.strerror(number)}. It is the lock")
