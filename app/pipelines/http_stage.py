"""HttpStage: a stage whose work is done elsewhere, by an adapter in any language that answers HTTP."""

import json
import math
import re
from collections.abc import Mapping
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
from pydantic import BaseModel

from app.clock import Clock, SystemClock, Timestamp, to_datetime
from app.domain.retry import RETRY_AFTER_LIMIT_SECONDS, RetryPolicy
from app.pipelines.context import Context
from app.pipelines.outcomes import SNOOZE_LEAST_SECONDS, Fail, Retry, Snooze
from app.pipelines.signing import Signer
from app.pipelines.stage import Stage

ANSWER_BYTES_LIMIT = 262_144
"""How much an adapter may answer: as much as a stage may hand on."""

DETAIL_BYTES_LIMIT = 16_384
"""How much of an error's answer is read in search of what it says."""

DETAIL_LIMIT = 300
"""How many characters of it are shown."""

MASKED_LENGTH = 4
"""What is shorter is no secret, and would be found in every other word."""

REDIRECT_LIMIT = 3
"""How many redirects are followed, one after another."""

_TRY_AGAIN = frozenset({408, 425, 429})
_SAME_METHOD = frozenset({307, 308})
_OWN_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "idempotency-key",
        "transfer-encoding",
        "upgrade",
    }
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[!-~]([ !-~]*[!-~])?")
_SECONDS = re.compile(r"-?[0-9]+")


class HttpStage(Stage):
    """A stage that posts its work to an adapter, signed as a Standard Webhook, and takes the answer as its outputs.

    `secret` is `whsec_` and base64, the same as the adapter's; `previous_secret` signs beside it while it is replaced.
    `headers` are sent along and are shown nowhere; neither is the URL's query. `timeout_seconds` limits the whole
    attempt, `connect_timeout_seconds` the time until somebody listens. Raises ValueError for what cannot work.

    The answer decides: 2xx with a JSON object, or with nothing, is success; 202 with Retry-After a snooze; 408, 425,
    429, 5xx, no answer and a broken one may be tried again, not before Retry-After; all else has failed for good.
    307 and 308 are followed within the same scheme, host and port. The same work may arrive more than once, always with
    the same `webhook-id`.
    """

    __slots__ = ()

    def __init__(  # noqa: PLR0913 a stage is declared once, every argument by its name
        self,
        name: str,
        url: str,
        *,
        secret: str,
        previous_secret: str | None = None,
        retry: RetryPolicy | None = None,
        timeout_seconds: float = 300.0,
        connect_timeout_seconds: float = 10.0,
        concurrency: int | None = None,
        side_effect: bool = False,
        headers: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not (math.isfinite(connect_timeout_seconds) and connect_timeout_seconds > 0):
            raise ValueError(f"the connect_timeout_seconds of stage {name} must be more than 0")
        adapter = _Adapter(
            url=_checked_url(name, url),
            signer=Signer(secret, previous_secret),
            timeout=httpx2.Timeout(timeout_seconds, connect=connect_timeout_seconds),
            headers=_checked_headers(name, headers or {}),
            clock=clock or SystemClock(),
        )
        super().__init__(name, adapter, retry or RetryPolicy(), timeout_seconds, concurrency, side_effect)


class _Adapter:
    """The handler of an HttpStage: everything that its attempts have in common."""

    __slots__ = ("_clock", "_headers", "_signer", "_timeout", "_tls", "_url")

    def __init__(
        self, *, url: httpx2.URL, signer: Signer, timeout: httpx2.Timeout, headers: Mapping[str, str], clock: Clock
    ) -> None:
        self._url = url
        self._signer = signer
        self._timeout = timeout
        self._headers = headers
        self._clock = clock
        self._tls = httpx2.create_ssl_context()  # takes some 20 ms, so one does for all attempts

    def __repr__(self) -> str:
        return f"<{self._called}>"

    async def __call__(self, context: Context) -> dict[str, Any] | Snooze | None:
        """Post the work of one attempt and return what the adapter made of it."""
        now = self._clock.now()
        body = _body(context, now)
        sent_at = int(to_datetime(now).timestamp())
        headers = self._request_headers | self._signer.headers(context.idempotency_key, body, sent_at=sent_at)
        headers["idempotency-key"] = context.idempotency_key
        try:
            async with self._client() as client:
                return await self._post(client, body, headers)
        except httpx2.ConnectTimeout as error:
            raise Retry(
                f"{self._called}: no connection within {self._timeout.connect:g} seconds.", kind="http_timeout"
            ) from error
        except httpx2.TimeoutException as error:
            told = f"{self._called}: nothing came for {self._timeout.read:g} seconds."
            raise Retry(told, kind="http_timeout") from error
        except httpx2.ConnectError as error:  # its text is the system's or that of TLS, and holds nothing of ours
            raise Retry(f"{self._called}: no connection: {_shown(str(error))}", kind="http_unreachable") from error
        except httpx2.TransportError as error:
            told = f"{self._called}: the connection broke before the answer was complete ({type(error).__name__})."
            raise Retry(told, kind="http_unreachable") from error

    @property
    def _called(self) -> str:
        return f"POST {_place(self._url)}"

    @property
    def _request_headers(self) -> dict[str, str]:
        fixed = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}
        return {"user-agent": "cabinet", **self._headers, **fixed}

    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(verify=self._tls, timeout=self._timeout, trust_env=False, follow_redirects=False)

    async def _post(
        self, client: httpx2.AsyncClient, body: bytes, headers: Mapping[str, str]
    ) -> dict[str, Any] | Snooze | None:
        url = self._url
        for _ in range(REDIRECT_LIMIT + 1):
            async with client.stream("POST", url, content=body, headers=headers) as answer:
                if not 300 <= answer.status_code < 400:
                    return await self._returned(answer)
                url = self._redirected(url, answer)
        raise Fail("http_redirect", f"{self._called} was redirected more than {REDIRECT_LIMIT} times.")

    def _redirected(self, url: httpx2.URL, answer: httpx2.Response) -> httpx2.URL:
        """Return where a redirect leads; Fail unless that is the same origin, which alone may see the payload."""
        told = f"{self._called} answered {answer.status_code}"
        if "location" not in answer.headers:
            raise Fail("http_redirect", f"{told}, which is no result, and named no other place.")
        try:
            target = url.join(answer.headers["location"])
            is_same = target.origin == url.origin and not target.userinfo
        except (ValueError, httpx2.InvalidURL):
            raise Fail("http_redirect", f"{told} and a Location that is no http address.") from None
        if not is_same or answer.status_code not in _SAME_METHOD:
            rule = "only 307 and 308 to the same scheme, host and port are followed; give the stage the final address"
            raise Fail("http_redirect", f"{told}, a redirect to {_shown(_place(target))}; {rule}.")
        return target

    async def _returned(self, answer: httpx2.Response) -> dict[str, Any] | Snooze | None:
        status = answer.status_code
        if status == 202 and "retry-after" in answer.headers:
            return self._snooze(answer)
        if 200 <= status < 300:
            return await self._outputs(answer)
        detail = _shown(self._without_ours(await _detail(answer)))
        told = f"{self._called} answered {status}" + (f": {detail}" if detail else ".")
        if status in _TRY_AGAIN or status >= 500:
            kind = "http_too_many_requests" if status == 429 else "http_unavailable"
            raise Retry(told, kind=kind, after_seconds=retry_after_seconds(answer.headers, self._clock.now()))
        raise Fail("http_refused", told)

    def _without_ours(self, detail: str) -> str:
        """Take out of a foreign text what it may repeat of the request and is shown nowhere: headers and query."""
        query = self._url.query.decode("ascii")
        for ours in (*self._headers.values(), *([query] if query else [])):
            if len(ours) >= MASKED_LENGTH:
                detail = detail.replace(ours, "…")
        return detail

    def _snooze(self, answer: httpx2.Response) -> Snooze:
        seconds = retry_after_seconds(answer.headers, self._clock.now())
        if seconds is None:  # taken for a success it would lose the work
            told = "answered 202 with a Retry-After that is neither a number of seconds nor a date"
            raise Fail("http_bad_answer", f"{self._called} {told}.")
        return Snooze(max(SNOOZE_LEAST_SECONDS, seconds))

    async def _outputs(self, answer: httpx2.Response) -> dict[str, Any] | None:
        told = f"{self._called} answered {answer.status_code}"
        if _is_encoded(answer):
            raise Fail("http_bad_answer", f"{told} with a Content-Encoding, though it was asked for none.")
        content = await _read(answer, ANSWER_BYTES_LIMIT + 1)
        if len(content) > ANSWER_BYTES_LIMIT:
            raise Fail("http_bad_answer", f"{told} with more than {ANSWER_BYTES_LIMIT} bytes.")
        if not content.strip():
            return None
        try:
            outputs = json.loads(content, parse_constant=_refuse)
        except (ValueError, RecursionError):
            raise Fail("http_bad_answer", f"{told} with a body that is no JSON.") from None
        if not isinstance(outputs, dict):
            raise Fail("http_bad_answer", f"{told} with JSON that is no object.")
        return outputs


def retry_after_seconds(headers: Mapping[str, str], now: Timestamp) -> float | None:
    """Return how long an answer asks to wait (RFC 9110, 10.2.3), 0 to a week; None if it says nothing intelligible.

    A date is held against the answer's own Date, so that a clock that is wrong over there does no harm, or else
    against `now`.
    """
    text = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text):
        seconds = float(text)
    elif (until := _http_date(text)) is not None:
        seconds = (until - (_http_date(headers.get("date", "")) or to_datetime(now))).total_seconds()
    else:
        return None
    return min(max(0.0, seconds), RETRY_AFTER_LIMIT_SECONDS)


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):  # it is made for e-mail and gives up in many ways
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _body(context: Context, now: Timestamp) -> bytes:
    try:
        return json.dumps(_message(context, now), allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Fail(
            "payload_unwritable", "The task's payload or an earlier output cannot be written as JSON."
        ) from error


def _message(context: Context, now: Timestamp) -> dict[str, Any]:
    payload = context.payload
    return {
        "type": "cabinet.stage",
        "timestamp": now,
        "data": {
            "task_id": context.task_id,
            "reference": context.reference,
            "stage": context.stage,
            "attempt": context.attempt,
            "idempotency_key": context.idempotency_key,
            "payload": payload.model_dump(mode="json", by_alias=True) if isinstance(payload, BaseModel) else payload,
            "outputs": {stage: dict(outputs) for stage, outputs in context.outputs.items()},
        },
    }


async def _read(answer: httpx2.Response, limit_bytes: int) -> bytes:
    """Return the beginning of an answer's body, as it was sent: nothing is unpacked."""
    content = bytearray()
    async with aclosing(answer.aiter_raw()) as chunks:
        async for chunk in chunks:
            content += chunk
            if len(content) >= limit_bytes:
                break
    return bytes(content[:limit_bytes])


async def _detail(answer: httpx2.Response) -> str:
    """Return what an error says of itself: problem+json (RFC 9457), the usual members of other JSON, or text."""
    if _is_encoded(answer):
        return ""
    content = b""
    with suppress(httpx2.TransportError):  # the status alone says enough
        content = await _read(answer, DETAIL_BYTES_LIMIT)
    try:
        return _member(json.loads(content))
    except (ValueError, RecursionError):
        return content.decode("utf-8", "replace")


def _member(value: Any) -> str:
    """Return the first text among the members that say what is wrong; `error` may hold them one level down."""
    for member in ("detail", "error", "message") if isinstance(value, dict) else ():
        found = value.get(member)
        if isinstance(found, dict):
            found = found.get("message")
        if isinstance(found, str):
            return found
    return value if isinstance(value, str) else ""


def _shown(text: str) -> str:
    """Return the beginning of a foreign text as one printable line."""
    line = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return line if len(line) <= DETAIL_LIMIT else line[: DETAIL_LIMIT - 1] + "…"


def _place(url: httpx2.URL) -> str:
    """Return an address without what may be confidential: userinfo, query and fragment."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}{url.raw_path.decode('ascii').partition('?')[0]}"


def _is_encoded(answer: httpx2.Response) -> bool:
    return answer.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _checked_url(name: str, url: object) -> httpx2.URL:
    """Return a stage's address; ValueError, which does not show it, since it may hold a password or a token."""
    try:
        parsed = httpx2.URL(url) if isinstance(url, str) else None
    except httpx2.InvalidURL:
        parsed = None
    if parsed is None or parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"the url of stage {name} must be an http or https address with a host")
    if parsed.port is not None and not 1 <= parsed.port <= 65_535:
        raise ValueError(f"the port in the url of stage {name} must lie between 1 and 65535")
    if parsed.userinfo:
        raise ValueError(f"the url of stage {name} must hold no user and password; use headers for that")
    if parsed.fragment:
        raise ValueError(f"the url of stage {name} must have no fragment; it would not be sent")
    return parsed


def _checked_headers(name: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers to send along; ValueError, which shows no value, for one that cannot be or is not theirs."""
    for header, value in headers.items():
        if not _HEADER_NAME.fullmatch(header):
            raise ValueError(f"stage {name} cannot send a header with the name {header!r}")
        if header.lower() in _OWN_HEADERS or header.lower().startswith("webhook-"):
            raise ValueError(f"stage {name} sets the header {header} itself")
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(
                f"the header {header} of stage {name} must be printable ASCII, without a blank at its ends"
            )
    return {header.lower(): value for header, value in headers.items()}
