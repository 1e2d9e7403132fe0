"""Dead letters: found by every filter, walked by key, and grouped by what went wrong (design §6, §7)."""

import json
from functools import partial
from itertools import product

import pytest

from app.clock import END_OF_TIME, Timestamp, later
from app.domain.dead_letters import DeadLetter, DeadLetterFilter, DeadLetterGroup, Signature
from app.errors import ConstraintViolated
from app.unit import UnitOfWork
from tests.db.records import AFTER, FIRST, LAST, Database
from tests.support.database import NOW

STAGES, KINDS, SIGNATURES = ("parse", "photos"), ("broken", "timeout"), ("aaaa", "bbbb")


async def bury(
    database: Database,
    *,
    stage: str = "parse",
    kind: str = "broken",
    signature: str = "aaaa",
    died_at: Timestamp = NOW,
    message: str = "It broke.",
) -> DeadLetter:
    """Put a new task among the dead letters."""
    letter = DeadLetter(
        task_id=await database.task(),
        stage=stage,
        error_kind=kind,
        error_message=message,
        signature=Signature(name=signature, pattern=f"pattern of {signature}"),
        died_at=died_at,
    )
    await database.write(lambda work: work.dead_letters.add(letter))
    return letter


async def bury_many(database: Database) -> list[DeadLetter]:
    """Put two tasks of every combination of stage, kind and signature among the dead letters."""
    combinations = 2 * [*product(STAGES, KINDS, SIGNATURES)]
    return [
        await bury(database, stage=stage, kind=kind, signature=f"{signature}.{stage}.{kind}")
        for stage, kind, signature in combinations
    ]


FILTERS = [
    DeadLetterFilter(stage=stage, error_kind=kind, signature=signature)
    for stage, kind, signature in product(
        (None, "parse"), (None, "timeout"), (None, "aaaa.parse.timeout", "bbbb.photos.broken")
    )
]


def passes(letter: DeadLetter, wanted: DeadLetterFilter) -> bool:
    """Tell whether a letter passes a filter, without any SQL."""
    pairs = [
        (wanted.stage, letter.stage),
        (wanted.error_kind, letter.error_kind),
        (wanted.signature, letter.signature.name),
    ]
    return all(asked in (None, found) for asked, found in pairs)


# One -----------------------------------------------------------------------------------------------------------------


async def test_a_dead_letter_is_kept_as_it_was_written_and_leaves_once(database: Database) -> None:
    letter, other = await bury(database, message="Zoë's page is gone."), await bury(database)

    found = await database.read(lambda work: work.dead_letters.by_task(letter.task_id))
    removed = [await database.write(lambda work: work.dead_letters.remove(letter.task_id)) for _ in range(2)]

    assert found == letter
    assert removed == [True, False]
    assert await database.read(lambda work: work.dead_letters.by_task(letter.task_id)) is None
    assert await database.read(lambda work: work.dead_letters.by_task(other.task_id)) == other


async def test_a_task_is_a_dead_letter_once(database: Database) -> None:
    letter = await bury(database)

    with pytest.raises(ConstraintViolated) as caught:
        await database.write(lambda work: work.dead_letters.add(letter))

    assert caught.value.kind == "UNIQUE"


# Lists ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_lists_show_what_every_combination_of_filters_lets_through_newest_first(
    database: Database, limit: int
) -> None:
    letters = await bury_many(database)

    async def walk(work: UnitOfWork, wanted: DeadLetterFilter) -> list[DeadLetter]:
        walked: list[DeadLetter] = []
        before = LAST
        while page := await work.dead_letters.page(wanted, before=before, limit=limit):
            assert len(page) <= limit
            walked += page
            before = page[-1].task_id
        return walked

    for wanted in FILTERS:
        expected = [letter for letter in letters if passes(letter, wanted)]

        walked = await database.read(partial(walk, wanted=wanted))

        assert walked == sorted(expected, key=lambda letter: letter.task_id, reverse=True), wanted


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_a_rescue_walks_what_every_combination_of_filters_lets_through_oldest_first(
    database: Database, limit: int
) -> None:
    letters = await bury_many(database)

    async def walk(work: UnitOfWork, wanted: DeadLetterFilter) -> list[DeadLetter]:
        walked: list[DeadLetter] = []
        after = FIRST
        while step := await work.dead_letters.next_to_rescue(wanted, after=after, until=NOW, limit=limit):
            assert len(step) <= limit
            walked += step
            after = step[-1].task_id
        return walked

    for wanted in FILTERS:
        expected = [letter for letter in letters if passes(letter, wanted)]

        walked = await database.read(partial(walk, wanted=wanted))

        assert walked == sorted(expected, key=lambda letter: letter.task_id), wanted


@pytest.mark.parametrize("signature", [None, "aaaa"])
async def test_a_rescue_passes_over_what_died_after_it_was_asked_for(database: Database, signature: str | None) -> None:
    early, _late = await bury(database, died_at=NOW), await bury(database, died_at=later(NOW, 0.000001))
    wanted = DeadLetterFilter(signature=signature)

    step = await database.read(
        lambda work: work.dead_letters.next_to_rescue(wanted, after=FIRST, until=NOW, limit=9)
    )  # fmt: skip
    counted = await database.read(lambda work: work.dead_letters.count_by_stage(wanted, until=NOW))

    assert step == [early]
    assert counted == {"parse": 1}


async def test_what_every_combination_of_filters_lets_through_is_counted_by_stage(database: Database) -> None:
    letters = await bury_many(database)

    async def count(work: UnitOfWork, wanted: DeadLetterFilter) -> dict[str, int]:
        return await work.dead_letters.count_by_stage(wanted, until=END_OF_TIME)

    for wanted in FILTERS:
        stages = [letter.stage for letter in letters if passes(letter, wanted)]

        counted = await database.read(partial(count, wanted=wanted))

        assert counted == {stage: stages.count(stage) for stage in set(stages)}, wanted


# Groups --------------------------------------------------------------------------------------------------------------


async def test_groups_show_the_largest_first_with_their_span_and_their_newest_task(database: Database) -> None:
    small = await bury(database, signature="small", stage="photos", kind="timeout", died_at=AFTER)
    first = await bury(database, signature="large", died_at=later(NOW, 5))
    await bury(database, signature="large", died_at=later(NOW, 9))
    newest = await bury(database, signature="large", died_at=later(NOW, 7))

    groups = await database.read(lambda work: work.dead_letters.groups(stage=None, error_kind=None, limit=9))

    assert groups == [
        DeadLetterGroup(count=3, first_seen=first.died_at, last_seen=later(NOW, 9), sample=newest),
        DeadLetterGroup(count=1, first_seen=AFTER, last_seen=AFTER, sample=small),
    ]


async def test_groups_of_one_size_have_an_order_and_the_list_is_cut(database: Database) -> None:
    for signature in ("c", "a", "b"):
        await bury(database, signature=signature)

    groups = await database.read(lambda work: work.dead_letters.groups(stage=None, error_kind=None, limit=2))

    assert [group.sample.signature.name for group in groups] == ["a", "b"]


@pytest.mark.parametrize(("stage", "kind"), list(product((None, "parse"), (None, "timeout"))))
async def test_groups_are_those_of_a_stage_or_a_kind_if_one_is_named(
    database: Database, stage: str | None, kind: str | None
) -> None:
    letters = await bury_many(database)
    wanted = DeadLetterFilter(stage=stage, error_kind=kind)

    groups = await database.read(lambda work: work.dead_letters.groups(stage=stage, error_kind=kind, limit=99))

    names = [group.sample.signature.name for group in groups]
    assert names == sorted({letter.signature.name for letter in letters if passes(letter, wanted)})
    assert {group.count for group in groups} == {2}


async def test_there_are_no_groups_where_nothing_died(database: Database) -> None:
    assert await database.read(lambda work: work.dead_letters.groups(stage=None, error_kind=None, limit=9)) == []


# Pruning -------------------------------------------------------------------------------------------------------------


async def test_the_dead_letters_of_the_tasks_that_are_named_are_pruned(database: Database) -> None:
    letters = [await bury(database) for _ in range(3)]
    ids = [letters[0].task_id, letters[2].task_id, "nobody's"]

    await database.write(lambda work: work.dead_letters.prune(json.dumps(ids)))

    left = await database.read(lambda work: work.dead_letters.page(DeadLetterFilter(), before=LAST, limit=9))
    assert left == [letters[1]]


async def test_a_task_is_not_pruned_before_its_dead_letter(database: Database) -> None:
    letter = await bury(database)
    for table in ("jobs", "pipeline_states"):
        await database.rows(f"DELETE FROM {table} WHERE task_id = :id RETURNING task_id", id=letter.task_id)

    with pytest.raises(ConstraintViolated) as caught:
        await database.write(lambda work: work.tasks.prune(json.dumps([letter.task_id])))

    assert caught.value.kind == "FOREIGN KEY"
