"""The cache of a provider's keys: when it fetches, for whom, and how long it trusts what it has."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from app.errors import IdentityProviderUnavailable
from app.log import bound, entry_of
from app.security.jwks import KeysNotHad, ProviderKey, signing_keys
from app.security.key_cache import COOLDOWN_SECONDS, REFRESH_SECONDS, STALE_SECONDS, KeyCache
from tests.support.clocks import HandSeconds
from tests.support.identity_provider import pair


def keys(*names: str | None) -> tuple[ProviderKey, ...]:
    """Return keys with these names."""
    published = [pair("EdDSA", name, number=number).published() for number, name in enumerate(names)]
    return signing_keys({"keys": published}, "https://a.test/jwks")


class Desk:
    """A cache, the clock that it reads, and a provider that answers when it is told to."""

    def __init__(self) -> None:
        self.seconds = HandSeconds()
        self.answer: tuple[ProviderKey, ...] | Exception = keys("a")
        self.fetched = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.cache = KeyCache(self._fetch, monotonic=self.seconds)

    async def _fetch(self) -> tuple[ProviderKey, ...]:
        self.fetched += 1
        await self.may_answer.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def finds(self, name: str | None) -> str | None:
        """Return the name of the key that was found."""
        found = await self.cache.find(name)
        return None if found is None else found.key_id

    def fail(self, kind: str = "unreachable") -> None:
        """Let the provider be away from now on."""
        self.answer = KeysNotHad(kind, "https://a.test/jwks?token=5ecre7", "no route")

    def pause(self) -> None:
        """Let fetches hang until `may_answer` is set again."""
        self.may_answer.clear()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """Return a cache that has fetched nothing yet."""
    made = Desk()
    yield made
    await made.cache.close()


async def settle() -> None:
    """Let everything run that can run."""
    for _ in range(10):
        await asyncio.sleep(0)


class Lines(logging.Handler):
    """What is logged, as it would be written at that moment, without what is the same in every line."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = entry_of(record)
        self.told.append({name: line[name] for name in line if name not in ("time", "logger")})


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Lines]:
    """Keep what the cache logs."""
    caplog.set_level(logging.INFO)
    handler = Lines()
    logger = logging.getLogger("app.security.key_cache")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


# Finding -------------------------------------------------------------------------------------------------------------


async def test_nothing_is_fetched_before_a_key_is_asked_for_and_once_after(desk: Desk) -> None:
    before = desk.fetched

    found = [await desk.finds("a") for _ in range(3)]

    assert (before, found, desk.fetched) == (0, ["a", "a", "a"], 1)


async def test_a_key_is_found_by_its_name(desk: Desk) -> None:
    desk.answer = keys("a", "b", None)

    assert [await desk.finds("b"), await desk.finds("a"), await desk.finds("c")] == ["b", "a", None]


@pytest.mark.parametrize(("names", "found"), [(("a",), "a"), (("a", "b"), None), (("a", None), None)])
async def test_without_a_name_only_an_only_key_is_found(
    desk: Desk, names: tuple[str | None, ...], found: str | None
) -> None:
    desk.answer = keys(*names)

    assert await desk.finds(None) == found
    assert desk.fetched == 1


async def test_of_two_keys_with_one_name_the_first_counts(desk: Desk) -> None:
    first, second = desk.answer = keys("a", "a")

    assert await desk.cache.find("a") == first != second


# One refresh for all -------------------------------------------------------------------------------------------------


async def test_fifty_callers_who_come_at_once_cause_one_fetch(desk: Desk) -> None:
    desk.pause()
    callers = [asyncio.create_task(desk.finds("a")) for _ in range(50)]
    await settle()

    desk.may_answer.set()

    assert await asyncio.gather(*callers) == ["a"] * 50
    assert desk.fetched == 1


async def test_fifty_callers_with_an_unknown_key_cause_one_fetch(desk: Desk) -> None:
    await desk.finds("a")
    desk.seconds.move(COOLDOWN_SECONDS)
    desk.answer = keys("a", "b")
    desk.pause()
    callers = [asyncio.create_task(desk.finds("b")) for _ in range(50)]
    await settle()

    desk.may_answer.set()

    assert await asyncio.gather(*callers) == ["b"] * 50
    assert desk.fetched == 2


async def test_a_caller_who_is_cancelled_takes_the_refresh_from_nobody(desk: Desk) -> None:
    desk.pause()
    first, second = (asyncio.create_task(desk.finds("a")) for _ in range(2))
    await settle()

    first.cancel()
    await settle()
    desk.may_answer.set()

    assert await second == "a"
    assert first.cancelled()
    assert desk.fetched == 1


async def test_a_refresh_whose_only_caller_is_cancelled_is_finished(desk: Desk) -> None:
    desk.pause()
    caller = asyncio.create_task(desk.finds("a"))
    await settle()

    caller.cancel()
    await settle()
    desk.may_answer.set()
    await settle()

    assert await desk.finds("a") == "a"
    assert desk.fetched == 1


# Age -----------------------------------------------------------------------------------------------------------------


async def test_young_keys_are_used_as_they_are(desk: Desk) -> None:
    await desk.finds("a")

    desk.seconds.move(REFRESH_SECONDS - 0.001)
    await desk.finds("a")
    await settle()

    assert desk.fetched == 1


async def test_older_keys_are_still_used_while_one_refresh_runs_behind(desk: Desk) -> None:
    await desk.finds("a")
    desk.seconds.move(REFRESH_SECONDS)
    desk.answer = keys("b")
    desk.pause()

    during = [await desk.finds("a") for _ in range(20)]
    await settle()
    desk.may_answer.set()
    await settle()

    assert during == ["a"] * 20
    assert (await desk.finds("b"), await desk.finds("a")) == ("b", None)
    assert desk.fetched == 2


async def test_known_keys_serve_while_the_provider_is_away_but_not_for_ever(desk: Desk) -> None:
    await desk.finds("a")
    desk.fail()

    desk.seconds.move(STALE_SECONDS)
    in_time = await desk.finds("a")
    await settle()
    desk.seconds.move(0.001)

    assert in_time == "a"
    with pytest.raises(IdentityProviderUnavailable):
        await desk.finds("a")


async def test_keys_too_old_to_be_trusted_are_fetched_while_the_caller_waits(desk: Desk) -> None:
    await desk.finds("a")
    desk.seconds.move(STALE_SECONDS + 1)
    desk.answer = keys("b")

    assert [await desk.finds("a"), await desk.finds("b")] == [None, "b"]
    assert desk.fetched == 2


async def test_the_age_of_keys_counts_from_when_they_were_asked_for(desk: Desk) -> None:
    desk.pause()
    caller = asyncio.create_task(desk.finds("a"))
    await settle()
    desk.seconds.move(5)
    desk.may_answer.set()
    await caller

    desk.seconds.move(REFRESH_SECONDS - 5)
    await desk.finds("a")
    await settle()

    assert desk.fetched == 2


# Unknown keys and cool-down ------------------------------------------------------------------------------------------


async def test_a_key_that_is_new_at_the_provider_is_fetched_while_the_caller_waits(desk: Desk) -> None:
    await desk.finds("a")
    desk.seconds.move(COOLDOWN_SECONDS)
    desk.answer = keys("a", "b")

    assert await desk.finds("b") == "b"


async def test_unknown_keys_cause_one_fetch_in_a_cool_down_however_many_come(desk: Desk) -> None:
    await desk.finds("a")

    for second in range(100):
        assert await desk.finds(f"forged-{second}") is None
        desk.seconds.move(1)

    assert desk.fetched == 1 + 99 // COOLDOWN_SECONDS


async def test_whether_an_unknown_key_exists_is_not_known_while_the_provider_is_away(desk: Desk) -> None:
    await desk.finds("a")
    desk.seconds.move(COOLDOWN_SECONDS)
    desk.fail()

    for _ in range(2):
        with pytest.raises(IdentityProviderUnavailable):
            await desk.finds("b")

    assert await desk.finds("a") == "a"
    assert desk.fetched == 2


async def test_a_provider_that_is_away_at_first_is_asked_again_after_a_cool_down(desk: Desk) -> None:
    desk.fail()
    for _ in range(3):
        with pytest.raises(IdentityProviderUnavailable):
            await desk.finds("a")
    fetched = desk.fetched
    desk.answer = keys("a")

    desk.seconds.move(COOLDOWN_SECONDS)

    assert (await desk.finds("a"), fetched, desk.fetched) == ("a", 1, 2)


def test_who_is_told_to_come_back_is_told_to_come_after_the_cool_down() -> None:
    assert IdentityProviderUnavailable.retry_after_seconds == COOLDOWN_SECONDS


# A key without a name ------------------------------------------------------------------------------------------------


async def test_an_only_key_may_have_a_successor(desk: Desk) -> None:
    [first] = desk.answer = keys("a")
    await desk.finds(None)
    desk.seconds.move(COOLDOWN_SECONDS)
    _, second = keys("a", "b")
    desk.answer = (second,)

    assert await desk.cache.successor(first) == second


@pytest.mark.parametrize(("names", "passed"), [(("a",), 10), (("b", "a"), 10), (("b",), 9.999)])
async def test_the_same_key_and_many_keys_and_one_that_comes_too_early_are_no_successor(
    desk: Desk, names: tuple[str, ...], passed: float
) -> None:
    [first] = desk.answer = keys("a")
    await desk.finds(None)
    desk.seconds.move(passed)
    desk.answer = keys(*names)

    assert await desk.cache.successor(first) is None


# Closing -------------------------------------------------------------------------------------------------------------


async def test_no_task_outlives_a_cache_that_is_closed_and_who_waits_is_answered(desk: Desk) -> None:
    desk.pause()
    caller = asyncio.create_task(desk.finds("a"))
    await settle()

    await desk.cache.close()

    with pytest.raises(IdentityProviderUnavailable):
        await caller
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_refresh_that_has_not_begun_ends_with_the_cache_too(desk: Desk) -> None:
    await desk.finds("a")
    desk.seconds.move(REFRESH_SECONDS)
    await desk.finds("a")

    await desk.cache.close()

    assert (desk.fetched, asyncio.all_tasks()) == (1, {asyncio.current_task()})


async def test_a_closed_cache_fetches_nothing_any_more(desk: Desk) -> None:
    await desk.finds("a")
    await desk.cache.close()

    desk.seconds.move(REFRESH_SECONDS)
    found = [await desk.finds("a"), await desk.finds("b")]

    assert (found, desk.fetched) == (["a", None], 1)


# The log -------------------------------------------------------------------------------------------------------------


async def test_keys_that_are_new_are_logged_and_the_same_ones_again_are_not(desk: Desk, lines: Lines) -> None:
    one, two = keys("a"), keys("a", "b")

    for desk.answer in (one, one, two, two[::-1], one):
        await desk.finds("unknown")
        desk.seconds.move(COOLDOWN_SECONDS)

    assert lines.told == [{"event": "identity_provider_keys", "level": "info", "keys": number} for number in (1, 2, 1)]


async def test_failures_are_logged_once_in_a_cool_down_with_their_kind_and_for_no_request(
    desk: Desk, lines: Lines
) -> None:
    desk.fail("timeout")

    for _ in range(25):
        with bound(request="r-1"), pytest.raises(IdentityProviderUnavailable):
            await desk.finds("a")
        desk.seconds.move(1)

    line = {"event": "identity_provider_failed", "level": "warning", "kind": "timeout", "detail": "no route"}
    assert lines.told == [line | {"address": "https://a.test/jwks"}] * 3


async def test_a_fault_of_our_own_is_logged_and_answered_like_an_outage(desk: Desk, lines: Lines) -> None:
    desk.answer = ZeroDivisionError("5ecre7")

    with pytest.raises(IdentityProviderUnavailable):
        await desk.finds("a")

    [line] = lines.told
    assert (line["level"], line["kind"]) == ("error", "fault")
    assert "ZeroDivisionError" in str(line["exception"])
    assert "5ecre7" not in str(line)
