"""The context: everything that a stage's handler is told about its attempt, and what it may tell while it runs."""

import logging
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.pipelines.outcomes import Cancelled

PROGRESS_MESSAGE_LIMIT = 200
"""Characters of a progress message that are kept."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an attempt has come: a fraction from 0 to 1, and a few words."""

    fraction: float
    message: str


class AttemptSignals:
    """What goes back and forth while a handler runs; both sides may be in different threads."""

    __slots__ = ("is_cancelled", "progress")

    def __init__(self) -> None:
        self.is_cancelled = threading.Event()
        self.progress: Progress | None = None
        """What the handler told last; whoever keeps it decides how often it is written down."""


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
    signals: AttemptSignals = field(default_factory=AttemptSignals, repr=False)

    @property
    def idempotency_key(self) -> str:
        """The same in every attempt of this stage: send it along when you call the outside world."""
        return f"{self.task_id}:{self.stage}"

    @property
    def is_cancelled(self) -> bool:
        """Whether this attempt is not wanted any more: its task was cancelled, its time is up, or its lease is lost.

        An async handler is cancelled besides; one in a thread must look here from time to time and return.
        """
        return self.signals.is_cancelled.is_set()

    def raise_if_cancelled(self) -> None:
        """Leave the handler if this attempt is not wanted any more."""
        if self.is_cancelled:
            raise Cancelled

    def progress(self, fraction: float, message: str = "") -> None:
        """Tell how far the attempt has come, from 0 to 1. Call it as often as you like: about once a second is kept."""
        if not math.isfinite(fraction):
            raise ValueError("progress is a fraction from 0 to 1")
        text = storable(str(message))[:PROGRESS_MESSAGE_LIMIT]
        self.signals.progress = Progress(min(1.0, max(0.0, float(fraction))), text)


def storable(text: str) -> str:
    """Return a text as every database can keep it: half surrogate pairs and NUL become a replacement character."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")
