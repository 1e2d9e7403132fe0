"""Metrics: what is counted, under which names, and that no label can grow without a bound."""

from prometheus_client.parser import text_string_to_metric_families

from app.metrics import GONE, Metrics, Sample, StageSample
from tests.support.metrics import NOTHING, Figures, counted


def request(metrics: Metrics, *, method: str = "GET", route: str = "/v1/me", status: int = 200, **more: str) -> None:
    metrics.request_ended(method=method, route=route, status=status, seconds=0.02, denial=more.get("denial"))


def test_requests_are_counted_by_route_and_status_and_timed() -> None:
    metrics = Metrics()

    request(metrics)
    request(metrics)
    request(metrics, status=403, denial="scope_missing")

    figures = counted(metrics)
    assert figures.value("cabinet_http_requests_total", method="GET", route="/v1/me", status="200") == 2
    assert figures.value("cabinet_http_requests_total", method="GET", route="/v1/me", status="403") == 1
    assert figures.value("cabinet_http_request_seconds_count", method="GET", route="/v1/me") == 3
    assert figures.value("cabinet_http_request_seconds_bucket", method="GET", route="/v1/me", le="0.01") == 0
    assert figures.value("cabinet_http_request_seconds_bucket", method="GET", route="/v1/me", le="0.025") == 3
    assert figures.by("cabinet_denials_total", "reason") == {"scope_missing": 1}


def test_methods_that_callers_invent_share_one_label() -> None:
    metrics = Metrics()

    for number in range(50):
        request(metrics, method=f"M{number}")

    assert counted(metrics).by("cabinet_http_requests_total", "method") == {"other": 50}


def test_a_transaction_tells_its_units_and_its_commit() -> None:
    metrics = Metrics()

    metrics.unit_ended("write", waited_seconds=0.001, run_seconds=0.002)
    metrics.unit_ended("write", waited_seconds=0.003, run_seconds=0.002)
    metrics.batch_committed(2, commit_seconds=0.004)
    metrics.batch_failed("storage_full")

    figures = counted(metrics)
    assert figures.value("cabinet_unit_wait_seconds_sum", kind="write") == 0.004
    assert figures.value("cabinet_unit_run_seconds_count", kind="write") == 2
    assert figures.value("cabinet_batch_units_sum") == 2
    assert figures.value("cabinet_commit_seconds_sum") == 0.004
    assert figures.value("cabinet_batches_failed_total", reason="storage_full") == 1


def test_what_alerts_watch_begins_at_0() -> None:
    metrics = Metrics()

    metrics.expect(["parse"])

    figures = counted(metrics)
    assert figures.value("cabinet_dead_letters_total", stage="parse") == 0
    assert figures.value("cabinet_leases_lost_total") == 0
    assert figures.by("cabinet_batches_failed_total", "reason") == {
        "storage_full": 0,
        "storage_busy": 0,
        "storage_failed": 0,
    }


def test_dead_letters_of_stages_that_are_gone_share_one_label() -> None:
    metrics = Metrics()

    metrics.dead_letter("old", is_known=False)
    metrics.dead_letter("older", is_known=False)

    assert counted(metrics).by("cabinet_dead_letters_total", "stage") == {GONE: 2}


def test_what_is_sampled_is_shown_as_it_is_now_and_nothing_of_before() -> None:
    metrics = Metrics()
    stage = StageSample(tasks={"queued": 3}, dead_letters=2, oldest_due_seconds=7.5, is_paused=True)
    before = Sample(
        is_ready=True,
        stages={"parse": stage},
        slots={"total": 4, "running": 1},
        units_waiting={"write": 5},
        file_bytes={"wal": 100},
        disk_free_bytes=1_000,
    )

    first = Figures(metrics.text(before).decode())
    second = Figures(metrics.text(NOTHING).decode())

    assert first.value("cabinet_stage_tasks", stage="parse", status="queued") == 3
    assert first.value("cabinet_stage_dead_letters", stage="parse") == 2
    assert first.value("cabinet_stage_oldest_due_seconds", stage="parse") == 7.5
    assert first.value("cabinet_stage_paused", stage="parse") == 1
    assert first.value("cabinet_worker_slots", state="running") == 1
    assert first.value("cabinet_units_waiting", kind="write") == 5
    assert first.value("cabinet_file_bytes", file="wal") == 100
    assert first.value("cabinet_disk_free_bytes", file="database") == 1_000
    assert second.by("cabinet_stage_tasks", "stage") == second.by("cabinet_worker_slots", "state") == {}


def test_the_figures_of_two_processes_are_their_own() -> None:
    one, other = Metrics(), Metrics()

    request(one)

    assert counted(other).by("cabinet_http_requests_total", "route") == {}


def test_every_metric_says_what_it_is() -> None:
    families = list(text_string_to_metric_families(Metrics().text(NOTHING).decode()))

    assert all(family.documentation and family.type != "unknown" for family in families)
    assert not [each.name for family in families for each in family.samples if each.name.endswith("_created")]
