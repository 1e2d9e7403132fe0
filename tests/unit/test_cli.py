"""The command line: every command and option, wrong use, and what goes to which stream; in this process."""

from pathlib import Path

import pytest

from app.clock import SystemClock
from app.domain.scopes import DEFAULT_SCOPES
from app.domain.users import Role
from app.errors import NotAuthenticated
from app.ids import is_id
from app.security.tokens import Tokens
from tests.e2e.home import Home
from tests.unit.conftest import Run

SECRET = "test-secret-" + "x" * 32


def subject_of(token: str, *, secret: str = SECRET) -> str:
    """Return whom a token names."""
    return Tokens([secret], ttl_max_seconds=31_536_000, clock=SystemClock()).verify(token)


def change(folder: Path, sql: str) -> None:
    """Change the file past the commands."""
    Home(folder, {}).rows(sql)


# Wrong use -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["dance"], "No such command 'dance'"),
        (["--loud"], "No such option"),
        (["serve", "now"], "unexpected extra argument"),
        (["worker", "--fast"], "No such option"),
        (["migrate", "--check=yes"], "does not take a value"),
        (["admin", "dance"], "No such command 'dance'"),
        (["admin", "users", "dance"], "No such command 'dance'"),
        (["admin", "users", "add"], "Missing argument 'SUBJECT'"),
        (["admin", "users", "add", "alice", "bob"], "unexpected extra argument"),
        (["admin", "users", "add", ""], "a subject has 1 to 255 characters"),
        (["admin", "users", "add", "x" * 256], "a subject has 1 to 255 characters"),
        (["admin", "users", "add", "two words"], "a subject has 1 to 255 characters"),
        (["admin", "users", "add", "issuer#sub"], "a subject has 1 to 255 characters"),
        (["admin", "users", "add", "alice", "--role", "king"], "'king' is not one of"),
        (["admin", "users", "add", "alice", "--scope", "tasks.destroy"], "unknown scopes: tasks.destroy"),
        (["admin", "users", "list", "all"], "unexpected extra argument"),
        (["admin", "token"], "Missing argument 'SUBJECT'"),
        (["admin", "token", "alice", "--ttl", "0"], "0 is not in the range"),
        (["admin", "token", "alice", "--ttl", "-5"], "-5 is not in the range"),
        (["admin", "token", "alice", "--ttl", "soon"], "'soon' is not a valid integer"),
        (["admin", "token", "alice", "--ttl", "99999999"], "a token lives at most 2592000 seconds here"),
    ],
    ids=" ".join,
)
def test_wrong_use_is_told_with_2_and_changes_nothing(
    run: Run, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "cabinet.db").exists()


@pytest.mark.parametrize("arguments", [[], ["admin"], ["admin", "users"]], ids=repr)
def test_a_group_without_a_command_shows_what_there_is(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert "Commands:" in result.output


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize(
    "command",
    [[], ["serve"], ["worker"], ["migrate"], ["admin"], ["admin", "users"], ["admin", "users", "add"],
     ["admin", "users", "list"], ["admin", "token"]],
    ids=" ".join,
)  # fmt: skip
def test_every_command_explains_itself(run: Run, command: list[str], option: str) -> None:
    result = run(*command, option)

    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: {' '.join(['cabinet', *command])} ")


def test_the_version_is_told(run: Run) -> None:
    result = run("--version")

    assert result.exit_code == 0
    assert result.stdout == "cabinet 0.1.0\n"


# Settings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["serve"], ["worker"], ["migrate"], ["admin", "users", "list"], ["admin", "users", "add", "a"],
     ["admin", "token", "a"]],
    ids=" ".join,
)  # fmt: skip
def test_bad_settings_are_told_with_3_all_at_once(run: Run, arguments: list[str]) -> None:
    result = run(*arguments, PORT="high", LOG_LEVEL="loud")

    assert result.exit_code == 3
    assert [line.split()[1] for line in result.stderr.splitlines()] == ["PORT", "LOG_LEVEL"]
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["serve"], 3), (["admin", "token", "a"], 3), (["admin", "users", "list"], 0), (["migrate"], 0)],
    ids=repr,
)
def test_a_secret_is_needed_by_who_serves_or_issues_tokens_only(run: Run, arguments: list[str], code: int) -> None:
    result = run(*arguments, TOKEN_SECRET="")

    assert result.exit_code == code
    assert ("TOKEN_SECRET is missing" in result.stderr) is (code == 3)


@pytest.mark.parametrize("arguments", [["serve"], ["worker"]], ids=repr)
def test_a_pipeline_is_needed_by_who_serves_or_works(run: Run, arguments: list[str], tmp_path: Path) -> None:
    tmp_path.chmod(0o700)

    result = run(*arguments, APP_ENV="prod", PIPELINE="")

    assert result.exit_code == 3
    assert "PIPELINE is missing" in result.stderr


# Migrate -------------------------------------------------------------------------------------------------------------


def test_migrate_applies_what_is_missing_and_then_nothing(run: Run) -> None:
    first, second, check = run("migrate"), run("migrate"), run("migrate", "--check")

    assert [result.exit_code for result in (first, second, check)] == [0, 0, 0]
    assert first.stdout.startswith("applied: ")
    assert second.stdout == "nothing to apply\n"
    assert check.stdout == "the schema is this version's\n"


def test_a_check_of_a_database_that_is_behind_ends_with_4(run: Run, tmp_path: Path) -> None:
    run("migrate")
    change(tmp_path, "DELETE FROM schema_migrations WHERE version = 2")

    result = run("migrate", "--check")

    assert result.exit_code == 4
    assert result.stderr.startswith("cabinet: The database is behind this version: not applied yet: 0002_")


def test_a_check_where_there_is_no_database_makes_none(run: Run, tmp_path: Path) -> None:
    result = run("migrate", "--check")

    assert result.exit_code == 4
    assert list(tmp_path.glob("cabinet.db*")) == []


def test_a_changed_migration_ends_every_command_with_4(run: Run, tmp_path: Path) -> None:
    run("migrate")
    change(tmp_path, "UPDATE schema_migrations SET checksum = 'x' WHERE version = 1")

    results = [run("migrate"), run("admin", "users", "list"), run("worker"), run("serve")]

    assert [result.exit_code for result in results] == [4] * 4
    assert all("has changed since" in result.stderr for result in results)


def test_a_file_that_is_no_database_is_told_in_a_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cabinet.db").write_bytes(b"a letter to my aunt, which is long enough to be read" * 100)

    results = [run("migrate"), run("admin", "users", "list"), run("worker"), run("serve")]

    assert {result.exit_code for result in results} <= {1, 4}
    assert all(result.stderr.splitlines()[-1].startswith("cabinet: ") for result in results)


def test_a_lock_that_cannot_be_opened_is_told_in_a_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cabinet.db.lock").mkdir()

    result = run("worker")

    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("cabinet: ")


# Users ---------------------------------------------------------------------------------------------------------------


def test_a_user_is_let_in_with_the_usual_scopes(run: Run) -> None:
    result = run("admin", "users", "add", "alice@example.com")

    user_id, subject, role, *scopes = result.stdout.split()
    assert result.exit_code == 0
    assert is_id(user_id)
    assert (subject, role) == ("alice@example.com", "user")
    assert scopes == sorted(DEFAULT_SCOPES[Role.USER])


@pytest.mark.parametrize("role", Role)
def test_a_user_gets_the_role_that_was_named(run: Run, role: Role) -> None:
    result = run("admin", "users", "add", "alice", "--role", role.value)

    assert result.stdout.split()[2:] == [role, *sorted(DEFAULT_SCOPES[role])]


def test_a_user_gets_the_scopes_that_were_named_and_no_others(run: Run) -> None:
    result = run("admin", "users", "add", "alice", "--scope", "tasks.read", "--scope", "tasks.create")

    assert result.stdout.split()[3:] == ["tasks.create", "tasks.read"]


def test_the_same_subject_is_refused_with_1(run: Run) -> None:
    run("admin", "users", "add", "alice")

    result = run("admin", "users", "add", "alice", "--role", "admin")

    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "cabinet: alice is a user already."
    assert result.stdout == ""
    assert run("admin", "users", "list").stdout.split()[2] == "user"


def test_users_are_listed_the_newest_first(run: Run) -> None:
    for subject in ("alice", "bob"):
        run("admin", "users", "add", subject)

    result = run("admin", "users", "list")

    lines = [line.split() for line in result.stdout.splitlines()]
    assert [(line[1], line[2], line[3]) for line in lines] == [("active", "user", "bob"), ("active", "user", "alice")]


def test_all_users_are_listed_however_many_there_are(run: Run, tmp_path: Path) -> None:
    run("migrate")
    change(
        tmp_path,
        "WITH RECURSIVE counted (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counted WHERE n < 400)"
        " INSERT INTO users (id, subject, role, scopes_json, is_active, created_at, updated_at)"
        " SELECT printf('0190a5d0-0000-7000-8000-%012d', n), 'user-' || n, 'user', '[]', 0, 'then', 'then'"
        " FROM counted",
    )

    result = run("admin", "users", "list")

    assert [line.split()[3] for line in result.stdout.splitlines()] == [f"user-{n}" for n in reversed(range(401))]
    assert {line.split()[1] for line in result.stdout.splitlines()} == {"inactive"}


def test_no_users_are_an_empty_list(run: Run) -> None:
    result = run("admin", "users", "list")

    assert (result.exit_code, result.stdout) == (0, "")


# Tokens --------------------------------------------------------------------------------------------------------------


def test_a_token_stands_alone_on_standard_output(run: Run) -> None:
    run("admin", "users", "add", "alice")

    result = run("admin", "token", "alice")

    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    assert subject_of(result.stdout.strip()) == "alice"
    assert result.stderr.splitlines()[-1].startswith("expires 2")
    assert result.stdout.strip() not in result.stderr


def test_a_token_is_signed_with_the_secret_of_the_settings(run: Run) -> None:
    run("admin", "users", "add", "alice")

    result = run("admin", "token", "alice", "--ttl", "60", TOKEN_SECRET="o" * 40)

    assert subject_of(result.stdout.strip(), secret="o" * 40) == "alice"
    with pytest.raises(NotAuthenticated):
        subject_of(result.stdout.strip())


def test_a_token_for_nobody_is_refused_with_the_remedy(run: Run) -> None:
    result = run("admin", "token", "bob")

    assert result.exit_code == 1
    assert result.stdout == ""
    assert "bob is not a user; let them in with: cabinet admin users add bob" in result.stderr
