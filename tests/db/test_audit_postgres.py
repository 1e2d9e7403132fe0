"""The audit on a real PostgreSQL: rows that become visible late are sealed too, nobody waits, nothing is taken away."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import asyncpg
import pytest

from app.db.migrations import load_migrations
from app.db.queries import Query, load_queries
from app.domain.audit import EventFilter, Seal
from app.main import SQL
from app.services.audit_trail import Verified, verify
from app.services.sealing import seal_next
from app.unit import UnitOfWork
from tests.support.clocks import HandClock
from tests.support.postgres import numbered
from tests.support.trails import a_deed, keep, keep_sealed

T = TypeVar("T")

QUERIES = load_queries(SQL / "queries", engine="postgres")
IMPATIENT = {"search_path": "audit", "lock_timeout": "1s"}
"""Whoever waits for a lock fails instead."""


class Unit:
    """What repositories need of a connection."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch_all(self, query: Query, /, **parameters: Any) -> Any:
        """Run a query."""
        text, names = numbered(query.text)
        assert parameters.keys() == query.parameters
        return await self._connection.fetch(text, *(parameters[name] for name in names))

    async def fetch_one(self, query: Query, /, **parameters: Any) -> Any:
        """Run a query and return its first row."""
        rows = await self.fetch_all(query, **parameters)
        return rows[0] if rows else None

    async def protect(self, body: Callable[[], Awaitable[T]]) -> T:
        """Protect nothing."""
        return await body()


class PostgresStore:
    """Units as design §3 has them on PostgreSQL, each in a transaction of one connection."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def write(self, body: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """Run a unit that writes."""
        async with self.connection.transaction():
            return await body(self.unit())

    async def read(self, body: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """Run a unit that reads."""
        async with self.connection.transaction(isolation="repeatable_read", readonly=True):
            return await body(self.unit())

    def unit(self) -> UnitOfWork:
        """Return the repositories, in the transaction that runs."""
        return UnitOfWork(Unit(self.connection), QUERIES, HandClock())


@pytest.fixture
async def stores(address: str) -> AsyncIterator[tuple[PostgresStore, PostgresStore, PostgresStore]]:
    """Three connections to one schema of their own, which is dropped at the end."""
    connections = [await asyncpg.connect(address, server_settings=IMPATIENT) for _ in range(3)]
    first = connections[0]
    await first.execute("CREATE SCHEMA audit")
    try:
        for migration in load_migrations(SQL / "migrations", engine="postgres"):
            await first.execute(migration.script)
        yield PostgresStore(first), PostgresStore(connections[1]), PostgresStore(connections[2])
    finally:
        for connection in connections[1:]:
            await connection.close()
        await first.execute("DROP SCHEMA audit CASCADE")
        await first.close()


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Any]:
    """Open a further connection to the same schema, which may wait for locks."""
    connection = await asyncpg.connect(address, server_settings={"search_path": "audit"})
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def unfinished(store: PostgresStore, number: int) -> AsyncIterator[None]:
    """Keep a deed in a transaction that is open until the block ends."""
    async with store.connection.transaction():
        await store.unit().audit_events.add(a_deed(number), at=HandClock().now())
        yield


async def seal_all(store: PostgresStore) -> list[Seal]:
    """Seal all that can be."""
    made = []
    while (sealed := await seal_next(store)) is not None:
        made.append(sealed)
    return made


async def targets(store: PostgresStore) -> list[str]:
    """Return what the events are about, in the order in which they became final."""
    rows = await store.connection.fetch("SELECT target_id FROM audit_events ORDER BY xact, seq")
    return [row["target_id"] for row in rows]


async def verified(store: PostgresStore) -> tuple[int, int, int, str | None]:
    """Return seals and events that are good, events that are not sealed, and what is wrong."""
    found: Verified = await verify(store, [])
    return found.seals, found.events, found.unsealed, None if found.fault is None else found.fault.says


Stores = tuple[PostgresStore, PostgresStore, PostgresStore]


# Sealing -------------------------------------------------------------------------------------------------------------


async def test_events_are_sealed_and_verified(stores: Stores) -> None:
    store, _, _ = stores

    made = await keep_sealed(store, 3, 1, 2)

    assert [seal.number for seal in made] == [1, 2, 3]
    assert await verified(store) == (3, 6, 0, None)
    found = await store.read(lambda work: work.audit_events.page(EventFilter(), before=6, limit=2))
    assert [event.seq for event in found] == [5, 4]


async def test_an_older_transaction_that_commits_late_loses_nothing(stores: Stores) -> None:
    sealer, late, writer = stores
    await keep(writer, a_deed(1))
    async with unfinished(late, 2):
        await keep(writer, a_deed(3), a_deed(4))
        meanwhile = await seal_all(sealer)
        before = await verified(sealer)

    after = await seal_all(sealer)

    assert [seal.events for seal in (*meanwhile, *after)] == [1, 3]
    assert before == (1, 1, 2, None)
    assert await verified(sealer) == (2, 4, 0, None)
    assert await targets(sealer) == ["target-1", "target-2", "target-3", "target-4"]


async def test_an_older_transaction_that_gets_a_later_number_loses_nothing(stores: Stores) -> None:
    sealer, late, writer = stores
    async with late.connection.transaction():
        await late.connection.fetchval("SELECT pg_current_xact_id()")
        await keep(writer, a_deed(1))
        assert await seal_all(sealer) == []
        await late.unit().audit_events.add(a_deed(2), at=HandClock().now())

    [made] = await seal_all(sealer)

    assert await targets(sealer) == ["target-2", "target-1"]
    assert (made.first[1], made.last[1]) == (2, 1)
    assert await verified(sealer) == (1, 2, 0, None)


async def test_an_older_transaction_that_is_rolled_back_leaves_no_gap_in_the_seals(stores: Stores) -> None:
    sealer, late, writer = stores
    with suppress(LookupError):
        async with unfinished(late, 1):
            await keep(writer, a_deed(2))
            raise LookupError

    [made] = await seal_all(sealer)

    assert (made.first[1], made.last[1], made.events) == (2, 2, 1)
    assert await verified(sealer) == (1, 1, 0, None)


async def test_events_of_inner_savepoints_are_sealed_in_the_order_of_their_transaction(stores: Stores) -> None:
    sealer, late, writer = stores
    async with late.connection.transaction():
        async with late.connection.transaction():
            await late.unit().audit_events.add(a_deed(1), at=HandClock().now())
        await keep(writer, a_deed(2))
        nothing = await seal_all(sealer)

    [made] = await seal_all(sealer)

    assert (nothing, made.events) == ([], 2)
    assert await targets(sealer) == ["target-1", "target-2"]


async def test_many_writers_and_sealers_at_once_seal_every_event_once(address: str, stores: Stores) -> None:
    is_over = asyncio.Event()

    async def write(lane: int) -> None:
        async with connected(address) as connection:
            for number in range(25):
                async with connection.transaction():
                    deed = a_deed(lane * 100 + number)
                    await PostgresStore(connection).unit().audit_events.add(deed, at=HandClock().now())
                    await connection.fetchval("SELECT pg_sleep($1)", (lane % 3) / 1_000)

    async def seal() -> list[Seal]:
        made: list[Seal] = []
        async with connected(address) as connection:
            while not is_over.is_set():
                made += await seal_all(PostgresStore(connection))
        return made

    async with asyncio.TaskGroup() as group:
        sealers = [group.create_task(seal()) for _ in range(2)]
        async with asyncio.TaskGroup() as writers:
            for lane in range(4):
                writers.create_task(write(lane))
        is_over.set()
    made = [each for sealer in sealers for each in sealer.result()] + await seal_all(stores[0])

    assert sorted(seal.number for seal in made) == list(range(1, len(made) + 1))
    assert sum(seal.events for seal in made) == 100
    assert await verified(stores[0]) == (len(made), 100, 0, None)


async def test_of_two_sealers_that_have_read_the_same_one_wins(stores: Stores) -> None:
    one, other, writer = stores
    await keep(writer, a_deed(1))
    both_have_read = asyncio.Barrier(2)

    def reads_then_waits(store: PostgresStore) -> PostgresStore:
        class Waiting(PostgresStore):
            async def read(self, body: Callable[[UnitOfWork], Awaitable[T]]) -> T:
                found = await super().read(body)
                await both_have_read.wait()
                return found

        return Waiting(store.connection)

    made = await asyncio.gather(seal_next(reads_then_waits(one)), seal_next(reads_then_waits(other)))

    assert sorted(seal is None for seal in made) == [False, True]
    assert await verified(one) == (1, 1, 0, None)


async def test_a_sealer_does_not_wait_for_writers(stores: Stores) -> None:
    sealer, late, writer = stores
    await keep(writer, a_deed(1))

    async with unfinished(late, 2):
        made = await seal_all(sealer)  # lock_timeout is a second

    assert [seal.events for seal in made] == [1]


async def test_a_writer_does_not_wait_for_a_sealer(stores: Stores) -> None:
    sealer, _, writer = stores
    await keep_sealed(sealer, 1)
    await keep(writer, a_deed(2))
    [last] = [await sealer.read(lambda work: work.audit_seals.last())]
    assert last is not None

    async with sealer.connection.transaction():
        work = sealer.unit()
        assert len(await work.audit_events.final_after(last.last, limit=9)) == 1
        await sealer.connection.execute(
            f"INSERT INTO audit_seals VALUES (2, 0, 0, 0, 0, 1, 'x', '{last.hash}', 'x', '')"
        )
        await keep(writer, a_deed(3))  # lock_timeout is a second

    assert await targets(writer) == ["target-1", "target-2", "target-3"]


# Append-only ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET reason = 'another'",
        "UPDATE audit_events SET reason = 'another' WHERE seq = 99",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
        "TRUNCATE audit_events, audit_seals",
        "INSERT INTO audit_events SELECT * FROM audit_events ON CONFLICT (seq) DO UPDATE SET reason = 'another'",
        "MERGE INTO audit_events USING audit_seals ON seq = number WHEN MATCHED THEN DELETE",
        "WITH gone AS (DELETE FROM audit_events RETURNING seq) SELECT * FROM gone",
        "UPDATE audit_seals SET hash = 'x'",
        "DELETE FROM audit_seals",
        "TRUNCATE audit_seals",
        "INSERT INTO audit_seals SELECT * FROM audit_seals ON CONFLICT (number) DO UPDATE SET hash = 'x'",
    ],
)
async def test_postgres_refuses_whatever_is_not_a_further_row(stores: Stores, statement: str) -> None:
    store, _, _ = stores
    await keep_sealed(store, 2)

    with pytest.raises(asyncpg.RaiseError, match="is append-only"):
        await store.connection.execute(statement)

    assert await verified(store) == (1, 2, 0, None)


async def test_what_was_changed_without_the_triggers_is_found(stores: Stores) -> None:
    store, _, _ = stores
    await keep_sealed(store, 2, 2)
    await store.connection.execute("ALTER TABLE audit_events DISABLE TRIGGER USER")

    await store.connection.execute("UPDATE audit_events SET xact = xact - 1 WHERE seq = 3")

    seals, events, _, says = await verified(store)
    assert (seals, events) == (1, 2)
    assert says is not None
    assert says.startswith("Seal 2 ")


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (EventFilter(), "audit_events_pk"),
        (EventFilter(actor_id="a"), "audit_events_by_actor"),
        (EventFilter(target_id="t"), "audit_events_by_target"),
    ],
)
async def test_filters_walk_their_index_here_too(stores: Stores, wanted: EventFilter, index: str) -> None:
    store, _, _ = stores
    await store.connection.execute(
        "INSERT INTO audit_events (at, actor_id, action, target_kind, target_id, outcome, occurrences)"
        " SELECT '', CAST(n AS TEXT), 'task.created', 'task', CAST(n AS TEXT), 'allowed', 1"
        " FROM generate_series(1, 5000) AS n"
    )
    await store.connection.execute("ANALYZE audit_events")

    assert index in await plan(store, wanted)


async def plan(store: PostgresStore, wanted: EventFilter) -> str:
    """Return how PostgreSQL would find a page."""
    lines: list[str] = []

    class Explained(Unit):
        async def fetch_all(self, query: Query, /, **parameters: Any) -> Any:
            text, names = numbered(query.text)
            rows = await store.connection.fetch(f"EXPLAIN {text}", *(parameters[name] for name in names))
            lines.extend(row[0] for row in rows)
            return []

    work = UnitOfWork(Explained(store.connection), QUERIES, HandClock())
    await work.audit_events.page(wanted, before=4_000, limit=50)
    return "\n".join(lines)
