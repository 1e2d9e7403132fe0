"""The queue: claiming attempts and recording how they ended; every word names the lease's token (design §3a, §6)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.clock import Timestamp, later
from app.domain.jobs import CRASH_LIMIT, AttemptOutcome, Claim, Failure, Lease, LeasedJob
from app.domain.retry import GiveUp, RetryIn
from app.errors import Defect
from app.unit import UnitOfWork

EXPIRE_LIMIT = 100
"""How many lost leases one unit takes back."""

END_OF_TIME = Timestamp("9999-12-31T23:59:59.999999Z")

_LOST_WORKER = Failure(kind="lease_expired", message="The worker was lost while this attempt ran.")


class Recorded(StrEnum):
    """What became of a word about an attempt."""

    DONE = "done"
    TASK_ENDED = "task_ended"
    LEASE_LOST = "lease_lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimWork:
    """A worker wants up to `limit` attempts of the stages that it knows."""

    worker: str
    lease_token: str
    lease_seconds: float
    stages: Sequence[str]
    limit: int


async def claim(work: UnitOfWork, command: ClaimWork) -> list[Claim]:
    """Lease the oldest due jobs and begin an attempt of each."""
    now = work.now()
    lease = Lease(token=command.lease_token, worker=command.worker, expires_at=later(now, command.lease_seconds))
    stages_json = json.dumps(list(command.stages))
    leased = await work.jobs.claim(lease, stages_json=stages_json, now=now, limit=command.limit)
    return [await _begin(work, task_id, stage, lease) for task_id, stage in leased]


async def extend(work: UnitOfWork, claims: Sequence[Claim], *, lease_seconds: float) -> list[Claim]:
    """Hold leases for longer; return the claims whose lease was lost."""
    expires_at = later(work.now(), lease_seconds)
    return [
        claim for claim in claims if not await work.jobs.extend(claim.task_id, claim.lease_token, expires_at=expires_at)
    ]


async def succeed(work: UnitOfWork, claim: Claim, *, next_stage: str | None, outputs_json: str) -> Recorded:
    """Record a stage's success together with its outputs, and queue the next stage or end the task."""
    now = work.now()
    if next_stage is None:
        is_held = await work.jobs.remove(claim.task_id, claim.lease_token)
    else:
        is_held = await work.jobs.advance(claim.task_id, claim.lease_token, next_stage=next_stage)
    if not is_held:
        return Recorded.LEASE_LOST
    await _end(work, claim, AttemptOutcome.SUCCEEDED, None)
    await work.outputs.put(claim.task_id, stage=claim.stage, value_json=outputs_json, now=now)
    if next_stage is not None:
        moved = await work.pipeline_states.advance(claim.task_id, stage=claim.stage, next_stage=next_stage, now=now)
        return _moved(moved, Recorded.DONE)
    moved = await work.pipeline_states.finish(claim.task_id, stage=claim.stage, now=now)
    return _moved(moved and await work.tasks.finish(claim.task_id, now=now), Recorded.TASK_ENDED)


async def fail(work: UnitOfWork, claim: Claim, failure: Failure, decision: RetryIn | GiveUp) -> Recorded:
    """Record a failed attempt, and wait for the next one or put the task among the dead letters."""
    now = work.now()
    if isinstance(decision, GiveUp):
        if not await work.jobs.remove(claim.task_id, claim.lease_token):
            return Recorded.LEASE_LOST
        await _end(work, claim, AttemptOutcome.FAILED, failure)
        return await _give_up(work, claim.task_id, claim.stage, failure)
    run_at = later(now, decision.seconds)
    if not await work.jobs.postpone(claim.task_id, claim.lease_token, run_at=run_at):
        return Recorded.LEASE_LOST
    await _end(work, claim, AttemptOutcome.FAILED, failure)
    moved = await work.pipeline_states.fail(claim.task_id, stage=claim.stage, error_kind=failure.kind, now=now)
    return _moved(moved, Recorded.DONE)


async def release(work: UnitOfWork, claim: Claim) -> Recorded:
    """Give an attempt back that was not finished; it is not counted."""
    if not await work.jobs.release(claim.task_id, claim.lease_token, crashes=0):
        return Recorded.LEASE_LOST
    await _end(work, claim, AttemptOutcome.RELEASED, None)
    moved = await work.pipeline_states.release(claim.task_id, stage=claim.stage, now=work.now())
    return _moved(moved, Recorded.DONE)


async def expire(work: UnitOfWork, *, all_leases: bool = False) -> list[tuple[str, Recorded]]:
    """Take back leases that have run out, at most EXPIRE_LIMIT; return the tasks and what became of them.

    With `all_leases` also those that have not: for the owner of a file whose predecessor is dead.
    """
    moment = END_OF_TIME if all_leases else work.now()
    lost = await work.jobs.leased_until(moment, limit=EXPIRE_LIMIT)
    return [(job.task_id, await _take_back(work, job)) for job in lost]


async def _begin(work: UnitOfWork, task_id: str, stage: str, lease: Lease) -> Claim:
    now = work.now()
    attempt = await work.pipeline_states.claim(task_id, stage=stage, now=now)
    payload = await work.tasks.payload(task_id)
    if attempt is None or payload is None:
        raise Defect(f"Job {task_id} stands at stage {stage}, its pipeline state does not.")
    if attempt == 1:
        await work.tasks.start(task_id, now=now)
    outputs = await work.outputs.of_task(task_id)
    claim = Claim(
        task_id=task_id,
        stage=stage,
        attempt=attempt,
        lease_token=lease.token,
        reference=payload.reference,
        payload_json=payload.json,
        outputs_json={output.stage: output.value_json for output in outputs},
    )
    await work.attempts.begin(claim, worker=lease.worker, now=now)
    return claim


async def _take_back(work: UnitOfWork, job: LeasedJob) -> Recorded:
    now = work.now()
    await work.attempts.end(
        job.task_id, job.lease_token, outcome=AttemptOutcome.LEASE_EXPIRED, failure=_LOST_WORKER, now=now
    )
    if job.crashes + 1 >= CRASH_LIMIT:
        await work.jobs.remove(job.task_id, job.lease_token)
        return await _give_up(work, job.task_id, job.stage, _LOST_WORKER)
    await work.jobs.release(job.task_id, job.lease_token, crashes=1)
    moved = await work.pipeline_states.release(job.task_id, stage=job.stage, now=now)
    return _moved(moved, Recorded.DONE)


async def _give_up(work: UnitOfWork, task_id: str, stage: str, failure: Failure) -> Recorded:
    now = work.now()
    moved = await work.pipeline_states.give_up(task_id, stage=stage, error_kind=failure.kind, now=now)
    return _moved(moved and await work.tasks.fail(task_id, now=now), Recorded.TASK_ENDED)


async def _end(work: UnitOfWork, claim: Claim, outcome: AttemptOutcome, failure: Failure | None) -> None:
    await work.attempts.end(claim.task_id, claim.lease_token, outcome=outcome, failure=failure, now=work.now())


def _moved(moved: bool, recorded: Recorded) -> Recorded:
    if not moved:
        raise Defect("A lease was held for a task whose pipeline state was not running.")
    return recorded
