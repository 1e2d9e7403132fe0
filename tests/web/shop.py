"""A shop: a service whose three stages do what each task's payload says until they are mended, and words to its API."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.domain.users import Role, User
from app.ids import new_id
from app.pipelines import Context, Fail, Pipeline, Retry, RetryPolicy, Snooze, Stage
from app.worker.worker import Worker
from tests.support.clocks import HandClock
from tests.support.house import House, open_house

NOW = HandClock().now()
"""When everything begins."""

STAGES = ("parse", "charge", "export")

PATIENCE_SECONDS = 5
"""Far below the times after which anybody looks again by themselves."""

_AT_ONCE = RetryPolicy(max_attempts=3, base_seconds=1e-9, cap_seconds=1)


class Machine:
    """The handler of all stages. A payload says by stage what it does; once it is mended everything succeeds.

    `fail` and `error` take a message, `retry` and `snooze` seconds, `hold` a fraction of progress to tell before it
    waits to be let on.
    """

    def __init__(self) -> None:
        self.is_mended = False
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        """The tasks that are held."""
        self.let_on = asyncio.Event()

    async def __call__(self, context: Context) -> Mapping[str, Any] | Snooze:
        """Do what the payload says."""
        match {} if self.is_mended else context.payload.get(context.stage, {}):
            case {"fail": message, "kind": kind}:
                raise Fail(kind, message)
            case {"fail": message}:
                raise Fail("no_card", message)
            case {"error": message}:
                raise ValueError(message)
            case {"retry": seconds}:
                raise Retry("The bank asks to wait.", kind="bank_busy", after_seconds=seconds)
            case {"snooze": seconds}:
                return Snooze(seconds)
            case {"hold": fraction}:
                context.progress(fraction, "half of the pages")
                self.begun.put_nowait(context.task_id)
                await self.let_on.wait()
        return {"attempt": context.attempt}

    def pipeline(self) -> Pipeline:
        """Return three stages, of which `charge` acts on the world outside and `export` runs one at a time."""
        return Pipeline(
            [
                Stage("parse", self, retry=_AT_ONCE),
                Stage("charge", self, retry=_AT_ONCE, side_effect=True),
                Stage("export", self, retry=_AT_ONCE, concurrency=1),
            ]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A house with an admin and two users, its machine, and a clock that stands still."""

    house: House
    machine: Machine
    clock: HandClock
    users: Mapping[str, User]
    worker: Worker
    """A worker that is driven by hand."""

    async def get(self, path: str, subject: str = "admin", **query: Any) -> httpx2.Response:
        """Send GET."""
        return await self.house.client.get(path, params=query or None, headers=self.house.headers(subject))

    async def head(self, path: str, subject: str = "admin") -> httpx2.Response:
        """Send HEAD."""
        return await self.house.client.head(path, headers=self.house.headers(subject))

    async def post(self, path: str, body: Any = None, subject: str = "admin") -> httpx2.Response:
        """Send POST, without a body if none is given."""
        more = {} if body is None else {"json": body}
        return await self.house.client.post(path, headers=self.house.headers(subject), **more)

    async def seen(self, path: str, subject: str = "admin", **query: Any) -> Any:
        """Return what GET shows."""
        answer = await self.get(path, subject, **query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def make(self, payload: Mapping[str, Any] | None = None, subject: str = "alice", **fields: Any) -> str:
        """Create a task and return its id."""
        answer = await self.house.create(subject, new_id(), dict(payload or {}), **fields)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def make_dead(self, *messages: str, at: str = "charge", kind: str = "no_card") -> list[str]:
        """Create a task for each message, let them die of it at a stage, and return their ids."""
        tasks = [await self.make({at: {"fail": message, "kind": kind}}) for message in messages]
        await self.work()
        return tasks

    async def work(self) -> None:
        """Run all that is due."""
        while await self.worker.step():
            pass

    @asynccontextmanager
    async def working(self, *tasks: str) -> AsyncIterator[None]:
        """Let the worker run what is due, until each of these tasks is held; the block's end lets them on."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            step = asyncio.create_task(self.worker.step())
            assert {await self.machine.begun.get() for _ in tasks} == set(tasks)
            try:
                yield
            finally:
                self.machine.let_on.set()
                await step


@asynccontextmanager
async def open_shop(folder: Path, *, works: bool = False, **settings: Any) -> AsyncIterator[Shop]:
    """Open a shop; with `works` its embedded worker runs, which looks by itself once a minute at most."""
    machine, clock = Machine(), HandClock()
    settings = {"worker_poll_seconds": 60} | settings
    async with open_house(folder, works=works, pipeline=machine.pipeline(), clock=clock, **settings) as house:
        users = {
            "admin": await house.let_in("admin", Role.ADMIN),
            "alice": await house.let_in("alice"),
            "bob": await house.let_in("bob"),
        }
        yield Shop(house=house, machine=machine, clock=clock, users=users, worker=house.container.worker())
        machine.let_on.set()


async def ended(shop: Shop, task: str) -> Any:
    """Wait until the task has ended and return what it shows; nothing polls, so whoever ends it must tell."""
    with shop.house.container.wakeups.watch(task) as changed:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (standing := await shop.seen(f"/v1/tasks/{task}"))["status"] in ("open", "running"):
                await changed.wait()
    return standing


def told(caplog: pytest.LogCaptureFixture, *names: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of these names that the log holds, with their fields."""
    return [
        (record.getMessage(), dict(record.__dict__["fields"]))
        for record in caplog.records
        if record.name.startswith("app.") and record.getMessage() in names
    ]


def logged_text(caplog: pytest.LogCaptureFixture) -> str:
    """Return all that Cabinet's own log holds."""
    records = [record for record in caplog.records if record.name.startswith("app.")]
    assert all(record.levelno >= logging.INFO for record in records)
    return "\n".join(f"{record.getMessage()} {record.__dict__.get('fields')}" for record in records)
