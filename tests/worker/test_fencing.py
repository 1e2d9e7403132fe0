"""Fencing: a word through a lost lease changes nothing; crashes are no attempts; the oldest task comes first."""

from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from app.domain.jobs import CRASH_LIMIT, Claim, Failure
from app.domain.retry import GiveUp, RetryIn
from app.services import queue
from app.services.queue import EXPIRE_LIMIT, Recorded
from app.unit import UnitOfWork
from tests.support.house import STAGES
from tests.worker.desk import Desk

FAILURE = Failure(kind="broken", message="It broke.")
FIRST, SECOND = STAGES[:2]

LEASE_SECONDS = 30

WORDS: dict[str, Callable[[UnitOfWork, Claim], Awaitable[Recorded]]] = {
    "succeed": lambda work, claim: queue.succeed(work, claim, next_stage=SECOND, outputs_json='{"late":1}'),
    "succeed at last": lambda work, claim: queue.succeed(work, claim, next_stage=None, outputs_json='{"late":1}'),
    "fail": lambda work, claim: queue.fail(work, claim, FAILURE, RetryIn(1)),
    "give up": lambda work, claim: queue.fail(work, claim, FAILURE, GiveUp()),
    "release": queue.release,
}


async def taken_back(desk: Desk, claim: Claim) -> None:
    """The lease ran out and was taken back."""
    desk.clock.move(LEASE_SECONDS + 1)
    assert await desk.say(queue.expire) == [(claim.task_id, Recorded.DONE)]


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

    lost = await desk.say(lambda work: queue.extend(work, [claim], lease_seconds=30))

    assert lost == [claim]
    assert await desk.everything() == before


async def test_one_lost_lease_does_not_cost_its_neighbours_of_the_same_claim(desk: Desk) -> None:
    for _ in range(3):
        await desk.add_task()
    claims = await desk.claim(limit=3)
    await desk.say(lambda work: queue.release(work, claims[1]))

    lost = await desk.say(lambda work: queue.extend(work, claims, lease_seconds=60))

    assert lost == [claims[1]]
    held = await desk.rows("SELECT lease_expires_at FROM jobs WHERE lease_token IS NOT NULL")
    assert held == [("2026-11-22T20:20:00.000000Z",)] * 2


async def test_a_lease_is_not_taken_back_before_it_has_run_out(desk: Desk) -> None:
    claim = await desk.claimed_task()
    desk.clock.move(LEASE_SECONDS - 0.000001)

    expired = await desk.say(queue.expire)

    assert expired == []
    assert await desk.state(claim.task_id) == (FIRST, "running", 1)


async def test_a_lease_that_was_held_for_longer_runs_out_later(desk: Desk) -> None:
    claim = await desk.claimed_task()
    desk.clock.move(LEASE_SECONDS - 1)
    assert await desk.say(lambda work: queue.extend(work, [claim], lease_seconds=LEASE_SECONDS)) == []
    desk.clock.move(LEASE_SECONDS - 1)

    expired = await desk.say(queue.expire)

    assert expired == []


# Crashes -------------------------------------------------------------------------------------------------------------


async def test_a_lost_worker_is_a_crash_and_not_an_attempt(desk: Desk) -> None:
    claim = await desk.claimed_task()
    desk.clock.move(LEASE_SECONDS)

    expired = await desk.say(queue.expire)

    assert expired == [(claim.task_id, Recorded.DONE)]
    assert await desk.state(claim.task_id) == (FIRST, "queued", 0)
    assert await desk.one("SELECT crashes, lease_token FROM jobs") == (1, None)
    assert await desk.history(claim.task_id) == [(FIRST, 1, "lease_expired", "lease_expired")]


async def test_too_many_crashes_of_one_stage_make_a_dead_letter(desk: Desk) -> None:
    task_id = await desk.add_task()

    endings = []
    for _ in range(CRASH_LIMIT):
        [claim] = await desk.claim()
        assert claim.attempt == 1
        desk.clock.move(LEASE_SECONDS)
        endings += await desk.say(queue.expire)

    assert endings == [(task_id, Recorded.DONE)] * (CRASH_LIMIT - 1) + [(task_id, Recorded.TASK_ENDED)]
    assert await desk.one("SELECT status, is_terminal, last_error_kind FROM pipeline_states") == (
        "dead_letter",
        1,
        "lease_expired",
    )
    assert await desk.task_status(task_id) == "failed"
    assert await desk.rows("SELECT task_id FROM jobs") == []
    assert await desk.history(task_id) == [(FIRST, 1, "lease_expired", "lease_expired")] * CRASH_LIMIT


async def test_crashes_are_counted_for_each_stage_anew(desk: Desk) -> None:
    await desk.add_task()
    for _ in range(CRASH_LIMIT - 1):
        await desk.claim()
        await desk.say(lambda work: queue.expire(work, all_leases=True))
    [claim] = await desk.claim()

    await desk.say(lambda work: queue.succeed(work, claim, next_stage=SECOND, outputs_json="{}"))

    assert await desk.one("SELECT stage, crashes FROM jobs") == (SECOND, 0)


async def test_an_attempt_that_was_given_back_is_no_crash(desk: Desk) -> None:
    await desk.add_task()

    for _ in range(CRASH_LIMIT + 1):
        [claim] = await desk.claim()
        await desk.say(partial(queue.release, claim=claim))

    assert await desk.one("SELECT crashes FROM jobs") == (0,)


async def test_a_failure_keeps_its_count_over_a_crash(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.say(lambda work: queue.fail(work, claim, FAILURE, RetryIn(0)))
    await desk.claim()
    await desk.say(lambda work: queue.expire(work, all_leases=True))

    [third] = await desk.claim()

    assert third.attempt == 2


async def test_the_owner_of_the_file_takes_back_leases_that_have_not_run_out(desk: Desk) -> None:
    claim = await desk.claimed_task()

    taken = await desk.say(lambda work: queue.expire(work, all_leases=True))

    assert taken == [(claim.task_id, Recorded.DONE)]
    assert await desk.say(lambda work: queue.expire(work, all_leases=True)) == []


async def test_one_unit_takes_back_a_limited_number_of_leases(desk: Desk) -> None:
    for _ in range(EXPIRE_LIMIT + 1):
        await desk.add_task()
    await desk.claim(limit=EXPIRE_LIMIT + 1)

    first = await desk.say(lambda work: queue.expire(work, all_leases=True))
    second = await desk.say(lambda work: queue.expire(work, all_leases=True))

    assert (len(first), len(second)) == (EXPIRE_LIMIT, 1)


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

    claims = await desk.claim()

    assert claims == []
    assert await desk.say(lambda work: work.jobs.next_due(now=work.now())) == "2026-11-22T20:19:10.000000Z"
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
