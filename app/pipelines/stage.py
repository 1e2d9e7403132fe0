"""A stage: one named step of a pipeline, with its handler, time limit, retry policy and how many may run at once."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.domain.retry import RetryPolicy
from app.pipelines.context import Context
from app.pipelines.outcomes import Snooze

Returned = Mapping[str, Any] | Snooze | None
Handler = Callable[[Context], Awaitable[Returned] | Returned]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Stage:
    """One step. An async handler runs in the event loop, cancelled at its time limit; a plain one runs in a thread.

    A handler may run more than once for the same task and must then have the same effect. What it returns is kept as
    the stage's outputs: a mapping that JSON can hold, or None for nothing; a Snooze asks to run again later.
    `concurrency` is how many attempts of this stage one worker runs at once; None: as many as it has slots. A stage
    with a `side_effect` outside, such as a payment, is rescued only by somebody who confirms that it may run again.
    """

    name: str
    handler: Handler
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout_seconds: float = 300.0
    concurrency: int | None = None
    side_effect: bool = False

    def __post_init__(self) -> None:
        """Refuse a name that could not be stored or a time limit that could not pass."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"a stage's name is a lowercase word of at most 64 characters, not {self.name!r}")
        if not callable(self.handler):
            raise TypeError(f"the handler of stage {self.name} cannot be called")
        if not 0 < self.timeout_seconds <= 86_400:
            raise ValueError(f"the time limit of stage {self.name} must lie between 0 and 86400 seconds")
        if self.concurrency is not None and not 1 <= self.concurrency <= 256:
            raise ValueError(f"the concurrency of stage {self.name} must lie between 1 and 256")
