"""The envelope: the outermost layer, which names every request, limits its head, logs it, and lets no error escape."""

import asyncio
import logging
import re
import time
from collections.abc import Sequence

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import BadRequest, Forbidden, GateFailed, NotAuthenticated, TooManyRequests, Unavailable
from app.ids import new_id
from app.log import bound, event
from app.metrics import Metrics
from app.web.problems import known_error, problem
from app.web.quotas import quota_headers
from app.web.targets import check_form, check_path

HEADER_COUNT_LIMIT = 100
HEADERS_BYTES_LIMIT = 16_384
TARGET_BYTES_LIMIT = 8_192

SECURITY_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"permissions-policy",
        b"camera=(), display-capture=(), geolocation=(), microphone=(), midi=(), payment=(), usb=()",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)

STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")
"""What every answer carries besides where callers see the service under https."""

PROBLEM = "cabinet.problem"
"""The key in the scope under which the error lies that was answered."""

REFUSED = "cabinet.refused"
"""The key in the scope under which whoever took the connection says why the request is refused."""

TARGET = "cabinet.target"
"""The key in the scope under which whoever took the connection keeps the request's target as it was sent."""

ROUTE = "cabinet.route"
"""The key in the scope under which the matched route's template lies; a request that waits has `?wait` behind it."""

TASK_ID = "cabinet.task_id"
"""The key in the scope under which the id of the task lies that a request is about."""

DENIALS = (NotAuthenticated, Forbidden, TooManyRequests, GateFailed)
"""What the gate and the limits refuse with."""

_VERSIONS = frozenset({"1.0", "1.1"})
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
_log = logging.getLogger(__name__)


class Envelope:
    """Gives each request an id (the caller's X-Request-Id if it is well formed), one line in the log, and an answer.

    With `strict_transport` browsers are told to come by https alone.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, strict_transport: bool = False) -> None:
        self._app = app
        self._metrics = metrics
        self._headers = security_headers(strict_transport=strict_transport)

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
                own = [(b"x-request-id", request_id.encode()), *quota_headers(scope), *self._headers]
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


def security_headers(*, strict_transport: bool) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that every answer carries."""
    return (*SECURITY_HEADERS, STRICT_TRANSPORT) if strict_transport else SECURITY_HEADERS


def answer_outside(error: Exception, *, strict_transport: bool = False) -> Response:
    """Make the answer to a request that never reached the application, as the envelope would have."""
    request_id = new_id()
    with bound(request=request_id):
        answer = problem(error)
        own = security_headers(strict_transport=strict_transport)
        answer.raw_headers.extend([(b"x-request-id", request_id.encode()), *own])
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
    if scope["http_version"] not in _VERSIONS:
        raise BadRequest("Send HTTP/1.1 or HTTP/1.0.")
    host = _check_headers(scope["headers"])
    raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
    target: bytes = scope.get(TARGET, raw_path)
    if max(len(raw_path) + len(scope["query_string"]), len(target)) > TARGET_BYTES_LIMIT:
        raise BadRequest(f"The path and query may have at most {TARGET_BYTES_LIMIT} bytes.")
    check_form(target, host)
    check_path(raw_path)


def _check_headers(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the host."""
    if (
        len(headers) > HEADER_COUNT_LIMIT
        or sum(len(name) + len(value) for name, value in headers) > HEADERS_BYTES_LIMIT
    ):
        raise BadRequest(f"At most {HEADER_COUNT_LIMIT} headers of {HEADERS_BYTES_LIMIT} bytes together are taken.")
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        raise BadRequest("A request has exactly one Host header.")
    if any(name == b"transfer-encoding" and value.lower() != b"chunked" for name, value in headers):
        raise BadRequest("Send the body with a Content-Length, or chunked and in no other transfer coding.")
    return hosts[0]


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode("ascii"))
    return new_id()
