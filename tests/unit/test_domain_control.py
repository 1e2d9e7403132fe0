"""Control: whether a living worker has room for an attempt of a stage."""

from collections.abc import Mapping

import pytest

from app.clock import Timestamp
from app.domain.control import EVERYTHING, Heartbeat, LivingWorker

MOMENT = Timestamp("2026-11-22T20:19:00.000000Z")


def worker(leased: Mapping[str, int], *, stuck: Mapping[str, int]) -> LivingWorker:
    """Make a worker of four slots, of which `photos` may take two."""
    heartbeat = Heartbeat(
        name="worker-1", concurrency=4, stuck=stuck, lost_leases=0, stages={"parse": None, "photos": 2}
    )
    return LivingWorker(heartbeat=heartbeat, started_at=MOMENT, seen_at=MOMENT, leased=leased)


@pytest.mark.parametrize(
    ("leased", "stuck", "taken"),
    [
        ({}, {}, 0),
        ({"parse": 2}, {}, 2),
        ({"parse": 1, "photos": 2}, {}, 3),
        ({}, {"parse": 2}, 2),
        ({"parse": 1}, {"parse": 1, "photos": 2}, 4),
    ],
)
def test_a_slot_is_taken_by_what_is_leased_and_by_what_is_stuck(
    leased: dict[str, int], stuck: dict[str, int], taken: int
) -> None:  # fmt: skip
    assert worker(leased, stuck=stuck).slots_taken == taken


@pytest.mark.parametrize(
    ("leased", "stuck", "parse", "photos"),
    [
        ({}, {}, True, True),
        ({"parse": 3}, {}, True, True),
        ({"parse": 4}, {}, False, False),
        ({"parse": 9}, {}, False, False),
        ({"photos": 1}, {}, True, True),
        ({"photos": 2}, {}, True, False),
        ({"photos": 2, "parse": 2}, {}, False, False),
        ({}, {"parse": 3}, True, True),
        ({}, {"parse": 4}, False, False),
        ({"photos": 1}, {"parse": 3}, False, False),
        ({}, {"photos": 2}, True, False),
        ({"photos": 1}, {"photos": 1}, True, False),
        ({}, {"gone": 3}, True, True),
    ],
)
def test_a_worker_has_room_within_its_slots_and_the_limit_of_the_stage(
    leased: dict[str, int], stuck: dict[str, int], parse: bool, photos: bool
) -> None:
    living = worker(leased, stuck=stuck)

    assert (living.has_room_for("parse"), living.has_room_for("photos")) == (parse, photos)


def test_what_stands_for_every_stage_is_the_name_of_none() -> None:
    assert not EVERYTHING.isidentifier()
