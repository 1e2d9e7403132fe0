"""Dead letters: written with a signature when a task dies, gone when it is rescued; listed, filtered and grouped."""

from dataclasses import replace
from typing import Any

import pytest

from app.clock import later
from app.domain.dead_letters import DeadLetter, DeadLetterFilter, signature
from app.domain.jobs import ERROR_MESSAGE_LIMIT
from app.domain.retry import GiveUp
from app.errors import Defect
from app.pipelines import Context, Fail, Pipeline, Retry, RetryPolicy, Stage
from app.services import dead_letters, queue
from app.services.dead_letters import Groups, ListDeadLetters, ListGroups
from app.services.pages import Page, PageCommand
from app.services.queue import Recorded
from tests.worker.cases import BROKEN, add_letter, add_letters, die, lose_worker, until_idle
from tests.worker.desk import Desk


async def letter(desk: Desk, task_id: str) -> DeadLetter:
    """Return what a task died of."""
    found = await desk.store.read(lambda work: work.dead_letters.by_task(task_id))
    assert found is not None
    return found


async def page(desk: Desk, *, limit: int = 50, before: str | None = None, **wanted: Any) -> Page[DeadLetter]:
    """List dead letters."""
    pages = PageCommand(limit=limit) if before is None else PageCommand(limit=limit, before=before)
    command = ListDeadLetters(page=pages, wanted=DeadLetterFilter(**wanted))
    return await desk.store.read(lambda work: dead_letters.list_dead_letters(work, desk.actor, command))


async def ids(desk: Desk, **wanted: Any) -> list[str]:
    """Return the tasks of the dead letters that pass a filter, by age."""
    return sorted(found.task_id for found in (await page(desk, **wanted)).items)


async def groups(desk: Desk, *, limit: int = 10, stage: str | None = None, error_kind: str | None = None) -> Groups:
    """Group dead letters."""
    command = ListGroups(stage=stage, error_kind=error_kind, limit=limit)
    return await desk.store.read(lambda work: dead_letters.list_groups(work, desk.actor, command))


async def test_a_task_that_fails_for_good_is_written_down_with_what_it_died_of(desk: Desk) -> None:
    def handler(context: Context) -> None:
        raise Fail("no_stock", "Article 4711 is sold out.")

    task_id = await desk.add_task()

    await desk.worker(Pipeline([Stage("parse", handler)])).step()

    assert await letter(desk, task_id) == DeadLetter(
        task_id=task_id,
        stage="parse",
        error_kind="no_stock",
        error_message="Article 4711 is sold out.",
        signature=signature("parse", "no_stock", "Article <n> is sold out."),
        died_at=desk.clock.now(),
    )


async def test_a_task_without_attempts_left_is_written_down_with_what_its_last_attempt_died_of(desk: Desk) -> None:
    def handler(context: Context) -> None:
        raise Retry(f"The shop is closed ({context.attempt}).", kind="closed")

    task_id = await desk.add_task()
    worker = desk.worker(Pipeline([Stage("parse", handler, retry=RetryPolicy(max_attempts=2))]))

    await worker.step()
    assert await ids(desk) == []
    desk.clock.move(60)
    await worker.step()

    died = await letter(desk, task_id)
    assert (died.error_kind, died.error_message) == ("closed", "The shop is closed (2).")
    assert died.died_at == desk.clock.now()


async def test_a_task_whose_workers_are_lost_too_often_is_written_down(desk: Desk) -> None:
    task_id = await desk.add_task()

    await lose_worker(desk, RetryPolicy().max_crashes)

    died = await letter(desk, task_id)
    assert (died.stage, died.error_kind) == ("parse", "lease_expired")
    assert died.error_message == "The worker was lost while this attempt ran."
    assert died.died_at == desk.clock.now()


async def test_every_dead_letter_is_a_row_and_nothing_else_is(desk: Desk) -> None:
    dead = await add_letters(desk, 3)
    await desk.retry(dead[0], override=True)
    await until_idle(desk)
    waiting = await desk.add_task()

    rows = await desk.rows("SELECT task_id FROM dead_letters ORDER BY task_id")

    assert rows == [(dead[1],), (dead[2],)]
    assert rows == await desk.rows("SELECT task_id FROM pipeline_states WHERE status = 'dead_letter' ORDER BY task_id")
    assert await desk.state(waiting) == ("parse", "queued", 0)


async def test_a_rescued_task_is_no_dead_letter_until_it_dies_again(desk: Desk) -> None:
    task_id = await add_letter(desk, message="It broke in 2025.")

    await desk.retry(task_id, override=True)
    while_rescued = await ids(desk)
    desk.clock.move(10)
    await die(desk, await desk.claim(), replace(BROKEN, message="It broke anew."))

    assert while_rescued == []
    died = await letter(desk, task_id)
    assert (died.error_message, died.died_at) == ("It broke anew.", desk.clock.now())


async def test_a_letter_that_cannot_be_written_leaves_the_task_where_it_was(desk: Desk) -> None:
    claim = await desk.claimed_task()
    await desk.rows(
        "INSERT INTO dead_letters (task_id, stage, error_kind, error_message, signature, pattern, died_at) "
        "VALUES (:id, 'parse', 'x', 'x', 'x', 'x', 'x') RETURNING task_id",
        id=claim.task_id,
    )
    before = await desk.everything()

    with pytest.raises(Defect):
        await die(desk, [claim])

    assert await desk.everything() == before


async def test_dead_letters_are_listed_by_page_those_of_the_newest_tasks_first(desk: Desk) -> None:
    dead = await add_letters(desk, 5)

    first = await page(desk, limit=2)
    second = await page(desk, limit=2, before=first.next)
    third = await page(desk, limit=2, before=second.next)

    assert [[found.task_id for found in part.items] for part in (first, second, third)] == [
        [dead[4], dead[3]],
        [dead[2], dead[1]],
        [dead[0]],
    ]
    assert (first.next, second.next, third.next) == (dead[3], dead[1], None)


async def test_a_page_that_is_just_full_is_the_last(desk: Desk) -> None:
    await add_letters(desk, 2)

    assert (await page(desk, limit=2)).next is None


async def test_dead_letters_can_be_chosen_by_stage_kind_and_signature(desk: Desk) -> None:
    closed = await add_letter(desk, kind="closed", message="Shop 1 is closed.")
    closed_too = await add_letter(desk, kind="closed", message="Shop 22 is closed.")
    burnt = await add_letter(desk, kind="closed", message="Shop 3 has burnt down.")
    late = await add_letter(desk, stage="export", kind="timeout", message="The stage took longer.")
    name = signature("parse", "closed", "Shop 5 is closed.").name

    assert await ids(desk) == [closed, closed_too, burnt, late]
    assert await ids(desk, stage="parse") == [closed, closed_too, burnt]
    assert await ids(desk, error_kind="timeout") == [late]
    assert await ids(desk, signature=name) == [closed, closed_too]
    assert await ids(desk, signature=name, stage="export") == []
    assert await ids(desk, signature=name, error_kind="timeout") == []
    assert await ids(desk, stage="export", error_kind="closed") == []


async def test_a_chosen_signature_is_listed_by_page_too(desk: Desk) -> None:
    dead = await add_letters(desk, 3)
    await add_letter(desk, message="Something else broke.")
    name = (await letter(desk, dead[0])).signature.name

    first = await page(desk, limit=2, signature=name)
    second = await page(desk, limit=2, signature=name, before=first.next)

    assert [found.task_id for found in [*first.items, *second.items]] == list(reversed(dead))


LIKE = {
    "numbers": ("Order 17 has 3 faults.", "Order 4711 has 12 faults."),
    "ids": (
        "No task 0190a5d0-0000-7000-8000-000000000001.",
        "No task 0190a5d0-ffff-7fff-bfff-ffffffffffff.",
    ),
    "times": ("Closed since 2026-11-22T20:19:00Z.", "Closed since 2025-01-01 00:00:00.123456+01:00."),
    "addresses": ("Cannot write to anna@example.com.", "Cannot write to b.c+d@mail.example.org."),
    "urls": ("GET https://a.example/x?y=1 failed", "GET http://b.example failed"),
    "quoted": ("There is no column 'price'.", "There is no column 'unit price'."),
    "paths": ("Cannot read /data/a/1.pdf", "Cannot read /srv/b.csv"),
    "hex": ("Bad checksum deadbeef01", "Bad checksum 0123456789abcdef"),
    "pointers": ("<object at 0x7f12ab>", "<object at 0x99>"),
    "decimals": ("Weighs 1.5 kg", "Weighs 1,250.75 kg"),
    "spaces": ("It  broke\n here", "It broke here"),
}


@pytest.mark.parametrize("messages", LIKE.values(), ids=LIKE)
async def test_failures_that_differ_only_in_what_varies_are_one_group(desk: Desk, messages: tuple[str, str]) -> None:
    for message in messages:
        await add_letter(desk, message=message)

    [group] = (await groups(desk)).items

    assert group.count == 2


@pytest.mark.parametrize(
    "other",
    [{"stage": "photos"}, {"kind": "closed"}, {"message": "It melted."}],
    ids=["another stage", "another kind", "another message"],
)
async def test_failures_that_differ_otherwise_are_groups_of_their_own(desk: Desk, other: dict[str, str]) -> None:
    await add_letter(desk)
    await add_letter(desk, **other)

    found = await groups(desk)

    assert [group.count for group in found.items] == [1, 1]


async def test_a_group_tells_how_many_since_when_until_when_and_its_newest_task(desk: Desk) -> None:
    begin = desk.clock.now()
    for number in range(3):
        newest = await add_letter(desk, message=f"Order {number} broke.")
        desk.clock.move(60)

    [group] = (await groups(desk)).items

    assert (group.count, group.first_seen, group.last_seen) == (3, begin, later(begin, 120))
    assert (group.sample.task_id, group.sample.error_message) == (newest, "Order 2 broke.")
    assert group.sample.signature.pattern == "Order <n> broke."


async def test_what_was_rescued_is_no_longer_counted_in_its_group(desk: Desk) -> None:
    dead = await add_letters(desk, 3)

    await desk.retry(dead[2], override=True)

    [group] = (await groups(desk)).items
    assert (group.count, group.sample.task_id) == (2, dead[1])


async def test_the_largest_groups_come_first_and_more_are_told_of(desk: Desk) -> None:
    for count, message in ((1, "It melted."), (3, "It broke."), (2, "It froze.")):
        await add_letters(desk, count, message=message)

    some, exactly, more = [await groups(desk, limit=limit) for limit in (2, 3, 4)]

    assert [group.sample.error_message for group in some.items] == ["It broke.", "It froze."]
    assert [len(found.items) for found in (exactly, more)] == [3, 3]
    assert [found.is_truncated for found in (some, exactly, more)] == [True, False, False]


async def test_groups_can_be_chosen_by_stage_and_kind(desk: Desk) -> None:
    await add_letters(desk, 2, kind="closed")
    await add_letter(desk, stage="export")

    async def counts(**wanted: Any) -> list[int]:
        return [group.count for group in (await groups(desk, **wanted)).items]

    assert await counts(stage="parse") == [2]
    assert await counts(error_kind="broken") == [1]
    assert await counts(stage="export", error_kind="closed") == []
    assert not (await groups(desk, stage="parse", limit=1)).is_truncated


async def test_no_dead_letters_are_no_groups(desk: Desk) -> None:
    assert await groups(desk) == Groups([], is_truncated=False)


async def test_the_longest_message_that_is_kept_has_a_signature_of_bounded_length(desk: Desk) -> None:
    await add_letter(desk, message="ä" * ERROR_MESSAGE_LIMIT)

    [group] = (await groups(desk)).items

    assert len(group.sample.error_message) == ERROR_MESSAGE_LIMIT
    assert len(group.sample.signature.pattern) == 300


async def test_a_task_that_died_before_it_could_be_grouped_is_listed_by_its_stage_and_kind(desk: Desk) -> None:
    [first, second] = await add_letters(desk, 2)
    await desk.rows("UPDATE dead_letters SET signature = 'earlier.parse.broken', pattern = '-' RETURNING task_id")

    [group] = (await groups(desk)).items

    assert (group.count, group.sample.task_id) == (2, second)
    assert await ids(desk, signature="earlier.parse.broken") == [first, second]


async def test_a_death_through_a_lost_lease_writes_no_letter(desk: Desk) -> None:
    await desk.add_task()
    claim = await lose_worker(desk)

    recorded = await desk.say(lambda work: queue.fail(work, claim, BROKEN, GiveUp()))

    assert recorded is Recorded.LEASE_LOST
    assert await ids(desk) == []
