"""Answers about the pipeline: explanations, dead letters, rescues, stages and stats as JSON."""

from typing import Any

from starlette.responses import Response

from app.clock import seconds_between
from app.domain.control import LivingWorker, Pause
from app.domain.dead_letters import DeadLetter, DeadLetterGroup, Rescue
from app.domain.jobs import MinuteOfAttempts
from app.domain.pipeline import StateStatus
from app.domain.tasks import TaskStatus
from app.services.control import StagesView, StageView
from app.services.dead_letters import Groups, RescuePlan, StagePlan
from app.services.explain import Explanation
from app.services.stats import Stats
from app.web.incoming import Incoming
from app.web.rendering import json_response, standing


def explanation(outcome: Explanation) -> dict[str, Any]:
    """Show why a task is where it is."""
    return {
        "cause": outcome.cause,
        "sentence": outcome.sentence,
        "facts": dict(outcome.facts),
        "task": standing(outcome.standing),
    }


def dead_letter(outcome: DeadLetter) -> dict[str, Any]:
    """Show a task that ended in failure."""
    return {
        "task_id": outcome.task_id,
        "stage": outcome.stage,
        "error_kind": outcome.error_kind,
        "error_message": outcome.error_message,
        "signature": outcome.signature.name,
        "died_at": outcome.died_at,
    }


def groups(outcome: Groups) -> dict[str, Any]:
    """Show groups of dead letters."""
    return {"items": [_group(group) for group in outcome.items], "is_truncated": outcome.is_truncated}


def rescue(outcome: Rescue) -> dict[str, Any]:
    """Show a rescue and how far it has come."""
    return {
        "id": outcome.id,
        "status": outcome.status,
        "matched": outcome.matched,
        "rescued": outcome.rescued,
        "skipped": outcome.skipped,
        "reason": outcome.reason,
        "filter": {
            "stage": outcome.wanted.stage,
            "error_kind": outcome.wanted.error_kind,
            "signature": outcome.wanted.signature,
        },
        "from_stage": outcome.terms.from_stage,
        "confirm_side_effects": outcome.terms.confirm_side_effects,
        "created_by": outcome.created_by,
        "created_at": outcome.created_at,
        "ended_at": outcome.ended_at,
    }


def rescue_plan(outcome: RescuePlan, _incoming: Incoming) -> Response:
    """Show what a rescue would do, or that it has begun: 202 with the place where it can be followed."""
    started = outcome.rescue
    body = {
        "matched": outcome.matched,
        "stages": [_stage_plan(plan) for plan in outcome.stages],
        "rescue": None if started is None else rescue(started),
    }
    if started is None:
        return json_response(body)
    return json_response(body, 202, {"Location": f"/v1/dead-letters/rescues/{started.id}"})


def stages(outcome: StagesView) -> dict[str, Any]:
    """Show how the stages stand."""
    return {"items": [_stage(view) for view in outcome.stages], "paused": _pause(outcome.pause)}


def stats(outcome: Stats) -> dict[str, Any]:
    """Show how much there is, where it stands, and how the last hour went."""
    oldest = min((view.oldest_due_at for view in outcome.stages.stages if view.oldest_due_at is not None), default=None)
    return {
        "at": outcome.now,
        "tasks": {status: outcome.tasks.get(status, 0) for status in TaskStatus},
        "stages": stages(outcome.stages)["items"],
        "paused": _pause(outcome.stages.pause),
        "oldest_waiting_since": oldest,
        "oldest_waiting_seconds": None if oldest is None else round(seconds_between(oldest, outcome.now), 3),
        "workers": [_worker(worker) for worker in outcome.workers],
        "minutes": [_minute(minute) for minute in outcome.minutes],
    }


def _group(group: DeadLetterGroup) -> dict[str, Any]:
    sample = group.sample
    return {
        "signature": sample.signature.name,
        "stage": sample.stage,
        "error_kind": sample.error_kind,
        "pattern": sample.signature.pattern,
        "count": group.count,
        "first_seen": group.first_seen,
        "last_seen": group.last_seen,
        "sample": {"task_id": sample.task_id, "error_message": sample.error_message, "died_at": sample.died_at},
    }


def _stage_plan(plan: StagePlan) -> dict[str, Any]:
    return {
        "stage": plan.stage,
        "count": plan.count,
        "runs_again": list(plan.runs_again),
        "refused_because": None if plan.refusal is None else plan.refusal.code,
        "detail": None if plan.refusal is None else _words(plan),
    }


def _words(plan: StagePlan) -> str:
    faults = getattr(plan.refusal, "faults", ())
    return "; ".join(f"{pointer} {sentence}" for pointer, sentence in faults) or str(plan.refusal)


def _stage(view: StageView) -> dict[str, Any]:
    return {
        "stage": view.name,
        "is_known": view.is_known,
        "side_effect": view.has_side_effect,
        "paused": _pause(view.pause),
        "queued": view.counts.get(StateStatus.QUEUED, 0),
        "running": view.counts.get(StateStatus.RUNNING, 0),
        "failed": view.counts.get(StateStatus.FAILED, 0),
        "dead_letter": view.dead_letters,
        "oldest_waiting_since": view.oldest_due_at,
    }


def _pause(pause: Pause | None) -> dict[str, Any] | None:
    if pause is None:
        return None
    return {
        "reason": pause.reason,
        "paused_by": pause.paused_by,
        "subject": pause.subject,
        "paused_at": pause.paused_at,
    }


def _worker(worker: LivingWorker) -> dict[str, Any]:
    return {
        "name": worker.heartbeat.name,
        "started_at": worker.started_at,
        "seen_at": worker.seen_at,
        "slots": worker.heartbeat.concurrency,
        "slots_taken": worker.slots_taken,
        "stuck": worker.slots_stuck,
        "lost_leases": worker.heartbeat.lost_leases,
    }


def _minute(minute: MinuteOfAttempts) -> dict[str, Any]:
    mean = round(minute.milliseconds / minute.timed, 1) if minute.timed else None
    return {
        "minute": minute.minute,
        "stage": minute.stage,
        "outcome": minute.outcome,
        "attempts": minute.attempts,
        "mean_milliseconds": mean,
        "longest_milliseconds": minute.longest_milliseconds if minute.timed else None,
    }
