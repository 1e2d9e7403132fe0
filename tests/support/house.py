"""A whole service in the test's own process and loop: the real container on a real file, called over ASGI."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2

from app.domain.audit import Author
from app.domain.scopes import DEFAULT_SCOPES
from app.domain.users import Role, User
from app.ids import new_id
from app.main import Container
from app.pipelines import Context, Pipeline, Stage
from app.settings import Settings
from app.unit import UnitOfWork

SECRET = "test-secret-" + "x" * 32
STAGES = ("parse", "photos", "publish", "export", "cleanup")


def quiet_pipeline() -> Pipeline:
    """Return five stages that do nothing and hand their name on."""

    async def handler(context: Context) -> dict[str, Any]:
        return {"stage": context.stage}

    return Pipeline([Stage(name, handler) for name in STAGES])


def house_settings(folder: Path, **changes: Any) -> Settings:
    """Return settings for a test: a file in the folder, no rate limits."""
    values: dict[str, Any] = {
        "app_env": "test",
        "db_path": folder / "cabinet.db",
        "artifacts_dir": folder / "artifacts",
        "token_secret": SECRET,
        "rate_limit_client": "0",
        "rate_limit_actor": "0",
    }
    return Settings(**(values | changes))


LOCAL = Author(user_id=None, subject="local:test")
"""Who administers the machine of a test."""


class House:
    """An open container, its application, and a client that reaches it without a socket."""

    def __init__(self, container: Container, client: httpx2.AsyncClient) -> None:
        self.container = container
        self.store = container.store
        self.client = client

    async def let_in(
        self, subject: str, role: Role = Role.USER, *, scopes: frozenset[str] | None = None, is_active: bool = True
    ) -> User:
        """Make a user."""
        now = self.container.clock.now()
        user = User(
            id=new_id(),
            subject=subject,
            role=role,
            scopes=DEFAULT_SCOPES[role] if scopes is None else scopes,
            is_active=is_active,
            created_at=now,
            updated_at=now,
        )

        async def body(work: UnitOfWork) -> None:
            assert await work.users.add(user)

        await self.store.write(body)
        return user

    def headers(self, subject: str, **more: str) -> dict[str, str]:
        """Return the headers of a subject's request."""
        tokens = self.container.tokens()
        assert tokens is not None
        token, _ = tokens.issue(subject, token_id=new_id(), ttl_seconds=3_600)
        return {"Authorization": f"Bearer {token}", **more}

    async def create(
        self, subject: str, key: str, payload: dict[str, Any] | None = None, **fields: Any
    ) -> httpx2.Response:
        """Send POST /v1/tasks as a subject."""
        headers = self.headers(subject, **{"Idempotency-Key": key})
        return await self.client.post("/v1/tasks", json={"payload": payload or {}, **fields}, headers=headers)


@asynccontextmanager
async def open_house(
    folder: Path, *, works: bool = False, pipeline: Pipeline | None = None, clock: Any = None, **changes: Any
) -> AsyncIterator[House]:
    """Open a service; with `works` its worker runs."""
    container = Container(house_settings(folder, **changes), pipeline=pipeline or quiet_pipeline(), clock=clock)
    app = container.application()
    async with container.open(works=works):
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://cabinet.test") as client:
            yield House(container, client)
