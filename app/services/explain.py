"""Explain: why a task is not running, in one sentence for people and one cause for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from app.clock import Timestamp, seconds_between
from app.domain.control import EVERYTHING, LivingWorker, Pause
from app.domain.jobs import AttemptOutcome, Job
from app.domain.pipeline import PipelineShape, StateStatus, TaskStanding
from app.security.actor import Actor
from app.services import tasks
from app.services.pages import FIRST
from app.unit import UnitOfWork

MESSAGE_LIMIT = 300
"""Characters of an error's message that a sentence repeats."""

AHEAD_LIMIT = 1_000
"""How many tasks before this one are counted."""


class Cause(StrEnum):
    """Why a task is where it is."""

    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"
    DEAD_LETTER = "dead_letter"
    RUNNING = "running"
    STOPPING = "stopping"
    LEASE_EXPIRED = "lease_expired"
    WAITS_FOR_NEXT_ATTEMPT = "waits_for_next_attempt"
    SNOOZED = "snoozed"
    WAITS_AFTER_CRASH = "waits_after_crash"
    EVERYTHING_PAUSED = "everything_paused"
    STAGE_PAUSED = "stage_paused"
    STAGE_GONE = "stage_gone"
    NO_WORKER = "no_worker"
    NO_FREE_SLOT = "no_free_slot"
    NEXT_IN_LINE = "next_in_line"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainTask:
    """Somebody wants to know why a task is not running."""

    task_id: str
    shape: PipelineShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One cause, one sentence, and the facts that the sentence is made of."""

    standing: TaskStanding
    cause: Cause
    sentence: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Why:
    cause: Cause
    sentence: str
    facts: Mapping[str, Any] = field(default_factory=dict)


async def explain(work: UnitOfWork, actor: Actor, command: ExplainTask) -> Explanation:
    """Tell why a task is not running; NotFound if it is not the actor's to see."""
    standing = await tasks.get(work, actor, command.task_id)
    why = await _why(work, standing, command.shape)
    return Explanation(standing=standing, cause=why.cause, sentence=why.sentence, facts=why.facts)


async def _why(work: UnitOfWork, standing: TaskStanding, shape: PipelineShape) -> _Why:
    job = await work.jobs.by_task(standing.task.id)
    if job is None:
        return await _why_ended(work, standing, shape)
    if job.lease_expires_at is not None:
        return _why_leased(standing, job, job.lease_expires_at, work.now())
    if job.run_at > work.now():
        return await _why_waiting(work, standing, job)
    pauses = await work.pauses.all()
    if pause := pauses.get(EVERYTHING) or pauses.get(job.stage):
        return _why_paused(pause)
    if job.stage not in shape.stages:
        return _why_gone(job, shape)
    return await _why_unclaimed(work, job)


async def _why_ended(work: UnitOfWork, standing: TaskStanding, shape: PipelineShape) -> _Why:
    state = standing.state
    facts: dict[str, Any] = {"ended_at": state.updated_at}
    if state.status is StateStatus.SUCCEEDED:
        return _Why(
            Cause.SUCCEEDED, f"It has succeeded; its last stage {state.stage} ended at {_at(state.updated_at)}.", facts
        )
    if state.status is StateStatus.CANCELLED:
        return _Why(Cause.CANCELLED, f"It was cancelled at stage {state.stage} at {_at(state.updated_at)}.", facts)
    letter = await work.dead_letters.by_task(standing.task.id)
    if letter is not None:
        facts |= {
            "error_kind": letter.error_kind,
            "error_message": letter.error_message,
            "signature": letter.signature.name,
        }
    told = "" if letter is None else f" with {letter.error_kind}: {_on_one_line(letter.error_message)}"
    sentence = f"It is a dead letter: stage {state.stage} failed for good at {_at(state.updated_at)}{told}"
    elsewhere = "" if state.stage in shape.stages else " from another stage, since the pipeline no longer has this one"
    remedy = f"It runs again when an admin rescues it{elsewhere}."
    return _Why(Cause.DEAD_LETTER, f"{sentence.rstrip('.: ')}. {remedy}", facts)


def _why_leased(standing: TaskStanding, job: Job, expires_at: Timestamp, now: Timestamp) -> _Why:
    facts = {"worker": job.worker, "lease_expires_at": expires_at, "attempt": standing.state.attempt}
    if job.cancel_by is not None:
        sentence = f"It was cancelled; worker {job.worker} has until {_at(job.cancel_by)} to stop stage {job.stage}."
        return _Why(Cause.STOPPING, sentence, facts | {"cancel_by": job.cancel_by})
    if expires_at <= now:
        sentence = (
            f"Worker {job.worker} was running stage {job.stage} and has not been heard of; its lease ran out at "
            f"{_at(expires_at)}, and any living worker takes it back."
        )
        return _Why(Cause.LEASE_EXPIRED, sentence, facts)
    done = "" if standing.progress is None else f", {standing.progress.fraction:.0%} done"
    sentence = (
        f"It is running: worker {job.worker} holds stage {job.stage}, attempt {standing.state.attempt}{done}; "
        f"its lease lasts until {_at(expires_at)} unless it is renewed."
    )
    return _Why(Cause.RUNNING, sentence, facts)


async def _why_waiting(work: UnitOfWork, standing: TaskStanding, job: Job) -> _Why:
    facts: dict[str, Any] = {"next_attempt_at": job.run_at}
    when = f"{_at(job.run_at)}, in {_span(seconds_between(work.now(), job.run_at))}"
    if standing.state.status is StateStatus.FAILED:
        error_kind = standing.state.last_error_kind
        attempt = f"Attempt {standing.state.attempt} of stage {job.stage}"
        sentence = f"{attempt} failed with {error_kind}; the next is due at {when}."
        facts |= {"error_kind": error_kind, "attempt": standing.state.attempt}
        return _Why(Cause.WAITS_FOR_NEXT_ATTEMPT, sentence, facts)
    newest = await work.attempts.of_task(job.task_id, before=FIRST, limit=1)
    if newest and newest[0].outcome is AttemptOutcome.LEASE_EXPIRED:
        sentence = f"Stage {job.stage} has lost its worker {_times(job.crashes)}; it is due again at {when}."
        return _Why(Cause.WAITS_AFTER_CRASH, sentence, facts | {"crashes": job.crashes})
    return _Why(Cause.SNOOZED, f"Stage {job.stage} asked to wait; it is due again at {when}.", facts)


def _why_paused(pause: Pause) -> _Why:
    what = "Everything" if pause.stage == EVERYTHING else f"Stage {pause.stage}"
    sentence = f"{what} has been paused by {pause.subject} since {_at(pause.paused_at)}: {pause.reason}"
    cause = Cause.EVERYTHING_PAUSED if pause.stage == EVERYTHING else Cause.STAGE_PAUSED
    facts = {
        "reason": pause.reason,
        "paused_by": pause.paused_by,
        "subject": pause.subject,
        "paused_at": pause.paused_at,
    }
    return _Why(cause, sentence, facts)


def _why_gone(job: Job, shape: PipelineShape) -> _Why:
    sentence = (
        f"It stands at stage {job.stage}, which the pipeline no longer has; it waits until a deployment brings the "
        "stage back, or somebody cancels it."
    )
    return _Why(Cause.STAGE_GONE, sentence, {"stages": list(shape.stages)})


async def _why_unclaimed(work: UnitOfWork, job: Job) -> _Why:
    alive = await work.workers.alive(now=work.now())
    able = [worker for worker in alive if job.stage in worker.heartbeat.stages]
    if not able:
        sentence = f"It is due, but {_nobody_of(len(alive))}: start one that has stage {job.stage}."
        return _Why(Cause.NO_WORKER, sentence, {"alive": len(alive)})
    if not any(worker.has_room_for(job.stage) for worker in able):
        return _why_no_room(job, able)
    ahead = await work.jobs.ahead(job, limit=AHEAD_LIMIT)
    count = (
        f"{AHEAD_LIMIT} or more tasks are"
        if ahead >= AHEAD_LIMIT
        else f"{ahead} task{'s are' if ahead != 1 else ' is'}"
    )
    sentence = (
        f"It is due since {_at(job.run_at)} and a worker has room for it; {count} before it at stage {job.stage}."
    )
    return _Why(Cause.NEXT_IN_LINE, sentence, {"ahead": ahead, "due_since": job.run_at})


def _why_no_room(job: Job, able: Sequence[LivingWorker]) -> _Why:
    taken, slots = sum(worker.slots_taken for worker in able), sum(worker.heartbeat.concurrency for worker in able)
    stuck = sum(worker.slots_stuck for worker in able)
    facts = {"slots": slots, "slots_taken": taken, "stuck": stuck, "due_since": job.run_at}
    if taken < slots:
        of_stage = sum(worker.heartbeat.stuck.get(job.stage, 0) for worker in able)
        sentence = f"It is due, but as many attempts of stage {job.stage} are running as the stage allows at once"
        return _Why(Cause.NO_FREE_SLOT, f"{sentence}{_overrun(of_stage)}.", facts)
    held = _overrun(stuck)
    sentence = f"It is due, but every slot is taken: {taken} of {slots}{held}."
    return _Why(Cause.NO_FREE_SLOT, sentence, facts)


def _nobody_of(alive: int) -> str:
    match alive:
        case 0:
            return "no worker is alive"
        case 1:
            return "the only worker that is alive does not run it"
        case _:
            return f"none of the {alive} workers that are alive runs it"


def _overrun(stuck: int) -> str:
    return f", {stuck} of them by attempts that overran and cannot be stopped" if stuck else ""


def _on_one_line(message: str) -> str:
    """Return the beginning of a message without its line breaks; the facts hold all of it."""
    line = " ".join(message.split())
    return line if len(line) <= MESSAGE_LIMIT else f"{line[:MESSAGE_LIMIT]}…"


def _at(moment: Timestamp) -> str:
    return f"{moment[:19]}Z"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _span(seconds: float) -> str:
    """Say how long something takes, in the largest unit that fits: `42 s`, `5 min`, `3 h`, `2 d`."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1, round(seconds))} s"
