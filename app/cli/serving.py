"""Serving: how a process that serves or works starts, is told to stop, and ends."""

import asyncio
import logging
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version

from app.db.ownership import not_in_forks
from app.errors import StartFault
from app.log import event
from app.main import Container
from app.settings import Settings
from app.web.server import Stopping, make_server, make_side_server

_log = logging.getLogger(__name__)


async def serve(container: Container) -> int:
    """Serve until told to stop; return 0, or 1 if the database or the worker has failed."""
    settings = container.settings
    application = container.application()
    raise_descriptor_limit()
    server = make_server(
        application,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        receive_timeout_seconds=settings.receive_timeout_seconds,
        strict_transport=settings.strict_transport,
        stopping=Stopping(
            grace_seconds=settings.shutdown_grace_seconds,
            drain_seconds=settings.drain_seconds,
            on_drain=container.drain,
            on_stop=container.stop,
            on_hurry=_leave_at_once,
        ),
    )
    server.hear_signals()
    container.on_failure = server.end
    with _listen("HOST", settings.host, "PORT", settings.port) as listener, _listen_for_metrics(settings) as side:
        async with container.open(works=settings.worker_embedded), metrics_shown(container, side):
            _tell_start(container)
            event(_log, logging.INFO, "serving", url=_url(listener), version=version("cabinet"))
            await server.serve(sockets=[listener])
    event(_log, logging.INFO, "stopped")
    return 1 if container.has_failed else 0


async def work(container: Container) -> int:
    """Run the worker alone until told to stop; return as `serve` does."""
    stopped = asyncio.Event()
    container.on_failure = stopped.set
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, lambda: _leave_at_once() if stopped.is_set() else stopped.set())
    with _listen_for_metrics(container.settings) as side:
        async with container.open(works=True), metrics_shown(container, side):
            _tell_start(container)
            event(_log, logging.INFO, "working")
            await stopped.wait()
    event(_log, logging.INFO, "stopped")
    return 1 if container.has_failed else 0


@asynccontextmanager
async def metrics_shown(container: Container, listener: socket.socket | None) -> AsyncIterator[None]:
    """Show the metrics on their own port, if there is one, until the block ends; what fails there ends nothing else."""
    if listener is None:
        yield
        return
    timeout_seconds = container.settings.receive_timeout_seconds
    server = make_side_server(container.metrics_application(), receive_timeout_seconds=timeout_seconds)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="metrics")
    serving.add_done_callback(_tell_metrics_ended)
    event(_log, logging.INFO, "serving_metrics", url=f"{_url(listener)}/metrics")
    try:
        yield
    finally:
        server.exit()
        await asyncio.gather(serving, return_exceptions=True)


def raise_descriptor_limit() -> None:
    """Let this process open as many files and connections as its hard limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _tell_metrics_ended(serving: asyncio.Task[None]) -> None:
    if not serving.cancelled() and serving.exception() is not None:
        event(_log, logging.ERROR, "metrics_failed", exc_info=serving.exception())


def _leave_at_once() -> None:
    """End as a crash would: the next start takes up what was left."""
    os._exit(1)


def _tell_start(container: Container) -> None:
    for sentence in container.settings.warnings():
        event(_log, logging.WARNING, "setting_to_note", note=sentence)


@contextmanager
def _listen(host_setting: str, host: str, port_setting: str, port: int) -> Iterator[socket.socket]:
    """Listen until the block ends, in this process only; StartFault names the settings if that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2_048)
    except OSError as error:
        raise StartFault(
            f"Cannot listen on {host_setting} {host}, {port_setting} {port}: {error.strerror}."
            " Stop what listens there, or set another one."
        ) from error
    with listener, not_in_forks(listener.fileno()):
        yield listener


@contextmanager
def _listen_for_metrics(settings: Settings) -> Iterator[socket.socket | None]:
    if settings.metrics_port is None:
        yield None
        return
    with _listen("METRICS_HOST", settings.metrics_host, "METRICS_PORT", settings.metrics_port) as listener:
        yield listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
