"""A load maker: keep-alive connections that send prepared requests one after another, on raw sockets."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """What a load saw: requests a second and the latencies' percentiles in milliseconds."""

    per_second: float
    p50_milliseconds: float
    p99_milliseconds: float
    failures: int


async def send_load(
    host: str, port: int, *, request: Callable[[int], bytes], expected: bytes, connections: int, seconds: float
) -> Load:
    """Send for so many seconds; `request(n)` makes the n-th request, `expected` is how a good status line begins."""
    counter = iter(range(1 << 62))
    latencies: list[float] = []
    failures = 0
    end = time.perf_counter() + seconds

    async def connection() -> None:
        nonlocal failures
        reader, writer = await asyncio.open_connection(host, port)
        while time.perf_counter() < end:
            started = time.perf_counter()
            writer.write(request(next(counter)))
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(_content_length(head))
            latencies.append(time.perf_counter() - started)
            failures += not head.startswith(expected)
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(connections)))
    elapsed = time.perf_counter() - started
    latencies.sort()
    return Load(
        per_second=(len(latencies) - failures) / elapsed,
        p50_milliseconds=latencies[len(latencies) // 2] * 1000,
        p99_milliseconds=latencies[len(latencies) * 99 // 100] * 1000,
        failures=failures,
    )


def post(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """Write an HTTP/1.1 POST request of JSON."""
    lines = [f"POST {path} HTTP/1.1", "Host: bench", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode() + body


def _content_length(head: bytes) -> int:
    lower = head.lower()
    start = lower.index(b"content-length:") + 15
    return int(lower[start : lower.index(b"\r\n", start)])
