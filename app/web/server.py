"""The HTTP server: uvicorn with a deadline on receiving a request (fact 20), and a stop that ends with exit code 0."""

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES_LIMIT = 65_536
"""How many bytes may come before a request's head is complete; then the connection is cut."""

CONNECTION_LIMIT = 2_048
KEEP_ALIVE_SECONDS = 15


class DeadlineProtocol(HttpToolsProtocol):
    """Cuts a connection whose request is not complete in time, or whose head does not end."""

    def __init__(self, *arguments: Any, receive_timeout_seconds: float, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._receive_timeout_seconds = receive_timeout_seconds
        self._deadline: asyncio.TimerHandle | None = None
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock: a silent connection is cut too."""
        super().connection_made(transport)
        self._start_deadline()

    def data_received(self, data: bytes) -> None:
        """Count what comes before the head is complete."""
        if self._deadline is None:
            self._start_deadline()
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > HEAD_BYTES_LIMIT and not self.transport.is_closing():
            self.transport.close()

    def on_headers_complete(self) -> None:
        """The head is complete; what follows is body, which has a limit of its own."""
        super().on_headers_complete()
        self._head_bytes = -(1 << 62)

    def on_message_complete(self) -> None:
        """The request is complete; what comes next belongs to another."""
        super().on_message_complete()
        self._stop_deadline()
        self._head_bytes = 0

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_deadline()
        super().connection_lost(exc)

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(self._receive_timeout_seconds, self._cut)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """Serves until told to stop. The first SIGTERM or SIGINT drains, the second ends at once."""

    def __init__(self, config: uvicorn.Config, *, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals in the loop and do not raise them again, so that what follows can still clean up."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for each in signals:
            loop.add_signal_handler(each, self.stop)
        try:
            yield
        finally:
            for each in signals:
                loop.remove_signal_handler(each)

    def stop(self) -> None:
        """Drain and end; said twice, end at once."""
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True
        self._on_stop()


def make_server(
    app: ASGIApp,
    *,
    forwarded_allow_ips: Sequence[str],
    receive_timeout_seconds: float,
    shutdown_grace_seconds: float,
    on_stop: Callable[[], None],
) -> Server:
    """Make a server for sockets that listen already; forwarded headers are believed only from the networks given."""
    config = uvicorn.Config(
        app,
        http=partial(DeadlineProtocol, receive_timeout_seconds=receive_timeout_seconds),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(forwarded_allow_ips),
        forwarded_allow_ips=list(forwarded_allow_ips),
        limit_concurrency=CONNECTION_LIMIT,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, int(shutdown_grace_seconds)),
    )
    return Server(config, on_stop=on_stop)
