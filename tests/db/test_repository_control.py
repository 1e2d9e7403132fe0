"""Pauses, the workers that are alive, and the folders that pruning leaves to be removed (design §7)."""

from collections.abc import Mapping

import pytest

from app.clock import END_OF_TIME, Timestamp, later
from app.domain.control import EVERYTHING, Heartbeat, LivingWorker, Pause
from app.domain.jobs import Lease
from app.domain.users import Role
from app.errors import ConstraintViolated
from app.ids import new_id
from app.unit import UnitOfWork
from tests.db.records import AFTER, FIRST, STAGES, Database
from tests.support.database import NOW

# Pauses --------------------------------------------------------------------------------------------------------------


async def pause(database: Database, stage: str, *, by: str, reason: str = "Look into it.") -> None:
    """Pause a stage."""
    await database.write(lambda work: work.pauses.pause(stage, reason=reason, paused_by=by, now=NOW))


async def paused(database: Database) -> frozenset[str]:
    """Return what is paused."""
    return await database.read(lambda work: work.pauses.stages())


async def test_a_pause_tells_who_paused_it_and_why(database: Database) -> None:
    admin = await database.user("admin@example.com", Role.ADMIN)

    await pause(database, "parse", by=admin.id)

    assert await database.read(lambda work: work.pauses.all()) == {
        "parse": Pause(
            stage="parse",
            reason="Look into it.",
            paused_by=admin.id,
            paused_at=NOW,
            subject="admin@example.com",
        )
    }


async def test_a_pause_that_is_there_already_stays_as_it_is(database: Database) -> None:
    first, second = await database.user("first", Role.ADMIN), await database.user("second", Role.ADMIN)
    await pause(database, "parse", by=first.id)
    before = await database.read(lambda work: work.pauses.all())

    await pause(database, "parse", by=second.id, reason="Me too.")

    assert await database.read(lambda work: work.pauses.all()) == before


async def test_each_stage_and_everything_have_a_pause_of_their_own(database: Database) -> None:
    admin = await database.user("admin@example.com", Role.ADMIN)
    for stage in ("parse", "photos", EVERYTHING):
        await pause(database, stage, by=admin.id)

    resumed = [await database.write(lambda work: work.pauses.resume("parse")) for _ in range(2)]

    assert resumed == [True, False]
    assert await paused(database) == {"photos", EVERYTHING}
    assert set(await database.read(lambda work: work.pauses.all())) == {"photos", EVERYTHING}


async def test_nothing_is_paused_by_nobody(database: Database) -> None:
    with pytest.raises(ConstraintViolated) as caught:
        await pause(database, "parse", by="nobody")

    assert caught.value.kind == "FOREIGN KEY"
    assert await paused(database) == frozenset()


# Workers -------------------------------------------------------------------------------------------------------------


def heartbeat(
    name: str = "worker-1", *, stuck: Mapping[str, int] | None = None, stages: Mapping[str, int | None] | None = None
) -> Heartbeat:
    """Make what a worker says about itself."""
    return Heartbeat(
        name=name, concurrency=8, stuck=stuck or {}, lost_leases=3_000_000_000, stages=stages or {"parse": None}
    )


async def beat(
    database: Database, said: Heartbeat, *, now: Timestamp = NOW, expires_at: Timestamp = AFTER
) -> None:  # fmt: skip
    """Let a worker say that it lives."""
    await database.write(lambda work: work.workers.beat(said, now=now, expires_at=expires_at))


async def alive(database: Database, now: Timestamp = NOW) -> list[LivingWorker]:
    """Return the workers that are alive."""
    return await database.read(lambda work: work.workers.alive(now=now))


async def test_a_worker_that_beats_is_alive_with_what_it_said_last(database: Database) -> None:
    said = heartbeat(stuck={"parse": 2}, stages={"parse": 3, "photos": None})
    await beat(database, heartbeat(), now=NOW)

    await beat(database, said, now=later(NOW, 10), expires_at=later(NOW, 70))

    assert await alive(database) == [
        LivingWorker(heartbeat=said, started_at=NOW, seen_at=later(NOW, 10), leased={}),
    ]


@pytest.mark.parametrize(("seconds", "names"), [(59.999999, ["late", "worker-1"]), (60, ["late"]), (90, [])])
async def test_a_worker_is_alive_until_its_time_is_over(database: Database, seconds: float, names: list[str]) -> None:
    await beat(database, heartbeat(), expires_at=later(NOW, 60))
    await beat(database, heartbeat("late"), expires_at=later(NOW, 90))

    living = await alive(database, later(NOW, seconds))

    assert [worker.heartbeat.name for worker in living] == names


@pytest.mark.parametrize("seconds", [59.999999, 60, 90])
async def test_workers_whose_time_is_over_are_forgotten_and_no_other(database: Database, seconds: float) -> None:
    await beat(database, heartbeat(), expires_at=later(NOW, 60))
    await beat(database, heartbeat("late"), expires_at=later(NOW, 90))
    moment = later(NOW, seconds)
    living = await alive(database, moment)

    await database.write(lambda work: work.workers.remove_dead(moment))

    assert await alive(database) == living
    assert len(await database.rows("SELECT name FROM workers")) == len(living)


async def test_all_workers_are_forgotten_at_the_end_of_time(database: Database) -> None:
    await beat(database, heartbeat(), expires_at=END_OF_TIME)

    await database.write(lambda work: work.workers.remove_dead(END_OF_TIME))

    assert await database.rows("SELECT name FROM workers") == []


async def test_a_worker_that_stops_is_forgotten_at_once(database: Database) -> None:
    await beat(database, heartbeat())
    await beat(database, heartbeat("other"))

    await database.write(lambda work: work.workers.remove("worker-1"))
    await database.write(lambda work: work.workers.remove("worker-1"))

    assert [worker.heartbeat.name for worker in await alive(database)] == ["other"]


async def test_a_living_worker_shows_what_it_has_leased_by_stage(database: Database) -> None:
    tasks = [await database.task() for _ in range(5)]
    await database.rows("UPDATE jobs SET stage = 'photos' WHERE task_id = :id RETURNING task_id", id=tasks[0])

    async def claim(work: UnitOfWork) -> None:
        for worker, limit in (("worker-1", 3), ("dead", 1)):
            lease = Lease(token=new_id(), worker=worker, expires_at=AFTER)
            await work.jobs.claim(lease, stages=STAGES, now=NOW, limit=limit)

    await database.write(claim)
    await beat(database, heartbeat())
    await beat(database, heartbeat("idle"))

    living = {worker.heartbeat.name: worker.leased for worker in await alive(database)}

    assert living == {"worker-1": {"photos": 1, "parse": 2}, "idle": {}}


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("concurrency = 0", "workers_concurrency_counts"),
        ("lost_leases = -1", "workers_lost_leases_counts"),
    ],
)
async def test_a_worker_that_cannot_be_is_refused(database: Database, change: str, constraint: str) -> None:
    await beat(database, heartbeat())

    with pytest.raises(ConstraintViolated) as caught:
        await database.rows(f"UPDATE workers SET {change} RETURNING name")

    assert (caught.value.kind, caught.value.constraint) == ("CHECK", constraint)


# Folders -------------------------------------------------------------------------------------------------------------


async def folders(database: Database, after: str = FIRST, limit: int = 9) -> list[str]:
    """Return the folders that are still to be removed."""
    return await database.read(lambda work: work.pruned_folders.next(after=after, limit=limit))


async def note(database: Database, *task_ids: str) -> None:
    """Note down the folders of tasks that are gone."""

    async def body(work: UnitOfWork) -> None:
        for task_id in task_ids:
            await work.pruned_folders.add(task_id, now=NOW)

    await database.write(body)


async def test_folders_are_walked_in_order_from_a_task_on(database: Database) -> None:
    await note(database, "c", "a", "b")

    walked = [await folders(database), await folders(database, "a"), await folders(database, FIRST, 2)]

    assert walked == [["a", "b", "c"], ["b", "c"], ["a", "b"]]


async def test_a_folder_is_noted_down_once_and_goes_when_it_is_removed(database: Database) -> None:
    await note(database, "a", "b", "c", "a")

    await database.write(lambda work: work.pruned_folders.remove(["a", "c", "never there"]))

    assert await folders(database) == ["b"]


async def test_to_remove_no_folder_leaves_all(database: Database) -> None:
    await note(database, "a")

    await database.write(lambda work: work.pruned_folders.remove([]))

    assert await folders(database) == ["a"]
