"""Upkeep: what a worker does beside running stages: hold leases, tell progress, carry on rescues, and prune."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import anyio

from app.domain.control import Heartbeat
from app.domain.jobs import Claim, LeaseHeld
from app.errors import Unavailable
from app.log import event
from app.metrics import Metrics
from app.pipelines import Pipeline
from app.pipelines.context import Progress
from app.services import dead_letters, leases
from app.services.leases import Crashes, TakenBack
from app.services.queue import Recorded
from app.unit import Store, UnitOfWork
from app.wakeups import Wakeups
from app.worker.options import WorkerOptions
from app.worker.pruning import Pruning
from app.worker.slots import Slots

PROGRESS_SECONDS = 1.0
"""How often what handlers tell is written down."""

STEP_SECONDS = 1.0
"""The pause between two units of a rescue or of pruning: the bound of their rate."""

RESCUE_POLL_SECONDS = 10.0
"""How often a worker looks for rescues that it was not told of."""

STOPPING_SECONDS = 1.0
"""How often a worker looks at its leases while something that was cancelled still runs."""

PRUNE_SECONDS = 600.0
"""The pause between two walks over all that may be pruned."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Upkeep:
    """Keeps a worker's attempts and the queue in order."""

    def __init__(
        self,
        store: Store,
        pipeline: Pipeline,
        wakeups: Wakeups,
        options: WorkerOptions,
        *,
        slots: Slots,
        metrics: Metrics,
        chance: Callable[[], float],
    ) -> None:
        self._store = store
        self._pipeline = pipeline
        self._wakeups = wakeups
        self._options = options
        self._slots = slots
        self._metrics = metrics
        self._crashes = Crashes({stage.name: stage.retry for stage in pipeline.stages}, chance)
        self._told: dict[str, Progress] = {}
        self._pruning = Pruning(store, options.retention, options.artifacts_dir)
        self._stopping = 0
        """How many attempts were told to stop and have not ended yet: their deadlines are looked at more often."""
        self.lost_leases = 0
        """How many words came after their lease was lost."""

    async def run(self, seen: Callable[[], None]) -> None:
        """Do all of it again and again until cancelled; `seen` is called whenever the database has answered."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._keep_leases, seen)
            group.start_soon(self._tell_progress)
            group.start_soon(self._rescue)
            group.start_soon(self._prune)

    async def keep_leases_once(self) -> None:
        """Say that the worker lives, hold the leases of what runs, stop what was cancelled, take back what ran out."""
        held = {(attempt.claim.task_id, attempt.claim.lease_token): attempt for attempt in self._slots.running}
        claims, heartbeat = [attempt.claim for attempt in held.values()], self._heartbeat()
        lease_seconds = self._options.lease_seconds
        told = await self._store.write(lambda work: leases.hold(work, claims, heartbeat, lease_seconds=lease_seconds))
        for claim in told[LeaseHeld.CANCELLED]:
            held[claim.task_id, claim.lease_token].stop()
        for claim in told[LeaseHeld.LOST]:
            held[claim.task_id, claim.lease_token].lose()
        self._stopping = len(told[LeaseHeld.CANCELLED])
        await self.take_back_once()

    async def take_back_once(self) -> None:
        """Take back leases that ran out, and give up what this worker runs of them."""
        goes_on = True
        while goes_on:
            taken = await self._store.write(lambda work: leases.take_back(work, self._crashes))
            self._tell_taken(taken)
            gone = {back.task_id for back in taken}
            for attempt in self._slots.running:
                if attempt.claim.task_id in gone:
                    attempt.lose()
            goes_on = len(taken) >= leases.TAKE_BACK_LIMIT

    async def tell_progress_once(self) -> None:
        """Write down what handlers have told since the last time."""
        news = {
            attempt.claim.lease_token + attempt.claim.task_id: (attempt.claim, attempt.signals.progress)
            for attempt in self._slots.running
            if attempt.signals.progress is not None
        }
        changed = [(claim, progress) for key, (claim, progress) in news.items() if self._told.get(key) is not progress]
        if changed:
            await self._store.write(partial(_write_progress, changed))
        self._told = {key: progress for key, (_, progress) in news.items()}

    async def rescue_once(self) -> bool:
        """Carry on one rescue; return whether there may be more to do."""
        step = await self._store.write(lambda work: dead_letters.step_rescue(work, self._pipeline.shape))
        if step is None:
            return False
        event(_log, logging.INFO, "rescue_step", rescue_id=step.rescue.id, rescued=step.rescued, skipped=step.skipped,
              is_done=step.is_done)  # fmt: skip
        self._wakeups.work_added()
        return True

    async def prune_once(self) -> bool:
        """Delete one unit of what has ended long ago; return whether the walk goes on."""
        return await self._pruning.step()

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            name=self._options.name,
            concurrency=self._options.concurrency,
            stuck=self._slots.threads.stuck,
            lost_leases=self.lost_leases,
            stages={stage.name: stage.concurrency for stage in self._pipeline.stages},
        )

    async def _keep_leases(self, seen: Callable[[], None]) -> None:
        async def keep() -> None:
            await self.keep_leases_once()
            seen()

        while True:
            await unless_unavailable(keep)
            usual_seconds = self._options.lease_seconds / 3
            await self._wakeups.wait_for_cancel(
                min(usual_seconds, STOPPING_SECONDS) if self._stopping else usual_seconds
            )

    async def _tell_progress(self) -> None:
        while True:
            await anyio.sleep(PROGRESS_SECONDS)
            await _unless_broken(self.tell_progress_once)

    async def _rescue(self) -> None:
        while True:
            if await _unless_broken(self.rescue_once):
                await anyio.sleep(STEP_SECONDS)
            else:
                await self._wakeups.wait_for_rescue(RESCUE_POLL_SECONDS)

    async def _prune(self) -> None:
        while True:
            goes_on = await _unless_broken(self.prune_once)
            await anyio.sleep(STEP_SECONDS if goes_on else PRUNE_SECONDS)

    def _tell_taken(self, taken: Sequence[TakenBack]) -> None:
        for back in taken:
            event(_log, logging.WARNING, "lease_expired", task_id=back.task_id, stage=back.stage, crashes=back.crashes,
                  recorded=back.recorded)  # fmt: skip
            self._metrics.lease_taken_back()
            if back.recorded is Recorded.DEAD_LETTER:
                self._metrics.dead_letter(back.stage, is_known=back.stage in self._pipeline.names)
            if back.recorded.ends_task:
                self._wakeups.task_ended(back.task_id)
        if taken:
            self._wakeups.work_added()


async def unless_unavailable(act: Callable[[], Awaitable[None]]) -> None:
    """Do something now, or write down that the database could not."""
    try:
        await act()
    except Unavailable as error:
        event(_log, logging.WARNING, "worker_waits", reason=error.message)


async def _unless_broken(act: Callable[[], Awaitable[T]]) -> T | None:
    """Do something that is not the worker's main job; a fault in it is written down and does not end the worker."""
    try:
        return await act()
    except Unavailable as error:
        event(_log, logging.WARNING, "worker_waits", reason=error.message)
    except Exception as error:
        event(_log, logging.ERROR, "upkeep_failed", exc_info=error)
    return None


async def _write_progress(changed: Sequence[tuple[Claim, Progress]], work: UnitOfWork) -> None:
    for claim, progress in changed:
        permille = round(progress.fraction * 1000)
        await work.attempts.tell_progress(claim, permille=permille, message=progress.message, now=work.now())
