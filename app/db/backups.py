"""Backups: copies of a database that are whole, checked and on disk before they have their final names."""

import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.clock import Timestamp
from app.db.ownership import give_to_owner, open_lock, real, refuse_interrupted_restore, share
from app.db.sqlite import BUSY_SECONDS, DriverError, driver
from app.errors import BackupFailed

SECONDS_LIMIT = 3_600
"""How long one statement may take that copies or checks a whole database; the service's log grows meanwhile."""

STEPS_BETWEEN_LOOKS = 100_000
"""After how many steps of SQLite's machine the time and Ctrl-C are looked at."""

LOCK_BYTES = 8_192
"""How much of the lock in a folder of backups is read: the path of the database whose backups lie there."""

FAULTS_LIMIT = 3
"""How many faults of a damaged database are told."""

_LOCK = ".cabinet-backup.lock"
_NAME = re.compile(r"cabinet-\d{8}T\d{6}\.\d{6}Z\.db")
_PARTIAL = re.compile(rf"\.({_NAME.pattern})(\.sha256)?\.partial(-journal|-wal|-shm)?")
_PRAGMAS = ("PRAGMA trusted_schema = OFF", "PRAGMA cell_size_check = ON", "PRAGMA mmap_size = 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A backup that was taken; `removed` are the older ones that went for it, `ahead` those from the future."""

    path: Path
    size_bytes: int
    sha256: str
    removed: tuple[Path, ...]
    ahead: tuple[Path, ...]


def take(database: Path, target: Path, *, at: Timestamp, keep: int | None = None) -> Backup:
    """Copy a database, which may be in use, into the folder `target`, and remove all but the newest `keep` there.

    With `keep` the folder must be this database's own: the first backup writes into its lock whose it is.

    Only reads: neither waits for the writer nor checkpoints, and takes any schema. Raises BackupFailed; whatever
    happens, no file has a final name that is not whole, checked and on disk.
    """
    database, target = real(database), real(target)
    final = target / f"cabinet-{stamp(at)}.db"
    with telling(target, database.parent):
        _refuse_what_is_no_database(database)
        _refuse_where_the_database_lies(database, target)
    with telling(target, database.parent), share(database), _alone_in(target) as lock:
        _claim(lock, target, database, keep=keep)
        _remove_left_over(target)
        if final.exists():
            raise BackupFailed(f"{final} is there already; try again.")
        try:
            _copy(database, _partial(final))
            sha256 = _seal(final)
        except BaseException:
            with suppress(OSError):
                _remove_left_over(target)
            raise
        removed = () if keep is None else _prune(target, final, keep=keep)
        ahead = tuple(path for path in _backups_in(target) if path.name > final.name)
        return Backup(path=final, size_bytes=final.stat().st_size, sha256=sha256, removed=removed, ahead=ahead)


def stamp(at: Timestamp) -> str:
    """Return a time as it stands in names of files: `20261123T041000.000000Z`, which sorts as text."""
    return at.replace("-", "").replace(":", "")


def checksum_of(backup: Path) -> Path:
    """Return where the checksum of a backup lies, in the format of `sha256sum`."""
    return backup.with_name(f"{backup.name}.sha256")


def check_whole(path: Path) -> None:
    """Raise BackupFailed unless a database that nobody uses is whole; nothing is left beside it."""
    with opened(path, mode="rw") as connection:  # a read-only connection does not check CHECK constraints
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
        told = [row[0] for row in connection.execute(f"PRAGMA integrity_check({FAULTS_LIMIT})")]
        faults = [] if told == ["ok"] else told
        for table, row, parent, _ in connection.execute("PRAGMA foreign_key_check").fetchmany(FAULTS_LIMIT):
            faults.append(f"row {row} of {table} points to nothing in {parent}")
    if faults:
        raise BackupFailed(f"The database is damaged: {'; '.join(faults[:FAULTS_LIMIT])}.")


@contextmanager
def opened(path: Path, *, mode: str) -> Iterator[Any]:
    """Open a file that must be there, with `mode` ro or rw; a statement ends by force after SECONDS_LIMIT."""
    until = time.monotonic() + SECONDS_LIMIT
    with closing(
        driver.connect(f"{path.as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=BUSY_SECONDS)
    ) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > until, STEPS_BETWEEN_LOOKS)
        for pragma in _PRAGMAS:
            connection.execute(pragma).fetchall()
        try:
            yield connection
        except DriverError as error:
            if code_of(error) == 9 and time.monotonic() <= until:
                raise KeyboardInterrupt from error  # it came while SQLite ran, which only said that it was stopped
            raise


@contextmanager
def telling(folder: Path, *others: Path) -> Iterator[None]:
    """Turn what SQLite and the system raise while files in `folder` are written into BackupFailed.

    `others` are the folders in which SQLite works beside; a full disk below one of them fails it too.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BackupFailed(_full(folder)) from error
        raise BackupFailed(f"{error.filename or folder}: {error.strerror}.") from error
    except DriverError as error:
        raise BackupFailed(_sentence(error, (folder, *others))) from error
    except UnicodeEncodeError as error:
        raise BackupFailed(f"The name {str(error.object)!a} is not UTF-8; choose another.") from error


def is_full(folder: Path) -> bool:
    """Tell whether the disk that holds a folder has no free block; SQLite then tells of errors of many kinds."""
    with suppress(OSError):
        return os.statvfs(folder).f_bavail == 0
    return False


def code_of(error: Exception) -> int:
    """Return SQLite's primary code of a driver's error; 0 if it has none."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def is_busy(error: Exception) -> bool:
    """Tell whether SQLite refused because somebody else holds the file."""
    return code_of(error) in (5, 6)


def synchronize(path: Path) -> None:
    """Bring a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _partial(final: Path) -> Path:
    return final.with_name(f".{final.name}.partial")


def _make(path: Path) -> None:
    """Make an empty file that only the owner of its folder may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        give_to_owner(descriptor, path.parent)
    finally:
        os.close(descriptor)


def _copy(database: Path, partial: Path) -> None:
    _make(partial)
    with opened(database, mode="ro") as connection:  # PRAGMA query_only would refuse VACUUM INTO
        connection.execute("VACUUM main INTO ?", (str(partial),)).fetchall()
    check_whole(partial)
    synchronize(partial)


def _seal(final: Path) -> str:
    """Give a copy that is on disk its name, its checksum before it; return the checksum."""
    partial, checksum = _partial(final), _partial(checksum_of(final))
    with partial.open("rb") as copy:
        sha256 = hashlib.file_digest(copy, "sha256").hexdigest()
    _make(checksum)
    checksum.write_text(f"{sha256}  {final.name}\n", encoding="utf-8")
    synchronize(checksum)
    checksum.replace(checksum_of(final))
    partial.replace(final)
    synchronize(final.parent)
    return sha256


def _backups_in(target: Path) -> list[Path]:
    """Return the backups in a folder, the oldest first."""
    return sorted(path for path in target.iterdir() if _NAME.fullmatch(path.name) and path.is_file())


def _prune(target: Path, newest: Path, *, keep: int) -> tuple[Path, ...]:
    others = [path for path in _backups_in(target) if path != newest]
    surplus = tuple(others[: max(0, len(others) - (keep - 1))])
    try:
        for path in surplus:
            path.rename(_partial(path))
        _remove_left_over(target)
        synchronize(target)
    except OSError as error:
        told = f"{newest} is taken and whole, but {error.filename or target} could not be removed: {error.strerror}."
        raise BackupFailed(told) from error
    return surplus


@contextmanager
def _alone_in(target: Path) -> Iterator[int]:
    # A file of its own: on some file systems a lock on the copy itself would stand in SQLite's way
    lock = open_lock(target / _LOCK, like=target)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BackupFailed(f"Another backup into {target} is under way; let it end, then try again.") from error
        yield lock
    finally:
        os.close(lock)


def _claim(lock: int, target: Path, database: Path, *, keep: int | None) -> None:
    """Write into the lock whose backups lie there, and let nobody else delete them."""
    owner = os.pread(lock, LOCK_BYTES, 0)
    if not owner:
        os.pwrite(lock, os.fsencode(database), 0)
    elif keep is not None and owner != os.fsencode(database):
        raise BackupFailed(
            f"{target} belongs to {os.fsdecode(owner)}, and --keep would delete its backups: give each database a"
            f" folder of its own. If this is that database and has moved, remove {target / _LOCK}."
        )


def _remove_left_over(target: Path) -> None:
    """Remove what a backup left that did not come to its end; the caller has the target alone."""
    for path in list(target.iterdir()):
        if match := _PARTIAL.fullmatch(path.name):
            if not (final := target / match[1]).exists():
                checksum_of(final).unlink(missing_ok=True)
            path.unlink()


def _refuse_what_is_no_database(database: Path) -> None:
    refuse_interrupted_restore(database)
    if not database.is_file() or not database.stat().st_size:
        raise BackupFailed(f"There is no database at {database}; set DB_PATH to where it lies.")


def _refuse_where_the_database_lies(database: Path, target: Path) -> None:
    is_named_so = _NAME.fullmatch(database.name) or _PARTIAL.fullmatch(database.name)
    if is_named_so and target.samefile(database.parent):
        raise BackupFailed(
            f"{database} is the database itself and has a name that backups have; put backups into another folder."
        )


def _sentence(error: Exception, folders: Sequence[Path]) -> str:
    if is_busy(error):
        return "Another program holds the database; try again."
    match code_of(error):
        case 13:
            return _full(folders[0])
        case 10 if full := [folder for folder in folders if is_full(folder)]:
            return _full(full[0])
        case 9:
            return f"It took longer than {SECONDS_LIMIT} seconds and was given up; use a faster disk."
        case _:
            return f"The database is not whole, or cannot be read: {error}."


def _full(folder: Path) -> str:
    return f"The disk that holds {folder} is full; make room, then try again. What had been written was removed."
