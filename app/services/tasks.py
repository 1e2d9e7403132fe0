"""Tasks: accepting work exactly once, looking at it, and trying it again (design §5, §7)."""

from dataclasses import dataclass

from app.domain.jobs import Attempt, Output
from app.domain.pipeline import StateStatus, TaskStanding
from app.domain.tasks import CreateTask, Task, TaskFilter
from app.errors import Conflict, DeadLetterProtected, Defect, KeyReused, NotFound
from app.security.actor import Actor
from app.services.pages import Page, PageCommand, to_page
from app.unit import UnitOfWork


@dataclass(frozen=True, slots=True)
class Created:
    """The task that a key names, and whether it had been created before."""

    task: Task
    is_replay: bool


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
    """An admin wants a task to be tried again, and says why."""

    task_id: str
    override_dead_letter: bool
    reason: str


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


async def history(work: UnitOfWork, actor: Actor, command: ListAttempts) -> Page[Attempt]:
    """Return a task's attempts, newest first."""
    await get(work, actor, command.task_id)
    page = command.page
    found = await work.attempts.of_task(command.task_id, before=page.before, limit=page.limit + 1)
    return to_page(found, page, lambda attempt: attempt.id)


async def outputs(work: UnitOfWork, actor: Actor, task_id: str) -> list[Output]:
    """Return what the stages of a task handed on, in their order."""
    await get(work, actor, task_id)
    return await work.outputs.of_task(task_id)


async def retry(work: UnitOfWork, actor: Actor, command: RetryTask) -> TaskStanding:
    """Let a task that waits for its next attempt run now, or rescue a dead letter at its stage.

    Raises DeadLetterProtected without the override, Conflict if the task neither waits nor lies among the dead letters.
    """
    standing = await get(work, actor, command.task_id)
    match standing.state.status:
        case StateStatus.FAILED:
            await work.jobs.make_due(command.task_id, now=work.now())
        case StateStatus.DEAD_LETTER if command.override_dead_letter:
            await _rescue(work, command.task_id)
        case StateStatus.DEAD_LETTER:
            raise DeadLetterProtected
        case status:
            raise Conflict(f"This task is {status}; only one that failed or is a dead letter can be tried again.")
    return await get(work, actor, command.task_id)


async def _is_known(work: UnitOfWork, actor: Actor, command: CreateTask) -> bool:
    return await work.tasks.find_by_actor_and_idempotency_key(actor.id, command.idem_key) is not None


async def _replayed(work: UnitOfWork, task_id: str, *, is_same: bool) -> Created:
    if not is_same:
        raise KeyReused
    task = await work.tasks.by_id(task_id)
    if task is None:
        raise Defect("An idempotency key names a task that is not there.")
    return Created(task, is_replay=True)


async def _rescue(work: UnitOfWork, task_id: str) -> None:
    stage = await work.pipeline_states.rescue(task_id, now=work.now())
    if stage is None or not await work.tasks.rescue(task_id, now=work.now()):
        raise Conflict("This task was rescued by somebody else just now.")
    await work.jobs.add(task_id, stage=stage, run_at=work.now())
