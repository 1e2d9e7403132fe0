"""The service as processes of its own: commands run to their end, and a server that is started, killed and stopped."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30
STOP_SECONDS = 30

# COV…: so that a test run that measures coverage sees these processes too.
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "COV")


class DemoFailed(Exception):
    """The demo cannot go on; the text says why."""


def settings(folder: Path) -> dict[str, str]:
    """Return what keeps a service with the example's pipeline to one folder, its secrets included."""
    secrets = folder / "secrets"
    secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    return {
        "DB_PATH": str(folder / "cabinet.db"),
        "ARTIFACTS_DIR": str(folder / "artifacts"),
        "SECRETS_DIR": str(secrets),
        "PIPELINE": "examples.listings.pipeline:pipeline",
        "PYTHONPATH": str(ROOT),
    }


def environment(folder: Path, token_secret: str) -> dict[str, str]:
    """Return the whole environment of a service on a free port, without the settings that this shell may have."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(_KEPT)}
    changes = {
        "APP_ENV": "test",
        "TOKEN_SECRET": token_secret,
        "PORT": "0",
        "LISTINGS_PICTURES": str(folder / "pictures"),
    }
    return kept | settings(folder) | changes


async def run_cabinet(folder: Path, environ: Mapping[str, str], *arguments: str) -> str:
    """Run `cabinet …` in the folder and return what it printed; raises DemoFailed with its words if it refuses."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", *arguments),
        cwd=folder,
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await process.communicate()
    if process.returncode:
        raise DemoFailed(f"cabinet {' '.join(arguments)} exited {process.returncode}: {complained.decode().strip()}")
    return said.decode().strip()


class Server:
    """`cabinet serve` in a process of its own; it does not outlive the `async with` block."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.log = folder / "server.log"
        self.url = ""
        self._folder = folder
        self._environ = environ
        self._process: asyncio.subprocess.Process | None = None
        self._log_start = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None and self._process.returncode is None:
            await self.kill()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._running.pid

    @property
    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise DemoFailed("The server was not started.")
        return self._process

    async def start(self) -> None:
        """Start it and wait until it says where it listens; Ctrl-C in this terminal does not reach it."""
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "app", "serve"),
                cwd=self._folder,
                env=self._environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(START_SECONDS):
                self.url = await self._listening()
        except TimeoutError:
            raise DemoFailed(f"The server did not start within {START_SECONDS} seconds.") from None

    async def kill(self) -> None:
        """End it with SIGKILL: it gets no chance to tidy up."""
        self._running.send_signal(signal.SIGKILL)
        await self._running.wait()

    async def stop(self) -> int:
        """End it with SIGTERM and return its exit code."""
        self._running.send_signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self._running.wait(), STOP_SECONDS)
        except TimeoutError:
            raise DemoFailed(f"The server did not stop within {STOP_SECONDS} seconds of SIGTERM.") from None

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one event since the last start."""
        return [line for line in self._lines() if line.get("event") == name]

    async def _listening(self) -> str:
        while True:
            if serving := self.events("serving"):
                return str(serving[0]["url"])
            if self._running.returncode is not None:
                raise DemoFailed(f"The server exited {self._running.returncode} at its start: {self._last_words()}")
            await asyncio.sleep(0.02)  # a log file has no events to wait for

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._text().splitlines() if line.startswith("{") and line.endswith("}")]

    def _last_words(self) -> str:
        return self._text().strip()[-500:]

    def _text(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")
