"""Tasks: accepting work exactly once, looking at it, and trying it again (design §5, §7)."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.clock import later
from app.domain.audit import Action, TargetKind
from app.domain.dead_letters import RescueTerms
from app.domain.jobs import Attempt, JobCancelled, Output
from app.domain.pipeline import PipelineShape, StateStatus, TaskStanding
from app.domain.tasks import CreateTask, Task, TaskFilter, TaskPayload
from app.errors import Conflict, DeadLetterProtected, Defect, KeyReused, NotFound
from app.security.actor import Actor
from app.services import audit, queue
from app.services.dead_letters import bring_back
from app.services.pages import Page, PageCommand, to_page
from app.unit import UnitOfWork


@dataclass(frozen=True, slots=True)
class Created:
    """The task that a key names, and whether it had been created before."""

    task: Task
    is_replay: bool


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task, where it stands, and its payload if the actor may see it."""

    standing: TaskStanding
    payload: TaskPayload | None

    @property
    def task(self) -> Task:
        """The task itself."""
        return self.standing.task


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One execution of a stage; its traceback only if the content is shown."""

    attempt: Attempt
    is_content_shown: bool


@dataclass(frozen=True, slots=True)
class OutputsView:
    """What the stages of a task handed on; only that they did, unless the content is shown."""

    items: Sequence[Output]
    is_content_shown: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ListTasks:
    """A page of the tasks that pass a filter."""

    page: PageCommand
    wanted: TaskFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class ListAttempts:
    """A page of a task's history."""

    page: PageCommand
    task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryTask:
    """An admin wants a task to be tried again, and says why; `terms` are for a dead letter."""

    task_id: str
    override_dead_letter: bool
    reason: str
    terms: RescueTerms
    shape: PipelineShape


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTask:
    """Somebody wants a task to end; what runs of it may take `grace_seconds` to stop by itself."""

    task_id: str
    reason: str | None
    grace_seconds: float


async def create(work: UnitOfWork, actor: Actor, command: CreateTask) -> Created:
    """Accept a task, or return the one that the actor's key already names.

    Raises KeyReused if the key named another command, and what the pipeline has against the payload of a new task;
    then nothing changes.
    """
    now = work.now()
    if command.refusal is not None and not await _is_known(work, actor, command):
        raise command.refusal
    key = await work.tasks.store_idempotency_key(actor_id=actor.id, command=command, created_at=now)
    if key.task_id != command.task_id:
        return await _replayed(work, key.task_id, is_same=key.fingerprint == command.fingerprint)
    task = await work.tasks.add(command=command, created_by=actor.id, created_at=now)
    await work.pipeline_states.add(task.id, stage=command.first_stage, now=now)
    await work.jobs.add(task.id, stage=command.first_stage, run_at=now)
    named = None if command.reference is None else {"reference": command.reference}
    await audit.record(work, actor.author, Action.TASK_CREATED, (TargetKind.TASK, task.id), after=named)
    return Created(task, is_replay=False)


async def list_tasks(work: UnitOfWork, actor: Actor, command: ListTasks) -> Page[TaskStanding]:
    """Return the newest tasks first; a user's list holds only their own."""
    wanted = command.wanted
    if not actor.sees_all_tasks:
        if wanted.created_by not in (None, actor.id):
            return Page((), None)
        wanted = TaskFilter(status=wanted.status, stage=wanted.stage, created_by=actor.id, reference=wanted.reference)
    found = await work.tasks.page(wanted, before=command.page.before, limit=command.page.limit + 1)
    return to_page(found, command.page, lambda standing: standing.task.id)


async def get(work: UnitOfWork, actor: Actor, task_id: str) -> TaskStanding:
    """Return a task and where it stands; NotFound if there is none, or if it is not the actor's to see."""
    standing = await work.tasks.standing(task_id)
    if standing is None or not (actor.sees_all_tasks or standing.task.created_by == actor.id):
        raise NotFound("There is no task of this id.")
    return standing


async def view(work: UnitOfWork, actor: Actor, task_id: str) -> TaskView:
    """Return a task with its payload, or without for those who may not see it; NotFound as `get`."""
    standing = await get(work, actor, task_id)
    if not actor.sees_content(standing.task.created_by):
        return TaskView(standing, None)
    return TaskView(standing, await work.tasks.payload(task_id))


async def history(work: UnitOfWork, actor: Actor, command: ListAttempts) -> Page[AttemptView]:
    """Return a task's attempts, newest first."""
    standing = await get(work, actor, command.task_id)
    page = command.page
    found = await work.attempts.of_task(command.task_id, before=page.before, limit=page.limit + 1)
    is_shown = actor.sees_content(standing.task.created_by)
    views = [AttemptView(attempt, is_content_shown=is_shown) for attempt in found]
    return to_page(views, page, lambda view: view.attempt.id)


async def outputs(work: UnitOfWork, actor: Actor, task_id: str) -> OutputsView:
    """Return what the stages of a task handed on, in their order."""
    standing = await get(work, actor, task_id)
    found = await work.outputs.of_task(task_id)
    return OutputsView(found, is_content_shown=actor.sees_content(standing.task.created_by))


async def retry(work: UnitOfWork, actor: Actor, command: RetryTask) -> TaskStanding:
    """Let a task that waits for its next attempt run now, or rescue a dead letter at its stage or an earlier one.

    Raises DeadLetterProtected without the override, Conflict if the task neither waits nor lies among the dead letters,
    and what `dead_letters.bring_back` raises.
    """
    standing = await get(work, actor, command.task_id)
    match standing.state.status:
        case StateStatus.FAILED if command.terms.from_stage is None:
            await work.jobs.make_due(command.task_id, now=work.now())
        case StateStatus.FAILED:
            raise Conflict("This task still waits for its next attempt; from_stage is for dead letters.")
        case StateStatus.DEAD_LETTER if command.override_dead_letter:
            await bring_back(work, standing.state, shape=command.shape, terms=command.terms)
        case StateStatus.DEAD_LETTER:
            raise DeadLetterProtected
        case status:
            raise Conflict(f"This task is {status}; only one that failed or is a dead letter can be tried again.")
    after = await get(work, actor, command.task_id)
    await _record_move(work, actor, Action.TASK_RETRIED, standing, after, command.reason)
    return after


async def cancel(work: UnitOfWork, actor: Actor, command: CancelTask) -> TaskStanding:
    """End a task: at once if nobody works at it; else whoever does is told to stop, and loses it at the deadline.

    Cancelling again changes nothing. Raises Conflict if the task has ended in another way.
    """
    standing = await get(work, actor, command.task_id)
    if standing.state.status is StateStatus.CANCELLED or standing.cancel_by is not None:
        return standing
    match await work.jobs.cancel(command.task_id, cancel_by=later(work.now(), command.grace_seconds)):
        case JobCancelled.WAITS:
            await queue.cancelled(work, command.task_id)
        case JobCancelled.NOT_THERE:
            raise Conflict(f"This task is {standing.state.status}; what has ended cannot be cancelled.")
        case JobCancelled.RUNS:
            pass
    after = await get(work, actor, command.task_id)
    await _record_move(work, actor, Action.TASK_CANCELLED, standing, after, command.reason)
    return after


async def _record_move(
    work: UnitOfWork, actor: Actor, action: Action, before: TaskStanding, after: TaskStanding, reason: str | None
) -> None:
    def shown(standing: TaskStanding) -> dict[str, str | None]:
        return {"stage": standing.state.stage, "status": standing.state.status, "cancel_by": standing.cancel_by}

    target = (TargetKind.TASK, after.task.id)
    await audit.record(work, actor.author, action, target, before=shown(before), after=shown(after), reason=reason)


async def _is_known(work: UnitOfWork, actor: Actor, command: CreateTask) -> bool:
    return await work.tasks.find_by_actor_and_idempotency_key(actor.id, command.idem_key) is not None


async def _replayed(work: UnitOfWork, task_id: str, *, is_same: bool) -> Created:
    if not is_same:
        raise KeyReused
    task = await work.tasks.by_id(task_id)
    if task is None:
        raise Defect("An idempotency key names a task that is not there.")
    return Created(task, is_replay=True)
