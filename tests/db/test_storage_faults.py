"""The engine's faults: a full disk, another process in the way, and failures of unknown outcome (design §3, rule 5)."""

import asyncio
import contextlib
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from app.db.connection import UnitConnection
from app.db.sqlite import translate
from app.errors import ConstraintViolated, QueryFailed, StartFault, StorageBusy, StorageFailed, StorageFull
from tests.support.database import (
    ALL,
    Barrier,
    Numbers,
    connect,
    driver,
    insert,
    insert_then,
    numbers_in,
    open_numbers,
)

IO_ERROR, FULL, CORRUPT, READ_ONLY, NO_DATABASE = 10, 13, 11, 8, 26


async def limit_pages(numbers: Numbers, more: int) -> None:
    """Let the file grow by so many pages and no further."""

    def limit(raw: Any) -> None:
        pages = raw.execute("PRAGMA page_count").fetchone()[0]
        raw.execute(f"PRAGMA max_page_count = {pages + more}").fetchall()

    await numbers.on_writer(limit)


# A full disk ---------------------------------------------------------------------------------------------------------


async def test_a_full_disk_fails_and_afterwards_the_service_carries_on(numbers: Numbers) -> None:
    await numbers.add(1)
    await limit_pages(numbers, 2)

    with pytest.raises(StorageFull):
        await numbers.write(insert(2, note="x" * 100_000))
    kept = await numbers.there()
    await limit_pages(numbers, 1_000)
    await numbers.write(insert(3, note="x" * 100_000))

    assert kept == [1]
    assert await numbers.there() == [1, 3]
    assert numbers.failures == []


async def test_a_full_disk_is_told_to_every_caller_whose_work_it_took(numbers: Numbers) -> None:
    await limit_pages(numbers, 2)

    outcomes = await asyncio.gather(
        numbers.write(insert(1)),
        numbers.write(insert(2, note="x" * 100_000)),
        numbers.write(insert(3)),
        return_exceptions=True,
    )
    there = await numbers.there()

    assert isinstance(outcomes[1], StorageFull)
    for number, outcome in ((1, outcomes[0]), (3, outcomes[2])):
        assert (outcome == [number]) == (number in there)
        assert outcome == [number] or isinstance(outcome, StorageFull)


async def test_a_commit_on_a_full_disk_fails_and_the_next_one_succeeds(numbers: Numbers) -> None:
    numbers.factory.writer_connection.faults["COMMIT"] = FULL
    with pytest.raises(StorageFull):
        await numbers.add(1)

    numbers.factory.writer_connection.faults.clear()
    await numbers.add(2)

    assert await numbers.there() == [2]
    assert numbers.failures == []


# Unknown outcomes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["BEGIN IMMEDIATE", "SAVEPOINT unit", "RELEASE unit", "COMMIT"])
@pytest.mark.parametrize("code", [IO_ERROR, IO_ERROR | 3 << 8, CORRUPT])
async def test_an_io_error_or_corruption_fails_everybody_and_ends_the_service(
    numbers: Numbers, where: str, code: int
) -> None:
    numbers.factory.writer_connection.faults[where] = code

    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*(numbers.add(number) for number in range(3)), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [StorageFailed] * 3
    assert len(numbers.failures) == 1
    with pytest.raises(StorageFailed):
        await numbers.add(7)
    assert len(numbers.failures) == 1


async def test_those_who_wait_behind_a_failing_batch_are_answered_too(numbers: Numbers) -> None:
    barrier = Barrier()
    first = asyncio.create_task(numbers.write(insert_then(1_000, barrier)))
    await barrier.reached()
    waiting = [asyncio.create_task(numbers.add(number)) for number in range(300)]
    await asyncio.sleep(0)
    numbers.factory.writer_connection.faults["COMMIT"] = IO_ERROR
    barrier.open()

    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(first, *waiting, return_exceptions=True)

    assert {type(outcome) for outcome in outcomes} == {StorageFailed}
    assert len(numbers.failures) == 1


async def test_an_io_error_inside_a_body_ends_the_service(numbers: Numbers) -> None:
    numbers.factory.writer_connection.faults[ALL.text] = IO_ERROR

    outcomes = await asyncio.gather(numbers.add(1), numbers.write(numbers_in), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [StorageFailed] * 2
    assert len(numbers.failures) == 1


async def test_an_io_error_that_a_body_swallows_ends_the_service_all_the_same(numbers: Numbers) -> None:
    numbers.factory.writer_connection.faults[ALL.text] = IO_ERROR

    async def body(unit: UnitConnection) -> str:
        with contextlib.suppress(StorageFailed):
            await numbers_in(unit)
        return "nothing happened"

    await asyncio.gather(numbers.write(body), return_exceptions=True)

    assert len(numbers.failures) == 1


async def test_an_io_error_in_a_reader_ends_the_service(on_file: Numbers) -> None:
    for reader in on_file.factory.opened[1:]:
        reader.faults["BEGIN"] = IO_ERROR

    with pytest.raises(StorageFailed):
        await on_file.there()

    assert len(on_file.failures) == 1


async def test_an_io_error_in_a_readers_body_ends_the_service(on_file: Numbers) -> None:
    for reader in on_file.factory.opened[1:]:
        reader.faults[ALL.text] = IO_ERROR

    with pytest.raises(StorageFailed):
        await on_file.there()

    assert len(on_file.failures) == 1


async def test_a_file_that_was_overwritten_fails_and_ends_the_service(tmp_path: Path) -> None:
    path = tmp_path / "numbers.db"
    async with open_numbers(path) as numbers:
        for number in range(50):
            await numbers.write(insert(number, note="x" * 5_000))
    overwrite(path, after=2 * 4_096)

    async with open_numbers(path) as numbers:
        outcome = (await asyncio.gather(numbers.write(numbers_in), return_exceptions=True))[0]

        assert isinstance(outcome, StorageFailed)
        assert len(numbers.failures) == 1
        with pytest.raises(StorageFailed):
            await numbers.add(1)


async def test_corruption_that_a_reader_meets_ends_the_service(tmp_path: Path) -> None:
    path = tmp_path / "numbers.db"
    async with open_numbers(path) as numbers:
        for number in range(50):
            await numbers.write(insert(number, note="x" * 5_000))
    overwrite(path, after=2 * 4_096)

    async with open_numbers(path) as numbers:
        with pytest.raises(StorageFailed):
            await numbers.there()

        assert len(numbers.failures) == 1


async def test_a_file_that_is_no_database_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "numbers.db"
    path.write_bytes(b"This is a letter, not a database. " * 1_000)

    with pytest.raises(StartFault, match="cannot be opened as a database"):
        async with open_numbers(path):
            pass


async def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartFault, match="No such file or directory"):
        async with open_numbers(tmp_path / "nowhere" / "numbers.db"):
            pass


def join_threads() -> None:
    """Wait for every thread of a connection to end."""
    for thread in threading.enumerate():
        if "_connection_worker_thread" in thread.name:
            thread.join(5)


def overwrite(path: Path, *, after: int) -> None:
    """Fill a file with garbage from a place on."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(after)
        file.write(b"\xa5" * (size - after))


# Another process in the way ------------------------------------------------------------------------------------------


async def test_a_file_that_another_holds_too_long_is_busy_and_afterwards_all_is_well(on_file: Numbers) -> None:
    path = on_file.factory.path
    assert path is not None
    await on_file.on_writer(lambda raw: raw.execute("PRAGMA busy_timeout = 50").fetchall())
    other = connect(path)
    other.execute("BEGIN IMMEDIATE")

    outcomes = await asyncio.gather(on_file.add(1), on_file.add(2), return_exceptions=True)
    seen_meanwhile = await on_file.there()
    other.execute("ROLLBACK")
    other.close()
    await on_file.add(3)

    assert [type(outcome) for outcome in outcomes] == [StorageBusy] * 2
    assert seen_meanwhile == []
    assert await on_file.there() == [3]
    assert on_file.failures == []


OTHER_PROCESS = """
import sys
from app.db.sqlite import driver
connection = driver.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("INSERT INTO numbers (n) VALUES (1)")
print("held", flush=True)
sys.stdin.readline()
connection.execute("COMMIT")
connection.close()
"""


async def test_the_short_write_of_another_process_is_waited_for(on_file: Numbers) -> None:
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OTHER_PROCESS, str(on_file.factory.path), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdin is not None
    assert other.stdout is not None
    assert await other.stdout.readline() == b"held\n"
    writing = asyncio.create_task(on_file.add(2))
    await asyncio.wait({writing}, timeout=0.1)
    waited = not writing.done()

    other.stdin.write(b"\n")
    await other.stdin.drain()
    await writing
    await other.communicate()

    assert waited
    assert other.returncode == 0
    assert await on_file.there() == [1, 2]


# What the engine's words mean ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (5, StorageBusy),
        (5 | 2 << 8, StorageBusy),
        (6, StorageBusy),
        (8, StorageFailed),
        (10, StorageFailed),
        (10 | 13 << 8, StorageFailed),
        (11, StorageFailed),
        (13, StorageFull),
        (14, StorageFailed),
        (26, StorageFailed),
        (1, QueryFailed),
        (19, ConstraintViolated),
    ],
)
def test_every_answer_of_sqlite_has_its_meaning(code: int, meaning: type[Exception]) -> None:
    error = driver.OperationalError("what SQLite said")
    error.sqlite_errorcode = code

    assert type(translate(error)) is meaning


def test_an_error_of_the_driver_itself_is_a_failed_query() -> None:
    assert isinstance(translate(driver.ProgrammingError("Incorrect number of bindings")), QueryFailed)
