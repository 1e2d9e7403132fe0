"""Cross origin: which pages of other origins may call the API from a browser (CORS); none, unless they are listed."""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import BadRequest

METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE")

REQUEST_HEADERS = (
    "authorization",
    "content-digest",
    "content-type",
    "idempotency-key",
    "if-match",
    "signature",
    "signature-input",
    "x-request-id",
)

SHOWN_HEADERS = (
    "Accept-Signature",
    "Idempotent-Replayed",
    "Link",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "X-Request-Id",
)
"""The headers of an answer that a page may read besides those that every page may."""


class ListedOrigins(CORSMiddleware):
    """Starlette's, without credentials; what comes from an origin that is not listed is told nothing of it."""

    def __init__(self, app: ASGIApp, *, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=frozenset(origins),
            allow_methods=METHODS,
            allow_headers=REQUEST_HEADERS,
            expose_headers=SHOWN_HEADERS,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight; raises BadRequest for an origin, method or header that is not allowed."""
        answer = super().preflight_response(request_headers)
        if answer.status_code != 200:
            raise BadRequest(f"{bytes(answer.body).decode()}.")
        return answer

    async def simple_response(self, scope: Scope, receive: Receive, send: Send, request_headers: Headers) -> None:
        """Pass a request on; only to a listed origin the answer's headers say that its page may read it."""
        is_listed = self.is_allowed_origin(request_headers.get("origin", ""))
        await super().simple_response(scope, receive, send, request_headers if is_listed else Headers())
