"""Control: pauses of stages, and the workers that are alive."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.clock import Timestamp

EVERYTHING = "*"
"""What stands for all stages where a pause names one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A stage, or EVERYTHING, of which no attempt begins until somebody resumes it."""

    stage: str
    reason: str
    paused_by: str
    paused_at: Timestamp
    subject: str
    """The subject of the user who paused it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What a worker says about itself.

    `stages` holds the stages that it runs, each with its own limit or None. `stuck` counts, by stage, the slots that
    are held by attempts which it gave up and cannot stop; `lost_leases` words that came after their lease was lost.
    """

    name: str
    concurrency: int
    stuck: Mapping[str, int]
    lost_leases: int
    stages: Mapping[str, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LivingWorker:
    """A worker that has said lately that it lives, and how many attempts it has leased, by stage."""

    heartbeat: Heartbeat
    started_at: Timestamp
    seen_at: Timestamp
    leased: Mapping[str, int]

    @property
    def slots_taken(self) -> int:
        """How many slots have something in them."""
        return sum(self.leased.values()) + self.slots_stuck

    @property
    def slots_stuck(self) -> int:
        """How many slots are held by attempts that were given up."""
        return sum(self.heartbeat.stuck.values())

    def has_room_for(self, stage: str) -> bool:
        """Tell whether an attempt of that stage could begin now."""
        limit = self.heartbeat.stages.get(stage)
        inside = self.leased.get(stage, 0) + self.heartbeat.stuck.get(stage, 0)
        return self.slots_taken < self.heartbeat.concurrency and (limit is None or inside < limit)
