"""Clocks that tests move by hand."""

from app.clock import Timestamp, later


class HandClock:
    """A clock that stands still until it is moved."""

    def __init__(self, start: str = "2026-11-22T20:19:00.000000Z") -> None:
        self.present = Timestamp(start)

    def now(self) -> Timestamp:
        """Return the present."""
        return self.present

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.present = later(self.present, seconds)


class HandSeconds:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.present = 1_000.0

    def __call__(self) -> float:
        return self.present

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.present += seconds
