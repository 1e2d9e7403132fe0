"""Dead letters: looking at them, alone and in groups, and rescuing one, a group, or all that pass a filter."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from app.domain.audit import Action, TargetKind
from app.domain.dead_letters import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterGroup,
    Rescue,
    RescueStatus,
    RescueTerms,
    check_side_effects,
    stages_to_run_again,
)
from app.domain.pipeline import PipelineShape, PipelineState
from app.errors import Conflict, NotFound, Refusal, StageGone
from app.security.actor import Actor
from app.services import audit
from app.services.pages import Page, PageCommand, to_page
from app.unit import UnitOfWork

RESCUE_LIMIT = 100
"""How many dead letters one unit looks at; a worker runs at most one such unit a second."""

RESCUES_AT_ONCE_LIMIT = 20
"""How many rescues may be waiting to be carried out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListDeadLetters:
    """A page of the dead letters that pass a filter."""

    page: PageCommand
    wanted: DeadLetterFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class ListGroups:
    """The largest groups of dead letters, at most `limit`, of a stage or a kind of error if one is named."""

    stage: str | None
    error_kind: str | None
    limit: int


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of dead letters, the largest first; there are more if the list `is_truncated`."""

    items: Sequence[DeadLetterGroup]
    is_truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRescue:
    """An admin wants all dead letters that pass a filter back, and says why; a dry run only tells what would be."""

    rescue_id: str
    wanted: DeadLetterFilter
    terms: RescueTerms
    reason: str
    is_dry_run: bool
    shape: PipelineShape


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRescue:
    """An admin wants no more of a rescue."""

    rescue_id: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What a rescue would do with the dead letters of one stage, and what stands against it."""

    stage: str
    count: int
    runs_again: Sequence[str]
    refusal: Refusal | None


@dataclass(frozen=True, slots=True)
class RescuePlan:
    """What a rescue would do, stage by stage; and the rescue itself, unless nothing is to be done."""

    stages: Sequence[StagePlan]
    rescue: Rescue | None

    @property
    def matched(self) -> int:
        """How many dead letters pass the filter."""
        return sum(plan.count for plan in self.stages)


@dataclass(frozen=True, slots=True)
class RescueStep:
    """What one unit did of a rescue."""

    rescue: Rescue
    rescued: int
    skipped: int
    is_done: bool


async def list_dead_letters(work: UnitOfWork, _actor: Actor, command: ListDeadLetters) -> Page[DeadLetter]:
    """Return dead letters, those of the newest tasks first."""
    found = await work.dead_letters.page(command.wanted, before=command.page.before, limit=command.page.limit + 1)
    return to_page(found, command.page, lambda letter: letter.task_id)


async def list_groups(work: UnitOfWork, _actor: Actor, command: ListGroups) -> Groups:
    """Return the groups of dead letters, the largest first."""
    found = await work.dead_letters.groups(stage=command.stage, error_kind=command.error_kind, limit=command.limit + 1)
    return Groups(found[: command.limit], is_truncated=len(found) > command.limit)


async def start_rescue(work: UnitOfWork, actor: Actor, command: StartRescue) -> RescuePlan:
    """Tell what a rescue would do, and unless it is a dry run let workers begin with it.

    Raises SideEffectsUnconfirmed, Conflict if it skips a stage or too many rescues run, Invalid for an unknown stage.
    Dead letters at stages that the pipeline has lost are skipped, unless the terms name another stage or there are no
    others: then StageGone.
    """
    counts = await work.dead_letters.count_by_stage(command.wanted, until=work.now())
    plans = [_plan(command.shape, stage, count, command.terms) for stage, count in counts.items()]
    if command.is_dry_run or not plans:
        return RescuePlan(plans, None)
    _check_plans(plans)
    await _check_few_enough(work)
    rescue = Rescue(
        id=command.rescue_id,
        created_by=actor.id,
        created_at=work.now(),
        reason=command.reason,
        wanted=command.wanted,
        terms=command.terms,
        status=RescueStatus.RUNNING,
        matched=sum(counts.values()),
        rescued=0,
        skipped=0,
        last_task_id="",
        ended_at=None,
    )
    await work.rescues.add(rescue)
    asked = {**asdict(command.wanted), **asdict(command.terms), "matched": rescue.matched}
    target = (TargetKind.RESCUE, rescue.id)
    await audit.record(work, actor.author, Action.RESCUE_STARTED, target, after=asked, reason=command.reason)
    return RescuePlan(plans, rescue)


async def list_rescues(work: UnitOfWork, _actor: Actor, page: PageCommand) -> Page[Rescue]:
    """Return the newest rescues first."""
    return to_page(await work.rescues.page(before=page.before, limit=page.limit + 1), page, lambda rescue: rescue.id)


async def get_rescue(work: UnitOfWork, _actor: Actor, rescue_id: str) -> Rescue:
    """Return one rescue and how far it has come."""
    rescue = await work.rescues.by_id(rescue_id)
    if rescue is None:
        raise NotFound("There is no rescue of this id.")
    return rescue


async def stop_rescue(work: UnitOfWork, actor: Actor, command: StopRescue) -> Rescue:
    """Rescue no more of them; what was rescued stays so. Stopping one that has ended changes nothing."""
    before = await get_rescue(work, actor, command.rescue_id)
    await work.rescues.finish(command.rescue_id, status=RescueStatus.STOPPED, now=work.now())
    after = await get_rescue(work, actor, command.rescue_id)
    if before.status is not after.status:
        target, shown = (TargetKind.RESCUE, after.id), {"status": after.status, "rescued": after.rescued}
        await audit.record(work, actor.author, Action.RESCUE_STOPPED, target, after=shown, reason=command.reason)
    return after


async def step_rescue(work: UnitOfWork, shape: PipelineShape) -> RescueStep | None:
    """Carry the oldest running rescue on by at most RESCUE_LIMIT dead letters; None if there is none."""
    rescue = await work.rescues.next_running()
    if rescue is None:
        return None
    letters = await work.dead_letters.next_to_rescue(
        rescue.wanted, after=rescue.last_task_id, until=rescue.created_at, limit=RESCUE_LIMIT
    )
    rescued = 0
    for letter in letters:
        state = await work.pipeline_states.by_task(letter.task_id)
        rescued += state is not None and await _could_bring_back(work, state, shape, rescue.terms)
    skipped = len(letters) - rescued
    last = letters[-1].task_id if letters else rescue.last_task_id
    await work.rescues.advance(rescue.id, rescued=rescued, skipped=skipped, last_task_id=last)
    is_done = len(letters) < RESCUE_LIMIT
    if is_done:
        await work.rescues.finish(rescue.id, status=RescueStatus.DONE, now=work.now())
    return RescueStep(rescue, rescued, skipped, is_done)


async def bring_back(work: UnitOfWork, state: PipelineState, *, shape: PipelineShape, terms: RescueTerms) -> None:
    """Queue a dead letter at the stage that the terms name or at its own; what earlier stages handed on is kept.

    Raises StageGone, Invalid, SideEffectsUnconfirmed, or Conflict if the terms skip a stage or somebody was faster.
    """
    stages = stages_to_run_again(shape, stage=state.stage, from_stage=terms.from_stage)
    check_side_effects(shape, stages, terms)
    now = work.now()
    moved = await work.tasks.rescue(state.task_id, now=now)  # its row first, as pruning does
    moved = moved and await work.pipeline_states.rescue(state.task_id, died_at=state.stage, stage=stages[0], now=now)
    if not moved:
        raise Conflict("This task was rescued by somebody else just now.")
    await work.dead_letters.remove(state.task_id)
    await work.outputs.drop_stages(state.task_id, stages)
    await work.jobs.add(state.task_id, stage=stages[0], run_at=now)


async def _could_bring_back(work: UnitOfWork, state: PipelineState, shape: PipelineShape, terms: RescueTerms) -> bool:
    outcome = await work.protect(lambda: bring_back(work, state, shape=shape, terms=terms))
    return not isinstance(outcome, Refusal)


def _plan(shape: PipelineShape, stage: str, count: int, terms: RescueTerms) -> StagePlan:
    runs_again: Sequence[str] = ()
    try:
        runs_again = stages_to_run_again(shape, stage=stage, from_stage=terms.from_stage)
        check_side_effects(shape, tuple(runs_again), terms)
    except Refusal as refusal:
        return StagePlan(stage, count, runs_again, refusal)
    return StagePlan(stage, count, runs_again, None)


def _check_plans(plans: Sequence[StagePlan]) -> None:
    """Raise what stands against a rescue; stages that the pipeline has lost are passed over if there are others."""
    refusals = [plan.refusal for plan in plans if plan.refusal is not None]
    for refusal in refusals:
        if len(refusals) == len(plans) or not isinstance(refusal, StageGone):
            raise refusal


async def _check_few_enough(work: UnitOfWork) -> None:
    running = await work.rescues.count_running()
    if running >= RESCUES_AT_ONCE_LIMIT:
        raise Conflict(f"{running} rescues are still running; wait until they are done, or stop one.")
