"""`cabinet admin audit verify`: what it prints to which stream, its exit codes, and that it changes nothing."""

import asyncio
import hashlib
import re
from contextlib import closing
from pathlib import Path

import pytest

from app.clock import SystemClock, later
from app.domain.audit import Seal
from app.services import sealing
from tests.db.records import open_database
from tests.support.database import connect
from tests.support.trails import keep_sealed
from tests.unit.conftest import Run

COLUMNS = "at, action, target_kind, target_id, outcome, occurrences"


@pytest.fixture
def seals(tmp_path: Path) -> list[Seal]:
    """A database with a trail of three seals."""
    return asyncio.run(make_trail(tmp_path))


async def make_trail(folder: Path) -> list[Seal]:
    async with open_database("file", folder) as database:
        return await keep_sealed(database.store, 3, 1, 2)


def tamper(folder: Path, *statements: str) -> None:
    """Do something to the database, without the triggers, and put them back."""
    with closing(connect(folder / "cabinet.db")) as connection:
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in [*statements, *(text for _, text in triggers)]:
            connection.execute(statement)


def add_event(folder: Path, *, seconds_ago: float) -> str:
    """Put an event behind the others, and return its time."""
    at = later(SystemClock().now(), -seconds_ago)
    with closing(connect(folder / "cabinet.db")) as connection:
        connection.execute(f"INSERT INTO audit_events ({COLUMNS}) VALUES ('{at}', 'a', 'k', 'i', 'allowed', 1)")
    return at


def test_a_good_trail_is_told_with_its_head_and_exits_with_0(run: Run, seals: list[Seal]) -> None:
    result = run("admin", "audit", "verify")

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "good: 3 seals over 6 events",
        f"head: 3:{seals[2].hash}",
        "held against no head that was kept elsewhere",
        "not sealed yet: 0 events",
    ]


def test_the_head_that_it_prints_can_be_given_to_it(run: Run, seals: list[Seal]) -> None:
    printed = re.findall(r"^head: (.*)$", run("admin", "audit", "verify").stdout, re.MULTILINE)

    result = run("admin", "audit", "verify", "--head", printed[0], "--head", f"1:{seals[0].hash}")

    assert result.exit_code == 0
    assert "held against 2 heads, the last of seal 3\n" in result.stdout


@pytest.mark.parametrize(
    ("statements", "name"),
    [
        (["DROP TRIGGER audit_events_no_update"], "audit_events_no_update"),
        (["DROP TRIGGER audit_seals_no_delete"], "audit_seals_no_delete"),
        (
            [
                "DROP TRIGGER audit_events_no_delete",
                "CREATE TRIGGER audit_events_no_delete BEFORE DELETE ON audit_events BEGIN SELECT 1; END",
            ],
            "audit_events_no_delete",
        ),
        (["CREATE TRIGGER quiet BEFORE INSERT ON audit_events BEGIN SELECT RAISE(IGNORE); END"], "quiet"),
    ],
    ids=["dropped", "of the seals dropped", "changed", "added"],
)
@pytest.mark.usefixtures("seals")
def test_a_trigger_that_is_not_as_it_should_be_is_named(
    run: Run, tmp_path: Path, statements: list[str], name: str
) -> None:
    with closing(connect(tmp_path / "cabinet.db")) as connection:
        for statement in statements:
            connection.execute(statement)

    result = run("admin", "audit", "verify")

    assert result.exit_code == 1
    assert result.stderr.startswith(f"cabinet: the trigger {name} is gone, changed or none of ours: ")
    assert result.stdout.startswith("good: 3 seals over 6 events\n")


def test_a_trail_that_has_not_begun_is_good(run: Run) -> None:
    run("migrate")

    result = run("admin", "audit", "verify")

    assert result.exit_code == 0
    kept = "held against no head that was kept elsewhere"
    assert result.stdout == f"good: 0 seals over 0 events\n{kept}\nnot sealed yet: 0 events\n"


@pytest.mark.usefixtures("seals")
def test_a_broken_trail_is_told_with_its_first_broken_seal_and_exits_with_1(run: Run, tmp_path: Path) -> None:
    tamper(tmp_path, "DELETE FROM audit_events WHERE seq = 4")

    result = run("admin", "audit", "verify")

    assert result.exit_code == 1
    assert result.stdout == "good before that: 1 seal over 3 events\n"
    assert result.stderr == "cabinet: Seal 2 lacks 1 of the 1 events that it covers from seq 4 to 4.\n"


def test_an_end_that_was_cut_off_is_told_when_a_head_is_given(run: Run, tmp_path: Path, seals: list[Seal]) -> None:
    tamper(tmp_path, "DELETE FROM audit_seals WHERE number = 3", "DELETE FROM audit_events WHERE seq > 4")

    without = run("admin", "audit", "verify")
    result = run("admin", "audit", "verify", "--head", f"3:{seals[2].hash}")

    assert without.exit_code == 0
    assert result.exit_code == 1
    assert result.stderr.endswith("the last one there is seal 2: the end was cut off.\n")


@pytest.mark.parametrize("head", ["", "3", "3:", ":" + "0" * 64, "0:" + "0" * 64, "3:" + "g" * 64, "3:" + "0" * 63])
def test_a_head_that_is_none_is_wrong_use(run: Run, head: str) -> None:
    result = run("admin", "audit", "verify", "--head", head)

    assert result.exit_code == 2
    assert "audit_sealed" in result.stderr


@pytest.mark.usefixtures("seals")
def test_young_events_without_a_seal_are_counted(run: Run, tmp_path: Path) -> None:
    add_event(tmp_path, seconds_ago=50)

    result = run("admin", "audit", "verify")

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.endswith("not sealed yet: 1 event\n")


@pytest.mark.usefixtures("seals")
def test_old_events_without_a_seal_are_warned_of(run: Run, tmp_path: Path) -> None:
    at = add_event(tmp_path, seconds_ago=7_300)
    add_event(tmp_path, seconds_ago=0)

    result = run("admin", "audit", "verify")

    assert result.exit_code == 0
    assert result.stdout.endswith("not sealed yet: 2 events\n")
    assert result.stderr == (
        f"cabinet: warning: the oldest event without a seal is of {at}, 2 h ago;"
        " a service that runs seals every second\n"
    )


@pytest.mark.usefixtures("seals")
def test_verifying_leaves_every_byte_as_it_is(run: Run, tmp_path: Path) -> None:
    def files() -> dict[str, str]:
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in tmp_path.iterdir()
            if path.is_file() and path.name.startswith("cabinet")
        }

    before = files()

    result = run("admin", "audit", "verify")

    assert result.exit_code == 0
    assert files() == before


def test_a_backup_can_be_verified(run: Run, tmp_path: Path, seals: list[Seal]) -> None:
    (tmp_path / "backups").mkdir(mode=0o700)
    backup = run("admin", "backup", "backups").stdout.split("  ")[0]

    result = run("admin", "audit", "verify", "--head", f"3:{seals[2].hash}", DB_PATH=backup)

    assert result.exit_code == 0
    assert "good: 3 seals over 6 events" in result.stdout


def test_where_no_database_is_none_is_made(run: Run, tmp_path: Path) -> None:
    result = run("admin", "audit", "verify")

    assert result.exit_code == 4
    assert result.stderr.startswith("cabinet: There is no database at ")
    assert not (tmp_path / "cabinet.db").exists()


@pytest.mark.usefixtures("seals")
def test_a_database_that_is_behind_is_not_migrated(run: Run, tmp_path: Path) -> None:
    tamper(tmp_path, "DELETE FROM schema_migrations WHERE version = (SELECT MAX(version) FROM schema_migrations)")

    result = run("admin", "audit", "verify", RUN_MIGRATIONS="1")

    assert result.exit_code == 4
    assert "behind this version" in result.stderr


def test_a_file_that_is_no_database_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cabinet.db").write_bytes(b"no database at all" * 1_000)

    result = run("admin", "audit", "verify")

    assert result.exit_code == 1
    assert result.stderr.startswith("cabinet: ")
    assert "no database" in result.stderr


def test_what_lies_in_memory_is_out_of_reach(run: Run) -> None:
    result = run("admin", "audit", "verify", USE_SQLITE="false")

    assert result.exit_code == 1
    assert "out of reach" in result.stderr


def test_a_seal_never_covers_more_than_verifying_looks_at() -> None:
    assert sealing.SEAL_LIMIT >= 1_000
