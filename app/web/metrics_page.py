"""The page of metrics: `GET /metrics` on a port of its own, without a gate, for whoever reaches that port."""

from collections.abc import Awaitable, Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import MethodNotAllowed, NotFound
from app.metrics import CONTENT_TYPE
from app.web.envelope import answer_outside


def metrics_page(text: Callable[[], Awaitable[bytes]]) -> ASGIApp:
    """Make an application that shows the metrics and nothing else."""

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        answer = await _answer(scope["method"], scope["path"], text)
        await answer(scope, receive, send)

    return page


async def _answer(method: str, path: str, text: Callable[[], Awaitable[bytes]]) -> Response:
    if path != "/metrics":
        return answer_outside(NotFound("Metrics are at /metrics."))
    if method not in ("GET", "HEAD"):
        answer = answer_outside(MethodNotAllowed())
        answer.headers["Allow"] = "GET, HEAD"
        return answer
    return Response(await text(), media_type=CONTENT_TYPE)
