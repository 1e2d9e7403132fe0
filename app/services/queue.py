"""The queue: claiming attempts and recording how they ended; every word names the lease's token (design §3a, §6)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.clock import later, seconds_between
from app.domain.control import EVERYTHING
from app.domain.dead_letters import DeadLetter, signature
from app.domain.jobs import SNOOZES_KEPT, AttemptOutcome, Claim, Failure, Lease, Leased, LeaseHeld
from app.domain.retry import GiveUp, RetryIn
from app.errors import Defect
from app.unit import UnitOfWork


class Recorded(StrEnum):
    """What became of a word about an attempt."""

    DONE = "done"
    TASK_ENDED = "task_ended"
    DEAD_LETTER = "dead_letter"
    CANCELLED = "cancelled"
    LEASE_LOST = "lease_lost"
    NOT_RECORDED = "not_recorded"
    """The database did not take it; the lease runs out, and the stage runs again."""

    @property
    def ends_task(self) -> bool:
        """Whether nothing more happens to the task by itself."""
        return self in _ENDS


_ENDS = frozenset({Recorded.TASK_ENDED, Recorded.DEAD_LETTER, Recorded.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimWork:
    """A worker wants up to `limit` attempts, of each stage that it knows at most so many as it has `room` for.

    It `takes_suspect` unless it runs one already: an attempt that may be what kills its worker.
    """

    worker: str
    lease_token: str
    lease_seconds: float
    room: Mapping[str, int]
    limit: int
    takes_suspect: bool = True


@dataclass(frozen=True, slots=True)
class Claimed:
    """The attempts that a worker got, and in how many seconds the next one falls due; None if none waits."""

    claims: Sequence[Claim]
    next_due_seconds: float | None


async def claim(work: UnitOfWork, command: ClaimWork) -> Claimed:
    """Lease the oldest due jobs of the stages that are not paused and begin an attempt of each."""
    now = work.now()
    lease = Lease(token=command.lease_token, worker=command.worker, expires_at=later(now, command.lease_seconds))
    room = await _not_paused(work, command.room)
    heads = await work.jobs.heads(list(room)) if room else {}
    claims: list[Claim] = []
    if command.takes_suspect and any(run_at <= now for run_at in heads.values()):
        for leased in await work.jobs.claim_suspect(lease, stages=list(room), now=now):
            claims.append(await _begin(work, leased, lease))
            room[leased.stage] -= 1
    while due := [stage for stage in heads if room[stage] > 0 and heads[stage] <= now]:
        limit = min(command.limit - len(claims), *(room[stage] for stage in due))
        found = await work.jobs.claim(lease, stages=due, now=now, limit=limit) if limit > 0 else []
        for leased in found:
            claims.append(await _begin(work, leased, lease))
            room[leased.stage] -= 1
        if len(found) < limit or len(claims) >= command.limit:
            break
    if claims and len(claims) < command.limit:
        heads = await work.jobs.heads(list(room))
    waits = [seconds_between(now, run_at) for run_at in heads.values() if run_at > now]
    return Claimed(claims, min(waits, default=None))


async def succeed(work: UnitOfWork, claim: Claim, *, next_stage: str | None, outputs_json: str) -> Recorded:
    """Record a stage's success together with its outputs, and queue the next stage or end the task.

    A task that was cancelled meanwhile goes no further, unless this was its last stage.
    """
    now = work.now()
    if next_stage is None:
        held = await work.jobs.remove(claim.task_id, claim.lease_token)
    else:
        held = await work.jobs.advance(claim.task_id, claim.lease_token, next_stage=next_stage)
    if held is LeaseHeld.LOST:
        return Recorded.LEASE_LOST
    await _end(work, claim, AttemptOutcome.SUCCEEDED)
    await work.outputs.put(claim.task_id, stage=claim.stage, value_json=outputs_json, now=now)
    if next_stage is None:
        moved = await work.pipeline_states.finish(claim.task_id, stage=claim.stage, now=now)
        return moved_to(Recorded.TASK_ENDED, moved and await work.tasks.finish(claim.task_id, now=now))
    if held is LeaseHeld.CANCELLED:
        return await cancelled(work, claim.task_id)
    moved = await work.pipeline_states.advance(claim.task_id, stage=claim.stage, next_stage=next_stage, now=now)
    return moved_to(Recorded.DONE, moved)


async def fail(work: UnitOfWork, claim: Claim, failure: Failure, decision: RetryIn | GiveUp) -> Recorded:
    """Record a failed attempt, and wait for the next one or put the task among the dead letters."""
    now = work.now()
    match decision:
        case GiveUp():
            held = await work.jobs.remove(claim.task_id, claim.lease_token)
        case RetryIn(seconds):
            held = await work.jobs.postpone(claim.task_id, claim.lease_token, run_at=later(now, seconds))
    if held is LeaseHeld.LOST:
        return Recorded.LEASE_LOST
    await _end(work, claim, AttemptOutcome.FAILED, failure)
    if held is LeaseHeld.CANCELLED:
        return await cancelled(work, claim.task_id)
    if isinstance(decision, GiveUp):
        return await dead_letter(work, claim.task_id, claim.stage, failure)
    moved = await work.pipeline_states.fail(claim.task_id, stage=claim.stage, error_kind=failure.kind, now=now)
    return moved_to(Recorded.DONE, moved)


async def snooze(work: UnitOfWork, claim: Claim, *, delay_seconds: float) -> Recorded:
    """Let the stage run again later, as if it had not begun; the attempt is not counted."""
    held = await work.jobs.snooze(claim.task_id, claim.lease_token, run_at=later(work.now(), delay_seconds))
    recorded = await _given_back(work, claim, held, AttemptOutcome.SNOOZED)
    if recorded is Recorded.DONE:
        await work.attempts.forget_snoozes(claim.task_id, keep=SNOOZES_KEPT)
    return recorded


async def release(work: UnitOfWork, claim: Claim) -> Recorded:
    """Give an attempt back that was not finished; it is not counted."""
    held = await work.jobs.release(claim.task_id, claim.lease_token, begins_anew=claim.attempt == 1)
    return await _given_back(work, claim, held, AttemptOutcome.RELEASED)


async def dead_letter(work: UnitOfWork, task_id: str, stage: str, failure: Failure) -> Recorded:
    """Put a task whose job is gone among the dead letters, with the signature of what it died of."""
    now = work.now()
    moved = await work.pipeline_states.give_up(task_id, stage=stage, error_kind=failure.kind, now=now)
    moved = moved and await work.tasks.fail(task_id, now=now)
    letter = DeadLetter(
        task_id=task_id,
        stage=stage,
        error_kind=failure.kind,
        error_message=failure.message,
        signature=signature(stage, failure.kind, failure.message),
        died_at=now,
    )
    if moved:
        await work.dead_letters.add(letter)
    return moved_to(Recorded.DEAD_LETTER, moved)


async def cancelled(work: UnitOfWork, task_id: str) -> Recorded:
    """End a task that was cancelled and that nobody holds a lease of (any more)."""
    await work.jobs.remove_waiting(task_id)
    moved = await work.pipeline_states.cancel(task_id, now=work.now())
    return moved_to(Recorded.CANCELLED, moved and await work.tasks.cancel(task_id, now=work.now()))


async def end_attempt(
    work: UnitOfWork,
    task_id: str,
    lease_token: str,
    *,
    outcome: AttemptOutcome,
    failure: Failure | None,
    milliseconds: int | None,
) -> None:
    """Write down how an attempt ended, and count it; `milliseconds` is None if nobody knows how long it took."""
    now = work.now()
    ended = await work.attempts.end(
        task_id, lease_token, outcome=outcome, failure=failure, milliseconds=milliseconds, now=now
    )
    if ended is not None:
        stage, worker = ended
        await work.attempt_minutes.count(
            stage=stage, worker=worker, outcome=outcome, milliseconds=milliseconds, now=now
        )


def moved_to(recorded: Recorded, moved: bool) -> Recorded:
    """Return what was recorded; raises Defect if a lease was held for a task that was not where it had to be."""
    if not moved:
        raise Defect("A lease was held for a task whose pipeline state was not running.")
    return recorded


async def _not_paused(work: UnitOfWork, room: Mapping[str, int]) -> dict[str, int]:
    paused = await work.pauses.stages()
    if EVERYTHING in paused:
        return {}
    return {stage: free for stage, free in room.items() if free > 0 and stage not in paused}


async def _begin(work: UnitOfWork, leased: Leased, lease: Lease) -> Claim:
    now = work.now()
    attempt = await work.pipeline_states.claim(leased.task_id, stage=leased.stage, now=now)
    payload = await work.tasks.payload(leased.task_id)
    if attempt is None or payload is None:
        raise Defect(f"Job {leased.task_id} stands at stage {leased.stage}, its pipeline state does not.")
    if attempt == 1:
        await work.tasks.start(leased.task_id, now=now)
    outputs = await work.outputs.of_task(leased.task_id)
    claim = Claim(
        task_id=leased.task_id,
        stage=leased.stage,
        attempt=attempt,
        lease_token=lease.token,
        claimed_at=now,
        stage_started_at=leased.stage_started_at,
        crashes=leased.crashes,
        reference=payload.reference,
        payload_json=payload.json,
        outputs_json={output.stage: output.value_json for output in outputs},
    )
    await work.attempts.begin(claim, worker=lease.worker, now=now)
    return claim


async def _given_back(work: UnitOfWork, claim: Claim, held: LeaseHeld, outcome: AttemptOutcome) -> Recorded:
    match held:
        case LeaseHeld.LOST:
            return Recorded.LEASE_LOST
        case LeaseHeld.CANCELLED:
            await _end(work, claim, AttemptOutcome.CANCELLED)
            return await cancelled(work, claim.task_id)
        case LeaseHeld.HELD:
            await _end(work, claim, outcome)
            moved = await work.pipeline_states.release(claim.task_id, stage=claim.stage, now=work.now())
            return moved_to(Recorded.DONE, moved)


async def _end(work: UnitOfWork, claim: Claim, outcome: AttemptOutcome, failure: Failure | None = None) -> None:
    milliseconds = max(0, round(seconds_between(claim.claimed_at, work.now()) * 1000))
    await end_attempt(
        work, claim.task_id, claim.lease_token, outcome=outcome, failure=failure, milliseconds=milliseconds
    )
