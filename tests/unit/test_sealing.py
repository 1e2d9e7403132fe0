"""Sealing: new events get a seal at once or in batches, one of several sealers wins, and failures are tried again."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from app.domain.audit import Seal
from app.errors import StorageBusy
from app.services import sealing
from app.services.audit_trail import verify
from app.services.sealing import Sealer, seal_next
from app.unit import UnitOfWork
from tests.db.records import Database, open_database
from tests.support.database import NOW
from tests.support.house import open_house
from tests.support.trails import a_deed, keep
from tests.web.shop import told

T = TypeVar("T")
Body = Callable[[UnitOfWork], Awaitable[T]]


class WatchedStore:
    """A store that counts units and does something before each."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.reads = 0
        self.writes = 0
        self.before_write: Callable[[], Awaitable[None]] | None = None

    async def read(self, body: Body[T]) -> T:
        """Run a unit that reads."""
        self.reads += 1
        return await self.database.read(body)

    async def write(self, body: Body[T]) -> T:
        """Run a unit that writes."""
        self.writes += 1
        if self.before_write is not None:
            await self.before_write()
        return await self.database.write(body)


@pytest.fixture(params=["file", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[WatchedStore]:
    """A store over the whole schema, on a file and in memory in turn."""
    async with open_database(request.param, tmp_path) as database:
        yield WatchedStore(database)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Let no time pass between two looks, and keep what is logged."""
    monkeypatch.setattr(sealing, "SEAL_SECONDS", 0)
    caplog.set_level(logging.INFO)


@asynccontextmanager
async def sealing_on(store: WatchedStore) -> AsyncIterator[Sealer]:
    """Let a sealer seal now and then until the block ends."""
    sealer = Sealer(store)
    loop = asyncio.create_task(sealer.seal_now_and_then())
    try:
        async with asyncio.timeout(5):
            yield sealer
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await sealer.seal_last()


async def keep_some(store: WatchedStore, count: int) -> None:
    """Keep some deeds, past the watch."""
    await keep(store.database.store, *(a_deed(number) for number in range(1, count + 1)))


async def all_seals(store: WatchedStore) -> list[Seal]:
    """Return all seals."""
    found: list[Seal] = []
    while (following := await store.database.read(lambda work: work.audit_seals.next(len(found)))) is not None:
        found.append(following)
    return found


async def seals(store: WatchedStore) -> list[tuple[int, int, int]]:
    """Return number, last `seq` and size of each seal."""
    return [(each.number, each.last[1], each.events) for each in await all_seals(store)]


async def until(store: WatchedStore, *sizes: int) -> None:
    """Wait until there are seals of these sizes."""
    while [size for _, _, size in await seals(store)] != list(sizes):
        await asyncio.sleep(0)


async def test_events_that_are_there_are_sealed_and_later_ones_by_the_next(store: WatchedStore) -> None:
    await keep_some(store, 3)

    first = await seal_next(store)
    await keep_some(store, 1)
    second = await seal_next(store)

    assert first is not None
    assert second is not None
    assert (first.events, first.last, first.sealed_at) == (3, (0, 3), NOW)
    assert (second.events, second.first, second.previous_hash) == (1, (0, 4), first.hash)
    assert (await verify(store, [])).events == 4


async def test_with_nothing_to_seal_nothing_is_written_and_one_unit_reads(store: WatchedStore) -> None:
    await keep_some(store, 1)
    await seal_next(store)
    store.reads = store.writes = 0

    assert await seal_next(store) is None

    assert (store.reads, store.writes) == (1, 0)


async def test_a_seal_covers_so_many_events_at_most(store: WatchedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "SEAL_LIMIT", 4)
    await keep_some(store, 10)

    made = [await seal_next(store) for _ in range(4)]

    assert [each and each.events for each in made] == [4, 4, 2, None]


async def test_of_sealers_that_have_read_the_same_one_wins_each_number(store: WatchedStore) -> None:
    await keep_some(store, 2)
    have_read = asyncio.Barrier(3)

    async def wait() -> None:
        await have_read.wait()

    store.before_write = wait
    made = await asyncio.gather(*(seal_next(store) for _ in range(3)))

    assert sorted(each is None for each in made) == [False, True, True]
    assert await seals(store) == [(1, 2, 2)]


async def test_a_sealer_that_comes_late_leaves_the_chain_whole(store: WatchedStore) -> None:
    await keep_some(store, 2)

    async def another_is_faster() -> None:
        store.before_write = None
        await seal_next(store)
        await keep_some(store, 3)
        await seal_next(store)

    store.before_write = another_is_faster
    late = await seal_next(store)

    assert late is None
    assert await seals(store) == [(1, 2, 2), (2, 5, 3)]
    assert (await verify(store, [])).fault is None


@pytest.mark.usefixtures("at_once")
async def test_each_seal_is_told_with_its_head(store: WatchedStore, caplog: pytest.LogCaptureFixture) -> None:
    async with sealing_on(store):
        await keep_some(store, 2)
        await until(store, 2)
        await keep_some(store, 1)
        await until(store, 2, 1)

    first, second = await all_seals(store)
    assert told(caplog, "audit_sealed") == [
        ("audit_sealed", {"number": 1, "events": 2, "hash": first.hash}),
        ("audit_sealed", {"number": 2, "events": 1, "hash": second.hash}),
    ]


async def test_what_has_piled_up_is_sealed_in_one_go(store: WatchedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "SEAL_LIMIT", 2)
    await keep_some(store, 7)

    await Sealer(store).seal_last()

    assert [size for _, _, size in await seals(store)] == [2, 2, 2, 1]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("failure", "level", "fields"),
    [
        (StorageBusy(), logging.WARNING, {"reason": "Another process holds the database; try again."}),
        (LookupError("no"), logging.ERROR, {}),
    ],
)
async def test_a_failure_is_told_and_the_events_are_sealed_the_next_time(
    store: WatchedStore, caplog: pytest.LogCaptureFixture, failure: Exception, level: int, fields: dict[str, Any]
) -> None:
    failures = [failure, failure]

    async def fail() -> None:
        if failures:
            raise failures.pop()

    store.before_write = fail
    async with sealing_on(store):
        await keep_some(store, 2)
        await until(store, 2)

    assert told(caplog, "sealing_failed") == [("sealing_failed", fields)] * 2
    assert {record.levelno for record in caplog.records if record.getMessage() == "sealing_failed"} == {level}


@pytest.mark.usefixtures("at_once")
async def test_a_seal_that_is_being_made_at_the_stop_is_finished_and_told(
    store: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    is_writing, goes_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        store.before_write = None
        is_writing.set()
        await goes_on.wait()

    store.before_write = wait
    sealer = Sealer(store)
    loop = asyncio.create_task(sealer.seal_now_and_then())
    await keep_some(store, 2)
    async with asyncio.timeout(5):
        await is_writing.wait()
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await keep_some(store, 1)
        goes_on.set()
        await sealer.seal_last()

    assert await seals(store) == [(1, 2, 2), (2, 3, 1)]
    assert [fields["number"] for _, fields in told(caplog, "audit_sealed")] == [1, 2]


async def test_a_service_that_stops_in_order_seals_all_to_the_last_sum_of_denials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "SEAL_SECONDS", 3_600)
    async with open_house(tmp_path) as house:
        await keep(house.store, a_deed(1))
        denied = await house.client.get("/v1/tasks")  # nobody knows by whom: counted, and written as a sum

    async with open_database("file", tmp_path) as database:
        verified = await verify(database.store, [])
        kept = await database.rows("SELECT action, code FROM audit_events ORDER BY seq")
    assert denied.status_code == 401
    assert [(row["action"], row["code"]) for row in kept] == [
        ("user.changed", None),
        ("request.denied", "not_authenticated"),
    ]
    assert (verified.fault, verified.events, verified.unsealed) == (None, 2, 0)
