"""Tasks, the keys under which callers named them, and lists walked by key (design §5, §7)."""

import asyncio
from itertools import product
from typing import Any

import pytest

from app.domain.idempotency import IdempotencyKey
from app.domain.pipeline import StateStatus
from app.domain.tasks import CreateTask, Task, TaskFilter, TaskPayload, TaskStatus
from app.domain.users import User
from app.errors import ConstraintViolated
from tests.db.records import AFTER, LAST, Database, a_command
from tests.support.database import NOW

# Adding --------------------------------------------------------------------------------------------------------------


async def test_a_task_is_stored_as_it_was_ordered(database: Database) -> None:
    user = await database.user()
    command = a_command(reference="order 7", payload={"name": "Zoë", "n": [1, 2.5, None]})

    added = await database.write(lambda work: work.tasks.add(command=command, created_by=user.id, created_at=NOW))

    assert added == Task(
        id=command.task_id,
        created_by=user.id,
        status=TaskStatus.OPEN,
        reference="order 7",
        first_stage="parse",
        created_at=NOW,
        updated_at=NOW,
    )
    assert await database.read(lambda work: work.tasks.by_id(command.task_id)) == added
    assert await database.read(lambda work: work.tasks.payload(command.task_id)) == TaskPayload(
        reference="order 7", json='{"n":[1,2.5,null],"name":"Zoë"}'
    )


async def test_what_is_not_there_is_none(database: Database) -> None:
    assert await database.read(lambda work: work.tasks.by_id("nobody's")) is None
    assert await database.read(lambda work: work.tasks.payload("nobody's")) is None
    assert await database.read(lambda work: work.tasks.standing("nobody's")) is None


async def test_a_standing_is_the_task_and_its_state(database: Database) -> None:
    task_id = await database.task()

    standing = await database.read(lambda work: work.tasks.standing(task_id))

    assert standing is not None
    assert standing.task == await database.read(lambda work: work.tasks.by_id(task_id))
    assert standing.state == await database.read(lambda work: work.pipeline_states.by_task(task_id))


async def test_there_is_no_task_of_a_user_who_is_not_there(database: Database) -> None:
    with pytest.raises(ConstraintViolated) as caught:
        await database.write(lambda work: work.tasks.add(command=a_command(), created_by="nobody", created_at=NOW))

    assert caught.value.kind == "FOREIGN KEY"


async def test_an_id_names_one_task(database: Database) -> None:
    user = await database.user()
    command = a_command()
    await database.write(lambda work: work.tasks.add(command=command, created_by=user.id, created_at=NOW))

    with pytest.raises(ConstraintViolated) as caught:
        await database.write(lambda work: work.tasks.add(command=command, created_by=user.id, created_at=NOW))

    assert (caught.value.kind, caught.value.constraint) == ("UNIQUE", "tasks.id")


async def test_a_status_that_cannot_be_is_refused(database: Database) -> None:
    task_id = await database.task()

    with pytest.raises(ConstraintViolated) as caught:
        await database.rows("UPDATE tasks SET status = 'lost' WHERE id = :id RETURNING id", id=task_id)

    assert (caught.value.kind, caught.value.constraint) == ("CHECK", "tasks_status_known")


@pytest.mark.parametrize("column", ["created_by", "status", "created_at", "updated_at", "first_stage", "payload_json"])
async def test_a_task_lacks_nothing(database: Database, column: str) -> None:
    task_id = await database.task()

    with pytest.raises(ConstraintViolated) as caught:
        await database.rows(f"UPDATE tasks SET {column} = NULL WHERE id = :id RETURNING id", id=task_id)

    assert caught.value.kind == "NOT NULL"


# Idempotency ---------------------------------------------------------------------------------------------------------


async def claim(database: Database, user: User, command: CreateTask, *, later: bool = False) -> IdempotencyKey:
    """Claim a command's key."""
    moment = AFTER if later else NOW
    return await database.write(
        lambda work: work.tasks.store_idempotency_key(actor_id=user.id, command=command, created_at=moment)
    )


async def replays(database: Database) -> list[int]:
    """Return how often each key was used again."""
    return [row["replays"] for row in await database.rows("SELECT replays FROM idempotency_keys ORDER BY idem_key")]


async def test_a_key_that_is_claimed_again_names_the_first_task_and_counts_the_replay(database: Database) -> None:
    user = await database.user()
    first, again = a_command(payload={"n": 1}), a_command(payload={"n": 2})

    claimed = await claim(database, user, first)
    counted = [await replays(database)]
    for _ in range(2):
        assert await claim(database, user, again, later=True) == claimed
        counted.append(await replays(database))

    assert claimed == IdempotencyKey(
        actor_id=user.id, idem_key="key", task_id=first.task_id, fingerprint=first.fingerprint, created_at=NOW
    )
    assert counted == [[0], [1], [2]]


async def test_a_key_belongs_to_its_actor(database: Database) -> None:
    alice, bob = await database.user("alice"), await database.user("bob")
    of_alice, of_bob = a_command(), a_command()

    claimed = [await claim(database, alice, of_alice), await claim(database, bob, of_bob)]

    assert [key.task_id for key in claimed] == [of_alice.task_id, of_bob.task_id]


async def test_keys_differ_by_every_character(database: Database) -> None:
    user = await database.user()
    keys = ["key", "KEY", "key ", "keY", "k"]

    claimed = [await claim(database, user, a_command(key=key)) for key in keys]

    assert len({key.task_id for key in claimed}) == len(keys)


async def test_claims_that_race_agree_on_one_task(database: Database) -> None:
    user = await database.user()

    claimed = await asyncio.gather(*(claim(database, user, a_command()) for _ in range(30)))

    assert len({key.task_id for key in claimed}) == 1
    assert await replays(database) == [29]


async def test_a_task_is_found_by_actor_and_key(database: Database) -> None:
    user, other = await database.user("alice"), await database.user("bob")
    command = a_command()
    await claim(database, user, command)
    await database.write(lambda work: work.tasks.add(command=command, created_by=user.id, created_at=NOW))

    async def find(actor_id: str, key: str) -> Task | None:
        return await database.read(lambda work: work.tasks.find_by_actor_and_idempotency_key(actor_id, key))

    found = await find(user.id, "key")

    assert found is not None
    assert found.id == command.task_id
    assert await find(other.id, "key") is None
    assert await find(user.id, "another") is None


async def test_there_is_no_key_of_a_user_who_is_not_there(database: Database) -> None:
    with pytest.raises(ConstraintViolated) as caught:
        await database.write(
            lambda work: work.tasks.store_idempotency_key(actor_id="nobody", command=a_command(), created_at=NOW)
        )

    assert caught.value.kind == "FOREIGN KEY"


async def test_replays_count_upwards_from_nought(database: Database) -> None:
    await claim(database, await database.user(), a_command())

    with pytest.raises(ConstraintViolated) as caught:
        await database.rows("UPDATE idempotency_keys SET replays = -1 RETURNING idem_key")

    assert (caught.value.kind, caught.value.constraint) == ("CHECK", "idempotency_keys_replays_counts")


# Lists ---------------------------------------------------------------------------------------------------------------

STATUSES = (TaskStatus.OPEN, TaskStatus.RUNNING)
STAGES = ("parse", "photos")
REFERENCES = (None, "order 7")


async def many(database: Database) -> list[dict[str, Any]]:
    """Make two tasks of every combination of status, stage, creator and reference; return what they are."""
    creators = [await database.user("alice"), await database.user("bob")]
    made = []
    for status, stage, creator, reference in 2 * [*product(STATUSES, STAGES, creators, REFERENCES)]:
        task_id = await database.task(creator, reference=reference)
        await database.rows("UPDATE tasks SET status = :status WHERE id = :id RETURNING id", status=status, id=task_id)
        await database.rows(
            "UPDATE pipeline_states SET stage = :stage WHERE task_id = :id RETURNING task_id", stage=stage, id=task_id
        )
        made.append({"id": task_id, "status": status, "stage": stage, "created_by": creator.id, "reference": reference})
    return made


async def page(database: Database, wanted: TaskFilter, before: str, limit: int) -> list[str]:
    """Return the ids of one page."""
    found = await database.read(lambda work: work.tasks.page(wanted, before=before, limit=limit))
    return [standing.task.id for standing in found]


async def walk(database: Database, wanted: TaskFilter, limit: int) -> list[str]:
    """Walk a list page by page and return the ids."""
    found: list[str] = []
    while ids := await page(database, wanted, found[-1] if found else LAST, limit):
        assert len(ids) <= limit
        found += ids
    return found


async def test_lists_show_what_every_combination_of_filters_lets_through_newest_first(database: Database) -> None:
    made = await many(database)
    creator = made[0]["created_by"]

    for status, stage, created_by, reference in product(
        (None, TaskStatus.RUNNING), (None, "photos"), (None, creator), (None, "order 7")
    ):
        wanted = TaskFilter(status=status, stage=stage, created_by=created_by, reference=reference)
        asked = {"status": status, "stage": stage, "created_by": created_by, "reference": reference}
        expected = [
            task["id"]
            for task in made
            if all(task[name] == value for name, value in asked.items() if value is not None)
        ]

        assert await walk(database, wanted, limit=5) == sorted(expected, reverse=True), wanted


@pytest.mark.parametrize("limit", [1, 3, 200])
async def test_a_list_is_walked_whole_whatever_the_size_of_its_pages(database: Database, limit: int) -> None:
    made = [await database.task() for _ in range(7)]

    assert await walk(database, TaskFilter(), limit) == sorted(made, reverse=True)


async def test_a_task_that_comes_while_a_list_is_walked_moves_no_page(database: Database) -> None:
    made = sorted([await database.task() for _ in range(4)])
    first = await page(database, TaskFilter(), LAST, 2)

    await database.task()

    assert first + await page(database, TaskFilter(), first[-1], 2) == made[::-1]


async def test_a_list_shows_where_each_task_stands(database: Database) -> None:
    task_id = await database.task(reference="order 7")

    (standing,) = await database.read(
        lambda work: work.tasks.page(TaskFilter(reference="order 7"), before=LAST, limit=9)
    )

    assert (standing.task.id, standing.state.task_id) == (task_id, task_id)
    assert (standing.state.stage, standing.state.status) == ("parse", StateStatus.QUEUED)


@pytest.mark.parametrize(
    "wanted",
    [
        TaskFilter(status=TaskStatus.CANCELLED),
        TaskFilter(stage="nowhere"),
        TaskFilter(created_by="nobody"),
        TaskFilter(reference="nothing"),
        TaskFilter(reference="%"),
    ],
)
async def test_a_filter_that_nothing_passes_shows_nothing(database: Database, wanted: TaskFilter) -> None:
    await database.task(reference="order 7")

    assert await walk(database, wanted, limit=5) == []
