"""A stage: one named step of a pipeline, with its handler, time limit and retry policy."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.domain.retry import RetryPolicy
from app.pipelines.context import Context

Handler = Callable[[Context], Awaitable[Mapping[str, Any] | None] | Mapping[str, Any] | None]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Stage:
    """One step. An async handler runs in the event loop, cancelled at its time limit; a plain one runs in a thread.

    A handler may run more than once for the same task and must then have the same effect. What it returns is kept as
    the stage's outputs: a mapping that JSON can hold, or None for nothing.
    """

    name: str
    handler: Handler
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout_seconds: float = 300.0

    def __post_init__(self) -> None:
        """Refuse a name that could not be stored or a time limit that could not pass."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"a stage's name is a lowercase word of at most 64 characters, not {self.name!r}")
        if not callable(self.handler):
            raise TypeError(f"the handler of stage {self.name} cannot be called")
        if not 0 < self.timeout_seconds <= 86_400:
            raise ValueError(f"the time limit of stage {self.name} must lie between 0 and 86400 seconds")
