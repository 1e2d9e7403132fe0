"""Retry: whether and when a failed attempt is followed by another; a pure decision, chance is injected."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with full jitter: before attempt n+1 wait between 0 and min(cap, base * factor**(n-1))."""

    max_attempts: int = 5
    base_seconds: float = 1.0
    factor: float = 2.0
    cap_seconds: float = 300.0

    def __post_init__(self) -> None:
        """Refuse a policy that could not end or would wait a negative time."""
        if not 1 <= self.max_attempts <= 1_000:
            raise ValueError("max_attempts must lie between 1 and 1000")
        if not 0 < self.base_seconds <= self.cap_seconds <= 86_400:
            raise ValueError("0 < base_seconds <= cap_seconds <= 86400 must hold")
        if not 1 <= self.factor <= 100:
            raise ValueError("factor must lie between 1 and 100")


@dataclass(frozen=True, slots=True)
class RetryIn:
    """Another attempt follows after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No other attempt follows; the task becomes a dead letter."""


def decide(policy: RetryPolicy, *, attempt: int, retryable: bool, chance: float) -> RetryIn | GiveUp:
    """Decide what follows the failure of attempt number `attempt` (the first is 1); `chance` lies in [0, 1)."""
    if not retryable or attempt >= policy.max_attempts:
        return GiveUp()
    return RetryIn(chance * backoff_ceiling(policy, attempt))


def backoff_ceiling(policy: RetryPolicy, attempt: int) -> float:
    """Return the longest wait in seconds after attempt number `attempt`; never over the cap."""
    try:
        return min(policy.cap_seconds, policy.base_seconds * policy.factor ** (attempt - 1))
    except OverflowError:
        return policy.cap_seconds
