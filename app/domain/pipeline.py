"""Pipeline state: where one task stands between its stages, and the chart of how it may move (design §6)."""

from dataclasses import dataclass
from enum import StrEnum

from app.clock import Timestamp
from app.domain.jobs import ProgressTold
from app.domain.tasks import Task
from app.errors import NotFound


class StateStatus(StrEnum):
    """What is going on at the task's present stage."""

    QUEUED = "queued"
    RUNNING = "running"
    FAILED = "failed"
    SUCCEEDED = "succeeded"
    DEAD_LETTER = "dead_letter"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """The pipeline has ended for this task, unless somebody rescues it."""
        return self in _TERMINAL


_TERMINAL = frozenset({StateStatus.SUCCEEDED, StateStatus.DEAD_LETTER, StateStatus.CANCELLED})


class Event(StrEnum):
    """What can happen to a pipeline state."""

    CLAIM = "claim"
    ADVANCE = "advance"
    FINISH = "finish"
    FAIL = "fail"
    GIVE_UP = "give_up"
    SNOOZE = "snooze"
    RELEASE = "release"
    EXPIRE = "expire"
    RETRY_NOW = "retry_now"
    RESCUE = "rescue"
    CANCEL = "cancel"


CHART: dict[tuple[StateStatus, Event], StateStatus] = {
    (StateStatus.QUEUED, Event.CLAIM): StateStatus.RUNNING,
    (StateStatus.FAILED, Event.CLAIM): StateStatus.RUNNING,
    (StateStatus.RUNNING, Event.ADVANCE): StateStatus.QUEUED,
    (StateStatus.RUNNING, Event.FINISH): StateStatus.SUCCEEDED,
    (StateStatus.RUNNING, Event.FAIL): StateStatus.FAILED,
    (StateStatus.RUNNING, Event.GIVE_UP): StateStatus.DEAD_LETTER,
    (StateStatus.RUNNING, Event.SNOOZE): StateStatus.QUEUED,
    (StateStatus.RUNNING, Event.RELEASE): StateStatus.QUEUED,
    (StateStatus.RUNNING, Event.EXPIRE): StateStatus.QUEUED,
    (StateStatus.FAILED, Event.RETRY_NOW): StateStatus.FAILED,
    (StateStatus.DEAD_LETTER, Event.RESCUE): StateStatus.QUEUED,
    (StateStatus.QUEUED, Event.CANCEL): StateStatus.CANCELLED,
    (StateStatus.RUNNING, Event.CANCEL): StateStatus.CANCELLED,
    (StateStatus.FAILED, Event.CANCEL): StateStatus.CANCELLED,
}
"""Every move there is; what is not listed is refused. The SQL names the state it leaves, a test holds both together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineState:
    """Where one task stands: stage, status, and how many attempts of that stage have begun."""

    task_id: str
    stage: str
    status: StateStatus
    attempt: int
    last_error_kind: str | None
    is_terminal: bool
    updated_at: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStanding:
    """A task, and where it stands in the pipeline.

    `run_at` is when it falls due, or fell; None once it has ended. `cancel_by` is when its lease is taken away, if it
    was cancelled while it runs. `progress` is what the attempt that runs has told.
    """

    task: Task
    state: PipelineState
    run_at: Timestamp | None = None
    cancel_by: Timestamp | None = None
    progress: ProgressTold | None = None

    @property
    def next_attempt_at(self) -> Timestamp | None:
        """When the next attempt may begin; None while one runs and once the task has ended."""
        return self.run_at if self.state.status in (StateStatus.QUEUED, StateStatus.FAILED) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineShape:
    """What the rules need to know of a pipeline: its stages in their order, and which act on the world outside."""

    stages: tuple[str, ...]
    side_effects: frozenset[str]

    def check_known(self, stage: str) -> None:
        """Raise NotFound unless the pipeline has that stage."""
        if stage not in self.stages:
            raise NotFound(f"The pipeline has no stage {stage}; it has {', '.join(self.stages)}.")
