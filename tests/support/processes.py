"""Real processes: a service on a free port with a file of its own, to be asked, killed and started again."""

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30

NOT_MEASURED = {"MEASURED": "no"}
"""For processes that are killed: what they have covered is lost with them, and measuring takes its time."""


@cache
def _tls() -> ssl.SSLContext:
    """Return what every client has and none needs here; making one takes as long as a hundred requests."""
    return httpx2.create_ssl_context()


def environment(folder: Path, **changes: str) -> dict[str, str]:
    """Return the environment of a process that lives in a folder; nothing of this one's but the path and coverage."""
    is_measured = changes.pop("MEASURED", "yes") == "yes"
    kept = {
        name: value for name, value in os.environ.items() if name in ("PATH", "HOME") or (is_measured and "COV" in name)
    }
    secrets = folder / "secrets"
    secrets.mkdir(exist_ok=True)
    values = {
        "APP_ENV": "test",
        "DB_PATH": str(folder / "cabinet.db"),
        "ARTIFACTS_DIR": str(folder / "artifacts"),
        "TOKEN_SECRET": "test-secret-" + "x" * 32,
        "PORT": "0",
        "PIPELINE": "tests.support.pipelines:quiet",
        "RATE_LIMIT_CLIENT": "0",
        "RATE_LIMIT_ACTOR": "0",
        "PYTHONPATH": str(ROOT),
        "SECRETS_DIR": str(secrets),
    }
    return kept | values | changes


def run_cabinet(folder: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=folder,
        env=environment(folder, **changes),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def let_in(folder: Path, subject: str, role: str = "user", **changes: str) -> str:
    """Make a user by the command line and return a token."""
    added = run_cabinet(folder, "admin", "users", "add", subject, "--role", role, **changes)
    assert added.returncode == 0, added.stderr
    issued = run_cabinet(folder, "admin", "token", subject, **changes)
    assert issued.returncode == 0, issued.stderr
    return issued.stdout.strip()


class ServiceProcess:
    """A process that serves; its log lines are kept."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.other_lines: list[str] = []
        self.url = ""
        self._listening = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for raw in self.process.stderr:
            try:
                line = json.loads(raw)
            except ValueError:
                self.other_lines.append(raw.decode(errors="replace"))
                continue
            self.lines.append(line)
            if line.get("event") == "serving":
                self.url = line["url"]
                self._listening.set()
        self._listening.set()

    async def until_ready(self) -> None:
        """Wait until the service listens and says that it is ready."""
        async with asyncio.timeout(START_SECONDS):
            await self._listening.wait()
            assert self.url, f"the service did not start: {self.lines} {self.other_lines}"
            async with self.client() as client:
                while (await client.get("/ready")).status_code != 200:
                    await asyncio.sleep(0.02)

    def client(self, token: str | None = None, **limits: Any) -> httpx2.AsyncClient:
        """Return a client of the service."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=30, verify=_tls(), **limits)

    async def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        await self.ended()

    async def terminate(self) -> int:
        """End it with SIGTERM and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> int:
        """Wait for its end and return its exit code."""
        async with asyncio.timeout(START_SECONDS):
            code = await self.process.wait()
            await self._reader
            return code

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one event."""
        return [line for line in self.lines if line.get("event") == name]


@asynccontextmanager
async def service(folder: Path, command: str = "serve", **changes: str) -> AsyncIterator[ServiceProcess]:
    """Start a process that serves, and wait until it does; at the end it is killed if it still runs."""
    async with started(folder, command, **changes) as running:
        if command == "serve":
            await running.until_ready()
        yield running


@asynccontextmanager
async def started(folder: Path, command: str, **changes: str) -> AsyncIterator[ServiceProcess]:
    """Start a process; at the end it is killed if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app",
        command,
        cwd=folder,
        env=environment(folder, **changes),
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        limit=1 << 20,
    )
    running = ServiceProcess(process)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await running.ended()
