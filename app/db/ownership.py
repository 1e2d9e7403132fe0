"""Ownership: one serving process holds a SQLite file, and a restore has it alone, by locks beside it (design §4)."""

import errno
import fcntl
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.errors import AlreadyOwned, RestoreInterrupted, StartFault

LEFT_BESIDE = ("-journal", "-wal", "-shm")
"""What SQLite keeps beside a file and would read into whatever database has that file's name next."""


@contextmanager
def own(path: Path) -> Iterator[None]:
    """Hold the database file for this process; the kernel lets go when the process ends, however it ends.

    Raises AlreadyOwned if another process holds it. Commands that only administer write beside the owner and do not
    come here.
    """
    path = real(path)
    lock = _open(path, ".lock")
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyOwned(_sentence(path, os.read(lock, 20).decode(errors="replace"))) from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        with not_in_forks(lock):
            yield
    finally:
        os.close(lock)


@contextmanager
def share(path: Path) -> Iterator[None]:
    """Keep restores away as long as this process has the database open, be it the owner's or a command's beside it.

    Raises AlreadyOwned while a restore is under way, RestoreInterrupted if one left no database behind.
    """
    path = real(path)
    with _held(path, fcntl.LOCK_SH, f"{path} is being restored; try again when that has ended."):
        refuse_interrupted_restore(path)
        yield


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep everybody away who shares the database; raises AlreadyOwned if somebody has it open."""
    path = real(path)
    with _held(path, fcntl.LOCK_EX, f"{path} is in use by another command; let it end, then try again."):
        yield


def refuse_interrupted_restore(path: Path) -> None:
    """Raise RestoreInterrupted if a restore took the old database away and did not bring the new one.

    Without this look a service would quietly begin with an empty database. One stat where there is a database.
    """
    path = real(path)
    if path.exists():
        return
    traces = (restoring(path), *(path.with_name(path.name + ending) for ending in LEFT_BESIDE))
    if left := [trace for trace in traces if trace.exists()]:
        raise RestoreInterrupted(
            f"There is no database at {path}, but {left[0]} is there: a restore was interrupted. Run"
            " `cabinet admin restore BACKUP` again. If you removed the database yourself, remove that file too."
        )


def restoring(path: Path) -> Path:
    """Return where the restored database of a path lies until it is whole."""
    return path.with_name(f".{path.name}.restoring")


def real(path: Path) -> Path:
    """Follow links, which may end in nothing or go in a circle."""
    return Path(os.path.realpath(path))


def open_lock(path: Path, *, like: Path) -> int:
    """Open a lock; one that root makes belongs to the owner of `like`. Raises OSError."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        lock = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, flags)
    give_to_owner(lock, like)
    return lock


def give_to_owner(descriptor: int, place: Path) -> None:
    """Give a file that root has just made to the owner of a place: the service's user must be able to open it."""
    if os.geteuid() == 0:
        found = place.stat()
        with suppress(OSError):  # root of a container may lack that right
            os.fchown(descriptor, found.st_uid, found.st_gid)


@contextmanager
def not_in_forks(descriptor: int) -> Iterator[None]:
    """Close a descriptor in every process forked from this one: a stage's child must not outlive us holding it."""
    held = [descriptor]

    def close() -> None:
        while held:
            os.close(held.pop())

    os.register_at_fork(after_in_child=close)
    try:
        yield
    finally:
        held.clear()


@contextmanager
def _held(path: Path, kind: int, refusal: str) -> Iterator[None]:
    lock = _open(path, ".use")
    try:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyOwned(refusal) from error
        with not_in_forks(lock):
            yield
    finally:
        os.close(lock)


def _open(database: Path, ending: str) -> int:
    lock = database.with_name(database.name + ending)
    try:
        return open_lock(lock, like=database if database.exists() else database.parent)
    except OSError as error:
        told = f"{lock} cannot be opened: {error.strerror}. It is the lock beside the database."
        raise StartFault(f"{told}{_remedy(error, lock)}") from error


def _remedy(error: OSError, lock: Path) -> str:
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return _whose(lock)
        case errno.EROFS:
            return " Mount it so that it can be written."
        case errno.ENOSPC | errno.EDQUOT:
            return f" The disk that holds {lock.parent} is full; make room, then try again."
        case _:
            return ""


def _whose(lock: Path) -> str:
    user = os.geteuid()
    for place in (lock, lock.parent):
        with suppress(OSError):
            owner, quoted = place.stat().st_uid, shlex.quote(str(place))
            if owner == user:
                return f" Run: chmod u+rwX {quoted}"
            told = f" {place} belongs to user {owner}, and this is user {user}: run cabinet as that user"
            return f"{told}, or: chown {user} {quoted}"
    return " Run cabinet as the user that runs cabinet serve."


def _sentence(path: Path, pid: str) -> str:
    return (
        f"{path} is served by another process (pid {pid or 'unknown'}). One process owns a SQLite file, API and worker"
        " in one: stop that one first. Several processes need PostgreSQL, which a later version brings."
    )
