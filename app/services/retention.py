"""Retention: deleting what has ended long ago, in small units; first the keys, then the tasks that none names."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from app.clock import Timestamp, later
from app.domain.retention import Retention, may_prune_key, may_prune_task
from app.services.stats import WINDOW_SECONDS
from app.unit import UnitOfWork

PRUNE_LIMIT = 100
"""How many tasks, or keys, one unit looks at; a worker runs at most one such unit a second."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What one unit deleted, and the task after which the next one goes on; None at the end of the walk."""

    task_ids: Sequence[str]
    go_on_after: str | None


async def prune_keys(work: UnitOfWork, retention: Retention, *, after: str) -> Pruned:
    """Delete idempotency keys that are old enough and whose task has ended, walking from the oldest task on."""
    now = work.now()
    keys = await work.tasks.oldest_keys(after=after, limit=PRUNE_LIMIT)
    pruned = [key.task_id for key in keys if may_prune_key(key, retention, now=now)]
    await work.tasks.prune_keys(json.dumps(pruned))
    is_last = len(keys) < PRUNE_LIMIT or _is_young(keys[-1].created_at, retention.key_seconds, now)
    return Pruned(pruned, None if is_last else keys[-1].task_id)


async def prune_signs(work: UnitOfWork) -> None:
    """Forget what stats shows no longer: minutes long past, and workers that are dead since then."""
    long_ago = later(work.now(), -2 * WINDOW_SECONDS)
    await work.attempt_minutes.prune(long_ago)
    await work.workers.remove_dead(long_ago)


async def prune_tasks(work: UnitOfWork, retention: Retention, *, after: str) -> Pruned:
    """Delete tasks that ended long enough ago and that no key names, with all that is theirs in the database.

    Their folders are noted down, to be removed from the disk after the commit.
    """
    now = work.now()
    tasks = await work.tasks.oldest(after=after, limit=PRUNE_LIMIT)
    pruned = [task.id for task in tasks if may_prune_task(task, retention, now=now)]
    await _delete(work, pruned)
    kept_seconds = [kept for kept in (retention.task_seconds, retention.dead_letter_seconds) if kept is not None]
    is_last = len(tasks) < PRUNE_LIMIT or _is_young(tasks[-1].created_at, min(kept_seconds, default=None), now)
    return Pruned(pruned, None if is_last else tasks[-1].id)


async def _delete(work: UnitOfWork, task_ids: Sequence[str]) -> None:
    if not task_ids:
        return
    ids_json = json.dumps(task_ids)
    await work.outputs.prune(ids_json)
    await work.attempts.prune(ids_json)
    await work.dead_letters.prune(ids_json)
    await work.pipeline_states.prune(ids_json)
    await work.tasks.prune(ids_json)
    for task_id in task_ids:
        await work.pruned_folders.add(task_id, now=work.now())


def _is_young(created_at: Timestamp, kept_seconds: float | None, now: Timestamp) -> bool:
    """Tell whether nothing that was created then or later can be old enough."""
    return kept_seconds is None or created_at > later(now, -kept_seconds)
