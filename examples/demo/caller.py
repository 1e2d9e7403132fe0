"""The caller: what the demo asks of the service over HTTP, in the name of one user."""

import asyncio
from dataclasses import dataclass
from typing import Any, Self

import httpx2

from examples.demo.service import DemoFailed

TRIES = 5
"""How often a request is sent while the service says that it is to come back later."""

WAIT_SECONDS = 20
"""How long one request waits for the end of a task; after that it is sent again."""


@dataclass(frozen=True, slots=True)
class Created:
    """The answer to a create: the task's id, the very bytes of the body, and whether it says that it is a replay."""

    task_id: str
    body: bytes
    is_replay: bool


class Caller:
    """Calls the service at `url`, with a token or as nobody. Every answer that is not a success raises DemoFailed."""

    def __init__(self, url: str, token: str | None = None) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._client = httpx2.AsyncClient(base_url=url, headers=headers, timeout=30, trust_env=False)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._client.__aexit__(*error)

    async def ask_for_access(self, subject: str, reason: str) -> str:
        """Ask that a subject be let in; return the request's id."""
        body = {"requested_by": subject, "reason": reason}
        return str((await self._send("POST", "/v1/access-requests", json=body)).json()["id"])

    async def approve(self, request_id: str) -> str:
        """Let the subject of an access request in; return the id of the user that it has become."""
        answer = await self._send("POST", f"/v1/access-requests/{request_id}/approve", json={})
        return str(answer.json()["user"]["id"])

    async def hand_out_token(self, user_id: str) -> str:
        """Return a fresh bearer token for a user."""
        answer = await self._send("POST", f"/v1/users/{user_id}/tokens", json={"ttl_seconds": 3_600})
        return str(answer.json()["token"])

    async def create(self, body: dict[str, Any], key: str) -> Created:
        """Create a task under an idempotency key."""
        answer = await self._send("POST", "/v1/tasks", json=body, headers={"Idempotency-Key": key})
        is_replay = answer.headers.get("Idempotent-Replayed") == "true"
        return Created(str(answer.json()["id"]), answer.content, is_replay)

    async def tasks(self) -> list[dict[str, Any]]:
        """Return where every task stands; the catalogue fits on one page."""
        items: list[dict[str, Any]] = (await self._send("GET", "/v1/tasks", params={"limit": 200})).json()["items"]
        return items

    async def until_ended(self, task_id: str) -> str:
        """Wait until a task has ended, and return how."""
        status = "open"
        while status in ("open", "running"):
            answer = await self._send("GET", f"/v1/tasks/{task_id}", params={"wait": WAIT_SECONDS})
            status = str(answer.json()["status"])
        return status

    async def explain(self, task_id: str) -> str:
        """Return the sentence that says why a task is not running."""
        return str((await self._send("GET", f"/v1/tasks/{task_id}/explain")).json()["sentence"])

    async def rescue(self, task_id: str, reason: str) -> None:
        """Let a dead letter run again, and say why."""
        body = {"reason": reason, "override_dead_letter": True}
        await self._send("POST", f"/v1/tasks/{task_id}/retry", json=body)

    async def _send(self, method: str, path: str, **content: Any) -> httpx2.Response:
        for _ in range(TRIES):
            try:
                answer = await self._client.request(method, path, **content)
            except httpx2.TransportError as error:
                raise DemoFailed(f"{method} {path} was not answered: {type(error).__name__}.") from error
            if answer.status_code not in (429, 503):
                break
            await asyncio.sleep(float(answer.headers.get("Retry-After", "1")))
        if not answer.is_success:
            raise DemoFailed(f"{method} {path} was answered {answer.status_code}: {answer.text[:300]}")
        return answer
