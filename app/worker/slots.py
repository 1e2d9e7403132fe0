"""Slots: which attempts a worker runs, and where it has room for more."""

from collections.abc import Mapping, Sequence

from app.domain.jobs import Claim
from app.pipelines import Pipeline
from app.worker.execution import Attempt, Threads


class Slots:
    """The attempts that run now; those that were given up and do not end keep their slots."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.threads = Threads(count)
        self.running: set[Attempt] = set()

    @property
    def free(self) -> int:
        """How many attempts more there is room for."""
        return self.count - len(self.running) - self.threads.stuck.total()

    @property
    def runs_suspect(self) -> bool:
        """Whether one of the attempts may be what kills its worker."""
        return any(attempt.claim.is_suspect for attempt in self.running)

    def room(self, pipeline: Pipeline) -> dict[str, int]:
        """Return how many attempts of each stage there is room for."""
        free, inside = self.free, self.threads.stuck.copy()
        inside.update(attempt.claim.stage for attempt in self.running)
        return {
            stage.name: free if stage.concurrency is None else min(free, stage.concurrency - inside[stage.name])
            for stage in pipeline.stages
        }

    def take(self, claims: Sequence[Claim]) -> list[Attempt]:
        """Take a slot for each claim at once, before its task has had a turn."""
        begun = [Attempt(claim) for claim in claims]
        self.running.update(begun)
        return begun

    def counts(self) -> Mapping[str, int]:
        """Return how many slots there are, how many attempts run, and how many do not end."""
        return {"total": self.count, "running": len(self.running), "stuck": self.threads.stuck.total()}
