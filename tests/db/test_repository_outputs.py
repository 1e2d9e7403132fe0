"""What stages handed on, and the row that a timed probe writes (design §1, §7)."""

import json

import pytest

from app.clock import Timestamp, later
from app.errors import ConstraintViolated
from tests.db.records import AFTER, STAGES, Database
from tests.support.database import NOW


async def put(database: Database, task_id: str, stage: str, value: str = "{}", now: Timestamp = NOW) -> None:
    """Keep what a stage handed on."""
    await database.write(lambda work: work.outputs.put(task_id, stage=stage, value_json=value, now=now))


async def outputs_of(database: Database, task_id: str) -> list[tuple[str, str]]:
    """Return what the stages of a task handed on."""
    outputs = await database.read(lambda work: work.outputs.of_task(task_id))
    return [(output.stage, output.value_json) for output in outputs]


async def test_a_stage_that_runs_again_replaces_what_it_handed_on(database: Database) -> None:
    task_id = await database.task()

    await put(database, task_id, "photos", "1", later(NOW, 1))
    await put(database, task_id, "parse", "2", NOW)
    await put(database, task_id, "photos", "3", later(NOW, 2))

    assert await outputs_of(database, task_id) == [("parse", "2"), ("photos", "3")]


@pytest.mark.parametrize(
    ("dropped", "left"),
    [
        (["photos", "publish"], ["cleanup", "export", "parse"]),
        (["parse"], ["cleanup", "export", "photos", "publish"]),
        (["nowhere"], sorted(STAGES)),
        ([], sorted(STAGES)),
        (list(STAGES), []),
    ],
)
async def test_stages_that_run_again_forget_what_they_handed_on_and_the_others_keep_it(
    database: Database, dropped: list[str], left: list[str]
) -> None:
    task_id, other_id = await database.task(), await database.task()
    for stage in STAGES:
        await put(database, task_id, stage)
        await put(database, other_id, stage)

    await database.write(lambda work: work.outputs.drop_stages(task_id, dropped))

    assert [stage for stage, _ in await outputs_of(database, task_id)] == left
    assert [stage for stage, _ in await outputs_of(database, other_id)] == sorted(STAGES)


async def test_the_outputs_of_the_tasks_that_are_named_are_pruned(database: Database) -> None:
    pruned, kept = await database.task(), await database.task()
    for task_id in (pruned, kept):
        await put(database, task_id, "parse")
        await put(database, task_id, "photos")

    await database.write(lambda work: work.outputs.prune(json.dumps([pruned])))

    assert await outputs_of(database, pruned) == []
    assert len(await outputs_of(database, kept)) == 2


async def test_there_is_no_output_without_a_task(database: Database) -> None:
    with pytest.raises(ConstraintViolated) as caught:
        await put(database, "nobody's", "parse")

    assert caught.value.kind == "FOREIGN KEY"


async def test_a_probe_keeps_the_last_moment(database: Database) -> None:
    await database.write(lambda work: work.probes.write("write", now=NOW))
    await database.write(lambda work: work.probes.write("write", now=AFTER))

    assert await database.rows("SELECT name, written_at FROM probes") == [{"name": "write", "written_at": AFTER}]
