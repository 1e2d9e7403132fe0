"""The worker: claims attempts, runs them with no unit open, records how they ended, and stops without losing any."""

import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from app.clock import Clock, Timestamp, seconds_between
from app.domain.jobs import Claim
from app.domain.retry import decide
from app.errors import CabinetError, StorageBusy, StorageFull, Unavailable, WriterBusy
from app.ids import new_id
from app.log import bound, event
from app.pipelines import Pipeline
from app.services import queue
from app.services.queue import ClaimWork, Recorded
from app.unit import Store, UnitOfWork
from app.wakeups import Wakeups
from app.worker.execution import Failed, Succeeded, Threads, execute

RECORD_AGAIN_SECONDS = 1.0
"""How long to wait before recording again what the database could not take."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How a worker works. `name` stands in leases and in the history."""

    name: str
    artifacts_dir: Path
    concurrency: int
    lease_seconds: float
    poll_seconds: float
    grace_seconds: float


@dataclass(slots=True, eq=False)
class _Running:
    claim: Claim
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    is_lost: bool = False


class Worker:
    """Runs a pipeline's stages. `chance` gives numbers in [0, 1) for the jitter, `monotonic` tells seconds."""

    def __init__(
        self,
        store: Store,
        pipeline: Pipeline,
        wakeups: Wakeups,
        options: WorkerOptions,
        *,
        clock: Clock,
        chance: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._store = store
        self._pipeline = pipeline
        self._wakeups = wakeups
        self._options = options
        self._clock = clock
        self._chance = chance
        self._monotonic = monotonic
        self._threads = Threads(options.concurrency)
        self._running: set[_Running] = set()
        self._is_stopping = False
        self._is_giving_up = False
        self.seen_at: float | None = None
        """When the worker last got an answer from the database, or had no slot free to ask it for."""

    async def run(self) -> None:
        """Work until stopped; then finish what runs within the grace, and give the rest back."""
        await self._tell_unknown_stages()
        async with anyio.create_task_group() as group:
            group.start_soon(self._keep_leases)
            while not self._stops:
                claims, pause_seconds = await self._claim_what_is_due()
                for running in self._begin(claims):
                    group.start_soon(self._attempt, running)
                if not self._stops:
                    await self._wakeups.wait_for_work(pause_seconds)
            await self._finish_or_give_back()
            group.cancel_scope.cancel()

    async def step(self) -> int:
        """Claim once, run what was claimed to its end, and return how many attempts that were."""
        claims, _ = await self._claim_what_is_due()
        async with anyio.create_task_group() as group:
            for running in self._begin(claims):
                group.start_soon(self._attempt, running)
        return len(claims)

    def stop(self) -> None:
        """Claim nothing more; `run` ends soon."""
        self._is_stopping = True
        self._wakeups.work_added()

    @property
    def _stops(self) -> bool:
        return self._is_stopping or self._wakeups.is_stopping

    async def keep_leases_once(self) -> None:
        """Hold the leases of what runs for longer, and take back leases that ran out."""
        held = [running.claim for running in self._running]
        lost = await self._store.write(lambda work: queue.extend(work, held, lease_seconds=self._options.lease_seconds))
        for running in self._running:
            if running.claim in lost:
                running.is_lost = True
                running.scope.cancel()
        expired = await self._store.write(queue.expire)
        self._tell_expired(expired)
        self.seen_at = self._monotonic()

    async def _keep_leases(self) -> None:
        while True:
            await self._unless_unavailable(self.keep_leases_once)
            await anyio.sleep(self._options.lease_seconds / 3)

    async def _claim_what_is_due(self) -> tuple[Sequence[Claim], float]:
        free = self._options.concurrency - len(self._running) - self._threads.stuck
        claimed: list[tuple[Sequence[Claim], Timestamp | None]] = []

        async def claim() -> None:
            claimed.append(await self._store.write(self._claim(free)))
            self.seen_at = self._monotonic()

        if free > 0:
            await self._unless_unavailable(claim)
        else:
            self.seen_at = self._monotonic()
        claims, next_due = claimed[0] if claimed else ((), None)
        if free > 0 and len(claims) == free:
            return claims, self._options.poll_seconds
        return claims, self._pause_until(next_due)

    def _claim(self, free: int) -> Callable[[UnitOfWork], Awaitable[tuple[Sequence[Claim], Timestamp | None]]]:
        command = ClaimWork(
            worker=self._options.name,
            lease_token=new_id(),
            lease_seconds=self._options.lease_seconds,
            stages=self._pipeline.names,
            limit=free,
        )

        async def body(work: UnitOfWork) -> tuple[Sequence[Claim], Timestamp | None]:
            claims = await queue.claim(work, command)
            next_due = await work.jobs.next_due(now=work.now()) if len(claims) < free else None
            return claims, next_due

        return body

    def _pause_until(self, next_due: Timestamp | None) -> float:
        if next_due is None:
            return self._options.poll_seconds
        return min(self._options.poll_seconds, max(0.001, seconds_between(self._clock.now(), next_due)))

    def _begin(self, claims: Sequence[Claim]) -> list[_Running]:
        """Take a slot for each claim at once, before its task has had a turn."""
        begun = [_Running(claim) for claim in claims]
        self._running.update(begun)
        return begun

    async def _attempt(self, running: _Running) -> None:
        try:
            with bound(task=running.claim.task_id):
                await self._run_and_record(running)
        except Exception as error:  # one attempt never ends the others; its lease runs out
            event(_log, logging.ERROR, "attempt_lost", task_id=running.claim.task_id, exc_info=error)
        finally:
            self._running.discard(running)
            self._wakeups.work_added()

    async def _run_and_record(self, running: _Running) -> None:
        started = self._monotonic()
        outcome: Succeeded | Failed | None = None
        with running.scope:
            outcome = await execute(
                self._pipeline, running.claim, artifacts_dir=self._options.artifacts_dir, threads=self._threads
            )
        with anyio.CancelScope(shield=True):
            recorded = Recorded.LEASE_LOST if running.is_lost else await self._record(running.claim, outcome)
        self._tell_ended(running.claim, outcome, recorded, self._monotonic() - started)
        if recorded is Recorded.TASK_ENDED:
            self._wakeups.task_ended(running.claim.task_id)

    async def _record(self, claim: Claim, outcome: Succeeded | Failed | None) -> Recorded:
        """Record until the database has taken it; if it never does, the lease runs out and the stage runs again."""
        body = self._recording(claim, outcome)
        while True:
            try:
                return await self._store.write(body)
            except (StorageBusy, StorageFull, WriterBusy) as error:
                if self._is_giving_up:
                    return Recorded.LEASE_LOST
                event(_log, logging.WARNING, "record_again", reason=error.message)
                await anyio.sleep(RECORD_AGAIN_SECONDS)
            except CabinetError as error:
                event(_log, logging.ERROR, "record_given_up", exc_info=error)
                return Recorded.LEASE_LOST

    def _recording(
        self, claim: Claim, outcome: Succeeded | Failed | None
    ) -> Callable[[UnitOfWork], Awaitable[Recorded]]:
        match outcome:
            case None:
                return lambda work: queue.release(work, claim)
            case Succeeded(outputs_json):
                next_stage = self._pipeline.after(claim.stage)
                return lambda work: queue.succeed(work, claim, next_stage=next_stage, outputs_json=outputs_json)
            case Failed(failure=failure):
                policy = self._pipeline.stage(claim.stage).retry
                decision = decide(policy, attempt=claim.attempt, retryable=failure.retryable, chance=self._chance())
                return lambda work: queue.fail(work, claim, failure, decision)

    async def _finish_or_give_back(self) -> None:
        with anyio.move_on_after(self._options.grace_seconds):
            await self._until_nothing_runs()
        self._is_giving_up = True
        for running in self._running:
            running.scope.cancel()
        await self._until_nothing_runs()

    async def _until_nothing_runs(self) -> None:
        while self._running:
            await self._wakeups.wait_for_work(self._options.poll_seconds)

    async def _tell_unknown_stages(self) -> None:
        stages_json = json.dumps(list(self._pipeline.names))

        async def look() -> None:
            waiting = await self._store.read(lambda work: work.jobs.unknown_stages(stages_json=stages_json))
            for stage, tasks in waiting.items():
                event(_log, logging.WARNING, "stage_unknown", stage=stage, tasks=tasks,
                      remedy="the pipeline does not have this stage; its tasks wait until one has it")  # fmt: skip

        await self._unless_unavailable(look)

    async def _unless_unavailable(self, act: Callable[[], Awaitable[None]]) -> None:
        try:
            await act()
        except Unavailable as error:
            event(_log, logging.WARNING, "worker_waits", reason=error.message)

    def _tell_expired(self, expired: Sequence[tuple[str, Recorded]]) -> None:
        for task_id, recorded in expired:
            event(_log, logging.WARNING, "lease_expired", task_id=task_id, recorded=recorded)
            if recorded is Recorded.TASK_ENDED:
                self._wakeups.task_ended(task_id)

    def _tell_ended(self, claim: Claim, outcome: Succeeded | Failed | None, recorded: Recorded, seconds: float) -> None:
        failed = outcome if isinstance(outcome, Failed) else None
        event(
            _log,
            logging.WARNING if failed or recorded is Recorded.LEASE_LOST else logging.INFO,
            "attempt_ended",
            exc_info=None if failed is None else failed.error,
            stage=claim.stage,
            attempt=claim.attempt,
            outcome="released" if outcome is None else type(outcome).__name__.lower(),
            recorded=recorded,
            error_kind=None if failed is None else failed.failure.kind,
            is_dead_letter=failed is not None and recorded is Recorded.TASK_ENDED,
            milliseconds=round(seconds * 1000, 2),
        )
