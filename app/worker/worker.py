"""The worker: claims attempts, runs them with no unit open, records how they ended, and stops without losing any."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import assert_never

import anyio

from app.clock import END_OF_TIME, seconds_between
from app.domain.dead_letters import DeadLetterFilter
from app.domain.jobs import Claim
from app.domain.retry import GiveUp, RetryIn, decide
from app.errors import CabinetError, StorageBusy, StorageFull, WriterBusy
from app.ids import new_id
from app.log import bound, event
from app.metrics import Metrics
from app.pipelines import Pipeline
from app.services import queue
from app.services.queue import Claimed, ClaimWork, Recorded
from app.unit import Store, UnitOfWork
from app.wakeups import Wakeups
from app.worker.execution import Attempt, Failed, Outcome, Snoozed, Stopped, Succeeded
from app.worker.options import WorkerOptions
from app.worker.slots import Slots
from app.worker.upkeep import Upkeep, unless_unavailable

RECORD_AGAIN_SECONDS = 1.0
"""How long to wait before recording again what the database could not take."""

_log = logging.getLogger(__name__)


class Worker:
    """Runs a pipeline's stages. `chance` gives numbers in [0, 1) for the jitter, `monotonic` tells seconds.

    It has no clock of its own: what is due, and which lease has run out, the database's unit of work says.
    """

    def __init__(
        self,
        store: Store,
        pipeline: Pipeline,
        wakeups: Wakeups,
        options: WorkerOptions,
        *,
        metrics: Metrics,
        chance: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._store = store
        self._pipeline = pipeline
        self._wakeups = wakeups
        self._options = options
        self._metrics = metrics
        self._chance = chance
        self._monotonic = monotonic
        self.slots = Slots(options.concurrency)
        self._is_stopping = False
        self._is_giving_up = False
        self.upkeep = Upkeep(store, pipeline, wakeups, options, slots=self.slots, metrics=metrics, chance=chance)
        self.seen_at: float | None = None
        """When the worker last got an answer from the database, or had no slot free to ask it for."""

    async def run(self) -> None:
        """Work until stopped; then finish what runs within the grace, and give the rest back."""
        await unless_unavailable(self._tell_unknown_stages)
        async with anyio.create_task_group() as group:
            group.start_soon(self.upkeep.run, self._see)
            while not self._stops:
                claimed = await self._claim_what_is_due()
                for attempt in self._begin(claimed.claims):
                    group.start_soon(self._attempt, attempt)
                if not self._stops:
                    await self._wakeups.wait_for_work(self._pause_seconds(claimed))
            await self._finish_or_give_back()
            group.cancel_scope.cancel()
        await unless_unavailable(self._take_leave)

    async def step(self) -> int:
        """Claim once, run what was claimed to its end, and return how many attempts that were."""
        claimed = await self._claim_what_is_due()
        async with anyio.create_task_group() as group:
            for attempt in self._begin(claimed.claims):
                group.start_soon(self._attempt, attempt)
        return len(claimed.claims)

    def stop(self) -> None:
        """Claim nothing more; `run` ends soon."""
        self._is_stopping = True
        self._wakeups.work_added()

    @property
    def _stops(self) -> bool:
        return self._is_stopping or self._wakeups.is_stopping

    def _see(self) -> None:
        self.seen_at = self._monotonic()

    async def _claim_what_is_due(self) -> Claimed:
        claimed = Claimed((), None)

        async def claim() -> None:
            nonlocal claimed
            claimed = await self._store.write(partial(queue.claim, command=command))
            self._see()

        command = self._wish()
        if command.limit > 0:
            await unless_unavailable(claim)
        else:
            self._see()
        return claimed

    def _wish(self) -> ClaimWork:
        """Return what there is room for: in the worker, and in each stage."""
        free = self.slots.free
        return ClaimWork(
            worker=self._options.name,
            lease_token=new_id(),
            lease_seconds=self._options.lease_seconds,
            room=self.slots.room(self._pipeline),
            limit=free,
            takes_suspect=free > 0 and not self.slots.runs_suspect,
        )

    def _pause_seconds(self, claimed: Claimed) -> float:
        if claimed.next_due_seconds is None:
            return self._options.poll_seconds
        return min(self._options.poll_seconds, max(0.001, claimed.next_due_seconds))

    def _begin(self, claims: Sequence[Claim]) -> list[Attempt]:
        for claim in claims:
            self._metrics.claimed(claim.stage)
        return self.slots.take(claims)

    async def _attempt(self, attempt: Attempt) -> None:
        try:
            with bound(task=attempt.claim.task_id):
                await self._run_and_record(attempt)
        except Exception as error:  # one attempt never ends the others; its lease runs out
            event(_log, logging.ERROR, "attempt_lost", task_id=attempt.claim.task_id, exc_info=error)
        finally:
            self.slots.running.discard(attempt)
            self._wakeups.work_added()

    async def _run_and_record(self, attempt: Attempt) -> None:
        started = self._monotonic()
        folder, threads = self._options.artifacts_dir, self.slots.threads
        outcome = await attempt.run(self._pipeline, artifacts_dir=folder, threads=threads)
        seconds = self._monotonic() - started
        with anyio.CancelScope(shield=True):
            recorded = Recorded.LEASE_LOST if attempt.is_lost else await self._record(attempt.claim, outcome)
        self.upkeep.lost_leases += recorded is Recorded.LEASE_LOST
        self._tell_ended(attempt.claim, outcome, recorded, seconds)
        self._count_ended(attempt.claim.stage, outcome, recorded, seconds)
        if recorded.ends_task:
            self._wakeups.task_ended(attempt.claim.task_id)

    async def _record(self, claim: Claim, outcome: Outcome) -> Recorded:
        """Record until the database has taken it; if it never does, the lease runs out and the stage runs again."""
        body = self._recording(claim, outcome)
        while True:
            try:
                return await self._store.write(body)
            except (StorageBusy, StorageFull, WriterBusy) as error:
                if self._is_giving_up:
                    return Recorded.NOT_RECORDED
                event(_log, logging.WARNING, "record_again", reason=error.message)
                await anyio.sleep(RECORD_AGAIN_SECONDS)
            except CabinetError as error:
                event(_log, logging.ERROR, "record_given_up", exc_info=error)
                return Recorded.NOT_RECORDED

    def _recording(self, claim: Claim, outcome: Outcome) -> Callable[[UnitOfWork], Awaitable[Recorded]]:
        match outcome:
            case Stopped():
                return lambda work: queue.release(work, claim)
            case Snoozed(delay_seconds):
                return lambda work: queue.snooze(work, claim, delay_seconds=delay_seconds)
            case Succeeded(outputs_json):
                next_stage = self._pipeline.after(claim.stage, done=claim.outputs_json)
                return lambda work: queue.succeed(work, claim, next_stage=next_stage, outputs_json=outputs_json)
            case Failed():
                return partial(self._fail, claim, outcome, self._chance())
            case _:
                assert_never(outcome)

    async def _fail(self, claim: Claim, failed: Failed, chance: float, work: UnitOfWork) -> Recorded:
        return await queue.fail(work, claim, failed.failure, self._decision(claim, failed, chance, work))

    def _decision(self, claim: Claim, failed: Failed, chance: float, work: UnitOfWork) -> RetryIn | GiveUp:
        failure = failed.failure
        return decide(
            self._pipeline.stage(claim.stage).retry.for_kind(failure.kind),
            attempt=claim.attempt,
            retryable=failure.retryable,
            chance=chance,
            elapsed_seconds=seconds_between(claim.stage_started_at, work.now()),
            after_seconds=failure.after_seconds,
        )

    async def _finish_or_give_back(self) -> None:
        with anyio.move_on_after(self._options.grace_seconds):
            await self._until_nothing_runs()
        self._is_giving_up = True
        for attempt in self.slots.running:
            attempt.give_up()
        await self._until_nothing_runs()

    async def _until_nothing_runs(self) -> None:
        while self.slots.running:
            await self._wakeups.wait_for_work(self._options.poll_seconds)

    async def _take_leave(self) -> None:
        await self._store.write(lambda work: work.workers.remove(self._options.name))

    async def _tell_unknown_stages(self) -> None:
        waiting, dead = await self._store.read(self._gone)
        for stage in sorted(waiting.keys() | dead.keys()):
            remedy = "the pipeline does not have this stage; its tasks wait until a deployment brings it back"
            event(_log, logging.WARNING, "stage_gone", stage=stage, tasks=waiting.get(stage, 0),
                  dead_letters=dead.get(stage, 0), remedy=remedy)  # fmt: skip

    async def _gone(self, work: UnitOfWork) -> tuple[dict[str, int], dict[str, int]]:
        """Return how many tasks wait, and how many lie dead, in stages that the pipeline does not have."""
        known = self._pipeline.names
        dead = await work.dead_letters.count_by_stage(DeadLetterFilter(), until=END_OF_TIME)
        return await work.jobs.unknown_stages(known), {stage: dead[stage] for stage in dead if stage not in known}

    def _count_ended(self, stage: str, outcome: Outcome, recorded: Recorded, seconds: float) -> None:
        self._metrics.attempt_ended(stage, outcome=_name(outcome), recorded=recorded, seconds=seconds)
        if recorded is Recorded.LEASE_LOST:
            self._metrics.lease_lost()
        elif recorded is Recorded.DEAD_LETTER:
            self._metrics.dead_letter(stage)

    def _tell_ended(self, claim: Claim, outcome: Outcome, recorded: Recorded, seconds: float) -> None:
        failed = outcome if isinstance(outcome, Failed) else None
        event(
            _log,
            logging.WARNING if failed or recorded in (Recorded.LEASE_LOST, Recorded.NOT_RECORDED) else logging.INFO,
            "attempt_ended",
            exc_info=None if failed is None else failed.error,
            stage=claim.stage,
            attempt=claim.attempt,
            outcome=_name(outcome),
            recorded=recorded,
            error_kind=None if failed is None else failed.failure.kind,
            is_dead_letter=recorded is Recorded.DEAD_LETTER,
            milliseconds=round(seconds * 1000, 2),
        )


def _name(outcome: Outcome) -> str:
    return type(outcome).__name__.lower()
