"""Retry: how long to wait, when to stop, and which policies make no sense."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.retry import GiveUp, RetryIn, RetryPolicy, backoff_ceiling, decide

ALMOST_ONE = 1 - 2**-53

attempts = st.integers(min_value=1, max_value=10_000)
chances = st.floats(min_value=0, max_value=1, exclude_max=True)


@st.composite
def policies(draw: st.DrawFn) -> RetryPolicy:
    """Draw any policy that is not refused."""
    cap_seconds = draw(st.floats(min_value=1e-6, max_value=86_400))
    return RetryPolicy(
        max_attempts=draw(st.integers(min_value=1, max_value=1_000)),
        base_seconds=draw(st.floats(min_value=1e-9, max_value=cap_seconds)),
        factor=draw(st.floats(min_value=1, max_value=100) | st.integers(min_value=1, max_value=100)),
        cap_seconds=cap_seconds,
    )


@settings(deadline=None)
@given(policies(), attempts)
def test_the_ceiling_is_never_below_the_base_nor_over_the_cap(policy: RetryPolicy, attempt: int) -> None:
    ceiling = backoff_ceiling(policy, attempt)

    assert policy.base_seconds <= ceiling <= policy.cap_seconds


@settings(deadline=None)
@given(policies(), st.integers(min_value=1, max_value=9_999))
def test_the_ceiling_never_falls_from_one_attempt_to_the_next(policy: RetryPolicy, attempt: int) -> None:
    ceilings = [backoff_ceiling(policy, attempt), backoff_ceiling(policy, attempt + 1)]

    assert ceilings == sorted(ceilings)


@pytest.mark.parametrize("factor", [2, 2.0, 100, 100.0])
def test_the_ceiling_of_attempt_10_000_is_the_cap_and_no_overflow(factor: float) -> None:
    policy = RetryPolicy(factor=factor)

    assert backoff_ceiling(policy, 10_000) == 300


def test_the_ceiling_doubles_from_the_base_up_to_the_cap() -> None:
    policy = RetryPolicy(base_seconds=1, factor=2, cap_seconds=10)

    ceilings = [backoff_ceiling(policy, attempt) for attempt in range(1, 7)]

    assert ceilings == [1, 2, 4, 8, 10, 10]


def test_a_factor_of_one_waits_equally_long_each_time() -> None:
    policy = RetryPolicy(base_seconds=3, factor=1)

    ceilings = {backoff_ceiling(policy, attempt) for attempt in (1, 2, 100, 10_000)}

    assert ceilings == {3}


@settings(deadline=None)
@given(policies(), attempts, chances)
def test_a_wait_is_never_negative_and_never_over_its_ceiling(policy: RetryPolicy, attempt: int, chance: float) -> None:
    decision = decide(policy, attempt=attempt, retryable=True, chance=chance)

    match decision:
        case RetryIn(seconds=seconds):
            assert attempt < policy.max_attempts
            assert 0 <= seconds <= backoff_ceiling(policy, attempt) <= policy.cap_seconds
        case GiveUp():
            assert attempt >= policy.max_attempts


@settings(deadline=None)
@given(policies().filter(lambda policy: policy.max_attempts > 1), st.data())
def test_full_jitter_spreads_the_wait_evenly_from_zero_to_the_ceiling(policy: RetryPolicy, data: st.DataObject) -> None:
    attempt = data.draw(st.integers(min_value=1, max_value=policy.max_attempts - 1))
    ceiling = backoff_ceiling(policy, attempt)
    spread = [0, 0.25, 0.5, 0.75, ALMOST_ONE]

    decisions = [decide(policy, attempt=attempt, retryable=True, chance=chance) for chance in spread]

    assert decisions[:4] == [RetryIn(0), RetryIn(ceiling * 0.25), RetryIn(ceiling * 0.5), RetryIn(ceiling * 0.75)]
    assert decisions[4] == RetryIn(ALMOST_ONE * ceiling)


@pytest.mark.parametrize("max_attempts", [1, 2, 5, 1_000])
def test_exactly_max_attempts_are_made(max_attempts: int) -> None:
    policy = RetryPolicy(max_attempts=max_attempts)

    decisions = [decide(policy, attempt=attempt, retryable=True, chance=0.5) for attempt in range(1, max_attempts + 1)]

    assert [isinstance(decision, RetryIn) for decision in decisions] == [True] * (max_attempts - 1) + [False]
    assert decisions[-1] == GiveUp()


def test_an_attempt_beyond_the_last_is_given_up_too() -> None:
    decision = decide(RetryPolicy(max_attempts=3), attempt=4, retryable=True, chance=0)

    assert decision == GiveUp()


@settings(deadline=None)
@given(policies(), attempts, chances)
def test_what_is_not_retryable_is_given_up_at_once(policy: RetryPolicy, attempt: int, chance: float) -> None:
    decision = decide(policy, attempt=attempt, retryable=False, chance=chance)

    assert decision == GiveUp()


@pytest.mark.parametrize("max_attempts", [0, -1, 1_001])
def test_a_policy_with_no_or_endless_attempts_is_refused(max_attempts: int) -> None:
    with pytest.raises(ValueError, match="max_attempts must lie between 1 and 1000"):
        RetryPolicy(max_attempts=max_attempts)


@pytest.mark.parametrize(
    "seconds",
    [
        {"base_seconds": 0},
        {"base_seconds": -1},
        {"base_seconds": 11, "cap_seconds": 10},
        {"cap_seconds": 86_401},
        {"cap_seconds": 0},
        {"base_seconds": float("nan")},
        {"cap_seconds": float("nan")},
        {"cap_seconds": float("inf")},
    ],
)
def test_a_policy_that_waits_for_no_or_endless_time_is_refused(seconds: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="0 < base_seconds <= cap_seconds <= 86400 must hold"):
        RetryPolicy(**seconds)


@pytest.mark.parametrize("factor", [0.99, 0, -2, 100.01, float("nan"), float("inf")])
def test_a_policy_whose_waits_shrink_or_explode_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="factor must lie between 1 and 100"):
        RetryPolicy(factor=factor)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_attempts": 1},
        {"max_attempts": 1_000},
        {"base_seconds": 86_400, "cap_seconds": 86_400},
        {"factor": 1},
        {"factor": 100},
    ],
)
def test_the_limits_themselves_are_allowed(limits: dict[str, Any]) -> None:
    policy = RetryPolicy(**limits)

    assert {name: getattr(policy, name) for name in limits} == limits
