"""Rate limits: never more than said, never less, and never more memory than said."""

from bisect import bisect_left
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import TooManyRequests
from app.security import rate_limits
from app.security.rate_limits import RateLimiter
from tests.support.clocks import HandSeconds


def limiter_of(count: int, seconds: float) -> tuple[RateLimiter, HandSeconds]:
    """Return a limiter and the clock that it looks at."""
    monotonic = HandSeconds()
    return RateLimiter("test", count=count, seconds=seconds, monotonic=monotonic), monotonic


def passes(limiter: RateLimiter, key: str = "k") -> bool:
    """Take once and tell whether that was let through."""
    try:
        limiter.take(key)
    except TooManyRequests:
        return False
    return True


def seconds_to_wait(limiter: RateLimiter) -> float:
    """Take once and return how long one is told to wait; 0 if that was let through."""
    try:
        limiter.take("k")
    except TooManyRequests as refused:
        return refused.retry_after_seconds
    return 0


def test_all_may_come_at_once_and_one_more_may_not() -> None:
    limiter, _ = limiter_of(5, 60)

    assert [passes(limiter) for _ in range(7)] == [True] * 5 + [False] * 2


def test_each_take_tells_what_is_left_and_when_all_is_there_again() -> None:
    limiter, monotonic = limiter_of(3, 60)

    first, second = limiter.take("k"), limiter.take("k")
    monotonic.move(20)
    third = limiter.take("k")

    assert (first.remaining, round(first.reset_seconds, 6)) == (2, 20)
    assert (second.remaining, round(second.reset_seconds, 6)) == (1, 40)
    assert (third.remaining, round(third.reset_seconds, 6)) == (1, 40)


def test_a_refusal_tells_how_long_to_wait_and_that_is_long_enough() -> None:
    limiter, monotonic = limiter_of(6, 60)
    while passes(limiter):
        pass

    with pytest.raises(TooManyRequests, match="More than 6 requests in 60 seconds") as refused:
        limiter.take("k")
    monotonic.move(refused.value.retry_after_seconds - 0.01)
    too_early = passes(limiter)
    monotonic.move(0.01)

    assert refused.value.retry_after_seconds == pytest.approx(10)
    assert (too_early, passes(limiter), passes(limiter)) == (False, True, False)


def test_what_is_refused_does_not_count() -> None:
    limiter, monotonic = limiter_of(1, 10)
    limiter.take("k")

    refused = [passes(limiter) for _ in range(100)]
    monotonic.move(10)

    assert not any(refused)
    assert passes(limiter)


def test_keys_do_not_disturb_each_other() -> None:
    limiter, _ = limiter_of(1, 60)

    assert [passes(limiter, key) for key in ("a", "a", "b", "A", "")] == [True, False, True, True, True]


def test_a_limiter_that_was_quiet_is_whole_again_and_no_more_than_whole() -> None:
    limiter, monotonic = limiter_of(4, 60)
    while passes(limiter):
        pass

    monotonic.move(100_000)

    assert sum(passes(limiter) for _ in range(10)) == 4


def test_a_bounded_number_of_keys_is_remembered_and_the_quietest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "KEY_LIMIT", 3)
    limiter, _ = limiter_of(2, 60)

    for key in ("a", "b", "c", "a", "d"):
        limiter.take(key)

    assert list(limiter._full_at) == ["c", "a", "d"]
    assert not passes(limiter, "a")
    assert limiter.take("b").remaining == 1


LIMITS = st.tuples(st.integers(1, 50), st.sampled_from([0.1, 1.0, 7.0, 60.0, 3_600.0]))
PAUSES = st.lists(st.floats(0, 20, allow_nan=False).map(lambda pause: round(pause, 3)), max_size=150)


@given(limit=LIMITS, pauses=PAUSES)
def test_never_more_pass_in_any_time_than_the_burst_and_the_rate_allow(
    limit: tuple[int, float], pauses: list[float]
) -> None:
    count, seconds = limit
    limiter, monotonic = limiter_of(count, seconds)
    passed = []
    for pause in pauses:
        monotonic.move(pause)
        if passes(limiter):
            passed.append(monotonic.present)

    for first, start in enumerate(passed):
        for number, end in enumerate(passed[first:], start=1):
            assert number <= count + (end - start) / seconds * count + 0.001
    for start in passed:
        within = bisect_left(passed, start + seconds) - bisect_left(passed, start)
        assert within <= 2 * count


@given(limit=LIMITS, pauses=PAUSES)
def test_who_waits_as_long_as_told_passes(limit: tuple[int, float], pauses: list[float]) -> None:
    limiter, monotonic = limiter_of(*limit)
    for pause in pauses:
        monotonic.move(pause)
        seconds = seconds_to_wait(limiter)
        monotonic.move(seconds)

        assert 0 <= seconds <= limit[1] + 1e-9  # a clock of floats
        assert seconds == 0 or passes(limiter)


@given(limit=LIMITS, number=st.integers(1, 300))
def test_whoever_keeps_to_the_rate_is_never_refused(limit: tuple[int, float], number: int) -> None:
    count, seconds = limit
    limiter, monotonic = limiter_of(count, seconds)

    for _ in range(number):
        limiter.take("k")
        monotonic.move(seconds / count)


@given(limit=LIMITS, pauses=PAUSES)
def test_what_is_said_to_remain_does_pass_at_once(limit: tuple[int, float], pauses: list[float]) -> None:
    limiter, monotonic = limiter_of(*limit)
    for pause in pauses:
        monotonic.move(pause)
        passes(limiter)
    monotonic.move(limit[1] / limit[0])

    remaining = limiter.take("k").remaining

    assert 0 <= remaining < limit[0]
    assert [passes(limiter) for _ in range(remaining + 1)] == [True] * remaining + [False]


@given(keys=st.lists(st.sampled_from("abcdef"), max_size=60))
def test_each_key_has_the_whole_count_for_itself(keys: list[str]) -> None:
    limiter, _ = limiter_of(3, 60)

    passed = Counter(key for key in keys if passes(limiter, key))

    assert passed == {key: min(3, asked) for key, asked in Counter(keys).items()}
