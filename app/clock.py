"""Time: timestamps as the text that is stored and shown (design §4), and the clock that makes them."""

from datetime import UTC, datetime, timedelta
from typing import NewType, Protocol

Timestamp = NewType("Timestamp", str)
"""UTC, always `2026-11-22T20:19:00.000000Z`: one width, so timestamps sort as text."""

END_OF_TIME = Timestamp("9999-12-31T23:59:59.999999Z")
"""No timestamp comes after it."""


class Clock(Protocol):
    """Where the present comes from; tests move it by hand."""

    def now(self) -> Timestamp:
        """Return the present."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> Timestamp:
        """Return the present of the machine, in microseconds."""
        return to_timestamp(datetime.now(UTC))


def to_timestamp(moment: datetime) -> Timestamp:
    """Write an aware moment down in UTC."""
    return Timestamp(moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z")


def to_datetime(timestamp: Timestamp) -> datetime:
    """Read a timestamp back as an aware moment."""
    return datetime.fromisoformat(timestamp)


def later(timestamp: Timestamp, seconds: float) -> Timestamp:
    """Return the timestamp that lies so many seconds after (negative: before) another."""
    return to_timestamp(to_datetime(timestamp) + timedelta(seconds=seconds))


def seconds_between(earlier: Timestamp, later_one: Timestamp) -> float:
    """Return how many seconds lie between two timestamps; negative if they are the other way round."""
    return (to_datetime(later_one) - to_datetime(earlier)).total_seconds()
