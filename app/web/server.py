"""The HTTP server: uvicorn with a deadline on receiving a request (fact 20), and a stop that ends with exit code 0."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.errors import BadRequest, Unavailable
from app.web.envelope import REFUSED, TARGET, answer_outside

HEAD_BYTES_LIMIT = 65_536
"""How many bytes may come before a request's head is complete; then the connection is cut."""

PIPELINE_LIMIT = 100
"""How many requests of one connection may wait for the answers before theirs."""

CONNECTION_LIMIT = 2_048
KEEP_ALIVE_SECONDS = 15

ANSWER_SECONDS = 1.0
"""How much longer than a head a body may take before the connection is cut, so that the application can say so."""


class DeadlineProtocol(HttpToolsProtocol):
    """Cuts a connection whose request is not complete in time, or whose head or trailer does not end.

    Head and body have `receive_timeout_seconds` each; of a body that is late the application tells.
    """

    def __init__(
        self, *arguments: Any, receive_timeout_seconds: float, strict_transport: bool = False, **named: Any
    ) -> None:
        super().__init__(*arguments, **named)
        self._receive_timeout_seconds = receive_timeout_seconds
        self._strict_transport = strict_transport
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._idle_bytes = 0
        self._has_progressed = False
        self._is_head_complete = False
        self._is_receiving = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Start the clock: a silent connection is cut too. One connection too many is told so."""
        super().connection_made(transport)
        if len(self.connections) >= CONNECTION_LIMIT:
            self.app = _too_many_connections(self.app)
        self._start_deadline()

    def data_received(self, data: bytes) -> None:
        """Count the bytes in which neither a head ends nor a body grows: heads and trailers have a limit."""
        if self._deadline is None and not self.flow.read_paused:
            self._start_deadline()
        self._has_progressed = False
        super().data_received(data)
        self._idle_bytes = 0 if self._has_progressed else self._idle_bytes + len(data)
        if self._idle_bytes > HEAD_BYTES_LIMIT:
            self._cut()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._has_progressed = self._is_receiving = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; fields behind a chunked body are dropped, they are no headers (RFC 9110 §6.5.1)."""
        if not self._is_head_complete:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete. Behind a request that is not answered yet reading pauses, and so does the clock."""
        super().on_headers_complete()
        if len(self.pipeline) > PIPELINE_LIMIT:
            self._cut()
            raise ConnectionAbortedError  # the parser stops here, the rest of the chunk is not read
        self._tell_more(cast("Scope", self.scope))
        self._has_progressed = self._is_head_complete = True
        self._stop_deadline()
        if not self.flow.read_paused:
            self._start_deadline()

    def on_body(self, body: bytes) -> None:
        """The body grows; the application limits it."""
        super().on_body(body)
        self._has_progressed = True

    def on_message_complete(self) -> None:
        """The request is complete; what comes next belongs to another."""
        super().on_message_complete()
        self._stop_deadline()
        self._has_progressed = True
        self._is_head_complete = self._is_receiving = False

    def on_response_complete(self) -> None:
        """The next request may be waiting half received: its clock goes on."""
        super().on_response_complete()
        if self.pipeline and not self.transport.is_closing():
            self.flow.pause_reading()  # what came already is answered first
        if self._is_receiving and self._deadline is None:
            self._start_deadline()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP with a problem, and close."""
        if self.transport.is_closing():
            return
        answer = answer_outside(BadRequest(msg), strict_transport=self._strict_transport)
        headers = [*answer.raw_headers, (b"connection", b"close")]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + lines + b"\r\n" + bytes(answer.body))
        self.transport.close()

    def pause_writing(self) -> None:
        """The caller does not read its answers: that has a deadline too."""
        super().pause_writing()
        self._write_deadline = self.loop.call_later(self._receive_timeout_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The caller reads again."""
        super().resume_writing()
        self._stop_write_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._stop_deadline()
        self._stop_write_deadline()
        super().connection_lost(exc)

    def _tell_more(self, scope: Scope) -> None:
        """Add to the scope, which nobody has read yet, what the parser would hide."""
        scope[TARGET] = self.url
        if self.parser.should_upgrade():  # the parser takes what comes next, a body too, for another protocol
            self.cycle.keep_alive = False
            if any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers):
                scope[REFUSED] = BadRequest("A request that offers another protocol has no body; leave Upgrade out.")

    def _start_deadline(self) -> None:
        seconds = self._receive_timeout_seconds + (ANSWER_SECONDS if self._is_head_complete else 0)
        self._deadline = self.loop.call_later(seconds, self._cut)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stop_write_deadline(self) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def _cut(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()


def _too_many_connections(app: ASGIApp) -> ASGIApp:
    """Let the application refuse what comes on this connection, so that it is counted and logged; then close it."""

    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
            await send(message)

        await app({**scope, REFUSED: Unavailable("Too many connections are open; try again.")}, receive, closing)

    return refusing


def _ends_quietly(app: ASGIApp) -> ASGIApp:
    """Let a request that is cancelled at the end of the grace just end: the application has answered it."""

    async def quiet(scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return quiet


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """How a server stops: `on_drain` at the first signal, `on_stop` after `drain_seconds`, `on_hurry` at the second.

    After `on_stop` requests in flight have `grace_seconds`.
    """

    grace_seconds: float
    drain_seconds: float = 0.0
    on_drain: Callable[[], None] = lambda: None
    on_stop: Callable[[], None] = lambda: None
    on_hurry: Callable[[], None] = lambda: None


class _EventServer(uvicorn.Server):
    """Hears at once that it shall exit, where uvicorn looks ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._exit = asyncio.Event()

    def exit(self) -> None:
        """Let `serve` return soon."""
        self.should_exit = True
        self._exit.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: uvicorn would raise them again at the end, and nothing could clean up."""
        yield

    async def main_loop(self) -> None:
        """Renew the Date header every second until it is time to exit."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._exit.wait()


class Server(_EventServer):
    """Serves until told to stop. The first SIGTERM or SIGINT drains, the second ends at once.

    While it drains it still listens, so that whoever asks /ready can see it and turn away.
    """

    def __init__(self, config: uvicorn.Config, stopping: Stopping) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._is_stopping = False

    def hear_signals(self) -> None:
        """Stop at SIGTERM and SIGINT, from now on until the loop ends; one that comes before `serve` ends that too."""
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self.stop)

    def stop(self) -> None:
        """Drain and end; said twice, end at once."""
        if self._is_stopping:
            self.force_exit = True
            for connection in list(self.server_state.connections):
                connection.transport.abort()
            self._stopping.on_hurry()
            return
        self._is_stopping = True
        self._stopping.on_drain()
        if self._stopping.drain_seconds > 0:
            asyncio.get_running_loop().call_later(self._stopping.drain_seconds, self.end)
        else:
            self.end()

    def end(self) -> None:
        """Drain and end without a delay; a failure may say so as often as it likes."""
        self._is_stopping = True
        self._stopping.on_drain()
        self._stopping.on_stop()
        self.exit()


class SideServer(_EventServer):
    """Serves beside another server; at its end nobody's answer is waited for."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close everything at once."""
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def make_server(
    app: ASGIApp,
    *,
    forwarded_allow_ips: Sequence[str],
    receive_timeout_seconds: float,
    stopping: Stopping,
    strict_transport: bool = False,
) -> Server:
    """Make a server for sockets that listen already; forwarded headers are believed only from the networks given."""
    config = _config(
        app,
        receive_timeout_seconds=receive_timeout_seconds,
        strict_transport=strict_transport,
        forwarded_allow_ips=forwarded_allow_ips,
        grace_seconds=stopping.grace_seconds,
    )
    return Server(config, stopping)


def make_side_server(app: ASGIApp, *, receive_timeout_seconds: float) -> SideServer:
    """Make a server for operators' questions, such as for metrics, on a socket that listens already."""
    config = _config(app, receive_timeout_seconds=receive_timeout_seconds, forwarded_allow_ips=(), grace_seconds=1)
    return SideServer(config)


def _config(
    app: ASGIApp,
    *,
    receive_timeout_seconds: float,
    forwarded_allow_ips: Sequence[str],
    grace_seconds: float,
    strict_transport: bool = False,
) -> uvicorn.Config:
    protocol = partial(
        DeadlineProtocol, receive_timeout_seconds=receive_timeout_seconds, strict_transport=strict_transport
    )
    return uvicorn.Config(
        _ends_quietly(app),
        http=protocol,  # type: ignore[arg-type]  # uvicorn only calls it; its annotation asks for a class
        ws="none",
        lifespan="off",
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(forwarded_allow_ips),
        forwarded_allow_ips=list(forwarded_allow_ips),
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, int(grace_seconds)),
    )
