"""Operational paths: the process is there, is ready or says why not, and what it is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.domain.users import Role
from app.errors import StorageFull
from app.main import Container
from app.pipelines import Pipeline
from app.services import readiness
from app.services.readiness import STALE_SECONDS, Readiness
from tests.support.clocks import HandSeconds
from tests.support.house import House, house_settings, open_house, quiet_pipeline
from tests.web.asking import check_problem


@asynccontextmanager
async def timed_house(folder: Path, seconds: HandSeconds) -> AsyncIterator[House]:
    """Open a house without a worker whose readiness looks at a clock that is moved by hand."""
    container = Container(house_settings(folder), pipeline=quiet_pipeline())
    container.readiness = Readiness(container.store, monotonic=seconds)
    app = container.application()
    async with container.open(works=False):
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://cabinet.test") as client:
            house = House(container, client)
            await house.let_in("admin", Role.ADMIN)
            yield house


async def ready(house: House, subject: str | None = None) -> tuple[int, Any]:
    """Return the status and the body of /ready, as nobody or as a subject."""
    answer = await house.client.get("/ready", headers={} if subject is None else house.headers(subject))
    return answer.status_code, answer.json()


async def test_a_process_that_runs_is_healthy(house: House) -> None:
    answer = await house.client.get("/health")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_the_version_is_that_of_the_package(house: House) -> None:
    answer = await house.client.get("/version")

    assert answer.json() == {"name": "cabinet", "version": version("cabinet")}


async def test_an_open_service_is_ready_and_tells_strangers_no_more(house: House) -> None:
    await house.let_in("alice")

    assert await ready(house) == (200, {"status": "ready"})
    assert await ready(house, "alice") == (200, {"status": "ready"})


async def test_a_stale_probe_is_not_ready_until_the_next_one(tmp_path: Path) -> None:
    seconds = HandSeconds()
    async with timed_house(tmp_path, seconds) as house:
        seconds.move(STALE_SECONDS)
        at_the_limit = await ready(house)
        seconds.move(0.1)
        stale = await ready(house)
        details = await ready(house, "admin")
        await house.container.readiness.probe()
        again = await ready(house)

        assert at_the_limit == (200, {"status": "ready"})
        assert stale == (503, {"status": "not ready"})
        assert details[0] == 503
        assert details[1]["checks"]["database"] == "last write 20.1 s ago"
        assert again[0] == 200


async def test_a_probe_that_cannot_write_leaves_its_age_growing_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "PROBE_SECONDS", 0)
    seconds, tries = HandSeconds(), asyncio.Queue[None]()
    async with timed_house(tmp_path, seconds) as house:

        async def full(_body: Any) -> None:
            tries.put_nowait(None)
            raise StorageFull

        monkeypatch.setattr(house.container.store, "write", full)
        async with asyncio.timeout(5):
            await tries.get()
            seconds.move(STALE_SECONDS + 1)
            for _ in range(3):
                await tries.get()

        assert (await ready(house))[0] == 503
        assert (await house.client.get("/health")).status_code == 200


async def test_a_draining_process_is_not_ready_and_still_answers(house: House) -> None:
    await house.let_in("admin", Role.ADMIN)

    house.container.drain()
    status, body = await ready(house, "admin")
    created = await house.create("admin", "k")

    assert (status, body["checks"]["draining"]) == (503, "yes: the process is stopping")
    assert created.status_code == 201


@pytest.mark.parametrize(
    ("seen_ago", "status", "told"),
    [(None, 503, "no last sign of life yet"), (STALE_SECONDS, 200, "ok: "), (STALE_SECONDS + 1, 503, "last sign")],
)
async def test_a_silent_worker_is_not_ready(tmp_path: Path, seen_ago: float | None, status: int, told: str) -> None:
    seconds = HandSeconds()
    async with timed_house(tmp_path, seconds) as house:
        seen_at = None if seen_ago is None else seconds.present - seen_ago
        house.container.readiness.worker_seen_at = lambda: seen_at

        answer = await ready(house, "admin")

        assert answer[0] == status
        assert answer[1]["checks"]["worker"].startswith(told)


async def test_a_running_worker_shows_life(tmp_path: Path) -> None:
    async with open_house(tmp_path, works=True) as house:
        await house.let_in("alice")
        await house.let_in("admin", Role.ADMIN)
        created = await house.create("alice", "k")
        await house.client.get(created.headers["location"] + "?wait=20", headers=house.headers("alice"))

        status, body = await ready(house, "admin")

        assert status == 200
        assert set(body) == {"status", "checks", "waiting_in_unknown_stages"}
        assert set(body["checks"]) == {"database", "migrations", "worker", "draining"}
        assert all(check.startswith("ok") for check in body["checks"].values())


async def test_tasks_that_wait_in_unknown_stages_are_shown_to_admins(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        await house.let_in("alice")
        await house.let_in("admin", Role.ADMIN)
        for number in range(3):
            await house.create("alice", f"k-{number}")
    other = Pipeline(quiet_pipeline().stages[1:])
    async with open_house(tmp_path, works=True, pipeline=other) as house:
        house.container.readiness.worker_seen_at = None
        to_admin, to_user = await ready(house, "admin"), await ready(house, "alice")

    assert to_admin[1]["waiting_in_unknown_stages"] == {"parse": 3}
    assert to_user == (200, {"status": "ready"})


async def test_a_process_without_a_worker_knows_the_stages_of_its_pipeline(house: House) -> None:
    await house.let_in("admin", Role.ADMIN)
    await house.create("admin", "k")

    _, body = await ready(house, "admin")

    assert body["waiting_in_unknown_stages"] == {}


async def test_a_bad_token_does_not_pass_for_none(house: House) -> None:
    answer = await house.client.get("/ready", headers={"Authorization": "Bearer nonsense"})

    check_problem(answer, 401, "not_authenticated")
