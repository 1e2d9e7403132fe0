"""Retry: whether and when a failed attempt is followed by another; a pure decision, chance is injected."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

RETRY_AFTER_LIMIT_SECONDS = 604_800.0
"""The longest wait that a stage, or a server's Retry-After, may ask for: a week."""

_NO_OVERRIDES: Mapping[str, "RetryPolicy"] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with full jitter: before attempt n+1 wait between 0 and min(cap, base * factor**(n-1)).

    No attempt begins later than `max_elapsed_seconds` after the stage's first one began; None sets no such limit.
    `max_crashes` is how often the stage may lose its worker before the task becomes a dead letter.
    `by_kind` holds other policies for failures of certain kinds; attempts of all kinds are counted together.
    """

    max_attempts: int = 5
    base_seconds: float = 1.0
    factor: float = 2.0
    cap_seconds: float = 300.0
    max_elapsed_seconds: float | None = None
    max_crashes: int = 5
    by_kind: Mapping[str, "RetryPolicy"] = field(default_factory=lambda: _NO_OVERRIDES, hash=False)

    def __post_init__(self) -> None:
        """Refuse a policy that could not end or would wait a negative time."""
        if not 1 <= self.max_attempts <= 1_000:
            raise ValueError("max_attempts must lie between 1 and 1000")
        if not 0 < self.base_seconds <= self.cap_seconds <= 86_400:
            raise ValueError("0 < base_seconds <= cap_seconds <= 86400 must hold")
        if not 1 <= self.factor <= 100:
            raise ValueError("factor must lie between 1 and 100")
        if self.max_elapsed_seconds is not None and not 0 < self.max_elapsed_seconds <= 31_536_000:
            raise ValueError("max_elapsed_seconds must lie between 0 and 31536000, a year")
        if not 1 <= self.max_crashes <= 100:
            raise ValueError("max_crashes must lie between 1 and 100")
        if any(policy.by_kind for policy in self.by_kind.values()):
            raise ValueError("a policy in by_kind cannot have a by_kind of its own")

    def for_kind(self, kind: str) -> "RetryPolicy":
        """Return the policy for failures of a kind: its own, or this one."""
        return self.by_kind.get(kind, self)


@dataclass(frozen=True, slots=True)
class RetryIn:
    """Another attempt follows after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No other attempt follows; the task becomes a dead letter."""


def decide(
    policy: RetryPolicy,
    *,
    attempt: int,
    retryable: bool,
    chance: float,
    elapsed_seconds: float = 0.0,
    after_seconds: float | None = None,
) -> RetryIn | GiveUp:
    """Decide what follows the failure of attempt number `attempt` (the first is 1); `chance` lies in [0, 1).

    `elapsed_seconds` have passed since the stage's first attempt began. `after_seconds` is what the failure asked to
    wait at least: the jitter comes on top, so that those who were told the same do not come back together.
    """
    if not retryable or attempt >= policy.max_attempts:
        return GiveUp()
    wait_seconds = _least_wait(after_seconds) + chance * backoff_ceiling(policy, attempt)
    if policy.max_elapsed_seconds is not None and elapsed_seconds + wait_seconds > policy.max_elapsed_seconds:
        return GiveUp()
    return RetryIn(wait_seconds)


def crash_wait_seconds(policy: RetryPolicy, *, crashes: int, chance: float) -> float:
    """Return how long a stage waits that has lost its worker so many times.

    After the first loss it does not wait. After more it does, by chance, so that what was lost together does not come
    back together.
    """
    return 0.0 if crashes <= 1 else chance * backoff_ceiling(policy, crashes - 1)


def backoff_ceiling(policy: RetryPolicy, attempt: int) -> float:
    """Return the longest wait in seconds after attempt number `attempt`; never over the cap."""
    try:
        return min(policy.cap_seconds, policy.base_seconds * policy.factor ** (attempt - 1))
    except OverflowError:
        return policy.cap_seconds


def _least_wait(after_seconds: float | None) -> float:
    return 0.0 if after_seconds is None else min(max(0.0, after_seconds), RETRY_AFTER_LIMIT_SECONDS)
