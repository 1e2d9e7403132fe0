"""How many requests may be at work, or wait for a task's end, at once; beyond it they are told to come again."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx2
import pytest

from app.web import quotas
from tests.support.house import House
from tests.web.asking import check_problem


@asynccontextmanager
async def one_at_work(house: House, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Keep a request at work until the block ends: what it is to write waits."""
    begun, end = asyncio.Event(), asyncio.Event()
    write = house.store.write

    async def held(body: Any) -> Any:
        begun.set()
        await end.wait()
        return await write(body)

    with monkeypatch.context() as patched:
        patched.setattr(house.store, "write", held)
        request = asyncio.create_task(house.create("alice", "k"))
        try:
            await begun.wait()
            yield
        finally:
            end.set()
            assert (await request).status_code == 201


@pytest.fixture(autouse=True)
async def alice(house: House) -> None:
    """A user."""
    await house.let_in("alice")


@pytest.fixture
def somebody_waits(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """What is set once a request waits for a task's end."""
    waits, real = asyncio.Event(), quotas.Quotas.waiting

    @contextmanager
    def waiting(self: quotas.Quotas, subject: str) -> Iterator[None]:
        with real(self, subject):
            waits.set()
            yield

    monkeypatch.setattr(quotas.Quotas, "waiting", waiting)
    return waits


async def test_one_request_too_many_is_told_to_come_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "CONCURRENT_LIMIT", 1)

    async with one_at_work(house, monkeypatch):
        beyond = await house.client.get("/v1/me", headers=house.headers("alice"))
    after = await house.client.get("/v1/me", headers=house.headers("alice"))

    check_problem(beyond, 503, "unavailable")
    assert beyond.headers["retry-after"] == "1"
    assert after.status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/version"])
async def test_whoever_looks_after_the_process_is_answered_all_the_same(
    house: House, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(quotas, "CONCURRENT_LIMIT", 1)

    async with one_at_work(house, monkeypatch):
        answer = await house.client.get(path)

    assert answer.status_code == 200


async def test_who_waits_for_a_task_takes_no_place_of_those_at_work(
    house: House, monkeypatch: pytest.MonkeyPatch, somebody_waits: asyncio.Event
) -> None:
    monkeypatch.setattr(quotas, "CONCURRENT_LIMIT", 1)
    place = (await house.create("alice", "k")).headers["location"]

    waiting = asyncio.create_task(waits(house, place))
    await somebody_waits.wait()
    beside = await house.client.get("/v1/me", headers=house.headers("alice"))
    house.container.wakeups.stop()

    assert beside.status_code == 200
    assert (await waiting).status_code == 200


@pytest.mark.parametrize("limit", ["WAITING_LIMIT", "WAITING_OF_SUBJECT_LIMIT"])
async def test_one_that_waits_too_many_is_told_to_ask_without_waiting(
    house: House, monkeypatch: pytest.MonkeyPatch, somebody_waits: asyncio.Event, limit: str
) -> None:
    monkeypatch.setattr(quotas, limit, 1)
    place = (await house.create("alice", "k")).headers["location"]

    waiting = asyncio.create_task(waits(house, place))
    await somebody_waits.wait()
    beyond = await waits(house, place)
    at_once = await house.client.get(place, headers=house.headers("alice"))
    house.container.wakeups.stop()

    assert "without waiting" in check_problem(beyond, 503, "unavailable")["detail"]
    assert (at_once.status_code, (await waiting).status_code) == (200, 200)


async def waits(house: House, place: str) -> httpx2.Response:
    """Ask for a task and wait for its end."""
    return await house.client.get(place, params={"wait": 30}, headers=house.headers("alice"))


async def test_a_body_that_is_still_on_its_way_takes_no_place_of_those_at_work(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "CONCURRENT_LIMIT", 1)
    begun, end = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        begun.set()
        yield b"{"
        await end.wait()
        yield b"}"

    slow = asyncio.create_task(house.client.post("/v1/tasks", content=body(), headers=house.headers("alice")))
    await begun.wait()
    beside = await house.client.get("/v1/me", headers=house.headers("alice"))
    end.set()
    await slow

    assert beside.status_code == 200
