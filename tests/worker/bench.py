"""A bench on which one handler is executed, without a queue."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from app.clock import Timestamp
from app.domain.jobs import Claim
from app.pipelines import Pipeline, Stage
from app.worker.execution import Attempt, Failed, Outcome, Threads

TASK = "0190a5d0-0000-7000-8000-000000000001"


def claim_of(**changes: Any) -> Claim:
    """Return a claim on the first attempt of the stage `work`."""
    values: dict[str, Any] = {
        "task_id": TASK,
        "stage": "work",
        "attempt": 1,
        "lease_token": "token",
        "claimed_at": Timestamp("2026-11-22T20:19:00.000000Z"),
        "stage_started_at": Timestamp("2026-11-22T20:19:00.000000Z"),
        "crashes": 0,
        "reference": "order 7",
        "payload_json": '{"n":1}',
        "outputs_json": {},
    }
    return Claim(**(values | changes))


class Bench:
    """Runs one handler in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.threads = Threads(4)

    async def run(
        self,
        handler: Any,
        *,
        payload: type[BaseModel] | None = None,
        timeout_seconds: float = 60,
        **claim: Any,
    ) -> Outcome:
        """Execute the handler as the stage `work`."""
        pipeline = Pipeline([Stage("work", handler, timeout_seconds=timeout_seconds)], payload=payload)
        attempt = Attempt(claim_of(**claim))
        return await attempt.run(pipeline, artifacts_dir=self.folder, threads=self.threads)


def failure(outcome: Outcome) -> tuple[str, bool]:
    """Return kind and retryable of what must have failed."""
    assert isinstance(outcome, Failed)
    return outcome.failure.kind, outcome.failure.retryable


def message(outcome: Outcome) -> str:
    """Return the message of what must have failed."""
    assert isinstance(outcome, Failed)
    return outcome.failure.message
