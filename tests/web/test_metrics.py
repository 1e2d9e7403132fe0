"""GET /metrics: what a service shows of itself, bounded whatever callers send."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from app.domain.users import Role
from app.errors import StorageBusy, StorageFull
from app.ids import new_id
from app.metrics import GONE
from app.services import sampling
from app.services.sampling import SAMPLE_SECONDS, Sampling
from tests.support.clocks import HandSeconds
from tests.support.house import House, open_house
from tests.support.metrics import Figures, shown
from tests.web.asking import ask, check_problem
from tests.web.shop import Shop


async def figures_of(house: House) -> Figures:
    """Return what the metrics of a service show now."""
    return await shown(house.container.metrics_application())


async def test_requests_are_counted_under_their_routes_template(shop: Shop) -> None:
    first, second = await shop.make(), await shop.make()
    await shop.seen(f"/v1/tasks/{first}")
    await shop.seen(f"/v1/tasks/{second}")

    figures = await figures_of(shop.house)

    assert figures.value("cabinet_http_requests_total", method="POST", route="/v1/tasks", status="201") == 2
    assert figures.value("cabinet_http_requests_total", method="GET", route="/v1/tasks/{id}", status="200") == 2


async def test_who_waits_for_a_task_does_not_spoil_the_times_of_the_others(shop: Shop) -> None:
    task = await shop.make()
    await shop.work()

    await shop.seen(f"/v1/tasks/{task}", wait=5)

    figures = await figures_of(shop.house)
    assert figures.value("cabinet_http_request_seconds_count", method="GET", route="/v1/tasks/{id}?wait") == 1
    assert figures.value("cabinet_http_request_seconds_count", method="GET", route="/v1/tasks/{id}") is None


async def test_nothing_that_callers_send_makes_a_label_of_its_own(house: House) -> None:
    app = house.container.application()
    await ask(app, path="/nowhere")
    before = len((await figures_of(house)).samples)

    for number in range(100):
        await ask(app, path=f"/nowhere/{new_id()}")
        await ask(app, f"M{number}", path="/v1/tasks")
        await ask(
            app, path=f"/v1/tasks/{new_id()}", headers=[(b"host", b"a"), (b"authorization", b"Bearer %d" % number)]
        )

    after = await figures_of(house)
    assert after.by("cabinet_http_requests_total", "route") == {"-": 201, "/v1/tasks/{id}": 100}
    assert len(after.samples) - before < 80


async def test_denials_are_counted_by_their_reason(house: House) -> None:
    await house.let_in("alice")
    await house.client.get("/v1/me")
    await house.client.get("/v1/me", headers=house.headers("nobody"))
    await house.client.get("/v1/users", headers=house.headers("alice"))
    await house.client.get(f"/v1/tasks/{new_id()}", headers=house.headers("alice"))

    figures = await figures_of(house)

    assert figures.by("cabinet_denials_total", "reason") == {
        "not_authenticated": 1,
        "unknown_subject": 1,
        "role_too_low": 1,
    }


async def test_a_rate_limit_that_refuses_is_a_denial(tmp_path: Path) -> None:
    async with open_house(tmp_path, rate_limit_client="1/hour") as house:
        await house.client.get("/v1/me")
        await house.client.get("/v1/me")

        figures = await figures_of(house)

    assert figures.by("cabinet_denials_total", "reason") == {"not_authenticated": 1, "too_many_requests": 1}


async def test_units_are_timed_by_kind_and_transactions_measured(shop: Shop) -> None:
    before = await figures_of(shop.house)
    await shop.make()
    await shop.seen("/v1/me")

    after = await figures_of(shop.house)

    def grew(name: str, **labels: str) -> float:
        return (after.value(name, **labels) or 0) - (before.value(name, **labels) or 0)

    assert grew("cabinet_unit_run_seconds_count", kind="write") == 1
    assert grew("cabinet_unit_wait_seconds_count", kind="write") == 1
    assert grew("cabinet_unit_run_seconds_count", kind="read") == 2  # the last one read the sample before
    assert grew("cabinet_batch_units_sum") == grew("cabinet_commit_seconds_count") == 1
    assert grew("cabinet_unit_run_seconds_sum", kind="write") > 0


async def test_a_transaction_that_fails_as_a_whole_is_counted(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise StorageFull

    await house.let_in("alice")
    with monkeypatch.context() as patch:
        patch.setattr("app.db.store.run_batch", full)
        answer = await house.create("alice", "k")

    figures = await figures_of(house)

    check_problem(answer, 503, "storage_full")
    assert figures.value("cabinet_batches_failed_total", reason="storage_full") == 1


async def test_stages_show_their_queue_their_oldest_and_their_dead_letters(shop: Shop) -> None:
    await shop.make_dead("no card", "no card")
    await shop.make()
    await shop.post("/v1/stages/export/pause", {"reason": "moving"})
    shop.clock.move(90)

    figures = await figures_of(shop.house)

    assert figures.value("cabinet_stage_tasks", stage="parse", status="queued") == 1
    assert figures.value("cabinet_stage_oldest_due_seconds", stage="parse") == 90
    assert figures.by("cabinet_stage_dead_letters", "stage") == {"parse": 0, "charge": 2, "export": 0}
    assert figures.by("cabinet_stage_paused", "stage") == {"parse": 0, "charge": 0, "export": 1}


async def test_a_task_waits_at_a_stage_since_it_came_there_not_since_it_was_created(shop: Shop) -> None:
    await shop.make()
    shop.clock.move(1_000)
    await shop.worker.step()
    shop.clock.move(7)

    figures = await figures_of(shop.house)

    assert figures.value("cabinet_stage_oldest_due_seconds", stage="charge") == 7


async def test_a_task_that_is_not_due_does_not_wait(shop: Shop) -> None:
    await shop.make({"parse": {"snooze": 60}})
    await shop.worker.step()

    figures = await figures_of(shop.house)

    assert figures.value("cabinet_stage_tasks", stage="parse", status="queued") == 1
    assert figures.value("cabinet_stage_oldest_due_seconds", stage="parse") == 0


async def test_a_pause_of_everything_pauses_every_stage(shop: Shop) -> None:
    await shop.post("/v1/stages/pause", {"reason": "moving"})

    figures = await figures_of(shop.house)

    assert set(figures.by("cabinet_stage_paused", "stage").values()) == {1}


async def test_stages_that_the_pipeline_has_lost_are_shown_as_one(shop: Shop) -> None:
    await shop.make()
    lost = type(shop.machine)().pipeline()
    smaller = type(lost)([stage for stage in lost.stages if stage.name == "export"])
    shop.house.container._pipeline = smaller

    figures = await figures_of(shop.house)

    assert figures.by("cabinet_stage_tasks", "stage") == {GONE: 1}
    assert set(figures.by("cabinet_stage_paused", "stage")) == {"export", GONE}


async def test_the_file_its_log_and_the_disk_are_measured(house: House) -> None:
    figures = await figures_of(house)

    assert figures.value("cabinet_file_bytes", file="database") == house.container.settings.db_path.stat().st_size
    assert (figures.value("cabinet_file_bytes", file="wal") or 0) > 0
    assert (figures.value("cabinet_disk_free_bytes", file="database") or 0) > 0
    assert figures.value("cabinet_ready") == 1


async def test_in_memory_there_is_no_file_to_measure(tmp_path: Path) -> None:
    async with open_house(tmp_path, use_sqlite=False) as house:
        figures = await figures_of(house)

    assert figures.by("cabinet_file_bytes", "file") == {}
    assert figures.value("cabinet_sampled") == 1


async def test_readiness_that_goes_down_shows(house: House) -> None:
    house.container.drain()

    assert (await figures_of(house)).value("cabinet_ready") == 0


async def test_a_database_without_an_answer_leaves_the_queue_out_and_says_so(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: Any) -> None:
        raise StorageBusy

    monkeypatch.setattr(sampling, "standing_of_stages", busy)

    figures = await figures_of(house)

    assert figures.value("cabinet_sampled") == 0
    assert figures.by("cabinet_stage_tasks", "stage") == figures.by("cabinet_stage_paused", "stage") == {}
    assert figures.value("cabinet_ready") == 1


async def test_a_database_that_hangs_leaves_the_queue_out_too(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(sampling, "READ_SECONDS", 0.01)
    monkeypatch.setattr(house.container.store, "read", hang)

    figures = await figures_of(house)

    assert figures.value("cabinet_sampled") == 0
    assert figures.by("cabinet_stage_tasks", "stage") == {}


async def test_many_who_ask_share_a_sample_until_it_is_old(shop: Shop) -> None:
    seconds = HandSeconds()
    sampled = Sampling(shop.house.store, shop.house.container.pipeline.shape, monotonic=seconds)
    await sampled.stages()
    await shop.make()

    seconds.move(SAMPLE_SECONDS - 1)
    young = await sampled.stages()
    seconds.move(1)
    old = await sampled.stages()

    assert young is not None
    assert old is not None
    assert (young["parse"].tasks, old["parse"].tasks) == ({}, {"queued": 1})


@pytest.mark.parametrize("path", ["/", "/metrics/", "/health", "/v1/tasks"])
async def test_the_page_has_nothing_but_metrics(house: House, path: str) -> None:
    check_problem(await ask(house.container.metrics_application(), path=path), 404, "not_found")


async def test_the_page_is_only_read(house: House) -> None:
    answer = await ask(house.container.metrics_application(), "POST", "/metrics")

    check_problem(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD"


async def test_the_api_itself_shows_no_metrics_to_anybody(house: House) -> None:
    await house.let_in("root", Role.SUPER_ADMIN)

    answer = await house.client.get("/metrics", headers=house.headers("root"))

    check_problem(answer, 404, "not_found")
