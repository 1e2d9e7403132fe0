"""Pruning: deleting what has ended long ago, unit by unit: keys, tasks, and the folders of tasks that are gone."""

import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import anyio.to_thread

from app.domain.retention import Retention
from app.log import event
from app.services import retention
from app.services.retention import PRUNE_LIMIT
from app.unit import Store

_BEGINNING = ""
_log = logging.getLogger(__name__)


class Pruning:
    """Three walks from the oldest on, each a unit at a time; one that has ended waits until all have."""

    def __init__(self, store: Store, kept: Retention, artifacts_dir: Path) -> None:
        self._store = store
        self._kept = kept
        self._artifacts_dir = artifacts_dir
        self._begin()

    async def step(self) -> bool:
        """Delete one unit of each walk that goes on; return whether any does still."""
        if self._is_at_the_beginning:
            await self._store.write(retention.prune_signs)
        keys, tasks, folders = await self._prune_keys(), await self._prune_tasks(), await self._prune_folders()
        if keys or tasks or folders:
            event(_log, logging.INFO, "pruned", keys=keys, tasks=tasks, folders=folders)
        goes_on = any(after is not None for after in (self._keys_after, self._tasks_after, self._folders_after))
        if not goes_on:
            self._begin()
        return goes_on

    @property
    def _is_at_the_beginning(self) -> bool:
        return self._keys_after == self._tasks_after == self._folders_after == _BEGINNING

    def _begin(self) -> None:
        self._keys_after: str | None = _BEGINNING
        self._tasks_after: str | None = _BEGINNING
        self._folders_after: str | None = _BEGINNING

    async def _prune_keys(self) -> int:
        after = self._keys_after
        if after is None:
            return 0
        pruned = await self._store.write(lambda work: retention.prune_keys(work, self._kept, after=after))
        self._keys_after = pruned.go_on_after
        return len(pruned.task_ids)

    async def _prune_tasks(self) -> int:
        after = self._tasks_after
        if after is None:
            return 0
        pruned = await self._store.write(lambda work: retention.prune_tasks(work, self._kept, after=after))
        self._tasks_after = pruned.go_on_after
        return len(pruned.task_ids)

    async def _prune_folders(self) -> int:
        after = self._folders_after
        if after is None:
            return 0
        found = await self._store.read(lambda work: work.pruned_folders.next(after=after, limit=PRUNE_LIMIT))
        removed = await anyio.to_thread.run_sync(_remove_folders, self._artifacts_dir, found) if found else []
        if removed:
            await self._store.write(lambda work: work.pruned_folders.remove(removed))
        self._folders_after = found[-1] if len(found) == PRUNE_LIMIT else None
        return len(removed)


def _remove_folders(artifacts_dir: Path, task_ids: Sequence[str]) -> list[str]:
    """Remove the folders of tasks that are gone; return those that are no longer there."""
    removed = []
    for task_id in task_ids:
        try:
            _remove_folder(artifacts_dir / task_id)
        except (OSError, RecursionError) as error:
            event(_log, logging.WARNING, "folder_not_removed", task_id=task_id, reason=str(error))
            continue
        removed.append(task_id)
    return removed


def _remove_folder(folder: Path) -> None:
    """Remove a folder, or the link that somebody has put in its place, but not what that leads to."""
    with suppress(FileNotFoundError):
        if folder.is_symlink():
            folder.unlink()
        else:
            shutil.rmtree(folder)
