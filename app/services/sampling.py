"""Sampling: how the stages stand, for the metrics; read when they are asked for, but not more often than useful."""

import asyncio
from collections.abc import Callable, Mapping

from app.clock import Timestamp, seconds_between
from app.domain.pipeline import PipelineShape
from app.errors import Unavailable
from app.metrics import GONE, StageSample
from app.services.control import StagesView, StageView, standing_of_stages
from app.unit import Store, UnitOfWork

SAMPLE_SECONDS = 5.0
"""How old a sample may be; many who ask do not make the database count more often."""

READ_SECONDS = 3.0
"""How long the database may take; Prometheus waits for 10 seconds, and the other figures are worth having."""


class Sampling:
    """Reads samples of the stages and keeps the newest. `monotonic` tells seconds."""

    def __init__(self, store: Store, shape: PipelineShape, *, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._shape = shape
        self._monotonic = monotonic
        self._turn = asyncio.Lock()
        self._sampled_at: float | None = None
        self._stages: Mapping[str, StageSample] | None = None

    async def stages(self) -> Mapping[str, StageSample] | None:
        """Return how each stage stands, those that the pipeline lacks as one; None if the database has no answer."""
        async with self._turn:
            if self._sampled_at is None or self._monotonic() - self._sampled_at >= SAMPLE_SECONDS:
                self._stages = await self._sample()
                self._sampled_at = self._monotonic()
            return self._stages

    async def _sample(self) -> Mapping[str, StageSample] | None:
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await self._store.read(self._read)
        except (Unavailable, TimeoutError):
            return None

    async def _read(self, work: UnitOfWork) -> Mapping[str, StageSample]:
        view = await standing_of_stages(work, self._shape)
        return samples_of(view, now=work.now())


def samples_of(view: StagesView, *, now: Timestamp) -> Mapping[str, StageSample]:
    """Return a sample of each stage of the pipeline, and one under GONE that adds up all others if there are any."""
    known = {stage.name: _sample_of(stage, now, view) for stage in view.stages if stage.is_known}
    gone = [_sample_of(stage, now, view) for stage in view.stages if not stage.is_known]
    return known | ({GONE: _sum_of(gone)} if gone else {})


def _sample_of(stage: StageView, now: Timestamp, view: StagesView) -> StageSample:
    return StageSample(
        tasks={str(status): count for status, count in stage.counts.items()},
        dead_letters=stage.dead_letters,
        oldest_due_seconds=0.0 if stage.oldest_due_at is None else seconds_between(stage.oldest_due_at, now),
        is_paused=view.pause is not None or stage.pause is not None,
    )


def _sum_of(samples: list[StageSample]) -> StageSample:
    return StageSample(
        tasks={
            status: sum(sample.tasks.get(status, 0) for sample in samples)
            for status in {status for sample in samples for status in sample.tasks}
        },
        dead_letters=sum(sample.dead_letters for sample in samples),
        oldest_due_seconds=max(sample.oldest_due_seconds for sample in samples),
        is_paused=any(sample.is_paused for sample in samples),
    )
