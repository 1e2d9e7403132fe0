"""What the database tells an operator who looks for faults: gathered from real rows, under a clock that is held."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.clock import Timestamp, later
from app.domain.control import Heartbeat
from app.services import examination
from app.services.examination import PROBE, Examine, Examined
from app.services.readiness import write_probe
from tests.db.records import ENGINES, STAGES, Database, open_database
from tests.support.database import NOW

SLACK, PATIENCE = 60.0, 600.0


@pytest.fixture(params=ENGINES)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """An empty database with the whole schema."""
    async with open_database(request.param, tmp_path) as opened:
        yield opened


async def examine(database: Database, **changes: Any) -> Examined:
    """Look at a database."""
    values: dict[str, Any] = {"stages": STAGES, "slack_seconds": SLACK, "patience_seconds": PATIENCE}
    command = Examine(**(values | changes))
    return await database.read(lambda work: examination.examine(work, command))


def ago(seconds: float) -> Timestamp:
    """Return a moment before the present of the tests."""
    return later(NOW, -seconds)


async def came(database: Database, task_id: str, seconds: float) -> None:
    """Let a task have come to its stage some time ago."""
    await database.rows(
        "UPDATE pipeline_states SET updated_at = :moment WHERE task_id = :task_id RETURNING task_id",
        moment=ago(seconds), task_id=task_id,
    )  # fmt: skip


async def test_of_an_empty_database_there_is_nothing_to_say(database: Database) -> None:
    seen = await examine(database)

    assert seen == Examined(
        probed_at=None, newest={}, overdue_leases=[], overdue_cancels=[], workers=[], due_stages=frozenset(),
        waiting_since={}, counts={}, pauses={}, unknown_stages={}, dead_letters={},
    )  # fmt: skip


async def test_the_last_probe_is_the_one_that_a_serving_process_writes(database: Database) -> None:
    await database.write(write_probe)
    await database.write(lambda work: work.probes.write("other", now=later(NOW, 60)))

    seen = await examine(database)

    assert seen.probed_at == NOW
    assert await database.read(lambda work: work.probes.last(PROBE)) == NOW
    assert await database.read(lambda work: work.probes.last("none")) is None


async def test_the_newest_times_are_those_of_probe_task_and_worker_be_it_dead(database: Database) -> None:
    heartbeat = Heartbeat(name="w", concurrency=1, stuck={}, lost_leases=0, stages={})
    await database.task()
    await database.write(write_probe)
    await database.write(lambda work: work.workers.beat(heartbeat, now=ago(500), expires_at=ago(400)))

    seen = await examine(database)

    assert set(seen.newest.values()) == {NOW, ago(500)}
    assert len(seen.newest) == 3
    assert seen.workers == []


@pytest.mark.parametrize(("waited", "is_told"), [(PATIENCE - 1, False), (PATIENCE, True), (9_000.0, True)])
async def test_a_job_waits_too_long_from_its_patience_on(database: Database, waited: float, is_told: bool) -> None:
    task_id = await database.task(run_at=ago(waited))
    await came(database, task_id, waited + 5)

    seen = await examine(database)

    assert seen.waiting_since == ({"parse": ago(waited)} if is_told else {})
    assert seen.due_stages == {"parse"}
    assert seen.counts == {"parse": 1}


async def test_a_task_that_came_to_its_stage_just_now_has_not_waited_there_however_old_its_place_is(
    database: Database,
) -> None:
    old, older = await database.task(run_at=ago(9_000)), await database.task(run_at=ago(9_500))
    await came(database, old, 700)
    await came(database, older, 10)

    seen = await examine(database)

    assert seen.waiting_since == {"parse": ago(700)}


async def test_a_stage_where_every_task_is_new_has_nobody_who_waits_too_long(database: Database) -> None:
    await came(database, await database.task(run_at=ago(9_000)), PATIENCE - 1)

    seen = await examine(database)

    assert seen.waiting_since == {}


async def test_what_is_leased_or_not_due_yet_does_not_wait(database: Database) -> None:
    leased, later_on = await database.task(run_at=ago(9_000)), await database.task(run_at=later(NOW, 60))
    await database.lease(limit=1)
    for task_id in (leased, later_on):
        await came(database, task_id, 9_000)

    seen = await examine(database)

    assert seen.waiting_since == {}
    assert seen.due_stages == frozenset()


@pytest.mark.parametrize(("seconds", "is_told"), [(-30.0, False), (SLACK - 1, False), (SLACK, True)])
@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_what_should_have_been_taken_back_is_overdue_after_some_slack(
    database: Database, seconds: float, is_told: bool, is_cancelled: bool
) -> None:
    task_id = await database.task()
    ended = {"lease_expires_at": later(NOW, 60), "cancel_by": ago(seconds)}
    if not is_cancelled:
        ended = {"lease_expires_at": ago(seconds), "cancel_by": later(NOW, 60)}
    await database.lease()
    await database.rows(
        "UPDATE jobs SET lease_expires_at = :lease_expires_at, cancel_by = :cancel_by RETURNING task_id", **ended
    )

    seen = await examine(database)

    found = seen.overdue_cancels if is_cancelled else seen.overdue_leases
    assert [job.task_id for job in found] == ([task_id] if is_told else [])
    assert [] in (seen.overdue_leases, seen.overdue_cancels)


@pytest.mark.parametrize(("stages", "expected"), [(STAGES, {}), (("photos",), {"parse": 1}), (None, {})])
async def test_stages_are_lost_only_if_the_pipeline_is_known(
    database: Database, stages: tuple[str, ...] | None, expected: dict[str, int]
) -> None:
    await database.task()

    seen = await examine(database, stages=stages)

    assert seen.unknown_stages == expected


async def test_pauses_and_dead_letters_are_told_by_stage(database: Database) -> None:
    user = await database.user()
    task_id = await database.task(user)
    await database.write(lambda work: work.pauses.pause("photos", reason="r", paused_by=user.id, now=NOW))
    await database.rows(
        "INSERT INTO dead_letters VALUES (:task_id, 'parse', 'k', 'm', 's', 'p', :now) RETURNING task_id",
        task_id=task_id, now=NOW,
    )  # fmt: skip

    seen = await examine(database)

    assert (seen.pauses["photos"].subject, seen.dead_letters) == (user.subject, {"parse": 1})
