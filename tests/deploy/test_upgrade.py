"""An upgrade on SQLite: the old version stops and the new one starts on the same file, with callers all the while."""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from time import monotonic

import httpx2
import pytest

from tests.deploy.proxies import PROXIES, PROXY_ADDRESS, StartsProxy, free_port
from tests.e2e.home import Home, until
from tests.support.processes import ROOT, ServiceProcess, run_cabinet, service

CALLERS = 4
ENOUGH = 40
"""How many creates are acknowledged before the upgrade, and again after it."""

PAUSE_SECONDS = 0.01
"""Between two creates of one caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The success that a create came to."""

    key: str
    task_id: str
    request_id: str
    at: float


@dataclass(slots=True)
class Calls:
    """What callers did and were told."""

    is_over: bool = False
    answers: list[Answer] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    """The statuses of whatever was no success."""


def newer_version(folder: Path) -> str:
    """Copy this version with one more migration; return the PYTHONPATH under which the copy is the one that runs."""
    for part in ("app", "sql"):
        shutil.copytree(ROOT / part, folder / part)  # with what is compiled, as it comes in an image
    migrations = folder / "sql" / "migrations"
    version = 1 + max(int(path.name[:4]) for path in migrations.glob("*.sql"))
    (migrations / f"{version:04}_planted.sql").write_text("ALTER TABLE tasks ADD COLUMN planted TEXT;\n")
    return f"{folder}:{ROOT}"


async def keep_creating(client: httpx2.AsyncClient, caller: str, calls: Calls) -> None:
    """Create one task after the other until it is over."""
    for number in count():
        if calls.is_over:
            return
        await create(client, f"{caller}-{number}", calls)
        await asyncio.sleep(PAUSE_SECONDS)


async def create(client: httpx2.AsyncClient, key: str, calls: Calls) -> None:
    """Create one task; on a 503 do as it says, with the same key."""
    for attempt in count():
        request_id = f"{key}-{attempt}-request"
        headers = {"Idempotency-Key": key, "X-Request-Id": request_id}
        answer = await client.post("/v1/tasks", json={"payload": {}}, headers=headers)
        if answer.status_code == 201:
            calls.answers.append(Answer(key=key, task_id=answer.json()["id"], request_id=request_id, at=monotonic()))
            return
        calls.refusals.append(answer.status_code)
        assert answer.status_code == 503, answer.text
        await asyncio.sleep(int(answer.headers["retry-after"]))


def gap_of_callers(calls: Calls, old: ServiceProcess, new: ServiceProcess) -> float:
    """Return the seconds from the last success of the old version to the first of the new one, as callers saw them."""
    answered_at = {answer.request_id: answer.at for answer in calls.answers}
    by_old, by_new = (
        [answered_at[line["request_id"]] for line in version.events("request") if line["request_id"] in answered_at]
        for version in (old, new)
    )
    return min(by_new) - max(by_old)


def gap_of_service(old: ServiceProcess, new: ServiceProcess) -> float:
    """Return the seconds from the last request that the old version answered to the first that the new one did."""
    last, first = old.events("request")[-1]["time"], new.events("request")[0]["time"]
    return (datetime.fromisoformat(first) - datetime.fromisoformat(last)).total_seconds()


@pytest.mark.parametrize("proxy", PROXIES)
async def test_an_upgrade_loses_no_request_and_no_task(
    proxy: StartsProxy, home: Home, record_property: Callable[[str, object], None]
) -> None:
    port = free_port()
    settings = {"PORT": str(port), "FORWARDED_ALLOW_IPS": PROXY_ADDRESS}
    newer = {"PYTHONPATH": newer_version(home.folder / "newer"), "RUN_MIGRATIONS": "1"}
    calls = Calls()
    async with (
        proxy(home.folder, port) as front,
        front.client(home.tokens["alice"]) as client,
        service(home.folder, **settings) as old,
    ):
        callers = asyncio.gather(*(keep_creating(client, f"caller-{number}", calls) for number in range(CALLERS)))
        await until(lambda: callers.done() or len(calls.answers) >= ENOUGH)

        code = await old.terminate()
        async with service(home.folder, **settings, **newer) as new:
            until_then = len(calls.answers) + ENOUGH
            await until(lambda: callers.done() or len(calls.answers) >= until_then)
            calls.is_over = True
            await callers
            await until(lambda: home.one("SELECT COUNT(*) FROM jobs") == (0,))
            await new.terminate()
    refused = run_cabinet(home.folder, "serve")

    record_property("gap_of_callers_seconds", round(gap_of_callers(calls, old, new), 3))
    record_property("gap_of_service_seconds", round(gap_of_service(old, new), 3))
    record_property("answers_503", len(calls.refusals))
    assert code == 0
    assert [line["name"] for line in new.events("migration_applied")] == ["planted"]
    assert sorted(home.rows("SELECT idem_key, task_id FROM idempotency_keys")) == sorted(
        (answer.key, answer.task_id) for answer in calls.answers
    )
    assert home.rows("SELECT status, COUNT(*) FROM tasks GROUP BY status") == [("succeeded", len(calls.answers))]
    assert refused.returncode == 4
    assert "ahead of this version" in refused.stderr
