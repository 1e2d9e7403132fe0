"""Ownership: one serving process holds a SQLite file, by a lock on a file beside it (design §4)."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import AlreadyOwned, StartFault


@contextmanager
def own(path: Path) -> Iterator[None]:
    """Hold the database file for this process; the kernel lets go when the process ends, however it ends.

    Raises AlreadyOwned if another process holds it. Commands that only administer write beside the owner and do not
    come here.
    """
    path = path.resolve()
    lock = _open(path.with_name(path.name + ".lock"))
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


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StartFault(f"{path} cannot be opened: {error.strerror}. It is the lock beside the database.") from error


def _sentence(path: Path, pid: str) -> str:
    return (
        f"{path} is served by another process (pid {pid or 'unknown'}). One process owns a SQLite file, API and worker"
        " in one: stop that one first. Several processes need PostgreSQL, which a later version brings."
    )
