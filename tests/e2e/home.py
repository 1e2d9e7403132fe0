"""A home for a service: its folder, the tokens of its users, and a look into its file past the service.

The file is read with SQL of the tests' own, by the library that the service has too: two SQLite libraries on one file
are only safe in two processes, and this one never opens it otherwise.
"""

import asyncio
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.support.processes import ServiceProcess

try:
    from pysqlite3 import dbapi2 as driver
except ImportError:
    import sqlite3 as driver

PATIENCE_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Home:
    """Where one service lives."""

    folder: Path
    tokens: Mapping[str, str]

    @property
    def database(self) -> Path:
        """The file."""
        return self.folder / "cabinet.db"

    @property
    def artifacts(self) -> Path:
        """Where the folders of tasks lie."""
        return self.folder / "artifacts"

    def connect(self) -> Any:
        """Open a connection of the test's own, which whoever asked for it closes."""
        return driver.connect(str(self.database), isolation_level=None, timeout=5)

    def rows(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Return what the file holds, seen by a connection of the test's own."""
        with closing(self.connect()) as connection:
            found: list[tuple[Any, ...]] = connection.execute(sql, parameters).fetchall()
            return found

    def one(self, sql: str, **parameters: Any) -> tuple[Any, ...]:
        """Return the only row."""
        [row] = self.rows(sql, **parameters)
        return row

    def open_gate(self) -> None:
        """Let the gated pipeline on."""
        self.artifacts.mkdir(exist_ok=True)
        (self.artifacts / "open").touch()

    async def until_running(self, task_id: str, stage: str = "parse") -> None:
        """Wait until a stage of the gated pipeline runs."""
        await until((self.artifacts / task_id / f"{stage}.running").exists)

    async def create(self, running: ServiceProcess, key: str, payload: dict[str, Any] | None = None) -> httpx2.Response:
        """Send POST /v1/tasks as alice."""
        async with running.client(self.tokens["alice"]) as client:
            headers = {"Idempotency-Key": key}
            return await client.post("/v1/tasks", json={"payload": payload or {}}, headers=headers)

    async def ended(self, running: ServiceProcess, task_id: str) -> dict[str, Any]:
        """Wait until a task has ended and return where it stands."""
        async with running.client(self.tokens["root"]) as client:
            answer = await client.get(f"/v1/tasks/{task_id}", params={"wait": PATIENCE_SECONDS})
        standing: dict[str, Any] = answer.json()
        assert standing["status"] in ("succeeded", "failed"), standing
        return standing


async def until(condition: Any) -> None:
    """Wait until something holds that another process brings about."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)
