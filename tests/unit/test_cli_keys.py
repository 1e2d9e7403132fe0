"""`cabinet admin keys`: making a key, adding it, seeing it and taking it out of use; in this process."""

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from app.domain.keys import KEYS_LIMIT, fingerprint
from app.ids import is_id, new_id
from tests.e2e.home import Home
from tests.support.signers import public_text
from tests.unit.conftest import Run


def rows(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    """Return what the file holds."""
    return Home(folder, {}).rows(sql)


def a_key() -> str:
    """Make a public key."""
    return public_text(Ed25519PrivateKey.generate())


@pytest.fixture
def alice(run: Run) -> str:
    """A user."""
    assert run("admin", "users", "add", "alice").exit_code == 0
    return "alice"


# generate ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o777])
def test_a_new_private_key_is_written_for_its_owner_alone_and_the_public_one_printed(
    run: Run, tmp_path: Path, mask: int
) -> None:
    os.umask(mask)

    result = run("admin", "keys", "generate", "parser.pem")

    path = tmp_path / "parser.pem"
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    path.chmod(0o600)
    private_key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(private_key, Ed25519PrivateKey)
    assert result.exit_code == 0
    assert result.stdout == f"{public_text(private_key)}\n"
    assert result.stderr == f"fingerprint {fingerprint(public_text(private_key))}\n"


def test_making_a_key_needs_no_settings_and_touches_no_database(run: Run, tmp_path: Path) -> None:
    result = run("admin", "keys", "generate", "k.pem", TOKEN_SECRET="", DB_PATH="/nowhere/x.db", PORT="high")

    assert result.exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k.pem", "secrets"]


def test_no_two_keys_are_the_same(run: Run) -> None:
    assert run("admin", "keys", "generate", "a").stdout != run("admin", "keys", "generate", "b").stdout


def test_a_file_that_is_there_is_never_written_over(run: Run, tmp_path: Path) -> None:
    (tmp_path / "there.pem").write_text("precious")
    (tmp_path / "link.pem").symlink_to(tmp_path / "elsewhere.pem")

    results = [run("admin", "keys", "generate", name) for name in ("there.pem", "link.pem", "no/folder.pem", ".")]

    assert [result.exit_code for result in results] == [1, 1, 1, 1]
    assert all("cannot be written" in result.stderr and result.stdout == "" for result in results)
    assert (tmp_path / "there.pem").read_text() == "precious"
    assert not (tmp_path / "elsewhere.pem").exists()


# add -----------------------------------------------------------------------------------------------------------------


def test_a_key_that_is_added_has_an_id_and_is_in_the_audit(run: Run, alice: str, tmp_path: Path) -> None:
    key = a_key()

    result = run("admin", "keys", "add", alice, key, "--name", "the host rigel")

    assert result.exit_code == 0
    key_id = result.stdout.strip()
    assert is_id(key_id)
    assert rows(
        tmp_path,
        "SELECT signing_keys.id, users.subject, public_key, name, revoked_at"
        " FROM signing_keys JOIN users ON users.id = user_id",
    ) == [(key_id, "alice", key, "the host rigel", None)]
    sql = "SELECT actor_id, subject, action, target_id, after_json FROM audit_events ORDER BY seq DESC LIMIT 1"
    [(actor_id, subject, action, target, after)] = rows(tmp_path, sql)
    assert (actor_id, subject.startswith("local:"), action, target) == (None, True, "key.added", key_id)
    assert json.loads(after)["fingerprint"] == fingerprint(key)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["add", "alice"], "Missing argument 'PUBLIC_KEY'"),
        (["add", "alice", "AAAA"], "send the 32 bytes of an Ed25519 public key"),
        (["add", "alice", base64.b64encode(bytes(32)).decode()], "anybody can make signatures"),
        (["add", "alice", base64.b64encode(b"\2" + bytes(31)).decode()], "no Ed25519 public key"),
        (["add", "alice", a_key(), "--name", ""], "a name has 1 to 100 printable characters"),
        (["add", "alice", a_key(), "--name", "x" * 101], "a name has 1 to 100 printable characters"),
        (["add", "alice", a_key(), "--name", "a\x1b[2J"], "a name has 1 to 100 printable characters"),
        (["add", "alice", a_key(), "--name", "a\u202eb"], "a name has 1 to 100 printable characters"),
        (["generate"], "Missing argument 'FILE'"),
        (["revoke"], "Missing argument 'KEY_ID'"),
        (["list", "alice", "bob"], "unexpected extra argument"),
        (["dance"], "No such command 'dance'"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_wrong_use_is_told_with_2_and_changes_nothing(
    run: Run, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    result = run("admin", "keys", *arguments)

    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "cabinet.db").exists()


def test_whoever_is_no_user_gets_no_key(run: Run, alice: str, tmp_path: Path) -> None:
    result = run("admin", "keys", "add", "bob", a_key())

    assert result.exit_code == 1
    assert "bob is not a user; let them in with: cabinet admin users add bob" in result.stderr
    assert rows(tmp_path, "SELECT * FROM signing_keys") == []


def test_somebody_who_is_not_active_gets_no_key(run: Run, alice: str, tmp_path: Path) -> None:
    rows(tmp_path, "UPDATE users SET is_active = 0")

    result = run("admin", "keys", "add", alice, a_key())

    assert (result.exit_code, result.stdout) == (1, "")
    assert "not active" in result.stderr
    assert rows(tmp_path, "SELECT * FROM signing_keys") == []


def test_a_user_has_so_many_live_keys_and_no_more(run: Run, alice: str, tmp_path: Path) -> None:
    first = run("admin", "keys", "add", alice, a_key()).stdout.strip()
    for _ in range(KEYS_LIMIT - 1):
        rows(
            tmp_path,
            "INSERT INTO signing_keys SELECT '" + new_id() + "', user_id, public_key, name, created_at, NULL"
            f" FROM signing_keys WHERE id = '{first}'",
        )

    refused = run("admin", "keys", "add", alice, a_key())
    run("admin", "keys", "revoke", first)
    taken = run("admin", "keys", "add", alice, a_key())

    assert (refused.exit_code, taken.exit_code) == (1, 0)
    assert "revoke one first" in refused.stderr


# list ----------------------------------------------------------------------------------------------------------------


def test_keys_are_listed_newest_first_of_all_or_of_one(run: Run, alice: str) -> None:
    run("admin", "users", "add", "bob")
    keys = [a_key() for _ in range(3)]
    ids = [
        run("admin", "keys", "add", who, key, "--name", f"{who}'s").stdout.strip()
        for who, key in zip(("alice", "bob", "alice"), keys, strict=True)
    ]

    everybody = run("admin", "keys", "list").stdout.splitlines()
    bob = run("admin", "keys", "list", "bob").stdout.splitlines()

    assert [line.split("  ")[0] for line in everybody] == ids[::-1]
    assert bob == [f"{ids[1]}  bob  {fingerprint(keys[1])}  bob's  live"]


def test_listing_walks_page_after_page(run: Run, alice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cli.keys.PAGE_LIMIT", 2)
    ids = [run("admin", "keys", "add", alice, a_key()).stdout.strip() for _ in range(4)]

    listed = run("admin", "keys", "list", alice).stdout.splitlines()

    assert [line.split("  ")[0] for line in listed] == ids[::-1]


def test_nobody_has_no_keys_and_a_stranger_is_told(run: Run, alice: str) -> None:
    empty, stranger = run("admin", "keys", "list", alice), run("admin", "keys", "list", "mallory")

    assert (empty.exit_code, empty.stdout) == (0, "")
    assert (stranger.exit_code, stranger.stdout) == (1, "")
    assert "mallory is not a user" in stranger.stderr


@pytest.mark.parametrize("name", ["\x9b2Jgone", "live\u202egnihton", "a\u2028b", "a\x7fb"])
def test_a_name_cannot_play_with_the_terminal(run: Run, alice: str, tmp_path: Path, name: str) -> None:
    run("admin", "keys", "add", alice, a_key())
    rows(tmp_path, f"UPDATE signing_keys SET name = '{name}'")

    listed = run("admin", "keys", "list").stdout

    assert listed.count("\n") == 1
    assert listed.rstrip("\n").isprintable()
    assert "live" in listed


# revoke --------------------------------------------------------------------------------------------------------------


def test_a_key_is_revoked_once_and_says_since_when(run: Run, alice: str, tmp_path: Path) -> None:
    key_id = run("admin", "keys", "add", alice, a_key()).stdout.strip()

    first = run("admin", "keys", "revoke", key_id, "--reason", "lost")
    again = run("admin", "keys", "revoke", key_id)
    listed = run("admin", "keys", "list", alice).stdout

    [(revoked_at,)] = rows(tmp_path, "SELECT revoked_at FROM signing_keys")
    assert first.exit_code == again.exit_code == 0
    assert first.stdout == again.stdout == f"{key_id}  revoked {revoked_at}\n"
    assert listed.rstrip().endswith(f"revoked {revoked_at}")
    events = rows(tmp_path, "SELECT target_id, reason FROM audit_events WHERE action = 'key.revoked'")
    assert events == [(key_id, "lost")]


@pytest.mark.parametrize("key_id", ["019aabcd-0000-7000-8000-000000000001", "", "x' OR 1=1 --"])
def test_a_key_that_is_not_there_is_not_revoked(run: Run, alice: str, key_id: str) -> None:
    result = run("admin", "keys", "revoke", key_id)

    assert result.exit_code == 1
    assert "There is no key of this id." in result.stderr
