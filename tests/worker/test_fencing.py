"""Fencing: a word through a lost lease changes nothing; crashes are no attempts; the oldest task comes first."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import pytest

from app.domain.control import Heartbeat
from app.domain.jobs import Claim, Failure, LeaseHeld
from app.domain.retry import GiveUp, RetryIn, RetryPolicy
from app.ids import new_id
from app.services import leases, queue
from app.services.leases import TAKE_BACK_LIMIT, TakenBack
from app.services.queue import Claimed, ClaimWork, Recorded
from app.unit import UnitOfWork
from tests.support.house import STAGES
from tests.worker.desk import Desk

FAILURE = Failure(kind="broken", message="It broke.")
FIRST, SECOND = STAGES[:2]

LEASE_SECONDS = 30
MAX_CRASHES = RetryPolicy().max_crashes
HEARTBEAT = Heartbeat(name="one", concurrency=1, stuck={}, lost_leases=0, stages={})

WORDS: dict[str, Callable[[UnitOfWork, Claim], Awaitable[Recorded]]] = {
    "succeed": lambda work, claim: queue.succeed(work, claim, next_stage=SECOND, outputs_json='{"late":1}'),
    "succeed at last": lambda work, claim: queue.succeed(work, claim, next_stage=None, outputs_json='{"late":1}'),
    "fail": lambda work, claim: queue.fail(work, claim, FAILURE, RetryIn(1)),
    "give up": lambda work, claim: queue.fail(work, claim, FAILURE, GiveUp()),
    "snooze": lambda work, claim: queue.snooze(work, claim, delay_seconds=1),
    "release": queue.release,
}


async def held(
    desk: Desk, claims: Sequence[Claim], *, lease_seconds: float = LEASE_SECONDS
) -> Mapping[LeaseHeld, Sequence[Claim]]:
    """Ask to hold leases for longer, as a heartbeat does."""
    return await desk.say(lambda work: leases.hold(work, claims, HEARTBEAT, lease_seconds=lease_seconds))


async def taken_back(desk: Desk, claim: Claim) -> None:
    """The lease ran out and was taken back."""
    desk.clock.move(LEASE_SECONDS + 1)
    assert await desk.take_back() == [TakenBack(claim.task_id, claim.stage, 1, Recorded.DONE)]


async def taken_over(desk: Desk, claim: Claim) -> None:
    """Somebody else runs the same stage now."""
    await taken_back(desk, claim)
    [other] = await desk.claim(worker="two")
    assert (other.stage, other.attempt) == (claim.stage, claim.attempt)


async def overtaken(desk: Desk, claim: Claim) -> None:
    """Somebody else has finished the stage; the task waits in the next one."""
    await taken_back(desk, claim)
    [other] = await desk.claim(worker="two")
    await desk.say(lambda work: queue.succeed(work, other, next_stage=SECOND, outputs_json='{"n":2}'))


async def ended(desk: Desk, claim: Claim) -> None:
    """Somebody else has ended the task."""
    await taken_back(desk, claim)
    [other] = await desk.claim(worker="two")
    await desk.say(lambda work: queue.succeed(work, other, next_stage=None, outputs_json='{"n":2}'))


async def said_already(desk: Desk, claim: Claim) -> None:
    """The same worker has said how the attempt ended before."""
    await desk.say(lambda work: queue.succeed(work, claim, next_stage=SECOND, outputs_json='{"n":2}'))


LOSSES = (taken_back, taken_over, overtaken, ended, said_already)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("word", WORDS)
async def test_a_word_through_a_lost_lease_changes_nothing(
    desk: Desk, word: str, loss: Callable[[Desk, Claim], Awaitable[None]]
) -> None:
    claim = await desk.claimed_task()
    await loss(desk, claim)
    before = await desk.everything()

    recorded = await desk.say(lambda work: WORDS[word](work, claim))

    assert recorded is Recorded.LEASE_LOST
    assert await desk.everything() == before


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
async def test_a_lost_lease_cannot_be_held_for_longer(
    desk: Desk, loss: Callable[[Desk, Claim], Awaitable[None]]
) -> None:
    claim = await desk.claimed_task()
    await loss(desk, claim)
    before = await desk.everything()

    told = await held(desk, [claim])

    assert told[LeaseHeld.LOST] == [claim]
    assert await desk.everything() == before


async def test_one_lost_lease_does_not_cost_its_neighbours_of_the_same_claim(desk: Desk) -> None:
    for _ in range(3):
        await desk.add_task()
    claims = await desk.claim(limit=3)
    await desk.say(lambda work: queue.release(work, claims[1]))

    told = await held(desk, claims, lease_seconds=60)

    assert told == {LeaseHeld.HELD: [claims[0], claims[2]], LeaseHeld.LOST: [claims[1]], LeaseHeld.CANCELLED: []}
    until = await desk.rows("SELECT lease_expires_at FROM jobs WHERE lease_token IS NOT NULL")
    assert until == [("2026-11-22T20:20:00.000000Z",)] * 2


async def test_a_lease_is_not_taken_back_before_it_has_run_out(desk: Desk) -> None:
    claim = await desk.claimed_task()
    desk.clock.move(LEASE_SECONDS - 0.000001)

    expired = await desk.take_back()

    assert expired == []
    assert await desk.state(claim.task_id) == (FIRST, "running", 1)


async def test_a_lease_that_was_held_for_longer_runs_out_later(desk: Desk) -> None:
    claim = await desk.claimed_task()
    desk.clock.move(LEASE_SECONDS - 1)
    assert (await held(desk, [claim]))[LeaseHeld.HELD] == [claim]
    desk.clock.move(LEASE_SECONDS - 1)

    expired = await desk.take_back()

    assert expired == []


# Crashes -------------------------------------------------------------------------------------------------------------


async def test_a_lost_worker_is_a_crash_and_not_an_attempt(desk: Desk) -> None:
    claim = await desk.claimed_task()
    desk.clock.move(LEASE_SECONDS)

    expired = await desk.take_back()

    assert expired == [TakenBack(claim.task_id, FIRST, 1, Recorded.DONE)]
    assert await desk.state(claim.task_id) == (FIRST, "queued", 0)
    assert await desk.one("SELECT crashes, lease_token FROM jobs") == (1, None)
    assert await desk.history(claim.task_id) == [(FIRST, 1, "lease_expired", "lease_expired")]


async def test_too_many_crashes_of_one_stage_make_a_dead_letter(desk: Desk) -> None:
    task_id = await desk.add_task()

    endings = []
    for _ in range(MAX_CRASHES):
        [claim] = await desk.claim()
        assert claim.attempt == 1
        desk.clock.move(LEASE_SECONDS)
        endings += await desk.take_back()

    went_on = [TakenBack(task_id, FIRST, crashes, Recorded.DONE) for crashes in range(1, MAX_CRASHES)]
    assert endings == [*went_on, TakenBack(task_id, FIRST, MAX_CRASHES, Recorded.DEAD_LETTER)]
    assert await desk.one("SELECT status, is_terminal, last_error_kind FROM pipeline_states") == (
        "dead_letter",
        1,
        "lease_expired",
    )
    assert await desk.task_status(task_id) == "failed"
    assert await desk.rows("SELECT task_id FROM jobs") == []
    assert await desk.history(task_id) == [(FIRST, 1, "lease_expired", "lease_expired")] * MAX_CRASHES


async def test_crashes_are_counted_for_each_stage_anew(desk: Desk) -> None:
    await desk.add_task()
    for _ in range(MAX_CRASHES - 1):
        await desk.claim()
        await desk.take_back_all()
    [claim] = await desk.claim()

    await desk.say(lambda work: queue.succeed(work, claim, next_stage=SECOND, outputs_json="{}"))

    assert await desk.one("SELECT stage, crashes FROM jobs") == (SECOND, 0)


async def test_an_attempt_that_was_given_back_is_no_crash(desk: Desk) -> None:
    await desk.add_task()

    for _ in range(MAX_CRASHES + 1):
        [claim] = await desk.claim()
        await desk.say(partial(queue.release, claim=claim))

    assert await desk.one("SELECT crashes FROM jobs") == (0,)


async def test_a_failure_keeps_its_count_over_a_crash(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.say(lambda work: queue.fail(work, claim, FAILURE, RetryIn(0)))
    await desk.claim()
    await desk.take_back_all()

    [third] = await desk.claim()

    assert third.attempt == 2


async def test_the_owner_of_the_file_takes_back_leases_that_have_not_run_out(desk: Desk) -> None:
    claim = await desk.claimed_task()

    taken = await desk.take_back_all()

    assert taken == [TakenBack(claim.task_id, FIRST, 1, Recorded.DONE)]
    assert await desk.take_back_all() == []


async def test_one_unit_takes_back_a_limited_number_of_leases(desk: Desk) -> None:
    for _ in range(TAKE_BACK_LIMIT + 1):
        await desk.add_task()
    await desk.claim(limit=TAKE_BACK_LIMIT + 1)

    first = await desk.take_back_all()
    second = await desk.take_back_all()

    assert (len(first), len(second)) == (TAKE_BACK_LIMIT, 1)


# Order ---------------------------------------------------------------------------------------------------------------


async def test_the_oldest_task_is_claimed_first(desk: Desk) -> None:
    tasks = []
    for _ in range(4):
        tasks.append(await desk.add_task())
        desk.clock.move(1)

    claimed = [claim.task_id for _ in range(4) for claim in await desk.claim()]

    assert claimed == tasks


async def test_tasks_of_the_same_moment_are_claimed_in_the_order_of_their_ids(desk: Desk) -> None:
    tasks = [await desk.add_task() for _ in range(4)]

    claimed = [claim.task_id for _ in range(4) for claim in await desk.claim()]

    assert claimed == sorted(tasks)


async def test_one_claim_takes_the_oldest_and_no_more_than_its_limit(desk: Desk) -> None:
    tasks = []
    for _ in range(5):
        tasks.append(await desk.add_task())
        desk.clock.move(1)

    claims = await desk.claim(limit=3)

    assert {claim.task_id for claim in claims} == set(tasks[:3])


async def test_a_task_keeps_its_place_from_stage_to_stage(desk: Desk) -> None:
    old = await desk.add_task()
    desk.clock.move(1)
    await desk.add_task()
    [claim] = await desk.claim()
    desk.clock.move(1)
    await desk.say(lambda work: queue.succeed(work, claim, next_stage=SECOND, outputs_json="{}"))

    [following] = await desk.claim()

    assert (following.task_id, following.stage) == (old, SECOND)


async def test_a_task_that_is_not_due_is_not_claimed_and_the_next_due_moment_is_told(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.say(lambda work: queue.fail(work, claim, FAILURE, RetryIn(10)))
    desk.clock.move(9.999999)

    command = ClaimWork(worker="one", lease_token=new_id(), lease_seconds=30, room={FIRST: 1, SECOND: 1}, limit=1)
    claimed = await desk.say(lambda work: queue.claim(work, command))

    assert claimed == Claimed([], 0.000001)
    desk.clock.move(0.000001)
    assert len(await desk.claim()) == 1


async def test_a_job_is_leased_to_one_worker_only(desk: Desk) -> None:
    await desk.claimed_task()

    second = await desk.claim(worker="two")

    assert second == []


async def test_stages_that_a_worker_does_not_know_wait_for_one_who_does(desk: Desk) -> None:
    unknown = await desk.add_task(stage="dream")
    known = await desk.add_task()

    claims = await desk.claim(limit=10)

    assert [claim.task_id for claim in claims] == [known]
    assert await desk.state(unknown) == ("dream", "queued", 0)
    [later] = await desk.claim(stages=["dream"])
    assert later.task_id == unknown
