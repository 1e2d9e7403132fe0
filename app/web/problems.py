"""Problems: every error as application/problem+json (RFC 9457), made in this one place."""

import json
import logging
import math
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.errors import (
    BadSignature,
    CabinetError,
    Defect,
    Invalid,
    MethodNotAllowed,
    NotFound,
    Refusal,
    RequestTimeout,
    TooManyRequests,
    Unavailable,
)
from app.log import event, request_id
from app.security.signatures import ACCEPT_SIGNATURE

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger(__name__)


def problem(error: Exception) -> Response:
    """Make the answer for whatever was raised; nothing of an unforeseen error is shown."""
    known = known_error(error)
    _report(error)
    body: dict[str, Any] = {
        "type": f"/problems/{known.code}",
        "title": known.code.replace("_", " ").capitalize(),
        "status": known.status,
        "detail": _detail(known),
        "code": known.code,
        "request_id": request_id.get(),
    }
    if isinstance(known, Invalid) and known.faults:
        body["errors"] = [{"pointer": pointer, "detail": detail} for pointer, detail in known.faults]
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return Response(content, known.status, _headers(known, error), media_type=MEDIA_TYPE)


def known_error(error: Exception) -> CabinetError:
    """Return what an error is told as: one of ours as it is, an unforeseen one as a Defect."""
    if isinstance(error, CabinetError):
        return error
    if isinstance(error, HTTPException):
        return {404: NotFound("This path is not known."), 405: MethodNotAllowed()}.get(error.status_code, Defect())
    return Defect()


def _report(error: Exception) -> None:
    if isinstance(error, Refusal | HTTPException):
        return
    level = logging.WARNING if isinstance(error, Unavailable) else logging.ERROR
    if level is logging.ERROR or error.__cause__ is not None:
        event(_log, level, "request_failed", exc_info=error)


def _detail(error: CabinetError) -> str:
    return "The service has a defect; the request left no trace." if isinstance(error, Defect) else error.message


def _headers(known: CabinetError, error: Exception) -> dict[str, str]:
    headers: dict[str, str] = {}
    if known.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="cabinet"'
    if isinstance(known, BadSignature):
        headers["Accept-Signature"] = ACCEPT_SIGNATURE
    if isinstance(known, RequestTimeout):  # what comes of it yet is not read as a request
        headers["Connection"] = "close"
    if isinstance(known, TooManyRequests | Unavailable):
        headers["Retry-After"] = str(max(1, math.ceil(known.retry_after_seconds)))
    if isinstance(error, HTTPException) and error.headers and "Allow" in error.headers:
        headers["Allow"] = error.headers["Allow"]
    return headers
