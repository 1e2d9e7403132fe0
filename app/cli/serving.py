"""Serving: how a process that serves or works starts, is told to stop, and ends."""

import asyncio
import logging
import os
import resource
import signal
import socket

from app.db.ownership import not_in_forks
from app.errors import StartFault
from app.log import event
from app.main import Container
from app.web.server import make_server

_log = logging.getLogger(__name__)


async def serve(container: Container) -> int:
    """Serve until told to stop; return 0, or 1 if the database or the worker has failed."""
    settings = container.settings
    application = container.application()
    raise_descriptor_limit()
    with _listen(settings.host, settings.port) as listener, not_in_forks(listener.fileno()):
        async with container.open(works=settings.worker_embedded):
            server = make_server(
                application,
                forwarded_allow_ips=settings.forwarded_allow_ips,
                receive_timeout_seconds=settings.receive_timeout_seconds,
                shutdown_grace_seconds=settings.shutdown_grace_seconds,
                on_stop=container.drain,
                on_hurry=_leave_at_once,
            )
            container.on_failure = server.end
            _tell_start(container)
            host, port = listener.getsockname()[:2]
            event(_log, logging.INFO, "serving", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")
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
    async with container.open(works=True):
        _tell_start(container)
        event(_log, logging.INFO, "working")
        await stopped.wait()
    event(_log, logging.INFO, "stopped")
    return 1 if container.has_failed else 0


def raise_descriptor_limit() -> None:
    """Let this process open as many files and connections as its hard limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _leave_at_once() -> None:
    """End as a crash would: the next start takes up what was left."""
    os._exit(1)


def _tell_start(container: Container) -> None:
    for sentence in container.settings.warnings():
        event(_log, logging.WARNING, "setting_to_note", note=sentence)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2_048)
    except OSError as error:
        raise StartFault(
            f"Cannot listen on HOST {host}, PORT {port}: {error.strerror}. Stop what listens there, or set another one."
        ) from error
