"""Operations: one line of the route table each, with what it requires beside what it does; frozen at start."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from app.errors import Defect
from app.security.gate import Public, Requirements
from app.wakeups import Wakeups
from app.web.incoming import Incoming

Read = Callable[[Incoming], Any]
Handle = Callable[..., Awaitable[Any]]
Render = Callable[[Any, Incoming], Response]


READ_BYTES_LIMIT = 1_024
"""What the body of a GET may have, which has no meaning (RFC 9110 §9.3.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What one method of one path does.

    `read` makes the command from the request, or raises a Refusal, which is told only to those whom the gate lets
    pass. `handle(work, actor, command)` runs inside the unit and sees no HTTP; in a public operation the actor is
    None unless it identifies. `render` makes the answer from the outcome, after the commit.
    """

    method: str
    path: str
    requirements: Requirements | Public
    read: Read
    render: Render
    handle: Handle | None = None
    outside_unit: Callable[[], Any] | None = None
    """The outcome for callers who are not identified, without touching the database; for public operations only."""
    wakes: Callable[[Wakeups, Any], None] | None = None
    """Whom to wake after the commit, given the outcome."""
    body_limit_bytes: int | None = None
    """What a body may have at most, if less than elsewhere."""
    receive_timeout_seconds: float | None = None
    """How long a body may take to come in, if less than elsewhere."""
    timeout_seconds: float | None = None
    """How long handling may take, if less than elsewhere; a wait that was asked for comes on top."""
    tell: Callable[[Any, Any], tuple[str, dict[str, Any]]] | None = None
    """The event and its fields that the log keeps of a command and its outcome, once it is committed."""
    task_of: Callable[[Any], str] | None = None
    """The id of the task that the outcome is about, for the log; a path below /v1/tasks/{id} names it itself."""
    is_rate_limited: bool = True
    wait_seconds: Callable[[Any], float] | None = None
    """How long the command wants to wait for its task's end; None if the operation never waits."""

    def __post_init__(self) -> None:
        """Let nobody fill memory with bodies where nobody needs one: some paths that are read have no rate limit."""
        if self.method == "GET" and self.body_limit_bytes is None:
            object.__setattr__(self, "body_limit_bytes", READ_BYTES_LIMIT)

    @property
    def writes(self) -> bool:
        """GET reads a snapshot, everything else writes."""
        return self.method != "GET"


@dataclass(frozen=True, slots=True)
class RouteTable:
    """All operations by path and method; a line that declares no requirements does not come in."""

    operations: Sequence[Operation]
    by_path: dict[str, dict[str, Operation]] = field(init=False)

    def __post_init__(self) -> None:
        """Check every line; raises Defect, so that the service does not start."""
        by_path: dict[str, dict[str, Operation]] = {}
        for operation in self.operations:
            if not isinstance(operation.requirements, Requirements | Public):
                raise Defect(f"{operation.method} {operation.path} does not declare what it requires.")
            if operation.handle is None and operation.requirements != Public():
                raise Defect(f"{operation.method} {operation.path} lets callers in and does nothing for them.")
            if operation.outside_unit is not None and not isinstance(operation.requirements, Public):
                raise Defect(f"{operation.method} {operation.path} would answer callers whom no gate has seen.")
            methods = by_path.setdefault(operation.path, {})
            if operation.method in methods:
                raise Defect(f"{operation.method} {operation.path} is there twice.")
            methods[operation.method] = operation
        object.__setattr__(self, "by_path", by_path)
