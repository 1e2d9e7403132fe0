"""Wake-ups: who waits is told once, nobody waits for what has already been told, and a stop wakes everybody."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from app.wakeups import Wakeups

LONG_SECONDS = 600
TASK, OTHER = "task", "other"


async def test_work_that_was_added_ends_the_wait() -> None:
    wakeups = Wakeups()
    waiting = asyncio.create_task(wakeups.wait_for_work(LONG_SECONDS))
    await asyncio.sleep(0)

    wakeups.work_added()

    await asyncio.wait_for(waiting, 5)


async def test_work_that_was_added_before_is_not_waited_for() -> None:
    wakeups = Wakeups()
    wakeups.work_added()

    await asyncio.wait_for(wakeups.wait_for_work(LONG_SECONDS), 5)


async def test_a_wake_up_is_used_up_by_one_wait() -> None:
    wakeups = Wakeups()
    wakeups.work_added()
    wakeups.work_added()
    await wakeups.wait_for_work(LONG_SECONDS)

    second = asyncio.create_task(wakeups.wait_for_work(LONG_SECONDS))
    await asyncio.sleep(0)

    assert not second.done()
    second.cancel()


async def test_a_wait_ends_when_its_time_is_up() -> None:
    wakeups = Wakeups()

    await asyncio.wait_for(wakeups.wait_for_work(0.001), 5)

    assert not wakeups.is_stopping


async def test_all_who_wait_for_work_are_woken() -> None:
    wakeups = Wakeups()
    waiting = [asyncio.create_task(wakeups.wait_for_work(LONG_SECONDS)) for _ in range(3)]
    await asyncio.sleep(0)

    wakeups.work_added()

    await asyncio.wait_for(asyncio.gather(*waiting), 5)


async def test_a_cancelled_wait_leaves_the_others_waiting() -> None:
    wakeups = Wakeups()
    first, second = [asyncio.create_task(wakeups.wait_for_work(LONG_SECONDS)) for _ in range(2)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])

    wakeups.work_added()

    await asyncio.wait_for(second, 5)


def test_the_end_of_a_task_is_told_to_all_who_watch_it_and_to_nobody_else() -> None:
    wakeups = Wakeups()
    with wakeups.watch(TASK) as one, wakeups.watch(TASK) as two, wakeups.watch(OTHER) as other:
        wakeups.task_ended(TASK)

        assert [one.is_set(), two.is_set(), other.is_set()] == [True, True, False]


Tell = Callable[[Wakeups], None]
Wait = Callable[[Wakeups, float], Awaitable[None]]

SIGNALS: dict[str, tuple[Tell, Wait]] = {
    "work": (Wakeups.work_added, Wakeups.wait_for_work),
    "cancels": (Wakeups.cancel_asked, Wakeups.wait_for_cancel),
    "rescues": (Wakeups.rescue_asked, Wakeups.wait_for_rescue),
}


@pytest.mark.parametrize("waited_for", SIGNALS)
@pytest.mark.parametrize("told", SIGNALS)
async def test_every_wait_ends_for_its_own_signal_and_for_no_other(told: str, waited_for: str) -> None:
    wakeups = Wakeups()
    waiting = asyncio.ensure_future(SIGNALS[waited_for][1](wakeups, LONG_SECONDS))
    await asyncio.sleep(0)

    SIGNALS[told][0](wakeups)
    for _ in range(5):
        await asyncio.sleep(0)

    assert waiting.done() is (told == waited_for)
    waiting.cancel()


@pytest.mark.parametrize("signal", SIGNALS)
async def test_every_signal_is_used_up_by_one_wait_and_needs_none_after_its_time(signal: str) -> None:
    wakeups = Wakeups()
    tell, wait = SIGNALS[signal]
    tell(wakeups)
    await asyncio.wait_for(asyncio.ensure_future(wait(wakeups, LONG_SECONDS)), 5)

    await asyncio.wait_for(asyncio.ensure_future(wait(wakeups, 0.001)), 5)


def test_the_end_of_a_task_that_nobody_watches_is_nothing() -> None:
    wakeups = Wakeups()

    wakeups.task_ended(TASK)

    with wakeups.watch(TASK) as changed:
        assert not changed.is_set()


def test_who_has_stopped_watching_is_not_told() -> None:
    wakeups = Wakeups()
    with wakeups.watch(TASK) as stays:
        with wakeups.watch(TASK) as left:
            pass

        wakeups.task_ended(TASK)

        assert (stays.is_set(), left.is_set()) == (True, False)


def test_watching_leaves_nothing_behind() -> None:
    wakeups = Wakeups()

    for n in range(10):
        with wakeups.watch(str(n)):
            pass

    assert not wakeups._watchers


async def test_a_stop_wakes_everybody_and_stays() -> None:
    wakeups = Wakeups()
    waiting = asyncio.create_task(wakeups.wait_for_work(LONG_SECONDS))
    await asyncio.sleep(0)
    with wakeups.watch(TASK) as one, wakeups.watch(OTHER) as other:
        wakeups.stop()

        await asyncio.wait_for(waiting, 5)
        assert wakeups.is_stopping
        assert one.is_set()
        assert other.is_set()
