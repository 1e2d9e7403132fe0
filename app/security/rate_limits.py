"""Rate limits: the generic cell rate algorithm (ITU-T I.371), in memory, one cell clock for each key."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from app.errors import TooManyRequests

KEY_LIMIT = 100_000
"""How many keys are remembered; the one that was quiet longest is forgotten first."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What is left for a key: requests now, and seconds until all of it is there again."""

    remaining: int
    reset_seconds: float


class RateLimiter:
    """Lets `count` requests of a key pass in `seconds`, all at once or spread; `monotonic` tells seconds."""

    def __init__(self, name: str, *, count: int, seconds: float, monotonic: Callable[[], float]) -> None:
        self.name = name
        self.count = count
        self.seconds = seconds
        self._interval = seconds / count
        self._monotonic = monotonic
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, key: str) -> Quota:
        """Count one request of that key and return what is left; raise TooManyRequests if nothing was."""
        now = self._monotonic()
        full_at = max(self._full_at.get(key, now), now) + self._interval
        waiting = full_at - now - self.seconds
        if waiting > self._interval * 1e-6:
            raise TooManyRequests(waiting, f"More than {self.count} requests in {self.seconds:g} seconds.")
        self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        if len(self._full_at) > KEY_LIMIT:
            self._full_at.popitem(last=False)
        used = full_at - now
        return Quota(int((self.seconds - used) / self._interval + 1e-6), used)

    def give_back(self, key: str) -> None:
        """Count one request of that key less; for one that turned out to be sent by somebody else."""
        if key in self._full_at:
            self._full_at[key] -= self._interval
