"""Simulation: a pipeline that is run in memory, one step at a time."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

from app.domain.dead_letters import RescueTerms
from app.domain.jobs import Claim
from app.domain.tasks import CreateTask
from app.errors import Invalid
from app.ids import new_id
from app.pipelines import Pipeline
from app.pipelines.testing.clock import HandClock
from app.pipelines.testing.parts import LOST_SECONDS, LedWorker, Service, open_service
from app.pipelines.testing.standing import Standing, Step, standing_of, steps_of
from app.services import tasks
from app.services.explain import ExplainTask, explain
from app.services.tasks import CancelTask, RetryTask
from app.unit import UnitOfWork

START = "2026-01-01T00:00:00.000000Z"
"""When a simulation begins, unless it is told otherwise."""

STEPS_LIMIT = 1_000
"""How many steps `run` takes, unless it is told otherwise."""

_OVERRUN_SECONDS = 0.01


class NotEnded(AssertionError):
    """A task has not ended, and nothing brings it on."""


class Simulation:
    """A service in memory with one worker, which works when it is told to; open it with `async with`.

    `chance`, from 0 to 1, stands for the jitter of retries: with 1 every wait is the longest there can be.
    """

    def __init__(self, pipeline: Pipeline, *, chance: float = 1.0, start: str = START) -> None:
        if not 0 <= chance <= 1:
            raise ValueError("chance must lie between 0, no wait before a retry, and 1, the longest")
        self.pipeline = pipeline
        self.clock = HandClock(start)
        self._chance = chance
        self._history: dict[str, list[Step]] = {}
        self._resources = AsyncExitStack()
        self._opened: tuple[Service, LedWorker] | None = None

    async def __aenter__(self) -> Self:
        service = await self._resources.enter_async_context(open_service(self.pipeline, self.clock))
        self._opened = service, LedWorker(service, self.pipeline, chance=self._chance)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._opened = None
        await self._resources.aclose()

    async def create(self, payload: Mapping[str, Any], *, reference: str | None = None) -> str:
        """Accept a task and return its id; Invalid if the payload does not fit the pipeline's model.

        Raises TypeError or ValueError for a payload that JSON cannot carry.
        """
        received = json.loads(json.dumps(dict(payload), allow_nan=False))
        try:
            self.pipeline.check_payload(received)
        except Invalid as refusal:
            for pointer, fault in refusal.faults:
                refusal.add_note(f"{pointer}: {fault}")
            raise
        command = CreateTask.of(
            task_id=new_id(), idem_key=new_id(), reference=reference, payload=received, first_stage=self.pipeline.first
        )
        actor = self._service.actor
        created = await self._service.store.write(lambda work: tasks.create(work, actor, command))
        self._history[created.task.id] = []
        return created.task.id

    async def step(self) -> list[Step]:
        """Make an attempt of each task that is due, one after the other in the order of their creation; tell of each.

        More than 256 tasks take several steps, and so do more tasks at a stage than its concurrency.
        """
        await self._worker.keep_leases()
        return await self._told(await self._worker.step())

    async def crash(self) -> list[Step]:
        """Make a step whose worker is lost: handlers run to their end, nothing is recorded, and their leases run out.

        The clock moves by the 30 seconds after which that is noticed. Then the stages run again, which must have the
        effect of one run.
        """
        lost = LedWorker(self._service, self.pipeline, chance=self._chance, is_lost=True)
        claims = await lost.step()
        self.clock.move(LOST_SECONDS)
        await self._worker.keep_leases()
        return await self._told(claims)

    async def run(self, task_id: str, *, steps: int = STEPS_LIMIT) -> Standing:
        """Step, and let time pass whenever nothing is due, until a task has ended; return how.

        Other tasks are carried on beside it. Raises NotEnded, which says where the task stands, after so many steps or
        if nothing would ever happen again.
        """
        actor = self._service.actor
        for _ in range(steps):
            found = await self._service.store.read(lambda work: tasks.get(work, actor, task_id))
            if found.task.status.is_ended:
                return await self.look(task_id)
            if not await self.step():
                await self._let_time_pass(task_id)
        raise await self._not_ended(task_id, f"has not ended after {steps} steps")

    async def look(self, task_id: str) -> Standing:
        """Return where a task stands; NotFound if there is none of that id."""
        await self._worker.keep_leases()  # or the explanation would be that no worker is alive
        return await self._service.store.read(lambda work: self._standing(work, task_id))

    async def rescue(
        self, task_id: str, *, from_stage: str | None = None, confirm_side_effects: bool = False
    ) -> Standing:
        """Queue a dead letter again, at its stage or an earlier one; a task that waits for its next attempt is due now.

        Raises what POST /v1/tasks/{id}/retry answers with: Conflict, Invalid, SideEffectsUnconfirmed, StageGone.
        """
        terms = RescueTerms(from_stage=from_stage, confirm_side_effects=confirm_side_effects)
        command = RetryTask(
            task_id=task_id,
            override_dead_letter=True,
            reason="simulation",
            terms=terms,
            shape=self.pipeline.shape,
        )
        actor = self._service.actor
        await self._service.store.write(lambda work: tasks.retry(work, actor, command))
        return await self.look(task_id)

    async def cancel(self, task_id: str) -> Standing:
        """Cancel a task; what runs of it is told to stop. Raises Conflict if the task has ended in another way."""
        command = CancelTask(task_id=task_id, reason=None, grace_seconds=LOST_SECONDS)
        actor = self._service.actor
        await self._service.store.write(lambda work: tasks.cancel(work, actor, command))
        return await self.look(task_id)

    def deploy(self, pipeline: Pipeline) -> None:
        """Put another pipeline in the place of this one while tasks are open, as a deployment does."""
        self._opened = self._service, LedWorker(self._service, pipeline, chance=self._chance)
        self.pipeline = pipeline

    @property
    def _service(self) -> Service:
        return self._open[0]

    @property
    def _worker(self) -> LedWorker:
        return self._open[1]

    @property
    def _open(self) -> tuple[Service, LedWorker]:
        if self._opened is None:
            raise RuntimeError("The simulation is not open; write: async with Simulation(pipeline) as simulation:")
        return self._opened

    async def _told(self, claims: Sequence[Claim]) -> list[Step]:
        """Read what became of some claims."""
        steps = await self._service.store.read(lambda work: steps_of(work, claims))
        for step in steps:
            self._history[step.task_id].append(step)
        return steps

    async def _let_time_pass(self, task_id: str) -> None:
        """Move the clock to when the next job falls due; NotEnded if none ever does."""
        stages = self.pipeline.names
        heads = await self._service.store.read(lambda work: work.jobs.heads(stages))
        if not heads:
            raise await self._not_ended(task_id, "will not end by itself")
        due_at = min(heads.values())
        if due_at > self.clock.now():
            self.clock.move_to(due_at)
        else:  # a thread that overran its time limit holds the stage's last slot
            await asyncio.sleep(_OVERRUN_SECONDS)

    async def _not_ended(self, task_id: str, why: str) -> NotEnded:
        standing = await self.look(task_id)
        return NotEnded(f"The task {why}; in the simulation it is {self.clock.now()}. {standing}")

    async def _standing(self, work: UnitOfWork, task_id: str) -> Standing:
        service = self._service
        explanation = await explain(work, service.actor, ExplainTask(task_id=task_id, shape=self.pipeline.shape))
        return await standing_of(work, explanation, history=self._history[task_id], artifacts_dir=service.artifacts_dir)
