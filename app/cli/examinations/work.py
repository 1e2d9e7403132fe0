"""The work: workers, leases, what waits too long, and what somebody should know of."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from app.cli.examinations.amounts import count, span
from app.cli.examinations.findings import Check, Finding, Level
from app.clock import Timestamp, later, seconds_between
from app.domain.control import EVERYTHING, Pause
from app.domain.jobs import LeasedJob
from app.services.examination import COUNTED_LIMIT, Examined
from app.settings import Settings

PATIENCE_SECONDS = 600.0
"""How long a job that could run may wait before it is told."""

SLACK_LEASES = 2.0
"""A lease that ran out this many leases ago should have been taken back; so should what was cancelled."""

LEAST_GRACE_SECONDS = 20.0
"""So long work that is due may find no worker; a service that starts or stops has none for some seconds."""

GRACE_LEASES = 2.0
"""The same in leases; the longer one counts."""

_NEXT_START = "The next start of the service"


def grace(settings: Settings) -> float:
    """Return for how many seconds work that is due may find no worker; at a stop that is as long as it drains."""
    return max(LEAST_GRACE_SECONDS, GRACE_LEASES * settings.worker_lease_seconds, settings.drain_seconds)


def examine_work(
    examined: Examined, *, now: Timestamp, owned_since: Timestamp | None, grace_seconds: float, is_served: bool
) -> Iterator[tuple[Check, Callable[[], Iterator[Finding]]]]:
    """Yield the checks of the work, each to be called on its own."""
    late = _late(examined, until=later(now, -grace_seconds), owned_since=owned_since)
    yield Check.WORKERS, partial(examine_workers, examined, late=late, is_served=is_served)
    yield Check.LEASES, partial(examine_leases, examined.overdue_leases, is_served=is_served)
    yield Check.WAITING, partial(examine_waiting, examined, now=now, is_served=is_served)
    yield Check.PAUSES, partial(examine_pauses, examined)
    yield Check.STAGES, partial(examine_stages, examined)
    yield Check.CANCELLED, partial(examine_cancelled, examined.overdue_cancels, is_served=is_served)
    yield Check.DEAD_LETTERS, partial(examine_dead_letters, examined)


def examine_workers(examined: Examined, *, late: frozenset[str], is_served: bool) -> Iterator[Finding]:
    """Tell who works, and whether somebody should; `late` are the stages where work has found nobody for too long."""
    due = examined.due_stages - examined.pauses.keys() - examined.unknown_stages.keys()
    is_due = bool(due) and EVERYTHING not in examined.pauses
    slots = sum(worker.heartbeat.concurrency for worker in examined.workers)
    taken = sum(worker.slots_taken for worker in examined.workers)
    stuck = sum(worker.slots_stuck for worker in examined.workers)
    if not is_served:
        yield Finding(Check.WORKERS, Level.OK, "none, because nobody serves")
    elif not examined.workers and is_due:
        says = f"work is due at {', '.join(sorted(due))}, and no worker lives"
        if not due & late:
            remedy = "A service that starts or stops has none for a while. Run doctor again in a minute."
            yield Finding(Check.WORKERS, Level.NOTE, f"{says} yet, or no longer", remedy)
            return
        remedy = "Set WORKER_EMBEDDED to true if it is false; then restart the service, and look for worker in its log."
        yield Finding(Check.WORKERS, Level.FAULT, says, remedy)
    elif not examined.workers:
        yield Finding(Check.WORKERS, Level.OK, "none lives, and no work is due")
    elif stuck:
        says = f"{stuck} of {count(slots, 'slot')} are held by attempts that overran and cannot be stopped"
        remedy = "Restart the service to free them; give what those stages wait for a time limit of its own."
        yield Finding(Check.WORKERS, Level.WARNING, says, remedy)
    else:
        living = count(len(examined.workers), "worker")
        yield Finding(Check.WORKERS, Level.OK, f"{living}, {taken} of {count(slots, 'slot')} taken")


def examine_leases(overdue: Sequence[LeasedJob], *, is_served: bool) -> Iterator[Finding]:
    """Tell which attempts have lost their worker and were not taken back."""
    if not overdue:
        yield Finding(Check.LEASES, Level.OK, "none ran out without being taken back")
    elif is_served:
        says = f"{_tasks(overdue)} held by workers that are gone were not taken back: {_example(overdue)}"
        remedy = (
            "Restart the service, which takes all of them back; look for worker_waits and upkeep_failed in its log."
        )
        yield Finding(Check.LEASES, Level.FAULT, says, remedy)
    else:
        says = f"{_tasks(overdue)} ran when the last process ended"
        yield Finding(Check.LEASES, Level.NOTE, says, f"{_NEXT_START} takes them up again.")


def examine_waiting(examined: Examined, *, now: Timestamp, is_served: bool) -> Iterator[Finding]:
    """Tell at which stages a task waits for too long that could run; what is paused or lost is told elsewhere."""
    silent = examined.pauses.keys() | examined.unknown_stages.keys()
    waiting = {} if EVERYTHING in silent else dict(examined.waiting_since)
    until = later(now, -PATIENCE_SECONDS)
    found = {stage: since for stage, since in waiting.items() if stage not in silent and since <= until}
    remedy = (
        "See GET /v1/stats: raise WORKER_CONCURRENCY, or make the stage faster."
        if is_served
        else f"{_NEXT_START} takes it up."
    )
    for stage, since in sorted(found.items(), key=lambda item: item[1]):
        says = f"a task that could run has waited for {span(seconds_between(since, now))} at stage {stage}"
        says = f"{says}, one of {examined.counts.get(stage, 1)} there"
        yield Finding(Check.WAITING, Level.WARNING, says, remedy)
    if not found:
        yield Finding(Check.WAITING, Level.OK, f"nothing that could run has waited for {span(PATIENCE_SECONDS)}")


def examine_pauses(examined: Examined) -> Iterator[Finding]:
    """Tell what is paused, since when, and why."""
    for stage, pause in examined.pauses.items():
        path = "/v1/stages/resume" if stage == EVERYTHING else f"/v1/stages/{stage}/resume"
        yield Finding(Check.PAUSES, Level.NOTE, _paused(pause), f"When the reason is gone: POST {path}")
    if not examined.pauses:
        yield Finding(Check.PAUSES, Level.OK, "nothing is paused")


def examine_stages(examined: Examined) -> Iterator[Finding]:
    """Tell at which stages tasks wait that the pipeline does not have."""
    for stage, tasks in examined.unknown_stages.items():
        says = f"{count(tasks, 'task')} at stage {stage}, which the pipeline does not have"
        remedy = f"Deploy a pipeline that has it; or list them with GET /v1/tasks?stage={stage} and cancel them."
        yield Finding(Check.STAGES, Level.WARNING, says, remedy)
    if not examined.unknown_stages:
        yield Finding(Check.STAGES, Level.OK, "no task stands at a stage that the pipeline does not have")


def examine_cancelled(overdue: Sequence[LeasedJob], *, is_served: bool) -> Iterator[Finding]:
    """Tell which tasks were cancelled and should have stopped long ago."""
    if not overdue:
        yield Finding(Check.CANCELLED, Level.OK, "nothing that was cancelled goes on beyond its time")
    elif is_served:
        says = f"{_tasks(overdue)} cancelled, whose time to stop is long over: {_example(overdue)}"
        remedy = "Restart the service; look for worker_waits and upkeep_failed in its log."
        yield Finding(Check.CANCELLED, Level.WARNING, says, remedy)
    else:
        says = f"{_tasks(overdue)} cancelled, but not ended before the last process was"
        yield Finding(Check.CANCELLED, Level.NOTE, says, f"{_NEXT_START} ends them.")


def examine_dead_letters(examined: Examined) -> Iterator[Finding]:
    """Tell how many tasks have failed for good, by stage."""
    letters = examined.dead_letters
    if not letters:
        yield Finding(Check.DEAD_LETTERS, Level.OK, "none")
        return
    stages = ", ".join(f"{number} at {stage}" for stage, number in letters.items())
    remedy = "See GET /v1/dead-letters/groups for what they died of, and rescue them when that is mended."
    yield Finding(
        Check.DEAD_LETTERS, Level.NOTE, f"{count(sum(letters.values()), 'task')} failed for good: {stages}", remedy
    )


def _late(examined: Examined, *, until: Timestamp, owned_since: Timestamp | None) -> frozenset[str]:
    """Return the stages where work could have begun before `until`, when the same process served already."""
    if owned_since is not None and owned_since > until:
        return frozenset()
    return frozenset(stage for stage, since in examined.waiting_since.items() if since <= until)


def _paused(pause: Pause) -> str:
    what = "everything" if pause.stage == EVERYTHING else f"stage {pause.stage}"
    return f"{what} has been paused by {pause.subject} since {pause.paused_at[:19]}Z: {' '.join(pause.reason.split())}"


def _tasks(overdue: Sequence[LeasedJob]) -> str:
    return f"{COUNTED_LIMIT} or more tasks" if len(overdue) >= COUNTED_LIMIT else count(len(overdue), "task")


def _example(overdue: Sequence[LeasedJob]) -> str:
    first = overdue[0]
    return f"{first.task_id} at stage {first.stage}" + (" and others" if len(overdue) > 1 else "")
