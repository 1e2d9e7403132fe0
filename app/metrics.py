"""Metrics: what one process counts and times, in the Prometheus format; a label's values come from a short list.

Names follow https://prometheus.io/docs/practices/naming: base units, `_total` for what only grows.
"""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from app.errors import StorageBusy, StorageFailed, StorageFull

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

GONE = "(gone)"
"""The label of all stages that the pipeline does not have."""

METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})
"""The methods that have a label of their own; callers may invent others."""

_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_UNIT_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_ATTEMPT_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600)
_BATCH_UNITS = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSample:
    """How a stage stands when metrics are asked for: tasks by status, and how long the oldest due one has waited."""

    tasks: Mapping[str, int]
    dead_letters: int
    oldest_due_seconds: float
    is_paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What is read from the process and the database when metrics are asked for; `stages` is None if that failed."""

    is_ready: bool
    stages: Mapping[str, StageSample] | None
    slots: Mapping[str, int]
    units_waiting: Mapping[str, int]
    file_bytes: Mapping[str, int]
    disk_free_bytes: int | None


class Metrics:
    """All metrics of one process. Whoever has something to count calls its method, after the commit."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no type for it
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._sampled = _Sampled(self.registry)
        self._requests = self._counter(
            "cabinet_http_requests", "Requests that were answered.", "method", "route", "status"
        )
        self._request_seconds = self._histogram(
            "cabinet_http_request_seconds", "From a request's head to its answer.", _REQUEST_SECONDS, "method", "route"
        )
        self._denials = self._counter("cabinet_denials", "Requests that the gate or a limit refused.", "reason")
        self._unit_wait_seconds = self._histogram(
            "cabinet_unit_wait_seconds", "How long units waited for a connection.", _UNIT_SECONDS, "kind"
        )
        self._unit_run_seconds = self._histogram(
            "cabinet_unit_run_seconds", "How long the bodies of units ran.", _UNIT_SECONDS, "kind"
        )
        self._commit_seconds = self._histogram("cabinet_commit_seconds", "From COMMIT to disk.", _UNIT_SECONDS)
        self._batch_units = self._histogram("cabinet_batch_units", "Units that shared a transaction.", _BATCH_UNITS)
        self._failed_batches = self._counter("cabinet_batches_failed", "Transactions that failed as a whole.", "reason")
        self._claims = self._counter("cabinet_claims", "Attempts that the worker began.", "stage")
        self._attempts = self._counter(
            "cabinet_attempts", "Attempts that ended, and what was recorded of them.", "stage", "outcome", "recorded"
        )
        self._attempt_seconds = self._histogram(
            "cabinet_attempt_seconds", "How long attempts took.", _ATTEMPT_SECONDS, "stage"
        )
        self._leases_lost = self._counter("cabinet_leases_lost", "Results that came after their lease was lost.")
        self._leases_taken_back = self._counter("cabinet_leases_taken_back", "Leases taken back from lost workers.")
        self._dead_letters = self._counter("cabinet_dead_letters", "Tasks that became dead letters.", "stage")

    def tell_build(self, *, engine: str, engine_version: str) -> None:
        """Say once what runs here."""
        labels = {
            "version": version("cabinet"),
            "python": platform.python_version(),
            "engine": engine,
            "engine_version": engine_version,
        }
        build = Gauge("cabinet_build_info", "What runs here; always 1.", labels, registry=self.registry)
        build.labels(**labels).set(1)

    def expect(self, stages: Sequence[str]) -> None:
        """Begin to count at 0 what alerts watch: the first event of a series that begins with it goes unseen."""
        for stage in stages:
            self._claims(stage)
        for stage in (*stages, GONE):
            self._dead_letters(stage)
        for reason in (StorageFull, StorageBusy, StorageFailed):
            self._failed_batches(reason.code)

    def request_ended(self, *, method: str, route: str, status: int, seconds: float, denial: str | None) -> None:
        """Count a request that was answered; `denial` is the code of the refusal, if the gate or a limit refused it."""
        method = method if method in METHODS else "other"
        self._requests(method, route, str(status))()
        self._request_seconds(method, route)(seconds)
        if denial is not None:
            self._denials(denial)()

    def unit_ended(self, kind: str, *, waited_seconds: float, run_seconds: float) -> None:
        """Time a unit: how long it waited for its connection, and how long its body ran."""
        self._unit_wait_seconds(kind)(waited_seconds)
        self._unit_run_seconds(kind)(run_seconds)

    def batch_committed(self, units: int, *, commit_seconds: float) -> None:
        """Measure a transaction that is on disk."""
        self._batch_units()(units)
        self._commit_seconds()(commit_seconds)

    def batch_failed(self, reason: str) -> None:
        """Count a transaction that failed as a whole; `reason` is an error's code."""
        self._failed_batches(reason)()

    def claimed(self, stage: str) -> None:
        """Count an attempt that begins."""
        self._claims(stage)()

    def attempt_ended(self, stage: str, *, outcome: str, recorded: str, seconds: float) -> None:
        """Count an attempt that ended, and time its handler."""
        self._attempts(stage, outcome, recorded)()
        self._attempt_seconds(stage)(seconds)

    def lease_lost(self) -> None:
        """Count a result that was dropped because its lease was lost."""
        self._leases_lost()()

    def lease_taken_back(self) -> None:
        """Count a lease that was taken from a lost worker."""
        self._leases_taken_back()()

    def dead_letter(self, stage: str, *, is_known: bool = True) -> None:
        """Count a task that became a dead letter."""
        self._dead_letters(stage if is_known else GONE)()

    def text(self, sample: Sample) -> bytes:
        """Return all metrics as Prometheus reads them."""
        self._sampled.set(sample)
        return generate_latest(self.registry)

    def _counter(self, name: str, told: str, *labels: str) -> Callable[..., Callable[[], None]]:
        """Return what finds the counting of one set of labels; prometheus_client takes three times as long for it."""
        counter = Counter(name, told, labels, registry=self.registry)
        return cache(lambda *values: (counter.labels(*values) if labels else counter).inc)

    def _histogram(
        self, name: str, told: str, bounds: Sequence[float], *labels: str
    ) -> Callable[..., Callable[[float], None]]:
        histogram = Histogram(name, told, labels, buckets=bounds, registry=self.registry)
        return cache(lambda *values: (histogram.labels(*values) if labels else histogram).observe)


class _Sampled:
    """The gauges that are set anew whenever metrics are asked for; what could not be read is left out."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, told: str, *labels: str) -> Gauge:
            return Gauge(name, told, labels, registry=registry)

        self._ready = gauge("cabinet_ready", "What /ready says: 1 or 0.")
        self._sampled = gauge("cabinet_sampled", "Whether the figures of the queue could be read: 1 or 0.")
        self._tasks = gauge("cabinet_stage_tasks", "Tasks that stand in a stage.", "stage", "status")
        self._dead = gauge("cabinet_stage_dead_letters", "Dead letters that lie there.", "stage")
        self._oldest = gauge("cabinet_stage_oldest_due_seconds", "How long the oldest due task has waited.", "stage")
        self._paused = gauge("cabinet_stage_paused", "Whether no attempt may begin: 1 or 0.", "stage")
        self._slots = gauge("cabinet_worker_slots", "Slots of the worker.", "state")
        self._waiting = gauge("cabinet_units_waiting", "Units that wait for a connection.", "kind")
        self._bytes = gauge("cabinet_file_bytes", "Bytes of the database and of its write-ahead log.", "file")
        self._free = gauge("cabinet_disk_free_bytes", "Bytes that are free where the database lies.", "file")

    def set(self, sample: Sample) -> None:
        """Take all figures from a sample."""
        self._ready.set(sample.is_ready)
        self._sampled.set(sample.stages is not None)
        _set_all(self._slots, sample.slots)
        _set_all(self._waiting, sample.units_waiting)
        _set_all(self._bytes, sample.file_bytes)
        _set_all(self._free, {} if sample.disk_free_bytes is None else {"database": sample.disk_free_bytes})
        stages = sample.stages or {}
        _set_all(self._dead, {name: stage.dead_letters for name, stage in stages.items()})
        _set_all(self._oldest, {name: stage.oldest_due_seconds for name, stage in stages.items()})
        _set_all(self._paused, {name: stage.is_paused for name, stage in stages.items()})
        self._tasks.clear()
        for name, stage in stages.items():
            for status, count in stage.tasks.items():
                self._tasks.labels(name, status).set(count)


def _set_all(gauge: Gauge, values: Mapping[str, float]) -> None:
    gauge.clear()
    for label, value in values.items():
        gauge.labels(label).set(value)
