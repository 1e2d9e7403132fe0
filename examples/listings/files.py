"""Files: written whole or not at all, recorded by checksum and size, and the few that all tasks share."""

import fcntl
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: bytes) -> Path:
    """Write under a name of its own, then rename: whoever looks sees the old bytes or the new, never a part.

    A crash in between leaves a file that ends in .part; the cleanup stage removes it.
    """
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    part.write_bytes(content)
    part.replace(path)
    return path


def recorded(folder: Path, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Return checksum and size of each file, by its path relative to the folder of all tasks."""
    return {path.relative_to(folder.parent).as_posix(): _record(path.read_bytes()) for path in paths}


def rebuild_shared(target: Path, render: Callable[[], bytes]) -> None:
    """Make a file anew that belongs to all tasks, from what they have put beside it.

    `render` runs under a lock that the operating system releases when its holder dies. Each task writes its own part
    first and calls this afterwards; so whoever comes last sees every part, and no older result replaces a newer one.
    """
    with _locked(target.with_name(f".{target.name}.lock")):
        part = target.with_name(f".{target.name}.part")
        part.write_bytes(render())
        part.replace(target)


def read_each(folder: Path, name: str) -> list[bytes]:
    """Return the file of that name from every task's folder that has one."""
    found = []
    for path in sorted(folder.glob(f"*/{name}")):
        try:
            found.append(path.read_bytes())
        except FileNotFoundError:  # somebody removed that task's folder just now
            continue
    return found


def _record(content: bytes) -> dict[str, Any]:
    return {"sha256": sha256(content).hexdigest(), "bytes": len(content)}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
