"""The database's contents: its schema, whether it is whole, and whether its times fit the clock."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.cli.examinations.amounts import size, span
from app.cli.examinations.files import Files
from app.cli.examinations.findings import Check, Finding, Level
from app.clock import Timestamp, seconds_between
from app.db.backups import code_of, is_full
from app.db.driving import drive
from app.db.inspection import InspectedSchema, damage
from app.db.migrations import MigrationsRunner
from app.errors import SchemaMismatch
from app.services.examination import Examined
from app.services.readiness import STALE_SECONDS

DAMAGE_LIMIT = 3
"""So many lines about what is broken in a file are shown; one is enough to restore."""

FUTURE_SECONDS, FAR_FUTURE_SECONDS = 5.0, 300.0
"""From here on a time that lies ahead of the clock is a warning, and a fault."""

YEAR_OF_OLD = "2024"
"""No clock that runs right shows a year before this one: Cabinet is younger."""

FIRST_WITH_RETURNING = (3, 35, 0)
WAL_RESET_BUG = ((3, 7, 0), (3, 51, 2))
"""SQLite's versions, from and to, in which two connections, one writing, one copying the log, may destroy a file."""


def examine_sqlite(version: str) -> Iterator[Finding]:
    """Tell whether this SQLite knows what is needed, and what is known against it."""
    found = tuple(map(int, version.split(".")))
    if found < FIRST_WITH_RETURNING:
        needed = ".".join(map(str, FIRST_WITH_RETURNING))
        remedy = "Install the wheel pysqlite3, or a Python with a newer SQLite."
        says = f"version {version}, which lacks RETURNING: {needed} is needed"
        yield Finding(Check.SQLITE, Level.FAULT, says, remedy)
    elif WAL_RESET_BUG[0] <= found <= WAL_RESET_BUG[1]:
        says = (
            f"version {version} has the WAL-reset bug, fixed after 3.51.2; Cabinet keeps clear of it: only the one"
            " connection that writes copies the log"
        )
        remedy = (
            "Nothing to do now. Let no other program write to the file; where there is a wheel pysqlite3, install it."
        )
        yield Finding(Check.SQLITE, Level.NOTE, says, remedy)
    else:
        yield Finding(Check.SQLITE, Level.OK, f"version {version}")


def examine_schema(raw: Any, runner: MigrationsRunner) -> Iterator[Finding]:
    """Tell whether the schema is this version's."""
    schema = InspectedSchema(raw)
    try:
        drive(runner.verify(schema))
    except SchemaMismatch as mismatch:
        says, _, remedy = mismatch.message.partition(". ")
        yield Finding(Check.MIGRATIONS, Level.FAULT, says[0].lower() + says[1:], remedy)
    else:
        applied = drive(schema.applied())
        newest = f"{applied[-1]['version']:04}_{applied[-1]['name']}"
        yield Finding(Check.MIGRATIONS, Level.OK, f"all {len(applied)} applied, up to {newest}")


def examine_integrity(raw: Any, files: Files, *, is_quick: bool) -> Iterator[Finding]:
    """Read the whole database and tell what is broken in it, unless somebody is in a hurry."""
    if is_quick:
        remedy = "Run doctor without --quick when there is time: it reads the whole file."
        yield Finding(Check.INTEGRITY, Level.NOTE, "not looked at (--quick)", remedy)
        return
    lines = damage(raw, limit=DAMAGE_LIMIT)
    if lines:
        yield Finding(Check.INTEGRITY, Level.FAULT, f"it is broken: {'; '.join(lines)}", restoring(files.database))
    else:
        yield Finding(Check.INTEGRITY, Level.OK, f"all {size(files.database_bytes or 0)} read, nothing is broken")


def examine_clock(examined: Examined, *, now: Timestamp) -> Iterator[Finding]:
    """Tell whether the clock can be right, held against the times in the database."""
    if now < YEAR_OF_OLD:
        says = f"it shows {now[:19]}Z, which is long past"
        yield Finding(Check.CLOCK, Level.FAULT, says, "Set the clock right (timedatectl, chronyc).")
        return
    ahead = {what: seconds_between(now, moment) for what, moment in examined.newest.items()}
    what, seconds = max(ahead.items(), key=lambda item: item[1], default=("", 0.0))
    if seconds <= FUTURE_SECONDS:
        yield Finding(Check.CLOCK, Level.OK, f"it shows {now[:19]}Z; nothing in the database is from later")
        return
    says = f"it shows {now[:19]}Z, but {what} is from {span(seconds)} later"
    remedy = "Set the clock right (timedatectl, chronyc). If it is right and was wrong, work waits until it catches up."
    yield Finding(Check.CLOCK, Level.FAULT if seconds > FAR_FUTURE_SECONDS else Level.WARNING, says, remedy)


def examine_signs(examined: Examined, files: Files, *, now: Timestamp) -> Iterator[Finding]:
    """Tell if the lock and the signs of life that a serving process writes do not agree; nothing if they do."""
    if examined.probed_at is None:
        return
    seconds = seconds_between(examined.probed_at, now)
    if files.is_served and seconds > STALE_SECONDS:
        says = f"process {files.owner} holds this database, but has not written for {span(seconds)}"
        remedy = "See its log and GET /ready. If it is no restore that takes its time, restart it."
        yield Finding(Check.SERVICE, Level.WARNING, says, remedy)
    if not files.is_served and files.log_bytes and 0 <= seconds <= STALE_SECONDS:
        says = (
            f"something served {span(seconds)} ago, and nobody holds the lock: it has crashed, or its lock was deleted"
        )
        remedy = "Look for a running cabinet and stop it before you start another."
        yield Finding(Check.SERVICE, Level.WARNING, says, remedy)


def restoring(database: Path) -> str:
    """Say what to do with a database that is broken."""
    return f"Stop the service, keep a copy of {database} and its -wal, and run: cabinet admin restore BACKUP --replace"


def mend(database: Path, error: Exception) -> str:
    """Say what to do when a database could not be read, by SQLite's code of the reason."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    match code_of(error) or code_of(cause):
        case 5 | 6:
            return f"Another program holds it. End that (fuser -v {shlex.quote(str(database))}), and run doctor again."
        case 8 | 14 | 23:
            return "Run doctor as the user that runs cabinet serve."
        case 10 if is_full(database.parent):
            return f"The disk of {database.parent} is full: make room, and run doctor again."
        case 10:
            return "Look for errors of the disk (dmesg) first, and do not write to it; then restore on a good one."
        case 11 | 26:
            return restoring(database)
        case _:
            return "Mend what is named there, and run doctor again."
