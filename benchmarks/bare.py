"""The baseline: the statements that the service executes for a create, in a bare loop with one COMMIT each.

Run as a process of its own: `python -m benchmarks.bare FOLDER SECONDS` prints creates a second.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from app.clock import SystemClock
from app.db.connection import Row
from app.db.queries import Query, load_queries
from app.db.sqlite import SqliteConnectionFactory
from app.db.sqlite_units import SqliteUnit
from app.domain.tasks import CreateTask
from app.domain.users import Role
from app.ids import new_id
from app.main import SQL
from app.security.gate import Caller, Requirements, authorise
from app.services import tasks
from app.unit import UnitOfWork

SUBJECT = "bench"
PAYLOAD = {"title": "A picture of the moon", "price_cents": 1250, "tags": ["moon", "crater"]}

Statement = tuple[str, dict[str, Any]]


class Tracing:
    """A unit's connection that notes every statement on its way to the real one."""

    def __init__(self, inner: SqliteUnit) -> None:
        self._inner = inner
        self.seen: list[Statement] = []

    async def fetch_one(self, query: Query, /, **parameters: Any) -> Row | None:
        """Note and pass on."""
        self.seen.append((query.text, parameters))
        return await self._inner.fetch_one(query, **parameters)

    async def fetch_all(self, query: Query, /, **parameters: Any) -> Sequence[Row]:
        """Note and pass on."""
        self.seen.append((query.text, parameters))
        return await self._inner.fetch_all(query, **parameters)

    async def protect(self, body: Callable[[], Awaitable[Any]]) -> Any:
        """Pass on; the bare loop has no refusals to protect itself from."""
        return await self._inner.protect(body)


def new_command() -> CreateTask:
    """Make one create, as the web layer would."""
    return CreateTask.of(task_id=new_id(), idem_key=new_id(), reference=None, payload=PAYLOAD, first_stage="parse")


async def trace(raw: Any) -> list[Statement]:
    """Execute one create through the gate and the service, and return its statements."""
    raw.execute("BEGIN IMMEDIATE")
    connection = Tracing(SqliteUnit(raw, writes=True))
    work = UnitOfWork(connection, load_queries(SQL / "queries", engine="sqlite"), SystemClock())
    actor = await authorise(work, Caller(subject=SUBJECT), Requirements(scope="tasks.create", role=Role.USER))
    await tasks.create(work, actor, new_command())
    raw.execute("COMMIT")
    return connection.seen


def loop(raw: Any, statements: Sequence[Statement], seconds: float) -> float:
    """Execute the statements again and again with new ids and keys, one COMMIT a create; return creates a second."""
    old = {name: value for _, parameters in statements for name, value in parameters.items()}
    task_id, idem_key = old["task_id"], old["idem_key"]
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        fresh = {task_id: new_id(), idem_key: new_id()}
        raw.execute("BEGIN IMMEDIATE")
        for text, parameters in statements:
            raw.execute(text, {name: fresh.get(value, value) for name, value in parameters.items()}).fetchall()
        raw.execute("COMMIT")
        count += 1
        if count % 2_000 == 0:
            raw.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    return count / elapsed


async def main(folder: Path, seconds: float) -> None:
    """Trace one create on the database in the folder, and loop."""
    async with SqliteConnectionFactory(folder / "cabinet.db").writer() as connection:
        rate = await connection.run(lambda raw: loop(raw, asyncio.run(trace(raw)), seconds))
    sys.stdout.write(f"{rate:.1f}\n")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2])))
