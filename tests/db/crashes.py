"""Crashes and failures at chosen calls to the system, and small databases to be copied while they happen."""

import errno
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.database import connect, driver

DIED = 9
CALLS = ("open", "fsync", "replace", "rename", "unlink")
"""Through these all names of files change, and all writes are made to last."""


def points(monkeypatch: pytest.MonkeyPatch, prepare: Callable[[], None], act: Callable[[], object]) -> Iterator[int]:
    """Let a child process die at every single call to the system in turn; yield after each death, until none is left.

    The tests say how it stands then; `prepare` makes the same beginning for each.
    """
    for call in range(1, 200):
        prepare()
        if _die_at(monkeypatch, call, act) != DIED:
            return
        yield call
    pytest.fail("there is no end of calls to the system")


def failures(monkeypatch: pytest.MonkeyPatch, prepare: Callable[[], None], act: Callable[[], object]) -> Iterator[int]:
    """Let every single call to the system fail in turn, with EIO; yield after each failure."""
    for call in range(1, 200):
        prepare()
        with monkeypatch.context() as patch:
            counted = _count(patch, call, _fail)
            with suppress(Exception):
                act()
        if counted[0] < call:
            return
        yield call
    pytest.fail("there is no end of calls to the system")


def note_order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keep in which order files are brought to disk and get their names, by name."""
    calls: list[str] = []
    fsync = os.fsync

    def noted_fsync(descriptor: int) -> None:
        calls.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def noted(real: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
        def rename(source: Path, destination: Path) -> None:
            calls.append(f"name {destination.name}")
            real(source, destination)

        return rename

    monkeypatch.setattr(os, "fsync", noted_fsync)
    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, noted(getattr(os, name)))
    return calls


def make_database(path: Path, *notes: str) -> None:
    """Make a database as Cabinet's are, as far as backups see them: a ledger of migrations, and rows."""
    with closing(connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("CREATE TABLE schema_migrations (version INTEGER, name TEXT, checksum TEXT)")
        connection.execute("INSERT INTO schema_migrations VALUES (1, 'initial', 'abc')")
        connection.execute("CREATE TABLE notes (note TEXT PRIMARY KEY, n INTEGER CONSTRAINT positive CHECK (n > 0))")
        for note in notes:
            connection.execute("INSERT INTO notes VALUES (?, 1)", (note,))


def crash_with(path: Path, note: str) -> None:
    """Leave a database as a killed service does: its last row only in the log."""
    aside = path.with_name("before-the-crash")
    aside.mkdir()
    with closing(connect(path)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        connection.execute("INSERT INTO notes VALUES (?, 1)", (note,))
        for name in (path.name, f"{path.name}-wal"):
            shutil.copy(path.with_name(name), aside / name)
    for kept in aside.iterdir():
        kept.replace(path.with_name(kept.name))
    aside.rmdir()


def notes_in(path: Path) -> list[str]:
    """Return the rows of a database, whose file must be there."""
    with closing(driver.connect(f"{path.as_uri()}?mode=rw", uri=True)) as connection:
        return [row[0] for row in connection.execute("SELECT note FROM notes ORDER BY note")]


def _die_at(monkeypatch: pytest.MonkeyPatch, call: int, act: Callable[[], object]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads; none is needed there
        child = os.fork()
    if child == 0:
        code = 1
        try:
            _count(monkeypatch, call, lambda: os._exit(DIED))
            act()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, DIED), f"the child failed at call {call}"
    return code


def _count(monkeypatch: pytest.MonkeyPatch, call: int, at_call: Callable[[], object]) -> list[int]:
    counted = [0]

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            counted[0] += 1
            if counted[0] == call:
                at_call()
            return real(*arguments, **named)

        return called

    for name in CALLS:
        monkeypatch.setattr(os, name, counting(getattr(os, name)))
    return counted


def _fail() -> None:
    raise OSError(errno.EIO, "Input/output error")
