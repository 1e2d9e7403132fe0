"""Restores: putting a backup in the place of the database, so that no crash mixes the two or loses the old one."""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.clock import Timestamp
from app.db.backups import check_whole, checksum_of, is_busy, opened, stamp, synchronize, telling
from app.db.connection import Row
from app.db.ownership import LEFT_BESIDE, alone, give_to_owner, own, real, restoring
from app.db.sqlite import DriverError, driver
from app.errors import BackupFailed

CHUNK_BYTES = 1 << 20
"""How much of a backup is copied at a time."""

CHECKSUM_FILE_BYTES = 4_096
"""How much of a checksum file is read: one line of `sha256sum`."""

WAIT_SECONDS = 2
"""How long another program, such as the sqlite3 shell, may still hold the old database."""

_CHECKSUM = re.compile(r"([0-9a-fA-F]{64}) [ *]\S.*\n?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A backup that is the database now; `aside` is the one before it, `missing` names migrations not applied yet."""

    size_bytes: int
    is_vouched_for: bool
    """Whether a checksum lay beside the backup, which was right."""
    aside: Path | None
    missing: tuple[str, ...]


def restore(
    backup: Path,
    database: Path,
    *,
    at: Timestamp,
    replace: bool,
    missing_in: Callable[[Sequence[Row]], Sequence[str]],
) -> Restored:
    """Make a backup the database, and move aside what lies there if it may be replaced; nothing is deleted.

    `missing_in` gets the backup's ledger of migrations, names those not applied yet and raises SchemaMismatch if it is
    ahead or changed. Raises AlreadyOwned while anybody uses the database, BackupFailed for all else. After a crash at
    any moment either a whole database is there or `refuse_interrupted_restore` stops the start, and restoring again
    ends it well.
    """
    backup, database = real(backup), real(database)
    copy = restoring(database)
    with telling(database.parent), own(database), alone(database):
        _refuse_what_is_no_backup(backup, database)
        if database.exists() and not replace:
            raise BackupFailed(f"There is a database at {database}; with --replace it is moved aside, not deleted.")
        had_database = database.exists() or copy.exists()
        try:
            is_vouched_for = _bring(backup, copy, like=_first_there(database, copy, database.parent))
            missing = missing_in(_ledger(backup, copy))
            aside = _move_aside(database, at)
            copy.replace(database)
        except BaseException:
            if database.exists() or not had_database:  # else the copy is the sign that there was one
                with suppress(OSError):
                    copy.unlink(missing_ok=True)
            raise
        synchronize(database.parent)
        return Restored(
            size_bytes=database.stat().st_size, is_vouched_for=is_vouched_for, aside=aside, missing=tuple(missing)
        )


def _refuse_what_is_no_backup(backup: Path, database: Path) -> None:
    if not backup.is_file():
        raise BackupFailed(f"There is no backup at {backup}; name a file that `cabinet admin backup` made.")
    if database.exists() and backup.samefile(database):
        raise BackupFailed(f"{backup} is the database itself; name a file that `cabinet admin backup` made.")
    copy = restoring(database)
    if copy.exists() and backup.samefile(copy):
        raise BackupFailed(
            f"{backup} is what an interrupted restore left; name the backup itself, or move this file first and name it"
            " where it is then."
        )
    log = backup.with_name(backup.name + "-wal")
    if log.exists() and log.stat().st_size:
        raise BackupFailed(
            f"{log} lies beside it, so {backup.name} is no backup but a database of which a part is in that log."
            " Set DB_PATH to it and run `cabinet admin backup`, then restore what that makes."
        )


def _first_there(*places: Path) -> Path:
    return next(place for place in places if place.exists())


def _bring(backup: Path, copy: Path, *, like: Path) -> bool:
    """Copy the backup beside the database, check it and bring it to disk; return whether a checksum vouched for it.

    The copy that root makes belongs to the owner of `like`.
    """
    for ending in LEFT_BESIDE:
        copy.with_name(copy.name + ending).unlink(missing_ok=True)
    expected = _expected(backup)
    found = hashlib.sha256()
    descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with backup.open("rb") as source, os.fdopen(descriptor, "wb") as target:
        give_to_owner(descriptor, like)
        while chunk := source.read(CHUNK_BYTES):
            found.update(chunk)
            target.write(chunk)
    if expected not in (None, found.hexdigest()):
        raise BackupFailed(f"{backup} is not what was backed up: {checksum_of(backup)} tells another checksum.")
    try:
        check_whole(copy)
    except DriverError as error:
        if is_busy(error):
            raise
        raise BackupFailed(f"{backup} is no whole database: {error}.") from error
    synchronize(copy)
    return expected is not None


def _expected(backup: Path) -> str | None:
    path = checksum_of(backup)
    if not path.exists():
        return None
    if not path.is_file():
        raise BackupFailed(_no_checksum(path))
    with path.open("rb") as file:
        text = file.read(CHECKSUM_FILE_BYTES).decode(errors="replace")
    match = _CHECKSUM.fullmatch(text)
    if match is None:
        raise BackupFailed(_no_checksum(path))
    return match[1].lower()


def _no_checksum(path: Path) -> str:
    return f"{path} holds no line of sha256sum; bring the right one, or move it away."


def _ledger(backup: Path, copy: Path) -> Sequence[Row]:
    with opened(copy, mode="ro") as connection:
        connection.row_factory = driver.Row
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_migrations'").fetchall():
            raise BackupFailed(f"{backup} is no database of Cabinet; name a file that `cabinet admin backup` made.")
        rows: list[Row] = connection.execute(
            "SELECT version, name, checksum FROM schema_migrations ORDER BY version"
        ).fetchall()
        return rows


def _move_aside(database: Path, at: Timestamp) -> Path | None:
    """Free the database's name and those beside it; return where the old one is, if there was one.

    The database goes first: a start is refused from that moment on, and no log is ever left beside another database.
    """
    aside = _place_aside(database, at)
    had_database = database.exists()
    holding = _fold(database) if had_database else None
    try:
        for ending in ("", *LEFT_BESIDE):
            here = database.with_name(database.name + ending)
            if here.exists():
                here.rename(aside.with_name(aside.name + ending))
                synchronize(database.parent)
    finally:
        if holding is not None:
            holding.close()
    return aside if had_database else None


def _place_aside(database: Path, at: Timestamp) -> Path:
    """Return a free name; for a log that an interrupted restore left behind, the name that its database has got."""
    start = f"{database.name}.before-restore-"
    free = database.with_name(start + stamp(at))
    if database.exists():
        return free
    earlier = [path for path in database.parent.iterdir() if path.name.startswith(start) and path.name.endswith("Z")]
    last = max(earlier, default=free)
    is_taken = any(last.with_name(last.name + ending).exists() for ending in LEFT_BESIDE)
    return free if is_taken else last


def _fold(database: Path) -> Any:
    """Copy the old database's log into it, remove the log, and return a connection that keeps other programs out.

    Returns None if SQLite cannot: a broken database is moved together with its log. Raises BackupFailed if another
    program uses it.
    """
    try:
        _look_into(database)
        connection = driver.connect(
            f"{database.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=WAIT_SECONDS
        )
        try:
            connection.execute("PRAGMA journal_mode = DELETE").fetchall()  # only who is alone may leave WAL
            connection.execute("BEGIN EXCLUSIVE")
        except BaseException:
            connection.close()
            raise
        return connection
    except DriverError as error:
        if is_busy(error):
            told = f"{database} is in use by another program; let it end, then try again."
            raise BackupFailed(told) from error
        return None


def _look_into(database: Path) -> None:
    """Raise DriverError if SQLite cannot read the database; unlike a connection that writes it leaves the log alone."""
    with opened(database, mode="ro") as connection:
        connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchall()
