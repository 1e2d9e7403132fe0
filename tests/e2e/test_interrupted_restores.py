"""No process begins with an empty database where a restore was interrupted or is under way (real processes)."""

from pathlib import Path

import pytest

from app.db.ownership import alone, restoring, share
from tests.e2e.home import Home
from tests.support.processes import run_cabinet

COMMANDS = (
    ["serve"],
    ["worker"],
    ["migrate"],
    ["migrate", "--check"],
    ["admin", "users", "list"],
    ["admin", "users", "add", "bob"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_after_an_interrupted_restore_every_command_says_what_to_do_and_makes_no_database(
    tmp_path: Path, command: list[str]
) -> None:
    restoring(tmp_path / "cabinet.db").touch()

    result = run_cabinet(tmp_path, *command)

    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"cabinet: There is no database at {tmp_path}/cabinet.db, but ")
    assert "a restore was interrupted. Run `cabinet admin restore BACKUP` again." in result.stderr
    assert not (tmp_path / "cabinet.db").exists()


def test_commands_wait_outside_while_a_restore_is_under_way(home: Home) -> None:
    with alone(home.database):
        refused = run_cabinet(home.folder, "admin", "users", "add", "bob")
    done = run_cabinet(home.folder, "admin", "users", "add", "bob")

    assert (refused.returncode, done.returncode) == (1, 0)
    assert "cabinet.db is being restored; try again when that has ended." in refused.stderr


def test_commands_and_services_share_a_database(home: Home) -> None:
    with share(home.database):
        result = run_cabinet(home.folder, "admin", "users", "list")

    assert result.returncode == 0
