"""Control: pausing and resuming stages, and how the stages stand (design §7, /v1/stages)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.clock import END_OF_TIME, Timestamp
from app.domain.audit import Action, TargetKind
from app.domain.control import EVERYTHING, Pause
from app.domain.dead_letters import DeadLetterFilter
from app.domain.pipeline import PipelineShape, StateStatus
from app.security.actor import Actor
from app.services import audit
from app.unit import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseStage:
    """An admin wants no attempt of a stage to begin, or of any if it is EVERYTHING, and says why."""

    stage: str
    reason: str
    shape: PipelineShape


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeStage:
    """An admin wants a stage, or EVERYTHING, to go on, and says why."""

    stage: str
    reason: str
    shape: PipelineShape


@dataclass(frozen=True, slots=True, kw_only=True)
class StageView:
    """How a stage stands: its pause, and how many tasks are there by status.

    `is_known` is False for a stage that the pipeline has lost while tasks still stand there. `oldest_due_at` is since
    when the one that is to run next could have run there.
    """

    name: str
    is_known: bool
    has_side_effect: bool
    pause: Pause | None
    counts: Mapping[StateStatus, int]
    dead_letters: int
    oldest_due_at: Timestamp | None


@dataclass(frozen=True, slots=True)
class StagesView:
    """All stages in their order, then those that the pipeline has lost, and the pause of everything."""

    stages: Sequence[StageView]
    pause: Pause | None


async def pause(work: UnitOfWork, actor: Actor, command: PauseStage) -> StagesView:
    """Let no attempt of a stage begin; what runs goes on. One that is paused already keeps its reason."""
    if command.stage != EVERYTHING:
        command.shape.check_known(command.stage)
    if command.stage not in await work.pauses.stages():
        await work.pauses.pause(command.stage, reason=command.reason, paused_by=actor.id, now=work.now())
        target = (TargetKind.STAGE, command.stage)
        await audit.record(work, actor.author, Action.STAGE_PAUSED, target, reason=command.reason)
    return await view_stages(work, actor, command.shape)


async def resume(work: UnitOfWork, actor: Actor, command: ResumeStage) -> StagesView:
    """Let a stage go on; nothing changes if it is not paused. Its own pause and that of everything are two."""
    if await work.pauses.resume(command.stage):
        target = (TargetKind.STAGE, command.stage)
        await audit.record(work, actor.author, Action.STAGE_RESUMED, target, reason=command.reason)
    elif command.stage != EVERYTHING:
        command.shape.check_known(command.stage)
    return await view_stages(work, actor, command.shape)


async def view_stages(work: UnitOfWork, _actor: Actor, shape: PipelineShape) -> StagesView:
    """Return how all stages stand, to an actor."""
    return await standing_of_stages(work, shape)


async def standing_of_stages(work: UnitOfWork, shape: PipelineShape) -> StagesView:
    """Return how all stages stand."""
    pauses = await work.pauses.all()
    counts = await work.pipeline_states.count_active()
    letters = await work.dead_letters.count_by_stage(DeadLetterFilter(), until=END_OF_TIME)
    found = counts.keys() | letters.keys() | (pauses.keys() - {EVERYTHING})
    names = [*shape.stages, *sorted(found - set(shape.stages))]
    waits = await work.jobs.next_waits_since(names)
    stages = [
        StageView(
            name=name,
            is_known=name in shape.stages,
            has_side_effect=name in shape.side_effects,
            pause=pauses.get(name),
            counts=counts.get(name, {}),
            dead_letters=letters.get(name, 0),
            oldest_due_at=waits[name] if name in waits and waits[name] <= work.now() else None,
        )
        for name in names
    ]
    return StagesView(stages, pauses.get(EVERYTHING))
