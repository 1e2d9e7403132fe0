"""The context: everything that a stage's handler is told about its attempt."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One attempt, seen from inside a handler.

    `attempt` counts from 1. `payload` is what the caller sent, or the pipeline's payload model made from it. `outputs`
    holds what earlier stages handed on, by stage name. `folder` is the task's own, exists, and is shared by its stages;
    an attempt before this one may have left files in it.
    """

    task_id: str
    reference: str | None
    stage: str
    attempt: int
    payload: Any
    outputs: Mapping[str, Mapping[str, Any]]
    folder: Path
    log: logging.Logger | logging.LoggerAdapter[logging.Logger]

    @property
    def idempotency_key(self) -> str:
        """The same in every attempt of this stage: send it along when you call the outside world."""
        return f"{self.task_id}:{self.stage}"
