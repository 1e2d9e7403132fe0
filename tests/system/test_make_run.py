"""`make run`: what it prints works when it is pasted, and everything is still there at the next start."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.support.processes import ROOT, START_SECONDS


@dataclass(frozen=True, slots=True)
class DevServer:
    """A started `make run`: its process, its port, and the commands that it printed."""

    process: asyncio.subprocess.Process
    port: int
    commands: list[str]

    async def paste(self, *commands: str) -> list[dict[str, object]]:
        """Run commands in bash as they stand; return the JSON bodies that they showed."""
        bash = await asyncio.to_thread(
            subprocess.run, ["bash", "-c", "\n".join(commands)], capture_output=True, text=True, timeout=60, check=True
        )
        return [json.loads(line) for line in (bash.stderr + bash.stdout).splitlines()]

    async def interrupt(self) -> int:
        """Press Ctrl-C; return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return await asyncio.wait_for(self.process.wait(), START_SECONDS)


@asynccontextmanager
async def dev_server(folder: Path, port: int) -> AsyncIterator[DevServer]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.dev_server", "--folder", str(folder)),
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name in ("PATH", "HOME")} | {"PORT": str(port)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(START_SECONDS):
            commands = await printed_commands(process)
            await until_healthy(port)
        yield DevServer(process, port, commands)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def printed_commands(process: asyncio.subprocess.Process) -> list[str]:
    """Return the indented paragraphs that the process prints before it serves."""
    assert process.stdout is not None
    text = ""
    while "Ctrl-C" not in text:
        line = await process.stdout.readline()
        assert line, f"it ended: {text}"
        text += line.decode()
    return [paragraph for paragraph in text.split("\n\n") if paragraph.startswith("   ")]


async def until_healthy(port: int) -> None:
    async with httpx2.AsyncClient() as client:
        while True:
            try:
                if (await client.get(f"http://127.0.0.1:{port}/health")).is_success:
                    return
            except httpx2.TransportError:
                await asyncio.sleep(0.05)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def test_the_printed_commands_work_as_they_are_pasted(tmp_path: Path) -> None:
    async with dev_server(tmp_path / "dev", free_port()) as running:
        created, ended = await running.paste(*running.commands)
        code = await running.interrupt()

    assert len(running.commands) == 3
    assert (created["status"], created["stage"]) == ("open", "parse")
    assert (ended["id"], ended["status"]) == (created["id"], "succeeded")
    assert code == 0


async def test_a_second_start_knows_the_user_the_token_and_the_task(tmp_path: Path) -> None:
    folder, port = tmp_path / "dev", free_port()
    async with dev_server(folder, port) as first:
        before = await first.paste(*first.commands)
        await first.interrupt()

    async with dev_server(folder, port) as second:
        after = await second.paste(first.commands[0], *second.commands[1:])

    assert after == before
    assert (folder / "secrets" / "TOKEN_SECRET").stat().st_mode & 0o777 == 0o600


async def test_port_zero_takes_a_free_one_and_prints_it(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.dev_server", "--folder", str(tmp_path)),
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name in ("PATH", "HOME")} | {"PORT": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        commands = await printed_commands(process)
    finally:
        process.kill()
        await process.wait()

    assert "127.0.0.1:0/" not in commands[1]


def test_a_wrong_port_is_told_in_the_words_of_the_service(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "examples.dev_server", "--folder", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PORT": "eighty"},
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )

    assert ended.returncode == 1
    assert "PORT is 'eighty'; give a whole number" in ended.stderr
