"""Leases: holding them for longer, and taking back those whose worker is lost or that were cancelled (design §6)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from app.clock import END_OF_TIME, later
from app.domain.control import Heartbeat
from app.domain.jobs import AttemptOutcome, Claim, Failure, LeasedJob, LeaseHeld
from app.domain.retry import RetryPolicy, crash_wait_seconds
from app.services import queue
from app.services.queue import Recorded
from app.unit import UnitOfWork

TAKE_BACK_LIMIT = 100
"""How many leases of a kind one unit takes back."""

_LOST_WORKER = Failure(kind="lease_expired", message="The worker was lost while this attempt ran.")


@dataclass(frozen=True, slots=True)
class Crashes:
    """What follows when a worker is lost: the stages' policies, and chance, which gives numbers in [0, 1)."""

    policies: Mapping[str, RetryPolicy]
    chance: Callable[[], float]

    def policy(self, stage: str) -> RetryPolicy:
        """Return a stage's policy; for one that the pipeline does not have, the usual one."""
        return self.policies.get(stage) or RetryPolicy()


@dataclass(frozen=True, slots=True)
class TakenBack:
    """A lease that was taken from somebody, and what became of the task."""

    task_id: str
    stage: str
    crashes: int
    recorded: Recorded


async def hold(
    work: UnitOfWork, claims: Sequence[Claim], heartbeat: Heartbeat, *, lease_seconds: float
) -> Mapping[LeaseHeld, Sequence[Claim]]:
    """Say that a worker lives, and hold its leases for longer; return the claims by what was said of each."""
    expires_at = later(work.now(), lease_seconds)
    await work.workers.beat(heartbeat, now=work.now(), expires_at=expires_at)
    told: dict[LeaseHeld, list[Claim]] = {held: [] for held in LeaseHeld}
    for claim in claims:
        told[await work.jobs.extend(claim.task_id, claim.lease_token, expires_at=expires_at)].append(claim)
    return told


async def take_back(work: UnitOfWork, crashes: Crashes) -> list[TakenBack]:
    """Take back leases that have run out and those of cancelled tasks whose time to stop is over.

    At most TAKE_BACK_LIMIT of each; the task's stage runs again, or lies among the dead letters after too many crashes.
    """
    now = work.now()
    overdue = await work.jobs.cancelled_until(now, limit=TAKE_BACK_LIMIT)
    taken = [await _take_back(work, job, crashes) for job in overdue]
    lost = await work.jobs.leased_until(now, limit=TAKE_BACK_LIMIT)
    return taken + [await _take_back(work, job, crashes) for job in lost]


async def take_back_all(work: UnitOfWork, crashes: Crashes) -> list[TakenBack]:
    """Take back every lease, at most TAKE_BACK_LIMIT: for the owner of a file whose predecessor is dead."""
    await work.workers.remove_dead(END_OF_TIME)
    lost = await work.jobs.leased_until(END_OF_TIME, limit=TAKE_BACK_LIMIT)
    return [await _take_back(work, job, crashes) for job in lost]


async def _take_back(work: UnitOfWork, job: LeasedJob, crashes: Crashes) -> TakenBack:
    if job.is_cancelled:
        recorded = await _cancel(work, job)
        return TakenBack(job.task_id, job.stage, job.crashes, recorded)
    count = job.crashes + 1
    policy = crashes.policy(job.stage)
    await _end(work, job, AttemptOutcome.LEASE_EXPIRED, _LOST_WORKER)
    if count >= policy.max_crashes:
        await work.jobs.remove(job.task_id, job.lease_token)
        recorded = await queue.dead_letter(work, job.task_id, job.stage, _LOST_WORKER)
    else:
        recorded = await _queue_again(work, job, crash_wait_seconds(policy, crashes=count, chance=crashes.chance()))
    return TakenBack(job.task_id, job.stage, count, recorded)


async def _queue_again(work: UnitOfWork, job: LeasedJob, wait_seconds: float) -> Recorded:
    run_at = later(work.now(), wait_seconds) if wait_seconds > 0 else None
    await work.jobs.crash(job.task_id, job.lease_token, run_at=run_at)
    moved = await work.pipeline_states.release(job.task_id, stage=job.stage, now=work.now())
    return queue.moved_to(Recorded.DONE, moved)


async def _cancel(work: UnitOfWork, job: LeasedJob) -> Recorded:
    await work.jobs.remove(job.task_id, job.lease_token)
    await _end(work, job, AttemptOutcome.CANCELLED, None)
    return await queue.cancelled(work, job.task_id)


async def _end(work: UnitOfWork, job: LeasedJob, outcome: AttemptOutcome, failure: Failure | None) -> None:
    await queue.end_attempt(work, job.task_id, job.lease_token, outcome=outcome, failure=failure, milliseconds=None)
