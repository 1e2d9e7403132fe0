"""The database's files: what lies there and who holds it, before anything is opened."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.cli.examinations.amounts import GIGABYTE, MEGABYTE, size
from app.cli.examinations.findings import Check, Finding, Level
from app.clock import Timestamp
from app.db.inspection import log_of, owned_since, owner_of
from app.db.ownership import real, refuse_interrupted_restore, restoring
from app.errors import RestoreInterrupted

LARGE_LOG_BYTES, HUGE_LOG_BYTES = 64 * MEGABYTE, GIGABYTE
"""Beyond it the log is a warning, and a fault. SQLite keeps a file of the first size when it begins anew."""

BESIDE = ("-wal", "-shm", ".lock", ".use")
"""What lies beside a database that is in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What lies where the database is or should be; sizes are None where there is no file.

    `owner` is the pid of the process that serves it, as that process has written it down.
    """

    database: Path
    database_bytes: int | None
    log_bytes: int | None
    owner: str | None
    owned_since: Timestamp | None = None
    is_restored: bool = False
    """Whether a restore is under way, by the owner."""
    interrupted: str | None = None
    """What there is to say about a restore that ended too early."""

    @property
    def is_served(self) -> bool:
        """Whether a process holds the database to serve it."""
        return self.owner is not None and not self.is_restored


def look_at(db_path: Path, *, is_restored: bool) -> Files:
    """Look at the files of a database; links are followed as the service follows them."""
    database = real(db_path)
    return Files(
        database=database,
        database_bytes=_size(database),
        log_bytes=_size(log_of(database)),
        owner=owner_of(database),
        owned_since=owned_since(database),
        is_restored=is_restored,
        interrupted=None if is_restored else _interrupted(database),
    )


def examine_service(files: Files) -> Iterator[Finding]:
    """Tell who serves the database."""
    if files.is_restored:
        remedy = "Wait until that has ended, and run doctor again."
        yield Finding(Check.SERVICE, Level.NOTE, f"process {files.owner} is restoring this database", remedy)
    elif files.is_served:
        yield Finding(Check.SERVICE, Level.OK, f"process {files.owner} serves this database")
    else:
        yield Finding(Check.SERVICE, Level.NOTE, "nobody serves this database", "If nothing is a fault: cabinet serve")


def examine_restore(files: Files) -> Iterator[Finding]:
    """Tell of a restore that was interrupted; while there is a database, it had not begun to take its place."""
    copy = restoring(files.database)
    if files.interrupted is None:
        yield Finding(Check.RESTORE, Level.OK, "one is under way" if files.is_restored else "none was interrupted")
    elif files.database_bytes is None:
        says, _, remedy = files.interrupted.partition(". ")
        yield Finding(Check.RESTORE, Level.FAULT, says[0].lower() + says[1:], f"Do not start the service. {remedy}")
    else:
        remedy = f"Run cabinet admin restore again, or: rm {shlex.quote(str(copy))}"
        yield Finding(Check.RESTORE, Level.WARNING, files.interrupted, remedy)


def examine_missing(files: Files, *, migrates: bool) -> Iterator[Finding]:
    """Tell that there is no database, and what happens then."""
    says = f"there is no database at {files.database}"
    if migrates:
        says, level = f"{says}; the next start makes an empty one", Level.WARNING
        remedy = "If there should be one, do not start the service: look at DB_PATH and at the volume."
    else:
        level, remedy = Level.FAULT, "If there should be one, look at DB_PATH and the volume. If not: cabinet migrate"
    yield Finding(Check.MIGRATIONS, level, says, remedy)


def examine_log_size(files: Files) -> Iterator[Finding]:
    """Tell how much is in the log."""
    held = files.log_bytes or 0
    says = f"{size(held)} in the log beside a database of {size(files.database_bytes or 0)}"
    if held <= LARGE_LOG_BYTES:
        yield Finding(Check.LOG_SIZE, Level.OK, says)
        return
    if files.is_served:
        files_held = shlex.quote(str(files.database))
        says = f"{says}: somebody reads, or has read, for too long for it to be emptied"
        remedy = (
            f"See who has it open (fuser -v {files_held}), and end what is no service: a shell, a backup that hangs."
        )
    else:
        remedy = "The next start of the service copies it into the database."
    yield Finding(Check.LOG_SIZE, Level.FAULT if held > HUGE_LOG_BYTES else Level.WARNING, says, remedy)


def _interrupted(database: Path) -> str | None:
    copy = restoring(database)
    try:
        refuse_interrupted_restore(database)
    except RestoreInterrupted as found:
        return found.message
    return f"a restore was interrupted before it changed anything; {copy} is left of it" if copy.exists() else None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
