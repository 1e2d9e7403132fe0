"""The other baseline: a Starlette route that answers 201 and does nothing, on the service's own server class."""

import asyncio
import os
import socket

import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.web.server import Stopping, make_server


async def answer(_request: Request) -> Response:
    """Do nothing."""
    return Response(b"{}", 201, media_type="application/json")


async def main(listener: socket.socket) -> None:
    """Serve until told to stop."""
    server = make_server(
        Starlette(routes=[Route("/v1/tasks", answer, methods=["POST"])]),
        forwarded_allow_ips=(),
        receive_timeout_seconds=15,
        stopping=Stopping(grace_seconds=1),
    )
    server.hear_signals()
    await server.serve(sockets=[listener])


if __name__ == "__main__":
    bound = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=2_048)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(bound))
