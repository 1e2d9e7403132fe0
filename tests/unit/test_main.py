"""The composition root: what is put together, in which order it opens, and what becomes of it when a part fails."""

import asyncio
import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette

from app.domain.tasks import Task
from app.domain.users import Role
from app.errors import AlreadyOwned, BadSettings, SchemaMismatch, StorageFailed, StoreClosed
from app.ids import new_id
from app.main import Container, create_app, load_pipeline
from app.pipelines import Pipeline, RetryPolicy, Stage
from app.security.tokens import Tokens
from app.services.leases import TAKE_BACK_LIMIT, Crashes, take_back_all
from app.settings import RateLimit
from app.unit import UnitOfWork
from app.worker.worker import Worker
from tests.support import pipelines
from tests.support.clocks import HandClock
from tests.support.house import SECRET, STAGES, house_settings, open_house, quiet_pipeline
from tests.worker.desk import open_desk

PIPELINE = "tests.support.pipelines:quiet"


def container(folder: Path, **changes: Any) -> Container:
    """Return a container on a file in the folder, not opened."""
    return Container(house_settings(folder, **changes), pipeline=quiet_pipeline())


def files_in(folder: Path) -> list[str]:
    """Return what lies in a folder."""
    return os.listdir(folder)  # noqa: PTH208 - a test of what is there


# Pipelines -----------------------------------------------------------------------------------------------------------


def test_a_pipeline_is_imported_from_its_place() -> None:
    assert load_pipeline(PIPELINE) is pipelines.quiet


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("no.such.module:pipeline", "ModuleNotFoundError"),
        ("tests.support.pipelines:nothing", "AttributeError"),
        ("", "ValueError"),
    ],
)
def test_a_place_that_cannot_be_imported_is_a_fault_of_the_settings(place: str, why: str) -> None:
    with pytest.raises(BadSettings, match=rf"^PIPELINE '{place}' cannot be imported: {why}: "):
        load_pipeline(place)


def test_a_module_that_breaks_while_it_is_imported_is_a_fault_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "breaks_at_import.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(BadSettings, match="ZeroDivisionError"):
        load_pipeline("breaks_at_import:pipeline")


def test_something_else_than_a_pipeline_is_a_fault_of_the_settings() -> None:
    with pytest.raises(BadSettings, match=r"^PIPELINE 'tests.support.pipelines:NAMES' is a tuple, not an app.pipeli"):
        load_pipeline("tests.support.pipelines:NAMES")


def test_the_pipeline_of_the_settings_is_imported_when_it_is_first_asked_for(tmp_path: Path) -> None:
    made = Container(house_settings(tmp_path, pipeline="no.such:module"))

    with pytest.raises(BadSettings):
        made.pipeline  # noqa: B018 - asking is the act


def test_the_pipeline_of_the_settings_is_imported_once(tmp_path: Path) -> None:
    made = Container(house_settings(tmp_path, pipeline=PIPELINE))

    assert made.pipeline is made.pipeline is pipelines.quiet


# Opening and closing -------------------------------------------------------------------------------------------------


async def test_nothing_is_opened_by_making_a_container(tmp_path: Path) -> None:
    made = container(tmp_path)

    made.application()

    assert files_in(tmp_path) == []
    with pytest.raises(StoreClosed):
        await made.store.write(_now)


async def test_a_file_has_one_owner(tmp_path: Path) -> None:
    async with container(tmp_path).open(works=False):
        with pytest.raises(AlreadyOwned):
            async with container(tmp_path).open(works=False):
                pass

    async with container(tmp_path).open(works=False) as later:
        assert later.readiness.look().is_ready


async def test_in_memory_there_is_nothing_to_own(tmp_path: Path) -> None:
    one, two = (container(tmp_path, use_sqlite=False) for _ in range(2))

    async with one.open(works=False), two.open(works=False):
        assert one.readiness.look().is_ready
        assert two.readiness.look().is_ready

    assert files_in(tmp_path) == []


async def test_prod_verifies_the_schema_and_does_not_touch_it(tmp_path: Path) -> None:
    with pytest.raises(SchemaMismatch, match="behind"):
        async with container(tmp_path, app_env="prod").open(works=False):
            pass

    async with container(tmp_path, app_env="prod", run_migrations=True).open(works=False):
        pass
    async with container(tmp_path, app_env="prod").open(works=False) as opened:
        assert opened.readiness.look().is_ready


async def test_the_owner_takes_back_all_leases_of_its_predecessor(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_desk(tmp_path) as desk:
        tasks = {await desk.add_task() for _ in range(TAKE_BACK_LIMIT + 5)}
        await desk.claim(limit=TAKE_BACK_LIMIT + 5, lease_seconds=3_600)

    async with container(tmp_path).open(works=False) as opened:
        left = await opened.store.write(lambda work: take_back_all(work, Crashes({}, lambda: 0.0)))

    assert left == []
    told = [getattr(record, "fields", {}) for record in caplog.records if record.msg == "lease_taken_back"]
    assert {fields["task_id"] for fields in told} == tasks


async def test_the_owner_counts_crashes_by_the_policies_of_its_pipeline(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk:
        strict, usual = await desk.add_task(stage="parse"), await desk.add_task(stage="photos")
        await desk.claim(limit=2, lease_seconds=3_600)
    stages = [Stage("parse", lambda _context: None, retry=RetryPolicy(max_crashes=1))]
    stages += [Stage(name, lambda _context: None) for name in STAGES[1:]]

    async with Container(house_settings(tmp_path), pipeline=Pipeline(stages)).open(works=False) as opened:
        found = [await opened.store.read(partial(_task, task_id)) for task_id in (strict, usual)]

    assert [task.status for task in found if task] == ["failed", "running"]


async def test_administration_beside_the_owner_takes_no_lease_back(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk:
        claim = await desk.claimed_task()
        async with container(tmp_path).open_beside():
            pass

        assert await desk.state(claim.task_id) == (STAGES[0], "running", 1)


async def test_a_draining_process_is_not_ready_and_lets_those_who_wait_wait(tmp_path: Path) -> None:
    async with container(tmp_path).open(works=False) as opened:
        with opened.wakeups.watch("task") as changed:
            opened.drain()

            looked = opened.readiness.look()
            assert (looked.is_ready, looked.checks["draining"]) == (False, "yes: the process is stopping")
            assert not changed.is_set()


async def test_a_stopped_process_is_not_ready_and_wakes_who_waits(tmp_path: Path) -> None:
    async with container(tmp_path).open(works=False) as opened:
        with opened.wakeups.watch("task") as changed:
            opened.stop()

            assert not opened.readiness.look().is_ready
            assert changed.is_set()


async def test_a_worker_that_drains_begins_nothing_more_and_has_not_failed(tmp_path: Path) -> None:
    async with open_house(tmp_path, works=True) as house:
        await house.let_in("alice")

        house.container.drain()
        [worker] = [task for task in asyncio.all_tasks() if task.get_name() == "worker"]
        await asyncio.wait_for(asyncio.wait({worker}), 10)
        created = await house.create("alice", "k")

        assert created.status_code == 201
        assert not house.container.has_failed


# The worker inside ---------------------------------------------------------------------------------------------------


async def test_the_embedded_worker_works_and_shows_life(tmp_path: Path) -> None:
    async with open_house(tmp_path, works=True) as house:
        await house.let_in("alice")
        created = await house.create("alice", "key-1")

        ended = await house.client.get(created.headers["location"], params={"wait": 20}, headers=house.headers("alice"))

        assert ended.json()["status"] == "succeeded"
        assert house.container.readiness.stages == STAGES
        assert house.container.readiness.look().checks["worker"].startswith("ok")


async def test_in_memory_a_whole_service_works(tmp_path: Path) -> None:
    async with open_house(tmp_path, works=True, use_sqlite=False) as house:
        await house.let_in("root", Role.SUPER_ADMIN)
        created = await house.create("root", "key-1")
        replayed = await house.create("root", "key-1")

        ended = await house.client.get(created.headers["location"], params={"wait": 20}, headers=house.headers("root"))
        history = await house.client.get(f"{created.headers['location']}/history", headers=house.headers("root"))

    assert replayed.content == created.content
    assert ended.json()["status"] == "succeeded"
    assert [attempt["stage"] for attempt in reversed(history.json()["items"])] == list(STAGES)
    assert not (tmp_path / "cabinet.db").exists()


async def test_a_worker_that_breaks_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_worker: Worker) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(Worker, "run", broken)
    ended = asyncio.Event()
    made = container(tmp_path)
    made.on_failure = ended.set

    async with made.open(works=True):
        await asyncio.wait_for(ended.wait(), 5)

    assert made.has_failed
    [record] = [record for record in caplog.records if record.msg == "worker_failed"]
    assert record.levelno == logging.CRITICAL


async def test_a_worker_that_ends_by_itself_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def leaves(_worker: Worker) -> None:
        return

    monkeypatch.setattr(Worker, "run", leaves)
    ended = asyncio.Event()
    made = container(tmp_path)
    made.on_failure = ended.set

    async with made.open(works=True):
        await asyncio.wait([asyncio.create_task(ended.wait())], timeout=1)
        has_failed = made.has_failed

    assert has_failed


async def test_a_failing_engine_ends_the_process_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    endings: list[str] = []
    made = container(tmp_path)
    made.on_failure = lambda: endings.append("told to end")

    async def body(_work: UnitOfWork) -> None:
        raise StorageFailed

    async with made.open(works=False):
        for _ in range(2):
            with pytest.raises(StorageFailed):
                await made.store.write(body)

    assert made.has_failed
    assert endings
    assert [record.msg for record in caplog.records].count("storage_failed") == 1


async def test_an_engine_that_fails_while_it_reads_ends_the_process_too(tmp_path: Path) -> None:
    ended = asyncio.Event()
    made = container(tmp_path)
    made.on_failure = ended.set

    async def body(_work: UnitOfWork) -> None:
        raise StorageFailed

    async with made.open(works=False):
        with pytest.raises(StorageFailed):
            await made.store.read(body)

    assert made.has_failed
    assert ended.is_set()


# Parts ---------------------------------------------------------------------------------------------------------------


async def test_an_application_for_any_asgi_server_opens_and_closes_by_itself(tmp_path: Path) -> None:
    app = create_app(house_settings(tmp_path, pipeline=PIPELINE, worker_embedded=False))
    assert isinstance(app, Starlette)

    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://cabinet.test") as client:
            ready = await client.get("/ready")

    assert ready.status_code == 200


def tokens_of(folder: Path, **changes: Any) -> Tokens:
    """Return what issues and verifies tokens under these settings."""
    tokens = container(folder, **changes).tokens()
    assert tokens is not None
    return tokens


def test_tokens_of_the_previous_secret_are_accepted_and_not_issued(tmp_path: Path) -> None:
    old = tokens_of(tmp_path, token_secret=SECRET)
    both = tokens_of(tmp_path, token_secret="n" * 32, token_secret_previous=SECRET)
    new = tokens_of(tmp_path, token_secret="n" * 32)
    of_before, _ = old.issue("alice", token_id=new_id(), ttl_seconds=60)

    of_now, _ = both.issue("alice", token_id=new_id(), ttl_seconds=60)

    assert both.verify(of_before) == "alice"
    assert new.verify(of_now) == "alice"


def test_a_worker_gets_its_limits_from_the_settings(tmp_path: Path) -> None:
    made = container(tmp_path, worker_concurrency=7, worker_lease_seconds=11, shutdown_grace_seconds=3)

    options = made.worker()._options

    assert (options.concurrency, options.lease_seconds, options.grace_seconds) == (7, 11, 3)
    assert options.artifacts_dir == tmp_path / "artifacts"
    assert ":" in options.name


async def test_the_clock_that_is_given_is_the_clock_of_every_unit(tmp_path: Path) -> None:
    clock = HandClock()
    async with Container(house_settings(tmp_path), pipeline=quiet_pipeline(), clock=clock).open_beside() as opened:
        first = await opened.store.write(_now)
        clock.move(5)
        second = await opened.store.write(_now)

    assert (first, second) == ("2026-11-22T20:19:00.000000Z", "2026-11-22T20:19:05.000000Z")


async def _task(task_id: str, work: UnitOfWork) -> Task | None:
    return await work.tasks.by_id(task_id)


async def _now(work: UnitOfWork) -> str:
    return work.now()


async def test_rate_limits_of_the_settings_hold(tmp_path: Path) -> None:
    async with open_house(tmp_path, rate_limit_client=RateLimit(count=2, seconds=3_600)) as house:
        codes = [(await house.client.get("/v1/me")).status_code for _ in range(3)]

    assert codes == [401, 401, 429]


def test_a_pipeline_that_is_given_replaces_the_settings(tmp_path: Path) -> None:
    given = quiet_pipeline()

    made = Container(house_settings(tmp_path, pipeline=PIPELINE), pipeline=given)

    assert isinstance(made.pipeline, Pipeline)
    assert made.pipeline is given
