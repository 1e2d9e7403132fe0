"""Durability on SQLite: what is in force on every connection, and the log's way into the file (design §4)."""

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.db.connection import SchemaTarget
from app.db.sqlite import SqliteConnectionFactory, ThreadConnection, checkpoint
from app.db.store import SqliteStore
from app.errors import CabinetError, StorageBusy, StorageFull
from app.metrics import Metrics
from tests.support.database import COUNT, Barrier, Numbers, WatchedFactory, connect, driver, insert, open_numbers

FULL = 2
BIG = "x" * 100_000
IN_FORCE = {
    "journal_mode": "wal",
    "synchronous": FULL,
    "foreign_keys": 1,
    "wal_autocheckpoint": 0,
    "busy_timeout": 5_000,
    "trusted_schema": 0,
    "cell_size_check": 1,
    "mmap_size": 0,
    "journal_size_limit": 64 * 1024 * 1024,
}


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    """Let nothing but the code itself keep others out."""
    before = os.umask(0)
    yield
    os.umask(before)


async def answers(connection: ThreadConnection) -> dict[str, Any]:
    """Ask a connection for every pragma; what it does not answer is left out."""

    def ask(raw: Any) -> dict[str, Any]:
        rows = {pragma: raw.execute(f"PRAGMA {pragma}").fetchone() for pragma in (*IN_FORCE, "query_only")}
        return {pragma: row[0] for pragma, row in rows.items() if row is not None}

    return await connection.run(ask)


async def test_writer_and_readers_have_every_safeguard_in_force(tmp_path: Path) -> None:
    factory = SqliteConnectionFactory(tmp_path / "numbers.db")

    async with factory.writer() as writer, factory.reader() as reader:
        of_writer, of_reader = await answers(writer), await answers(reader)

    assert of_writer == IN_FORCE | {"query_only": 0}
    assert of_reader == IN_FORCE | {"query_only": 1}


async def test_the_memory_has_the_same_safeguards_where_they_mean_something() -> None:
    async with SqliteConnectionFactory(None).writer() as writer:
        found = await answers(writer)

    assert found["foreign_keys"] == 1
    assert found["trusted_schema"] == 0
    assert found["journal_mode"] == "memory"


async def test_the_safeguards_survive_in_a_store_that_is_open(on_file: Numbers) -> None:
    def look(raw: Any) -> list[Any]:
        return [raw.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in ("journal_mode", "synchronous")]

    assert await on_file.on_writer(look) == ["wal", FULL]


@pytest.mark.skipif(driver.__name__.startswith("sqlite3"), reason="there is no wheel for this platform")
def test_where_there_is_a_wheel_sqlite_has_no_wal_reset_bug() -> None:
    assert driver.sqlite_version_info >= (3, 51, 3)


# Files ---------------------------------------------------------------------------------------------------------------


async def test_the_file_its_log_and_its_index_are_for_their_owner_alone(tmp_path: Path) -> None:
    async with open_numbers(tmp_path / "numbers.db") as numbers:
        await numbers.add(1)
        modes = modes_in(tmp_path)

    assert modes == dict.fromkeys(("numbers.db", "numbers.db-wal", "numbers.db-shm", "numbers.db.use"), "-rw-------")


def modes_in(folder: Path) -> dict[str, str]:
    """Return who may do what with each file of a folder."""
    return {path.name: stat.filemode(path.stat().st_mode) for path in folder.iterdir()}


class _WithoutWal:
    """A connection to a file system that cannot do what WAL needs."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def execute(self, text: str, *arguments: Any) -> Any:
        changed = text.replace("journal_mode = WAL", "journal_mode = DELETE")
        return self._raw.execute(changed, *arguments)


class _NetworkFactory(WatchedFactory):
    def _connect(self) -> Any:
        return _WithoutWal(super()._connect())


async def test_a_file_system_that_cannot_keep_the_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CabinetError, match="'delete', not 'wal'; DB_PATH must lie on a local file system"):
        async with _NetworkFactory(tmp_path / "numbers.db").writer():
            pass


# The checkpoint ------------------------------------------------------------------------------------------------------


def size(path: Path | None, ending: str = "") -> int:
    assert path is not None
    file = path.with_name(path.name + ending)
    return file.stat().st_size if file.exists() else 0


async def until_copied(numbers: Numbers) -> None:
    """Wait until the big row has come from the log into the file."""
    async with asyncio.timeout(5):
        while size(numbers.factory.path) < len(BIG):
            await asyncio.sleep(0.01)


async def test_commits_do_not_copy_the_log_by_themselves(on_file: Numbers) -> None:
    before = size(on_file.factory.path)

    await on_file.write(insert(1, note="x" * 8_000_000))

    assert size(on_file.factory.path) == before
    assert size(on_file.factory.path, "-wal") > 8_000_000


async def test_the_timer_copies_the_log_after_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.db.store.CHECKPOINT_SECONDS", 0.01)
    async with open_numbers(tmp_path / "numbers.db") as numbers:
        await numbers.write(insert(1, note=BIG))

        await until_copied(numbers)


async def test_the_timer_leaves_a_store_alone_that_nobody_has_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.store.CHECKPOINT_SECONDS", 0)
    async with open_numbers(tmp_path / "numbers.db") as numbers:
        before = len(numbers.factory.writer_connection.statements)
        for _ in range(20):
            await asyncio.sleep(0)

        assert len(numbers.factory.writer_connection.statements) == before


async def test_a_reader_in_the_way_does_not_stop_the_timer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.db.store.CHECKPOINT_SECONDS", 0.01)
    async with open_numbers(tmp_path / "numbers.db") as numbers:
        barrier = Barrier()

        async def look(unit: Any) -> None:
            await unit.fetch_all(COUNT)
            barrier()

        reading = asyncio.create_task(numbers.read(look))
        await barrier.reached()
        await numbers.write(insert(1, note=BIG))
        await asyncio.sleep(0.05)
        barrier.open()
        await reading
        await numbers.add(2)

        await until_copied(numbers)


async def test_a_checkpoint_on_a_full_disk_is_told_and_the_service_carries_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.store.CHECKPOINT_SECONDS", 0.01)
    async with open_numbers(tmp_path / "numbers.db") as numbers:
        writer = numbers.factory.writer_connection
        writer.faults["PRAGMA wal_checkpoint(PASSIVE)"] = 13
        await numbers.write(insert(1, note=BIG))
        async with asyncio.timeout(5):
            while "PRAGMA wal_checkpoint(PASSIVE)" not in writer.statements:
                await asyncio.sleep(0.01)
        writer.faults.clear()
        await numbers.add(2)

        await until_copied(numbers)
        assert numbers.failures == []


async def test_a_checkpoint_that_fails_for_good_ends_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.db.store.CHECKPOINT_SECONDS", 0.01)
    async with open_numbers(tmp_path / "numbers.db") as numbers:
        numbers.factory.writer_connection.faults["PRAGMA wal_checkpoint(PASSIVE)"] = 10
        await numbers.add(1)

        async with asyncio.timeout(5):
            while not numbers.failures:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(("code", "meaning"), [(13, StorageFull), (5, StorageBusy)])
async def test_a_checkpoint_says_what_went_wrong(on_file: Numbers, code: int, meaning: type[Exception]) -> None:
    on_file.factory.writer_connection.faults["PRAGMA wal_checkpoint(PASSIVE)"] = code

    with pytest.raises(meaning):
        await on_file.on_writer(lambda raw: checkpoint(raw, "PASSIVE"))


async def test_a_store_that_closes_leaves_nothing_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "numbers.db"
    async with open_numbers(path) as numbers:
        await numbers.write(insert(1, note=BIG))

    assert size(path, "-wal") == 0
    assert connect(path).execute("SELECT n FROM numbers").fetchall() == [(1,)]


async def test_a_store_that_opens_first_copies_what_its_predecessor_left_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "numbers.db"
    async with open_numbers(path) as numbers:
        await numbers.add(1)
        await numbers.write(insert(2, note=BIG))
        for ending in ("", "-wal"):
            tmp_path.joinpath("left" + ending).write_bytes(path.with_name(path.name + ending).read_bytes())

    async with open_numbers(tmp_path / "left") as numbers:
        log, file = size(numbers.factory.path, "-wal"), size(numbers.factory.path)

        assert (log, file > 100_000) == (0, True)
        assert await numbers.there() == [1, 2]


async def test_the_first_checkpoint_comes_before_the_first_unit(tmp_path: Path) -> None:
    async with open_numbers(tmp_path / "numbers.db") as numbers:
        await numbers.add(1)
        statements = numbers.factory.writer_connection.statements

    assert statements.index("PRAGMA wal_checkpoint(TRUNCATE)") < statements.index("SAVEPOINT unit")


async def test_a_store_whose_schema_is_refused_is_not_opened(tmp_path: Path) -> None:
    factory = WatchedFactory(tmp_path / "numbers.db")
    store = SqliteStore(factory, lambda connection: connection, readers=1, on_failure=print, metrics=Metrics())

    async def refuse(_target: SchemaTarget) -> None:
        raise CabinetError("not this one")

    with pytest.raises(CabinetError, match="not this one"):
        async with store.open(refuse):
            pass
