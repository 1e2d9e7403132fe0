"""Cases: dead letters, pauses, living workers and ended tasks, made by the words that make them in life."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from app.domain.control import EVERYTHING, Heartbeat
from app.domain.dead_letters import DeadLetterFilter, Rescue, RescueTerms
from app.domain.jobs import Attempt, Claim, Failure
from app.domain.pipeline import PipelineShape, TaskStanding
from app.domain.retry import GiveUp
from app.domain.scopes import DEFAULT_SCOPES
from app.domain.tasks import CreateTask
from app.domain.users import Role
from app.ids import new_id
from app.main import Container
from app.pipelines import Context, Pipeline, Stage
from app.security.actor import Actor
from app.services import control, dead_letters, explain, leases, queue, tasks, users
from app.services.control import PauseStage, ResumeStage, StagesView
from app.services.dead_letters import RescuePlan, StartRescue, StopRescue
from app.services.explain import ExplainTask, Explanation
from app.services.pages import PageCommand
from app.services.queue import Recorded
from app.services.tasks import ListAttempts
from app.unit import UnitOfWork
from tests.support.house import LOCAL, STAGES, quiet_pipeline
from tests.worker.desk import SHAPE, Desk

BROKEN = Failure(kind="broken", message="It broke.")


async def name_of(context: Context) -> dict[str, Any]:
    """Handle a stage by handing its name on."""
    return {"stage": context.stage}


def pipeline_of(*names: str, **handlers: Any) -> Pipeline:
    """Return a pipeline of these stages; those without a handler of their own hand their name on."""
    return Pipeline([Stage(name, handlers.get(name, name_of)) for name in names])


def shape_of(*stages: str, side_effects: Sequence[str] = ()) -> PipelineShape:
    """Return a shape of these stages."""
    return PipelineShape(stages=stages, side_effects=frozenset(side_effects))


async def add_tasks(desk: Desk, count: int, *, stage: str = STAGES[0]) -> list[str]:
    """Accept many tasks in one unit, in the order of their ids."""
    commands = [
        CreateTask.of(task_id=new_id(), idem_key=new_id(), reference=None, payload={}, first_stage=stage)
        for _ in range(count)
    ]

    async def body(work: UnitOfWork) -> None:
        for command in commands:
            await tasks.create(work, desk.actor, command)

    await desk.say(body)
    return sorted(command.task_id for command in commands)


async def die(desk: Desk, claims: Sequence[Claim], failure: Failure = BROKEN) -> None:
    """Let attempts fail for good."""

    async def body(work: UnitOfWork) -> None:
        for claim in claims:
            assert await queue.fail(work, claim, failure, GiveUp()) is Recorded.DEAD_LETTER

    await desk.say(body)


async def succeed(desk: Desk, claims: Sequence[Claim], *, next_stage: str | None = None) -> None:
    """Let attempts succeed, and the tasks end or go on to the next stage."""

    async def body(work: UnitOfWork) -> None:
        for claim in claims:
            recorded = await queue.succeed(work, claim, next_stage=next_stage, outputs_json="{}")
            assert recorded is not Recorded.LEASE_LOST

    await desk.say(body)


async def add_letters(
    desk: Desk, count: int = 1, *, stage: str = STAGES[0], kind: str = "broken", message: str = "It broke."
) -> list[str]:
    """Accept tasks that stand at a stage where nothing else waits, and let them die there; return them by age."""
    added = await add_tasks(desk, count, stage=stage)
    claims = await desk.claim(count, stages=[stage])
    assert sorted(claim.task_id for claim in claims) == added
    await die(desk, claims, Failure(kind=kind, message=message))
    return added


async def add_letter(desk: Desk, **more: str) -> str:
    """Accept a task and let it die."""
    [task_id] = await add_letters(desk, 1, **more)
    return task_id


async def letter_after(desk: Desk, *done: str, stage: str) -> str:
    """Accept a task that has succeeded with these stages, and let it die at another."""
    task_id = await desk.add_task(stage=done[0])
    for name, following in zip(done, [*done[1:], stage], strict=True):
        await succeed(desk, await desk.claim(stages=[name]), next_stage=following)
    await die(desk, await desk.claim(stages=[stage]))
    return task_id


async def lose_worker(desk: Desk, times: int = 1, **claiming: Any) -> Claim:
    """Let the worker of the next due task be lost so many times; return the last claim."""
    for _ in range(times):
        [claim] = await desk.claim(**claiming)
        desk.clock.move(31)
        await desk.take_back()
    return claim


async def end(desk: Desk, task_id: str) -> None:
    """Let the only due task succeed at its present stage, as its last."""
    [stage, *_] = await desk.state(task_id)
    [claim] = await desk.claim(stages=[stage])
    assert claim.task_id == task_id
    await succeed(desk, [claim])


async def start_rescue(
    desk: Desk,
    *,
    dry_run: bool = False,
    shape: PipelineShape = SHAPE,
    terms: Mapping[str, Any] | None = None,
    **of: str,
) -> RescuePlan:
    """Ask for the rescue of the dead letters that pass a filter."""
    command = StartRescue(
        rescue_id=new_id(),
        wanted=DeadLetterFilter(**of),
        terms=RescueTerms(**(terms or {})),
        reason="mended",
        is_dry_run=dry_run,
        shape=shape,
    )
    return await desk.say(lambda work: dead_letters.start_rescue(work, desk.actor, command))


async def stop_rescue(desk: Desk, rescue_id: str) -> Rescue:
    """Rescue no more of them."""
    command = StopRescue(rescue_id=rescue_id, reason=None)
    return await desk.say(lambda work: dead_letters.stop_rescue(work, desk.actor, command))


async def rescue_of(desk: Desk, plan: RescuePlan) -> Rescue:
    """Return how far a rescue has come."""
    assert plan.rescue is not None
    rescue_id = plan.rescue.id
    return await desk.store.read(lambda work: dead_letters.get_rescue(work, desk.actor, rescue_id))


async def explained(
    desk: Desk, task_id: str, *, shape: PipelineShape = SHAPE, actor: Actor | None = None
) -> Explanation:
    """Tell why a task is not running."""
    command = ExplainTask(task_id=task_id, shape=shape)
    return await desk.store.read(lambda work: explain.explain(work, actor or desk.actor, command))


async def standing(desk: Desk, task_id: str) -> TaskStanding:
    """Return a task and where it stands."""
    return await desk.store.read(lambda work: tasks.get(work, desk.actor, task_id))


async def attempts(desk: Desk, task_id: str) -> list[Attempt]:
    """Return a task's history, the oldest attempt first."""
    command = ListAttempts(page=PageCommand(limit=200), task_id=task_id)
    page = await desk.store.read(lambda work: tasks.history(work, desk.actor, command))
    return [view.attempt for view in reversed(page.items)]


async def outputs(desk: Desk, task_id: str) -> list[str]:
    """Return the stages of which a task has outputs, by name."""
    found = await desk.store.read(lambda work: tasks.outputs(work, desk.actor, task_id))
    return sorted(output.stage for output in found.items)


async def queued(desk: Desk) -> list[str]:
    """Return the tasks that wait to be claimed, by age."""
    return [task_id for (task_id,) in await desk.rows("SELECT task_id FROM jobs ORDER BY task_id")]


async def pause(desk: Desk, stage: str = EVERYTHING, *, reason: str = "the site is down") -> StagesView:
    """Pause a stage, or everything."""
    command = PauseStage(stage=stage, reason=reason, shape=SHAPE)
    return await desk.say(lambda work: control.pause(work, desk.actor, command))


async def resume(desk: Desk, stage: str = EVERYTHING) -> StagesView:
    """Let a stage, or everything, go on."""
    command = ResumeStage(stage=stage, reason="it is up", shape=SHAPE)
    return await desk.say(lambda work: control.resume(work, desk.actor, command))


async def beat(
    desk: Desk,
    name: str = "one",
    *,
    concurrency: int = 4,
    stuck: Mapping[str, int] | None = None,
    stages: Mapping[str, int | None] | None = None,
) -> None:
    """Let a worker that holds nothing say that it lives."""
    given = dict.fromkeys(STAGES) if stages is None else stages
    heartbeat = Heartbeat(name=name, concurrency=concurrency, stuck=stuck or {}, lost_leases=0, stages=given)
    await desk.say(lambda work: leases.hold(work, [], heartbeat, lease_seconds=30))


async def let_in(desk: Desk, subject: str, role: Role = Role.USER) -> Actor:
    """Make a user and return them as an actor."""
    user = await desk.say(
        lambda work: users.add(work, LOCAL, user_id=new_id(), subject=subject, role=role, scopes=None)
    )
    return Actor(id=user.id, subject=subject, role=role, scopes=DEFAULT_SCOPES[role])


async def until_idle(desk: Desk, pipeline: Pipeline | None = None, **more: Any) -> None:
    """Let a worker run all that is due."""
    worker = desk.worker(pipeline, **more)
    while await worker.step():
        pass


@asynccontextmanager
async def reopened(before: Desk) -> AsyncIterator[Desk]:
    """Open the same file again, as the next process does; the desk before must be closed."""
    container = Container(before.container.settings, pipeline=quiet_pipeline(), clock=before.clock)
    async with container.open_beside():
        yield Desk(container, before.clock, before.actor)
