"""The demo's checker has teeth: it finds nothing in a good run, and names each fault that is planted in one."""

import ast
import asyncio
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from app.ids import new_id
from app.services import queue
from app.services.queue import ClaimWork
from examples.demo import checker
from examples.demo.checker import Expected, check, count
from examples.listings.catalogue import payload_of
from examples.listings.pipeline import pipeline
from tests.support.house import House, open_house

try:
    from pysqlite3 import dbapi2 as driver
except ImportError:  # no wheel for this platform
    import sqlite3 as driver

GOOD, OTHER, DEAD = "CHE-002", "HOR-005", "COF-008"
EXPECTED = Expected(references=frozenset({GOOD, OTHER, DEAD}), dead_letters={DEAD: ("parse", "crop_outside_picture")})
ONE = f"(SELECT id FROM tasks WHERE reference = '{GOOD}')"
LOG_LINE = '{"level": "info", "event": "serving"}\n'


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what a run of three listings leaves: two attempts lost in the middle, all creates sent twice."""
    folder = tmp_path_factory.mktemp("good")
    asyncio.run(run_until_lost(folder))
    (folder / "after-kill").mkdir()
    shutil.copy(folder / "cabinet.db", folder / "after-kill")
    asyncio.run(run_to_the_end(folder))
    (folder / "server.log").write_text(LOG_LINE)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """Return a copy of the good run, to plant a fault in."""
    return shutil.copytree(good, tmp_path / "run")


async def run_until_lost(folder: Path) -> None:
    async with open_house(folder, pipeline=pipeline) as house:
        await house.let_in("alice")
        await create_all(house)
        worker = house.container.worker()
        await worker.step()
        await worker.step()
        wanted = ClaimWork(
            worker="lost",
            lease_token=new_id(),
            lease_seconds=30,
            room=dict.fromkeys(pipeline.names, 4),
            limit=4,
            takes_suspect=True,
        )
        assert len((await house.store.write(lambda work: queue.claim(work, wanted))).claims) == 2


async def run_to_the_end(folder: Path) -> None:
    async with open_house(folder, pipeline=pipeline) as house:
        await create_all(house)
        worker = house.container.worker()
        while await worker.step():
            pass


async def create_all(house: House) -> None:
    for reference in sorted(EXPECTED.references):
        answer = await house.create("alice", f"key-{reference}", payload_of(reference), reference=reference)
        assert answer.status_code == 201


def change(folder: Path, *statements: str) -> None:
    """Change the database behind the service's back, past its constraints."""
    with closing(driver.connect(folder / "cabinet.db", isolation_level=None)) as database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        for statement in statements:
            assert database.execute(statement).rowcount > 0, "the fault was not planted"


def task_id(folder: Path, reference: str) -> str:
    with closing(driver.connect(folder / "cabinet.db")) as database:
        (found,) = database.execute("SELECT id FROM tasks WHERE reference = ?", (reference,)).fetchone()
        return str(found)


def file_of(folder: Path, name: str, reference: str = GOOD) -> Path:
    return folder / "artifacts" / task_id(folder, reference) / name


def test_a_good_run_has_no_findings(folder: Path) -> None:
    assert check(folder, EXPECTED) == []


def test_a_good_run_is_counted(folder: Path) -> None:
    counts = count(folder)

    assert (counts.tasks, counts.succeeded, counts.stages, counts.attempts) == (3, 2, 10, 13)
    assert (counts.lost, counts.replays) == (2, 3)
    assert [(letter.reference, letter.kind) for letter in counts.dead_letters] == [(DEAD, "crop_outside_picture")]
    assert counts.files == sum(1 for path in folder.glob("artifacts/*/*") if path.is_file())


COPIED_TASK = (
    "INSERT INTO tasks SELECT 'copy', created_by, status, created_at, updated_at, reference, first_stage, payload_json"
    f" FROM tasks WHERE id = {ONE}"
)
COPIED_SUCCESS = (
    "INSERT INTO attempts (task_id, lease_token, stage, attempt, worker, started_at, ended_at, outcome)"
    " SELECT task_id, 'copy', stage, attempt + 1, worker, started_at, ended_at, outcome"
    f" FROM attempts WHERE task_id = {ONE} AND stage = 'export' AND outcome = 'succeeded'"
)
INSERT_JOB = "INSERT INTO jobs (task_id, stage, run_at, crashes, lease_token, worker, lease_expires_at)"
LEFT_JOB = f"{INSERT_JOB} VALUES ({ONE}, 'export', '2026-01-01', 0, NULL, NULL, NULL)"
LEFT_LEASE = f"{INSERT_JOB} VALUES ({ONE}, 'export', '2026-01-01', 0, 'token', 'host:1', '2026-01-02')"
BURIED = "UPDATE pipeline_states SET status = 'dead_letter', stage = 'export', last_error_kind = 'unlucky'"


@pytest.mark.parametrize(
    ("statements", "finding"),
    [
        ([COPIED_TASK], f"{GOOD} has 2 tasks."),
        ([COPIED_TASK], f"A task of {GOOD} belongs to 0 idempotency keys."),
        ([f"UPDATE tasks SET reference = 'XXX-001' WHERE id = {ONE}"], f"{GOOD} has 0 tasks."),
        (
            [f"UPDATE tasks SET reference = 'XXX-001' WHERE id = {ONE}"],
            "A task of XXX-001 is there, which nobody sent.",
        ),
        ([f"DELETE FROM idempotency_keys WHERE task_id = {ONE}"], "There are 2 idempotency keys; 3 were sent."),
        ([f"UPDATE idempotency_keys SET task_id = 'gone' WHERE task_id = {ONE}"], f"key-{GOOD} has 0 tasks."),
        (["UPDATE idempotency_keys SET replays = 0"], f"key-{DEAD} was never replayed."),
        ([COPIED_SUCCESS], f"{GOOD}: export succeeded 2 times, not 1."),
        (
            [f"DELETE FROM attempts WHERE task_id = {ONE} AND stage = 'cleanup'"],
            f"{GOOD}: cleanup succeeded 0 times, not 1.",
        ),
        (
            [f"DELETE FROM outputs WHERE task_id = {ONE} AND stage = 'cleanup'"],
            f"{GOOD}: the outputs of cleanup do not match its success.",
        ),
        ([f"UPDATE tasks SET status = 'running' WHERE id = {ONE}"], f"{GOOD} has not ended: the task is running"),
        (
            [f"UPDATE pipeline_states SET status = 'queued', is_terminal = 0 WHERE task_id = {ONE}"],
            f"{GOOD} has not ended: the task is succeeded, its stage queued.",
        ),
        (
            [f"UPDATE attempts SET outcome = NULL, ended_at = NULL WHERE task_id = {ONE} AND stage = 'export'"],
            f"{GOOD} has an attempt of export that has not ended.",
        ),
        ([LEFT_JOB], f"{GOOD} has a job left over at export, not leased."),
        ([LEFT_LEASE], f"{GOOD} has a job left over at export, leased by host:1."),
        (
            [f"UPDATE tasks SET status = 'failed' WHERE id = {ONE}", f"{BURIED} WHERE task_id = {ONE}"],
            f"{GOOD} is a dead letter (export unlucky); it should have succeeded.",
        ),
        (
            ["UPDATE tasks SET status = 'succeeded' WHERE status = 'failed'"],
            f"{DEAD} is no dead letter; it should be one (parse crop_outside_picture).",
        ),
        (
            ["UPDATE pipeline_states SET last_error_kind = 'unlucky' WHERE status = 'dead_letter'"],
            f"{DEAD} is a dead letter of parse unlucky; it should be one of parse crop_outside_picture.",
        ),
        (["UPDATE attempts SET outcome = 'released' WHERE outcome = 'lease_expired'"], "No attempt was lost"),
        (
            ["UPDATE attempts SET started_at = '2000' WHERE stage = 'publish' AND outcome = 'succeeded'"],
            f"{GOOD}: the lost attempt of publish was not made again.",
        ),
        (
            ["DELETE FROM attempts WHERE stage = 'publish' AND outcome = 'lease_expired'"],
            "ran at the kill or was lost, but not both.",
        ),
        (
            [f"UPDATE attempts SET ended_at = '2000' WHERE task_id = {ONE} AND stage = 'parse'"],
            "The success of parse in task",
        ),
        ([f"UPDATE tasks SET payload_json = '{{}}' WHERE id = {ONE}"], f"The task of {GOOD} was there at the kill"),
        ([f"UPDATE tasks SET status = 'lost' WHERE id = {ONE}"], "The database is damaged: CHECK constraint failed"),
        ([f"UPDATE tasks SET created_by = 'nobody' WHERE id = {ONE}"], "A row of tasks refers to a row that is not"),
    ],
)
def test_a_fault_in_the_database_is_named(folder: Path, statements: list[str], finding: str) -> None:
    change(folder, *statements)

    assert_named(check(folder, EXPECTED), finding)


def flip_a_byte(folder: Path) -> None:
    path = file_of(folder, "card.json")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def list_twice(folder: Path) -> None:
    page = folder / "artifacts" / "index.html"
    card = f'<a class="card" href="{task_id(folder, GOOD)}/index.html"></a>'
    page.write_text(page.read_text() + card)


def unlist(folder: Path) -> None:
    page = folder / "artifacts" / "index.html"
    page.write_text(page.read_text().replace(f'href="{task_id(folder, GOOD)}/index.html"', 'href=""'))


def list_a_dead_letter(folder: Path) -> None:
    with (folder / "artifacts" / "catalogue.csv").open("a") as catalogue:
        catalogue.write(f"{DEAD},,,,,,,,,\n")


def add_to_log(line: str) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        (folder / "server.log").write_text(LOG_LINE + line)

    return plant


def kill_too_late(folder: Path) -> None:
    shutil.copy(folder / "cabinet.db", folder / "after-kill")


def break_the_file(folder: Path) -> None:
    (folder / "cabinet.db").write_bytes(b"no database " * 1_000)


@pytest.mark.parametrize(
    ("plant", "finding"),
    [
        (flip_a_byte, "/card.json has changed since it was recorded."),
        (lambda folder: file_of(folder, "row.csv").unlink(), "/row.csv is missing."),
        (lambda folder: file_of(folder, ".card.json.1.part").touch(), "/.card.json.1.part was recorded by no stage."),
        (lambda folder: file_of(folder, "photo-240.webp", DEAD).touch(), "/photo-240.webp was recorded by no stage."),
        (lambda folder: (folder / "artifacts" / "stray").touch(), "no task: stray was recorded by no stage."),
        (list_twice, f"The gallery lists {GOOD} 2 times, not 1."),
        (unlist, f"The gallery lists {GOOD} 0 times, not 1."),
        (list_a_dead_letter, f"The catalogue lists {DEAD} 1 times, not 0."),
        (lambda folder: (folder / "artifacts" / "index.html").unlink(), "What was left cannot be read"),
        (lambda folder: shutil.rmtree(folder / "after-kill"), "What was left cannot be read"),
        (lambda folder: (folder / "cabinet.db").unlink(), "What was left cannot be read"),
        (break_the_file, "What was left cannot be read"),
        (kill_too_late, "The kill came when 100% of the stages were recorded, not in the middle."),
        (add_to_log('{"level": "error", "event": "broken"}'), "Line 2 of the server's log tells of an error: broken."),
        (add_to_log("Segmentation fault"), "Line 2 of the server's log is no log line: Segmentation fault"),
    ],
)
def test_a_fault_in_the_files_is_named(folder: Path, plant: Callable[[Path], None], finding: str) -> None:
    plant(folder)

    assert_named(check(folder, EXPECTED), finding)


def test_the_command_prints_what_it_finds_and_exits_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder, LEFT_JOB)
    monkeypatch.setattr(sys, "argv", ["checker", str(folder)])
    monkeypatch.setattr(checker, "expected_of_catalogue", lambda: EXPECTED)

    code = checker.main()

    assert code == 1
    assert capsys.readouterr().out == f"{GOOD} has a job left over at export, not leased.\n"


def test_without_a_word_on_what_is_expected_it_is_the_whole_catalogue(folder: Path) -> None:
    assert_named(check(folder), "There are 3 idempotency keys; 71 were sent.")


def test_the_checker_shares_no_code_with_the_service() -> None:
    imported = set()
    for node in ast.walk(ast.parse(Path(checker.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add((node.module or "").partition(".")[0])

    assert imported - sys.stdlib_module_names == {"pysqlite3"}


def assert_named(findings: list[str], finding: str) -> None:
    assert any(finding in found for found in findings), findings
