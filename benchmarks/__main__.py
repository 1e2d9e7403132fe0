"""`make bench`: creates a second over HTTP, against an empty route and a bare sqlite3 loop, as ratios within one run.

The server has one core, the load another. Each round measures all three, so a machine that drifts drifts for all.
"""

import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from app.db.sqlite import SQLITE_VERSION
from app.ids import new_id
from benchmarks.bare import PAYLOAD, SUBJECT
from benchmarks.load import Load, post, send_load

ROUNDS = 3
SECONDS = 4.0
CONNECTIONS = 32
ROOT = Path(__file__).resolve().parent.parent
SERVER_CORE, LOAD_CORE = 0, 1


def environment(folder: Path) -> dict[str, str]:
    """Return the settings of the service under load: production's durability, no limits, nobody working."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    return kept | {
        "APP_ENV": "test",
        "DB_PATH": str(folder / "cabinet.db"),
        "TOKEN_SECRET": "bench-" + "x" * 40,
        "PIPELINE": "tests.support.pipelines:quiet",
        "WORKER_EMBEDDED": "false",
        "RATE_LIMIT_CLIENT": "0",
        "RATE_LIMIT_ACTOR": "0",
        "LOG_LEVEL": "warning",
        "PORT": "0",
        "PYTHONPATH": str(ROOT),
    }


def cabinet(folder: Path, *arguments: str) -> str:
    """Run a command of the service and return what it printed."""
    command = [sys.executable, "-m", "app", *arguments]
    return subprocess.run(
        command, env=environment(folder), cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@asynccontextmanager
async def serving(folder: Path, *command: str) -> AsyncIterator[int]:
    """Run a server on its core until the block ends; yields its port."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        env=environment(folder) | {"PORT": str(port)},
        cwd=ROOT,
        stderr=asyncio.subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE % (os.cpu_count() or 1)}),
    )
    try:
        yield await _listening(port)
    finally:
        process.terminate()
        await process.wait()


async def _listening(port: int) -> int:
    for _ in range(500):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return port
    raise RuntimeError("the server did not start")


async def creates(folder: Path, token: str) -> Load:
    """Measure creates through the whole gate, each with a key of its own."""
    body = json.dumps({"payload": PAYLOAD}).encode()

    def request(_number: int) -> bytes:
        return post("/v1/tasks", body, {"Authorization": f"Bearer {token}", "Idempotency-Key": new_id()})

    async with serving(folder, "-m", "app", "serve") as port:
        return await measure(port, request)


async def empty(folder: Path, token: str) -> Load:
    """Measure the empty route with the same requests."""
    body = json.dumps({"payload": PAYLOAD}).encode()

    def request(_number: int) -> bytes:
        return post("/v1/tasks", body, {"Authorization": f"Bearer {token}", "Idempotency-Key": new_id()})

    async with serving(folder, "-m", "benchmarks.empty") as port:
        return await measure(port, request)


async def measure(port: int, request: Callable[[int], bytes]) -> Load:
    """Send a load, after a short one that warms up."""
    for seconds in (0.5, SECONDS):
        load = await send_load(
            "127.0.0.1", port, request=request, expected=b"HTTP/1.1 201", connections=CONNECTIONS, seconds=seconds
        )
    if load.failures:
        raise RuntimeError(f"{load.failures} requests were not answered with 201")
    return load


def bare(folder: Path) -> float:
    """Measure the bare loop, on the server's core."""
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "benchmarks.bare", str(folder), str(SECONDS)]
    out = subprocess.run(command, env=environment(folder), cwd=ROOT, check=True, capture_output=True, text=True)
    return float(out.stdout)


async def main() -> None:
    """Measure some rounds and print the medians and their ratios."""
    os.sched_setaffinity(0, {LOAD_CORE % (os.cpu_count() or 1)})
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".bench-") as place:
        folder = Path(place)
        cabinet(folder, "migrate")
        cabinet(folder, "admin", "users", "add", SUBJECT)
        token = cabinet(folder, "admin", "token", SUBJECT)
        rounds = []
        for number in range(ROUNDS):
            rounds.append((await creates(folder, token), await empty(folder, token), bare(folder)))
            service, nothing, loop = rounds[-1]
            print(
                f"round {number + 1}: {service.per_second:.0f}/s, {nothing.per_second:.0f}/s empty, {loop:.0f}/s bare"
            )
    report(rounds)


def report(rounds: list[tuple[Load, Load, float]]) -> None:
    """Print the table."""
    service = statistics.median(each.per_second for each, _, _ in rounds)
    nothing = statistics.median(each.per_second for _, each, _ in rounds)
    loop = statistics.median(each for _, _, each in rounds)
    p50 = statistics.median(each.p50_milliseconds for each, _, _ in rounds)
    p99 = statistics.median(each.p99_milliseconds for each, _, _ in rounds)
    to_empty = statistics.median(each.per_second / other.per_second for each, other, _ in rounds)
    to_bare = statistics.median(each.per_second / other for each, _, other in rounds)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"\n{machine}, Python {platform.python_version()}, SQLite {SQLITE_VERSION}")
    print(f"{CONNECTIONS} connections, {ROUNDS} rounds of {SECONDS:g} s, synchronous=FULL, medians\n")
    print(f"  creates over HTTP, whole gate     {service:8.0f} /s   p50 {p50:.1f} ms   p99 {p99:.1f} ms")
    print(f"  empty Starlette route             {nothing:8.0f} /s   ratio {to_empty:.2f}")
    print(f"  bare sqlite3 loop, COMMIT each    {loop:8.0f} /s   ratio {to_bare:.2f}")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
