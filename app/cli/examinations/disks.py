"""Disks: what kind of file system the database lies on, and how much room there is."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.cli.examinations.amounts import GIGABYTE, MEGABYTE, size
from app.cli.examinations.findings import Check, Finding, Level

LEAST_BYTES = 100 * MEGABYTE
"""With less room the service is about to stop taking work."""

FEW_BYTES = GIGABYTE
"""With less room somebody should look after it."""

COPIES = 2
"""So many times the size of the database should be free: a backup to the same disk is a copy, and so is a VACUUM."""

LEAST_FILES, FEW_FILES = 1_000, 10_000
"""The same for files: tasks have folders of their own."""

MOUNTS = Path("/proc/self/mountinfo")

_SHARED = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "fuse", "fakeowner", "ceph", "lustre", "glusterfs",
    "gfs2", "ocfs2", "beegfs", "gpfs", "afs", "vboxsf", "prl_fs", "vmhgfs",
})  # fmt: skip
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_LAYERED = frozenset({"overlay", "overlayfs", "aufs"})
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What is free where something lies; `files` is None on a file system that has no limit of them."""

    what: str
    folder: Path
    device: int
    bytes: int
    files: int | None


def measure(what: str, path: Path) -> Room:
    """Look at the file system on which a path lies or will lie."""
    folder = next(place for place in (path, *path.parents) if place.is_dir())
    found = os.statvfs(folder)
    files = found.f_favail if found.f_files else None
    return Room(
        what=what, folder=folder, device=folder.stat().st_dev, bytes=found.f_bavail * found.f_frsize, files=files
    )


def kind_of(path: Path, mounts: str) -> str | None:
    """Return the kind of the file system that a path without links lies on; `mounts` is what MOUNTS holds."""
    best, kind = -1, None
    for line in mounts.splitlines():
        left, separator, right = line.partition(" - ")
        if not separator:
            continue
        point = Path(_ESCAPED.sub(lambda found: chr(int(found[1], 8)), left.split()[4]))
        if path.is_relative_to(point) and len(point.parts) >= best:  # of two at one place the later one is seen
            best, kind = len(point.parts), right.split()[0]
    return kind


def examine_kind(kind: str | None, folder: Path, *, is_prod: bool) -> Iterator[Finding]:
    """Tell whether SQLite can work on a file system of that kind, and whether it lasts."""
    check, where = Check.FILE_SYSTEM, f"the database lies on {kind} ({folder})"
    if kind is None:
        remedy = "Make sure yourself that DB_PATH lies on a local disk."
        yield Finding(check, Level.NOTE, "this system does not tell what kind of file system DB_PATH lies on", remedy)
    elif kind in _SHARED or kind.startswith("fuse."):
        says = f"{where}, where processes cannot share the memory and locks that SQLite needs: it may be destroyed"
        yield Finding(check, Level.FAULT, says, "Move it to a local disk or a named volume, and set DB_PATH.")
    elif kind in _IN_MEMORY:
        says = f"{where}, which is memory: a restart of the machine loses everything"
        yield Finding(check, Level.FAULT if is_prod else Level.WARNING, says, "Move it to a disk, and set DB_PATH.")
    elif kind in _LAYERED:
        says = f"{where}, inside a container: it is gone when the container is removed"
        yield Finding(check, Level.WARNING, says, "Put the folder on a volume.")
    else:
        yield Finding(check, Level.OK, where)


def examine_room(rooms: Iterable[Room], *, database_bytes: int) -> Iterator[Finding]:
    """Tell for each disk how much room it has; what lies on the same disk is told once."""
    disks: dict[int, list[Room]] = {}
    for room in rooms:
        disks.setdefault(room.device, []).append(room)
    for same in disks.values():
        yield _bytes_of(same, database_bytes)
        yield from _files_of(same)


def _bytes_of(same: Sequence[Room], database_bytes: int) -> Finding:
    room = same[0]
    says = f"{size(room.bytes)} free for {_names(same)}"
    remedy = f"Make room on the disk of {room.folder}, or enlarge it"
    if room.bytes < LEAST_BYTES:
        return Finding(Check.DISK_SPACE, Level.FAULT, f"only {says}: writes are about to fail", f"{remedy}, now.")
    if room.bytes < FEW_BYTES:
        return Finding(Check.DISK_SPACE, Level.WARNING, f"only {says}", f"{remedy}.")
    if any(each.what == "the database" for each in same) and room.bytes < COPIES * database_bytes:
        says = f"{says}, which is {size(database_bytes)} large: too little for a backup beside it and a copy to mend it"
        return Finding(Check.DISK_SPACE, Level.WARNING, says, f"{remedy}; or put backups on another disk.")
    return Finding(Check.DISK_SPACE, Level.OK, says)


def _files_of(same: Sequence[Room]) -> Iterator[Finding]:
    room = same[0]
    if room.files is None or room.files >= FEW_FILES:
        return
    level = Level.FAULT if room.files < LEAST_FILES else Level.WARNING
    says = f"only {room.files} more files fit beside {_names(same)} (inodes), however many bytes are free"
    yield Finding(Check.DISK_SPACE, level, says, f"Remove many small files from the disk of {room.folder}.")


def _names(same: Sequence[Room]) -> str:
    return " and ".join(room.what for room in same)
