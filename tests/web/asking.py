"""Asking: raw requests, forged tokens, what the tables hold, and what a problem looks like, for the web's tests."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import httpx2
import jwt
from starlette.types import ASGIApp, Message

from app.ids import new_id
from tests.support.database import driver
from tests.support.house import SECRET, House

Headers = Iterable[tuple[bytes, bytes]]

HOST = (b"host", b"cabinet.test")
JSON = (b"content-type", b"application/json")
PROBLEM_FIELDS = {"type", "title", "status", "detail", "code", "request_id"}
TABLES = (
    "users", "access_requests", "tasks", "pipeline_states", "idempotency_keys", "jobs", "attempts", "outputs",
    "dead_letters", "rescues", "pauses", "pruned_folders", "signing_keys",
)  # fmt: skip


async def ask(
    app: ASGIApp,
    method: str = "GET",
    path: str = "/health",
    *,
    query: bytes = b"",
    headers: Headers = (HOST,),
    body: Iterable[bytes] = (b"",),
    client: tuple[str, int] = ("203.0.113.1", 5_000),
) -> httpx2.Response:
    """Send one request as a server would hand it over, with exactly these headers and pieces of body."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": list(headers),
        "client": client,
        "server": ("cabinet.test", 80),
    }
    pieces = list(body)
    waiting: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
        for number, piece in enumerate(pieces, start=1)
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(dict(message))

    await app(scope, receive, send)
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return httpx2.Response(sent[0]["status"], headers=sent[0]["headers"], content=content)


def check_problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """Assert that an answer is a whole problem document (RFC 9457) of that status and code, and return it."""
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert set(body) - {"errors"} == PROBLEM_FIELDS
    assert body["type"] == f"/problems/{code}"
    assert body["title"] == code.replace("_", " ").capitalize()
    assert body["status"] == status
    assert body["detail"].endswith(".")
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


def pointers(answer: httpx2.Response) -> list[str]:
    """Return the JSON Pointers of a refused content."""
    return [fault["pointer"] for fault in check_problem(answer, 422, "invalid_content").get("errors", [])]


def claims(subject: str, **changes: Any) -> dict[str, Any]:
    """Return the claims of a good token; a change to None leaves the claim out."""
    now = int(time.time())
    good = {"sub": subject, "iat": now - 10, "exp": now + 300, "jti": new_id(), "iss": "cabinet", "aud": "cabinet"}
    return {name: value for name, value in (good | changes).items() if value is not None}


def bearer(said: Mapping[str, Any], *, secret: str = SECRET, algorithm: str = "HS256") -> dict[str, str]:
    """Return the header with a token of these claims."""
    token = jwt.encode(dict(said), "" if algorithm == "none" else secret, algorithm=algorithm)
    return {"Authorization": f"Bearer {token}"}


def rows(house: House) -> dict[str, list[tuple[Any, ...]]]:
    """Return everything that the tables hold, on a connection of its own."""
    connection = driver.connect(str(house.container.settings.db_path))
    try:
        return {table: sorted(connection.execute(f"SELECT * FROM {table}"), key=repr) for table in TABLES}
    finally:
        connection.close()
