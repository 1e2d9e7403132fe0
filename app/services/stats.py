"""Stats: how much there is, where it stands, and how the last hour went, from reads that walk indexes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.clock import Timestamp, later
from app.domain.control import LivingWorker
from app.domain.jobs import MinuteOfAttempts
from app.domain.pipeline import PipelineShape
from app.domain.tasks import TaskStatus
from app.security.actor import Actor
from app.services.control import StagesView, view_stages
from app.unit import UnitOfWork

WINDOW_SECONDS = 3_600.0
"""How far back the minutes go."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What an operator sees first."""

    now: Timestamp
    tasks: Mapping[TaskStatus, int]
    stages: StagesView
    workers: Sequence[LivingWorker]
    minutes: Sequence[MinuteOfAttempts]


async def stats(work: UnitOfWork, actor: Actor, shape: PipelineShape) -> Stats:
    """Return counts by status and stage, the workers that are alive, and the last hour's attempts by minute."""
    now = work.now()
    return Stats(
        now=now,
        tasks=await work.tasks.count_by_status(),
        stages=await view_stages(work, actor, shape),
        workers=await work.workers.alive(now=now),
        minutes=await work.attempt_minutes.since(later(now, -WINDOW_SECONDS)),
    )
