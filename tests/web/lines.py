"""Lines: a server on a real socket in the test's own loop, and connections on which bytes are sent as they are."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope, Send

from app.web.server import Server, Stopping, make_server

TIMEOUT_SECONDS = 0.3
SLOW_SECONDS = 0.6


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the path and the body; a path with `slow` in it takes its time, `unread` leaves the body alone."""
    body = b""
    while "unread" not in scope["path"]:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    if "slow" in scope["path"]:
        await asyncio.sleep(SLOW_SECONDS)
    content = scope["path"].encode() + b":" + body
    headers = [(b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens, the server, and the connections to it."""

    port: int
    server: Server
    lines: list["Line"] = field(default_factory=list)

    async def connect(self) -> "Line":
        """Open a connection, which is closed together with the server."""
        line = Line(*await asyncio.open_connection("127.0.0.1", self.port))
        self.lines.append(line)
        return line


@dataclass(frozen=True, slots=True)
class Line:
    """One open connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Send bytes, also if nobody listens any more."""
        self.writer.write(data)
        with suppress(ConnectionError):
            await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """Read one whole answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(head.split(b" ")[1]), await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """Read until the other side has closed the connection."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""

    async def close(self) -> None:
        """Close it on this side."""
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


@asynccontextmanager
async def serving(app: ASGIApp = echo, *, forwarded_allow_ips: Sequence[str] = ()) -> AsyncIterator[Place]:
    """Serve on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = make_server(
            app,
            forwarded_allow_ips=forwarded_allow_ips,
            receive_timeout_seconds=TIMEOUT_SECONDS,
            stopping=Stopping(grace_seconds=1),
        )
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.001)
        place = Place(listener.getsockname()[1], server)
        try:
            yield place
        finally:
            server.stop()
            await task
            for line in place.lines:
                await line.close()
