"""The envelope: the outermost layer, which names every request, limits its head, logs it, and lets no error escape."""

import asyncio
import logging
import re
import time

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import BadRequest, Forbidden, GateFailed, NotAuthenticated, TooManyRequests, Unavailable
from app.ids import new_id
from app.log import bound, event
from app.metrics import Metrics
from app.web.problems import known_error, problem
from app.web.quotas import quota_headers

HEADER_COUNT_LIMIT = 100
HEADERS_BYTES_LIMIT = 16_384
TARGET_BYTES_LIMIT = 8_192

SECURITY_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)

PROBLEM = "cabinet.problem"
"""The key in the scope under which the error lies that was answered."""

REFUSED = "cabinet.refused"
"""The key in the scope under which whoever took the connection says why the request is refused."""

ROUTE = "cabinet.route"
"""The key in the scope under which the matched route's template lies; a request that waits has `?wait` behind it."""

TASK_ID = "cabinet.task_id"
"""The key in the scope under which the id of the task lies that a request is about."""

DENIALS = (NotAuthenticated, Forbidden, TooManyRequests, GateFailed)
"""What the gate and the limits refuse with."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
_log = logging.getLogger(__name__)


class Envelope:
    """Gives each request an id (the caller's X-Request-Id if it is well formed), one line in the log, and an answer."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens inside."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        status = 0

        async def enveloped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(b"x-request-id", request_id.encode()), *quota_headers(scope), *SECURITY_HEADERS]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        with bound(request=request_id):
            try:
                _check_head(scope)
                await self._app(scope, receive, enveloped)
            except asyncio.CancelledError:  # the grace of a stop is over
                if status == 0:
                    scope[PROBLEM] = Unavailable("The service stops; send the same request again.")
                    await _answer_error(scope[PROBLEM], status, scope, receive, enveloped)
                raise
            except Exception as error:  # the last place that can answer
                scope[PROBLEM] = error
                await _answer_error(error, status, scope, receive, enveloped)
            finally:
                self._tell(scope, status, time.perf_counter() - started)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        error = known_error(scope[PROBLEM]) if PROBLEM in scope else None
        route = scope.get(ROUTE, "-")
        denial = error.code if isinstance(error, DENIALS) else None
        self._metrics.request_ended(method=scope["method"], route=route, status=status, seconds=seconds, denial=denial)
        fields = {
            "client": scope["client"][0] if scope.get("client") else "-",
            "scheme": scope["scheme"],
            "method": scope["method"][:16],
            "route": route,
            "status": status,
            "milliseconds": round(seconds * 1000, 2),
        }
        if TASK_ID in scope:
            fields["task_id"] = scope[TASK_ID]
        if error is not None:
            fields["code"] = error.code
        event(_log, logging.INFO, "request", **fields)


def answer_outside(error: Exception) -> Response:
    """Make the answer to a request that never reached the application, as the envelope would have."""
    request_id = new_id()
    with bound(request=request_id):
        answer = problem(error)
        answer.raw_headers.extend([(b"x-request-id", request_id.encode()), *SECURITY_HEADERS])
    return answer


async def _answer_error(error: Exception, status: int, scope: Scope, receive: Receive, send: Send) -> None:
    with bound(task=scope.get(TASK_ID)):
        response = problem(error)
    if status == 0:
        await response(scope, receive, send)
    else:  # half an answer has left: the connection must break, so that nobody takes it for a whole one
        raise error


def _check_head(scope: Scope) -> None:
    if REFUSED in scope:
        raise scope[REFUSED]
    headers = scope["headers"]
    if (
        len(headers) > HEADER_COUNT_LIMIT
        or sum(len(name) + len(value) for name, value in headers) > HEADERS_BYTES_LIMIT
    ):
        raise BadRequest(f"At most {HEADER_COUNT_LIMIT} headers of {HEADERS_BYTES_LIMIT} bytes together are taken.")
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > TARGET_BYTES_LIMIT:
        raise BadRequest(f"The path and query may have at most {TARGET_BYTES_LIMIT} bytes.")
    if sum(name == b"host" for name, _ in headers) != 1:
        raise BadRequest("A request has exactly one Host header.")


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode("ascii"))
    return new_id()
