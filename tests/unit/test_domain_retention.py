"""Retention: nothing goes before its time, no key within a day, and no task before its key (design §5)."""

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.clock import Timestamp, later
from app.domain.retention import (
    KEY_MINIMUM_SECONDS,
    AgedKey,
    AgedTask,
    Retention,
    may_prune_key,
    may_prune_task,
)
from app.domain.tasks import TaskStatus

DAY = 86_400.0
NOW = Timestamp("2026-11-22T20:19:00.000000Z")
RETENTION = Retention(task_seconds=30 * DAY, dead_letter_seconds=90 * DAY, key_seconds=7 * DAY)
FOREVER = Retention(task_seconds=None, dead_letter_seconds=None, key_seconds=None)
ENDED = [status for status in TaskStatus if status.is_ended]
GOING_ON = [status for status in TaskStatus if not status.is_ended]


def task(status: TaskStatus, age_seconds: float, *, has_key: bool = False) -> AgedTask:
    """Make a task that took its status so many seconds ago, and was made a year before."""
    updated_at = later(NOW, -age_seconds)
    return AgedTask(
        id="t", status=status, created_at=later(updated_at, -365 * DAY), updated_at=updated_at, has_key=has_key
    )


def key(status: TaskStatus | None, age_seconds: float) -> AgedKey:
    """Make a key that was used so many seconds ago."""
    return AgedKey(task_id="t", created_at=later(NOW, -age_seconds), task_status=status)


# Keys ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [*ENDED, None])
@pytest.mark.parametrize(("age_seconds", "may_go"), [(7 * DAY, True), (7 * DAY - 1e-6, False), (0, False), (-5, False)])
def test_a_key_goes_when_it_is_old_enough_and_its_task_has_ended_or_is_gone(
    status: TaskStatus | None, age_seconds: float, may_go: bool
) -> None:
    assert may_prune_key(key(status, age_seconds), RETENTION, now=NOW) is may_go


@pytest.mark.parametrize("status", GOING_ON)
def test_a_key_stays_as_long_as_its_task_goes_on(status: TaskStatus) -> None:
    assert not may_prune_key(key(status, 9_999 * DAY), RETENTION, now=NOW)


@pytest.mark.parametrize("seconds", [0, 1, KEY_MINIMUM_SECONDS - 1e-6, -DAY])
def test_nobody_can_ask_to_forget_a_key_within_a_day(seconds: float) -> None:
    with pytest.raises(ValueError, match="kept for at least 86400 seconds"):
        replace(RETENTION, key_seconds=seconds)


@settings(deadline=None)
@given(st.floats(), st.sampled_from([*TaskStatus, None]), st.floats(min_value=0, max_value=DAY, exclude_max=True))
def test_no_key_goes_within_a_day_whatever_is_set(
    key_seconds: float, status: TaskStatus | None, age_seconds: float
) -> None:
    try:
        retention = replace(RETENTION, key_seconds=key_seconds)
    except ValueError:
        return
    young = key(status, age_seconds)
    assume(young.created_at > later(NOW, -DAY))

    assert not may_prune_key(young, retention, now=NOW)


# Tasks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "days"), [(TaskStatus.SUCCEEDED, 30), (TaskStatus.CANCELLED, 30), (TaskStatus.FAILED, 90)]
)
def test_a_task_goes_when_it_ended_long_enough_ago_and_a_dead_letter_has_a_time_of_its_own(
    status: TaskStatus, days: float
) -> None:
    ages = [days * DAY - 1e-6, days * DAY, days * DAY + 1]

    may_go = [may_prune_task(task(status, age), RETENTION, now=NOW) for age in ages]

    assert may_go == [False, True, True]


@settings(deadline=None)
@given(st.sampled_from(TaskStatus), st.floats(min_value=0, max_value=9_999 * DAY))
def test_no_task_goes_before_its_key_or_its_end(status: TaskStatus, age_seconds: float) -> None:
    named = task(status, age_seconds, has_key=True)
    unnamed = replace(named, has_key=False)

    assert not may_prune_task(named, RETENTION, now=NOW)
    assert not may_prune_task(unnamed, RETENTION, now=NOW) or status.is_ended


@pytest.mark.parametrize("status", TaskStatus)
def test_what_is_kept_for_ever_never_goes(status: TaskStatus) -> None:
    assert not may_prune_task(task(status, 99_999 * DAY), FOREVER, now=NOW)
    assert not may_prune_key(key(status, 99_999 * DAY), FOREVER, now=NOW)


@pytest.mark.parametrize(
    ("retention", "gone"),
    [
        (replace(FOREVER, task_seconds=0.0), {TaskStatus.SUCCEEDED, TaskStatus.CANCELLED}),
        (replace(FOREVER, dead_letter_seconds=0.0), {TaskStatus.FAILED}),
    ],
)
def test_dead_letters_and_other_tasks_are_kept_apart(retention: Retention, gone: set[TaskStatus]) -> None:
    may_go = {status for status in TaskStatus if may_prune_task(task(status, 0), retention, now=NOW)}

    assert may_go == gone
