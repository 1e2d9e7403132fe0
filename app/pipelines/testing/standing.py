"""What a simulation tells: the attempts that were made, and where a task stands."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.clock import Timestamp, seconds_between
from app.domain.jobs import Attempt, AttemptOutcome, Claim, Job
from app.domain.tasks import TaskStatus
from app.errors import Defect
from app.services.explain import Explanation
from app.unit import UnitOfWork

SHOWN_LIMIT = 5
"""How many attempts an error shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One attempt of a stage that was made, and what became of it.

    `outputs` are what it handed on; empty unless it succeeded. `next_attempt_at` is when the same stage runs again;
    None if it does not.
    """

    task_id: str
    stage: str
    attempt: int
    outcome: AttemptOutcome
    outputs: Mapping[str, Any]
    error_kind: str | None
    error_message: str | None
    traceback: str | None
    started_at: Timestamp
    ended_at: Timestamp
    next_attempt_at: Timestamp | None

    @property
    def wait_seconds(self) -> float | None:
        """How long the same stage waits until it runs again; None if it does not."""
        if self.next_attempt_at is None:
            return None
        return max(0.0, seconds_between(self.ended_at, self.next_attempt_at))

    def __str__(self) -> str:
        told = "" if self.error_kind is None else f" with {self.error_kind}: {self.error_message}"
        return f"{self.started_at} {self.stage}, attempt {self.attempt}: {self.outcome}{told}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a task stands.

    `status` is that of the whole task, `stage` the one where it stands or ended. `outputs` are by stage, `history`
    begins with the first attempt. The error is that of a dead letter. `explanation` says in a sentence why the task is
    where it is. `folder` is the task's own, and is removed when the simulation ends.
    """

    task_id: str
    status: TaskStatus
    stage: str
    outputs: Mapping[str, Mapping[str, Any]]
    history: Sequence[Step]
    error_kind: str | None
    error_message: str | None
    next_attempt_at: Timestamp | None
    explanation: str
    folder: Path

    def __str__(self) -> str:
        attempts = [f"  {step}" for step in self.history[-SHOWN_LIMIT:]]
        return "\n".join([self.explanation, "Its last attempts:" if attempts else "No attempt was made.", *attempts])


async def steps_of(work: UnitOfWork, claims: Sequence[Claim]) -> list[Step]:
    """Return what became of some claims; Defect if it was not recorded."""
    return [await _step_of(work, claim) for claim in claims]


async def standing_of(
    work: UnitOfWork, explanation: Explanation, *, history: Sequence[Step], artifacts_dir: Path
) -> Standing:
    """Return where a task stands that was explained in the same unit."""
    told = explanation.standing
    letter = await work.dead_letters.by_task(told.task.id)
    return Standing(
        task_id=told.task.id,
        status=told.task.status,
        stage=told.state.stage,
        outputs=await _outputs_of(work, told.task.id),
        history=tuple(history),
        error_kind=None if letter is None else letter.error_kind,
        error_message=None if letter is None else letter.error_message,
        next_attempt_at=told.next_attempt_at,
        explanation=explanation.sentence,
        folder=artifacts_dir / told.task.id,
    )


async def _step_of(work: UnitOfWork, claim: Claim) -> Step:
    found = await work.attempts.of_task(claim.task_id, before=f"{claim.lease_token}~", limit=1)  # next before: its own
    attempt = found[0]
    if attempt.outcome is None or attempt.ended_at is None:
        raise Defect(f"Stage {claim.stage} ran, and how it ended could not be recorded; the log says why.")
    has_succeeded = attempt.outcome is AttemptOutcome.SUCCEEDED
    outputs = await _outputs_of(work, claim.task_id) if has_succeeded else {}
    return Step(
        task_id=claim.task_id,
        stage=claim.stage,
        attempt=claim.attempt,
        outcome=attempt.outcome,
        outputs=outputs.get(claim.stage, {}),
        error_kind=attempt.error_kind,
        error_message=attempt.error_message,
        traceback=attempt.traceback,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        next_attempt_at=_next_attempt_at(attempt, await work.jobs.by_task(claim.task_id)),
    )


async def _outputs_of(work: UnitOfWork, task_id: str) -> dict[str, dict[str, Any]]:
    return {output.stage: json.loads(output.value_json) for output in await work.outputs.of_task(task_id)}


def _next_attempt_at(attempt: Attempt, job: Job | None) -> Timestamp | None:
    return None if job is None or attempt.outcome is AttemptOutcome.SUCCEEDED else job.run_at
