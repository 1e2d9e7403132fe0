"""Findings: what a check of `cabinet admin doctor` has to say, and the exit code that follows from all of them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from app.errors import CabinetError

BAD_SETTINGS, BAD_SCHEMA, BAD, GOOD = 3, 4, 1, 0
"""Exit codes (design §8)."""


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"
    """Good to know."""
    WARNING = "warning"
    """Will become a fault, or is one under circumstances."""
    FAULT = "fault"
    """The service does not start, does not do its work, or is about to lose something."""


class Check(StrEnum):
    """What is looked at, in this order."""

    SETTINGS = "settings"
    PIPELINE = "pipeline"
    FILE_SYSTEM = "file_system"
    DISK_SPACE = "disk_space"
    RIGHTS = "rights"
    SECRETS = "secrets"
    SQLITE = "sqlite"
    SERVICE = "service"
    RESTORE = "restore"
    LOG_SIZE = "log_size"
    MIGRATIONS = "migrations"
    INTEGRITY = "integrity"
    CLOCK = "clock"
    WORKERS = "workers"
    LEASES = "leases"
    WAITING = "waiting"
    PAUSES = "pauses"
    STAGES = "stages"
    CANCELLED = "cancelled"
    DEAD_LETTERS = "dead_letters"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at and how it is; for everything but OK, what to do."""

    check: Check
    level: Level
    says: str
    remedy: str | None = None


def alone(
    check: Check, look: Callable[[], Iterable[Finding]], *, mend: Callable[[Exception], str] | None = None
) -> Iterator[Finding]:
    """Yield what one check finds; whatever it raises is a finding, with what `mend` says to it, and others go on."""
    try:
        yield from look()
    except Exception as error:
        yield Finding(check, Level.FAULT, f"could not be looked at: {reason(error)}", (mend or _usual)(error))


def reason(error: BaseException) -> str:
    """Say in a few words why something failed, in those of the system or the database if they are the cause."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, CabinetError) and error.__cause__ is not None:
        return reason(error.__cause__)
    return " ".join(str(error).split()) or type(error).__name__


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 0 without a fault, 3 if the settings are bad, 4 if nothing but the schema is, otherwise 1."""
    faulty = {finding.check for finding in findings if finding.level is Level.FAULT}
    if not faulty:
        return GOOD
    if faulty & {Check.SETTINGS, Check.PIPELINE}:
        return BAD_SETTINGS
    return BAD_SCHEMA if faulty == {Check.MIGRATIONS} else BAD


def _usual(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "Run doctor as the user that runs cabinet serve."
    return "Mend what is named there, and run doctor again."
