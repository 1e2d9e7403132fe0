"""Examination: what the database tells about the state of the work, gathered for an operator who looks for faults."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.clock import END_OF_TIME, Timestamp, later
from app.domain.control import LivingWorker, Pause
from app.domain.dead_letters import DeadLetterFilter
from app.domain.jobs import LeasedJob
from app.domain.tasks import TaskFilter
from app.services.pages import FIRST
from app.unit import UnitOfWork

PROBE = "write"
"""The name under which a serving process writes again and again."""

COUNTED_LIMIT = 100
"""So many overdue jobs of a kind are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examine:
    """Somebody wants to know how the work stands.

    `stages` are those of the pipeline, or None if it is not known. A lease or a cancelled task is overdue when its time
    ended `slack_seconds` ago, and a job when it has waited `patience_seconds`.
    """

    stages: Sequence[str] | None
    slack_seconds: float
    patience_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """How the work stands; what is overdue is cut at COUNTED_LIMIT."""

    probed_at: Timestamp | None
    newest: Mapping[str, Timestamp]
    """The newest time of each kind that the database holds, by what it is the time of."""
    overdue_leases: Sequence[LeasedJob]
    overdue_cancels: Sequence[LeasedJob]
    workers: Sequence[LivingWorker]
    due_stages: frozenset[str]
    """Stages of which an attempt could begin."""
    waiting_since: Mapping[str, Timestamp]
    """Since when the job waits that waits longest, for each stage where one is overdue."""
    counts: Mapping[str, int]
    """How many tasks that have not ended stand at each stage."""
    pauses: Mapping[str, Pause]
    unknown_stages: Mapping[str, int]
    dead_letters: Mapping[str, int]


async def examine(work: UnitOfWork, command: Examine) -> Examined:
    """Return how the work stands now."""
    now = work.now()
    overdue = later(now, -command.slack_seconds)
    counts = {stage: sum(each.values()) for stage, each in (await work.pipeline_states.count_active()).items()}
    stages = sorted(counts)
    heads = await work.jobs.heads(stages)
    return Examined(
        probed_at=await work.probes.last(PROBE),
        newest=await _newest(work),
        overdue_leases=await work.jobs.leased_until(overdue, limit=COUNTED_LIMIT),
        overdue_cancels=await work.jobs.cancelled_until(overdue, limit=COUNTED_LIMIT),
        workers=await work.workers.alive(now=now),
        due_stages=frozenset(stage for stage, run_at in heads.items() if run_at <= now),
        waiting_since=await work.jobs.waiting_since(stages, until=later(now, -command.patience_seconds)),
        counts=counts,
        pauses=await work.pauses.all(),
        unknown_stages={} if command.stages is None else await work.jobs.unknown_stages(command.stages),
        dead_letters=await work.dead_letters.count_by_stage(DeadLetterFilter(), until=END_OF_TIME),
    )


async def _newest(work: UnitOfWork) -> dict[str, Timestamp]:
    """Return the newest times at which something was written down; none of them may lie in the future."""
    probed_at = await work.probes.last(PROBE)
    tasks = await work.tasks.page(TaskFilter(), before=FIRST, limit=1)
    heard = [worker.seen_at for worker in await work.workers.alive(now=Timestamp(""))]
    found = {
        "the last sign of a serving process": probed_at,
        "the newest task": tasks[0].task.created_at if tasks else None,
        "the last sign of a worker": max(heard, default=None),
    }
    return {what: moment for what, moment in found.items() if moment is not None}
