"""Rights: whom the files belong to, and who may read and write them."""

import os
import shlex
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.cli.examinations.amounts import count
from app.cli.examinations.findings import Check, Finding, Level
from app.settings_checks import OTHERS_MAY_WRITE

NAMED_LIMIT = 3
"""So many files are named where several have the same fault."""

_OTHERS_MAY_READ = stat.S_IRGRP | stat.S_IROTH
_EFFECTIVE = os.access in os.supports_effective_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A file or folder: its owner, its mode, and whether this user can do with it what the service does."""

    path: Path
    owner: int
    mode: int
    is_usable: bool
    is_mounted_read_only: bool = False

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.mode)


def look_at(paths: Iterable[Path]) -> list[Place]:
    """Return those of some paths that lead somewhere."""
    return [place for path in paths if (place := _place(path)) is not None]


def examine_rights(places: Sequence[Place], *, user: int, is_prod: bool) -> Iterator[Finding]:
    """Tell which of the service's files are out of this user's reach, and which are in that of others."""
    problems = [
        *_read_only(places),
        *_unusable(places, user),
        *_foreign(places, user),
        *_open_to_others(places, is_prod=is_prod),
    ]
    yield from problems
    if not problems:
        yield Finding(Check.RIGHTS, Level.OK, "the files belong to this user, who alone may read and write them")


def examine_secrets(places: Sequence[Place]) -> Iterator[Finding]:
    """Tell which files that hold settings may be read by everybody on this machine."""
    readable = [place.path for place in places if not place.is_folder and place.mode & stat.S_IROTH]
    if readable:
        says = f"every user of this machine may read {_named(readable)}"
        yield Finding(Check.SECRETS, Level.WARNING, says, f"Run: chmod o-rwx {_quoted(readable)}")
    elif places:
        yield Finding(Check.SECRETS, Level.OK, f"{count(len(places), 'file')} of settings, not readable by everybody")
    else:
        yield Finding(Check.SECRETS, Level.OK, "no files of settings here: they come from the environment")


def _place(path: Path) -> Place | None:
    try:
        found = path.stat()
        wanted = os.R_OK | os.W_OK | (os.X_OK if stat.S_ISDIR(found.st_mode) else 0)
        is_usable = os.access(path, wanted, effective_ids=_EFFECTIVE)
        is_mounted_read_only = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except FileNotFoundError:
        return None
    return Place(
        path=path,
        owner=found.st_uid,
        mode=found.st_mode,
        is_usable=is_usable,
        is_mounted_read_only=is_mounted_read_only,
    )


def _read_only(places: Sequence[Place]) -> Iterator[Finding]:
    if paths := [place.path for place in places if place.is_mounted_read_only]:
        says = f"nobody can write {_named(paths)}: mounted read-only"
        remedy = (
            "Mount it so that it can be written; if the system made it read-only, look for errors of the disk (dmesg)."
        )
        yield Finding(Check.RIGHTS, Level.FAULT, says, remedy)


def _unusable(places: Sequence[Place], user: int) -> Iterator[Finding]:
    for place in places:
        if not place.is_usable and not place.is_mounted_read_only:
            what = "make files in" if place.is_folder else "read and write"
            says = f"this user ({user}) may not {what} {place.path}, which belongs to user {place.owner}"
            remedy = f"Run cabinet as user {place.owner}; or run: chown {user} {_quoted([place.path])}"
            yield Finding(Check.RIGHTS, Level.FAULT, says, remedy)


def _foreign(places: Sequence[Place], user: int) -> Iterator[Finding]:
    for owner in sorted({place.owner for place in places if place.owner != user and place.is_usable}):
        paths = [place.path for place in places if place.owner == owner and place.is_usable]
        says = f"{_named(paths)} belong{'s' if len(paths) == 1 else ''} to user {owner}, not to this user ({user})"
        remedy = (
            f"Run doctor and cabinet serve as the same user; if {user} is the right one: chown {user} {_quoted(paths)}"
        )
        yield Finding(Check.RIGHTS, Level.WARNING, says, remedy)


def _open_to_others(places: Sequence[Place], *, is_prod: bool) -> Iterator[Finding]:
    # in prod a place that others may write is a fault of the settings already
    writable = [] if is_prod else [place.path for place in places if place.mode & OTHERS_MAY_WRITE]
    if writable:
        says = f"others than the owner may write {_named(writable)}"
        yield Finding(Check.RIGHTS, Level.WARNING, says, f"Run: chmod go-w {_quoted(writable)}")
    readable = [place.path for place in places if place.mode & _OTHERS_MAY_READ and not place.is_folder]
    if readable:
        says = f"others than the owner may read {_named(readable)}"
        yield Finding(Check.RIGHTS, Level.WARNING, says, f"Run: chmod 600 {_quoted(readable)}")


def _named(paths: Sequence[Path]) -> str:
    named = ", ".join(map(str, paths[:NAMED_LIMIT]))
    return named if len(paths) <= NAMED_LIMIT else f"{named} and {len(paths) - NAMED_LIMIT} more"


def _quoted(paths: Sequence[Path]) -> str:
    return shlex.join(map(str, paths))
