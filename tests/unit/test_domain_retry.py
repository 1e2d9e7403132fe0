"""Retry: how long to wait, when to stop, and which policies make no sense."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.retry import (
    RETRY_AFTER_LIMIT_SECONDS,
    GiveUp,
    RetryIn,
    RetryPolicy,
    backoff_ceiling,
    crash_wait_seconds,
    decide,
)

ALMOST_ONE = 1 - 2**-53

attempts = st.integers(min_value=1, max_value=10_000)
chances = st.floats(min_value=0, max_value=1, exclude_max=True)


@st.composite
def policies(draw: st.DrawFn, *, limited: bool = False) -> RetryPolicy:
    """Draw any policy that is not refused, with a limit on the time that passes only if it is to be limited."""
    cap_seconds = draw(st.floats(min_value=1e-6, max_value=86_400))
    return RetryPolicy(
        max_attempts=draw(st.integers(min_value=1, max_value=1_000)),
        base_seconds=draw(st.floats(min_value=1e-9, max_value=cap_seconds)),
        factor=draw(st.floats(min_value=1, max_value=100) | st.integers(min_value=1, max_value=100)),
        cap_seconds=cap_seconds,
        max_elapsed_seconds=draw(st.none() | st.floats(min_value=1e-6, max_value=31_536_000)) if limited else None,
        max_crashes=draw(st.integers(min_value=1, max_value=100)),
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
        {"max_elapsed_seconds": 31_536_000},
        {"max_elapsed_seconds": 1e-9},
        {"max_crashes": 1},
        {"max_crashes": 100},
    ],
)
def test_the_limits_themselves_are_allowed(limits: dict[str, Any]) -> None:
    policy = RetryPolicy(**limits)

    assert {name: getattr(policy, name) for name in limits} == limits


# The time that passes ------------------------------------------------------------------------------------------------

elapsed = st.floats(min_value=0, max_value=1e9)
asked = st.none() | st.floats(allow_nan=False)


@settings(deadline=None)
@given(policies(limited=True), attempts, chances, elapsed, asked)
def test_no_wait_is_negative_longer_than_allowed_or_ends_after_the_limit(
    policy: RetryPolicy, attempt: int, chance: float, elapsed_seconds: float, after_seconds: float | None
) -> None:
    decision = decide(
        policy,
        attempt=attempt,
        retryable=True,
        chance=chance,
        elapsed_seconds=elapsed_seconds,
        after_seconds=after_seconds,
    )

    if isinstance(decision, RetryIn):
        least = min(max(0.0, after_seconds or 0.0), RETRY_AFTER_LIMIT_SECONDS)
        assert least <= decision.seconds <= least + policy.cap_seconds
        assert policy.max_elapsed_seconds is None or elapsed_seconds + decision.seconds <= policy.max_elapsed_seconds


@pytest.mark.parametrize(
    ("elapsed_seconds", "follows"), [(0, RetryIn(10)), (50, RetryIn(10)), (50.001, GiveUp()), (61, GiveUp())]
)
def test_an_attempt_that_would_begin_after_the_limit_does_not_follow(
    elapsed_seconds: float, follows: RetryIn | GiveUp
) -> None:
    policy = RetryPolicy(base_seconds=20, max_elapsed_seconds=60)

    decision = decide(policy, attempt=1, retryable=True, chance=0.5, elapsed_seconds=elapsed_seconds)

    assert decision == follows


def test_without_a_limit_on_time_any_time_may_pass() -> None:
    decision = decide(RetryPolicy(base_seconds=2), attempt=1, retryable=True, chance=0.5, elapsed_seconds=1e12)

    assert decision == RetryIn(1)


@pytest.mark.parametrize("seconds", [0, -1, 31_536_001, float("nan"), float("inf")])
def test_a_limit_on_time_that_ends_at_once_or_never_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="max_elapsed_seconds must lie between 0 and 31536000"):
        RetryPolicy(max_elapsed_seconds=seconds)


# What was asked for --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after_seconds", "waits"),
    [
        (None, 1),
        (0, 1),
        (-5, 1),
        (float("-inf"), 1),
        (90, 91),
        (1_000, 1_001),
        (RETRY_AFTER_LIMIT_SECONDS, RETRY_AFTER_LIMIT_SECONDS + 1),
        (RETRY_AFTER_LIMIT_SECONDS + 1, RETRY_AFTER_LIMIT_SECONDS + 1),
        (float("inf"), RETRY_AFTER_LIMIT_SECONDS + 1),
    ],
)
def test_what_the_failure_asked_to_wait_is_waited_at_least_and_for_a_week_at_most(
    after_seconds: float | None, waits: float
) -> None:
    policy = RetryPolicy(base_seconds=2)

    decision = decide(policy, attempt=1, retryable=True, chance=0.5, after_seconds=after_seconds)

    assert decision == RetryIn(waits)


def test_those_who_were_told_the_same_do_not_come_back_together() -> None:
    policy = RetryPolicy(base_seconds=10)

    decisions = [
        decide(policy, attempt=1, retryable=True, chance=chance, after_seconds=60) for chance in (0, 0.25, 0.5)
    ]

    assert decisions == [RetryIn(60), RetryIn(62.5), RetryIn(65)]


def test_a_wait_that_was_asked_for_does_not_outlast_the_limit_on_time() -> None:
    policy = RetryPolicy(max_elapsed_seconds=60)

    assert decide(policy, attempt=1, retryable=True, chance=0, after_seconds=60) == RetryIn(60)
    assert decide(policy, attempt=1, retryable=True, chance=0, after_seconds=61) == GiveUp()


def test_asking_to_wait_makes_no_further_attempt() -> None:
    assert decide(RetryPolicy(max_attempts=2), attempt=2, retryable=True, chance=0, after_seconds=5) == GiveUp()
    assert decide(RetryPolicy(), attempt=1, retryable=False, chance=0, after_seconds=5) == GiveUp()


# Kinds ---------------------------------------------------------------------------------------------------------------


def test_a_kind_of_failure_has_its_own_policy_or_the_common_one() -> None:
    patient = RetryPolicy(max_attempts=20)
    policy = RetryPolicy(by_kind={"http_too_many_requests": patient})

    chosen = [policy.for_kind(kind) for kind in ("http_too_many_requests", "timeout", "")]

    assert chosen == [patient, policy, policy]


def test_a_policy_of_a_kind_has_no_kinds_of_its_own() -> None:
    nested = RetryPolicy(by_kind={"timeout": RetryPolicy()})

    with pytest.raises(ValueError, match="cannot have a by_kind of its own"):
        RetryPolicy(by_kind={"timeout": nested})


def test_a_policy_with_kinds_can_still_be_a_key() -> None:
    assert len({RetryPolicy(by_kind={"timeout": RetryPolicy()}), RetryPolicy()}) == 2


# Crashes -------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(policies(limited=True), attempts, chances)
def test_a_stage_that_lost_its_worker_never_waits_longer_than_the_cap(
    policy: RetryPolicy, crashes: int, chance: float
) -> None:
    waits = crash_wait_seconds(policy, crashes=crashes, chance=chance)

    assert 0 <= waits <= policy.cap_seconds


@pytest.mark.parametrize(("crashes", "ceiling"), [(0, 0), (1, 0), (2, 3), (3, 6), (4, 12), (10_000, 300)])
def test_a_stage_waits_by_chance_from_the_second_loss_of_its_worker_on(crashes: int, ceiling: float) -> None:
    policy = RetryPolicy(base_seconds=3)

    waits = [crash_wait_seconds(policy, crashes=crashes, chance=chance) for chance in (0, 0.5)]

    assert waits == [0, ceiling / 2]


@pytest.mark.parametrize("max_crashes", [0, -1, 101])
def test_a_policy_that_takes_no_or_endless_crashes_is_refused(max_crashes: int) -> None:
    with pytest.raises(ValueError, match="max_crashes must lie between 1 and 100"):
        RetryPolicy(max_crashes=max_crashes)
