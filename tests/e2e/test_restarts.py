"""Death at any moment: after a restart work is taken up at once, every task ends, each stage succeeds exactly once."""

from contextlib import suppress

import httpx2
import pytest

from app.domain.retry import RetryPolicy
from tests.e2e.home import Home
from tests.support.pipelines import NAMES
from tests.support.processes import run_cabinet, service

DEADLY = {"PIPELINE": "tests.support.pipelines:deadly"}
GATED = {"PIPELINE": "tests.support.pipelines:gated"}
EXITING = {"PIPELINE": "tests.support.pipelines:exiting"}

CRASHES = RetryPolicy().max_crashes

HALF_AN_HOUR = {"WORKER_LEASE_SECONDS": "1800"}
"""Longer than any test waits: work is only taken up in time by taking leases back."""


def successes(home: Home) -> dict[tuple[str, str], int]:
    """Return how often each stage of each task succeeded."""
    found = home.rows(
        "SELECT task_id, stage, COUNT(*) FROM attempts WHERE outcome = 'succeeded' GROUP BY task_id, stage"
    )
    return {(task, stage): count for task, stage, count in found}


@pytest.mark.parametrize(
    ("dies", "stage", "runs"),
    [("before_run", "parse", 1), ("after_run", "photos", 2), ("after_record", None, 1)],
)
async def test_a_killed_process_loses_no_task_and_repeats_no_success(
    home: Home, dies: str, stage: str | None, runs: int
) -> None:
    async with service(home.folder, DIES=dies, **DEADLY, **HALF_AN_HOUR) as running:
        with suppress(httpx2.TransportError):  # it may die before it has answered
            await home.create(running, "key-1")
        assert await running.ended() == -9

    async with service(home.folder, **DEADLY, **HALF_AN_HOUR) as again:
        created = await home.create(again, "key-1")
        task_id = created.json()["id"]
        standing = await home.ended(again, task_id)

    assert created.headers["idempotent-replayed"] == "true"
    assert standing["status"] == "succeeded"
    assert successes(home) == {(task_id, name): 1 for name in NAMES}
    lost = home.rows("SELECT stage, attempt, error_kind FROM attempts WHERE outcome = 'lease_expired'")
    assert lost == ([] if stage is None else [(stage, 1, "lease_expired")])
    assert home.rows("SELECT task_id FROM attempts WHERE outcome IS NULL OR attempt <> 1") == []
    lines = (home.artifacts / task_id / "photos.runs").read_text().splitlines()
    assert len(lines) == runs


async def test_a_process_killed_during_runs_takes_all_of_them_up_again_at_once(home: Home) -> None:
    async with service(home.folder, **GATED, **HALF_AN_HOUR) as running:
        tasks = [(await home.create(running, f"key-{n}")).json()["id"] for n in range(6)]
        for task_id in tasks[:4]:
            await home.until_running(task_id)
        await running.kill()
    home.open_gate()

    async with service(home.folder, **GATED, **HALF_AN_HOUR) as again:
        standings = [await home.ended(again, task_id) for task_id in tasks]
        taken_back = again.events("lease_taken_back")

    assert {line["task_id"] for line in taken_back} == set(tasks[:4])
    assert {standing["status"] for standing in standings} == {"succeeded"}
    assert successes(home) == {(task_id, name): 1 for task_id in tasks for name in NAMES}
    assert home.rows("SELECT COUNT(*) FROM attempts WHERE outcome = 'lease_expired'") == [(4,)]
    assert home.rows("SELECT task_id FROM jobs") == []


async def test_a_handler_that_ends_the_process_ends_among_the_dead_letters_and_can_be_rescued(home: Home) -> None:
    async with service(home.folder, WORKER_EMBEDDED="false", **EXITING) as running:
        task_id = (await home.create(running, "key-1")).json()["id"]
        await running.terminate()

    codes = [run_cabinet(home.folder, "worker", **EXITING).returncode for _ in range(CRASHES)]

    rescue = {"reason": "the library was mended", "override_dead_letter": True}
    async with service(home.folder) as better, better.client(home.tokens["root"]) as client:
        dead = await home.ended(better, task_id)
        outcomes = home.rows("SELECT outcome FROM attempts")
        rescued = await client.post(f"/v1/tasks/{task_id}/retry", json=rescue)
        standing = await home.ended(better, task_id)
    assert codes == [7] * CRASHES
    assert (dead["status"], dead["is_dead_letter"], dead["last_error_kind"]) == ("failed", True, "lease_expired")
    assert outcomes == [("lease_expired",)] * CRASHES
    assert rescued.status_code == 200
    assert standing["status"] == "succeeded"
