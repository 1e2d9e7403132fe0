"""Metrics of a real process: on a port of their own, for the server and for a worker alone, or not at all."""

from tests.e2e.home import Home, until
from tests.support.metrics import Figures
from tests.support.processes import ServiceProcess, service


async def figures_of(running: ServiceProcess) -> Figures:
    """Return what a process shows on its metrics port."""
    await until(lambda: running.events("serving_metrics"))
    [told] = running.events("serving_metrics")
    async with running.client() as client:
        answer = await client.get(told["url"])
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Figures(answer.text)


async def test_a_service_shows_what_it_has_done_on_another_port_than_the_api(home: Home) -> None:
    async with service(home.folder, METRICS_PORT="0") as running:
        task_id = (await home.create(running, "key-1")).json()["id"]
        await home.ended(running, task_id)

        figures = await figures_of(running)
        async with running.client(home.tokens["root"]) as client:
            answer = await client.get("/metrics")

    assert answer.status_code == 404
    assert figures.value("cabinet_http_requests_total", method="POST", route="/v1/tasks", status="201") == 1
    assert figures.by("cabinet_attempts_total", "outcome") == {"succeeded": 5}
    assert figures.by("cabinet_claims_total", "stage") == dict.fromkeys(
        ("parse", "photos", "publish", "export", "cleanup"), 1
    )
    assert figures.value("cabinet_worker_slots", state="total") == 4
    assert figures.value("cabinet_ready") == 1
    assert (figures.value("process_resident_memory_bytes") or 0) > 0
    assert len(figures.by("cabinet_build_info", "engine_version")) == 1


async def test_leases_of_a_service_that_was_killed_are_counted_when_they_are_taken_back(home: Home) -> None:
    gated = {"PIPELINE": "tests.support.pipelines:gated"}
    async with service(home.folder, **gated) as running:
        task_id = (await home.create(running, "key-1")).json()["id"]
        await home.until_running(task_id)
        await running.kill()
    home.open_gate()

    async with service(home.folder, METRICS_PORT="0", **gated) as again:
        figures = await figures_of(again)

    assert figures.value("cabinet_leases_taken_back_total") == 1


async def test_a_worker_alone_shows_its_metrics_too(home: Home) -> None:
    async with service(home.folder, "worker", METRICS_PORT="0") as working:
        figures = await figures_of(working)
        code = await working.terminate()

    assert figures.value("cabinet_worker_slots", state="total") == 4
    assert figures.by("cabinet_http_requests_total", "route") == {}
    assert code == 0


async def test_without_a_port_there_are_no_metrics(home: Home) -> None:
    async with service(home.folder) as running:
        pass

    assert running.events("serving_metrics") == []
