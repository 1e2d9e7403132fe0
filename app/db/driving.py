"""Driving a unit of work: its coroutine is run to its end in one go, whatever it raises is contained (design §3)."""

import contextvars
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from app.errors import BodyEscaped, ForeignAwait, NestedUnit

_inside_unit: contextvars.ContextVar[bool] = contextvars.ContextVar("inside_unit", default=False)


@dataclass(slots=True)
class Result:
    """What became of one unit: a value, or what its body raised."""

    value: Any = None
    failure: BaseException | None = None

    def error(self) -> Exception | None:
        """Return the failure as something that a future can carry and an `except Exception` can catch."""
        if self.failure is None:
            return None
        if isinstance(self.failure, Exception) and not isinstance(self.failure, (StopIteration, StopAsyncIteration)):
            return self.failure
        error = BodyEscaped(f"A unit of work raised {type(self.failure).__name__}.")
        error.__cause__ = self.failure
        return error


def refuse_nested() -> None:
    """Raise NestedUnit if this is called from inside a unit of work."""
    if _inside_unit.get():
        raise NestedUnit


def enter_unit() -> None:
    """Mark the present context as inside a unit; it is a copy of the caller's and ends with the unit."""
    _inside_unit.set(True)


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never really waits, without an event loop.

    Raises ForeignAwait if it suspends, after telling the coroutine, and whatever the coroutine raises.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    _end(coroutine)
    raise ForeignAwait


def _end(coroutine: Coroutine[Any, Any, Any]) -> None:
    try:
        coroutine.close()
    except BaseException as failure:  # a body that refuses to end has still failed
        raise ForeignAwait from failure
