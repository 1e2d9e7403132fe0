"""The clock of a simulation."""

import math
from datetime import datetime

from app.clock import Timestamp, later, to_timestamp


class HandClock:
    """A clock that stands still until it is moved; it begins at an ISO 8601 moment with its offset from UTC."""

    def __init__(self, start: str) -> None:
        moment = datetime.fromisoformat(start)
        if moment.tzinfo is None:
            raise ValueError(f"{start} names no moment without its offset from UTC; for UTC append a Z")
        self._present = to_timestamp(moment)

    def now(self) -> Timestamp:
        """Return the present."""
        return self._present

    def move(self, seconds: float) -> None:
        """Let time pass; ValueError unless it is a number of seconds, 0 or more."""
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError("time does not go back; move the clock by 0 seconds or more")
        self._present = later(self._present, seconds)

    def move_to(self, moment: Timestamp) -> None:
        """Let time pass until that moment, unless it has passed already."""
        self._present = max(self._present, moment)
