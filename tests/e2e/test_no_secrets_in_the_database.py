"""No secret is ever in the database: after a full run every column, and every byte of the files, is searched for all.

Lease tokens lie there on purpose: they fence workers off and let nobody in.
"""

import base64
import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from tests.e2e.attacks import HOST, ORIGIN, port_of
from tests.e2e.home import Home, until
from tests.support.processes import ServiceProcess, let_in, run_cabinet, service
from tests.support.signers import Message, Signer, json_message, public_text, send_wire, task_message

SETTINGS = {
    "PUBLIC_ORIGIN": ORIGIN,
    "TOKEN_SECRET": "current-secret-" + "c" * 32,
    "TOKEN_SECRET_PREVIOUS": "previous-secret-" + "p" * 32,
    "PIPELINE": "tests.support.pipelines:leaky",
}
FILLED = {
    "users", "access_requests", "signing_keys", "nonces", "tasks", "pipeline_states", "idempotency_keys", "attempts",
    "dead_letters", "rescues", "audit_events",
}  # fmt: skip
"""Tables in which the run must have left something."""

LOOKS_SECRET = re.compile(rb"PRIVATE KEY|eyJ[A-Za-z0-9_-]{10,}\.|[Bb]earer |-secret-|sig=")


@dataclass(frozen=True, slots=True)
class Secrets:
    """All that was used to prove who somebody is, in every way to write it down."""

    needles: dict[str, bytes] = field(default_factory=dict)

    def keep_text(self, name: str, text: str) -> str:
        """Remember a text, and return it."""
        self.needles[name] = text.encode()
        return text

    def keep_token(self, name: str, token: str) -> str:
        """Remember a bearer token, and its signature for itself."""
        self.needles[f"{name}, signature"] = token.rpartition(".")[2].encode()
        return self.keep_text(name, token)

    def keep_bytes(self, name: str, raw: bytes) -> None:
        """Remember bytes as they are, and as people write them."""
        forms = {
            "raw": raw,
            "base64": base64.b64encode(raw).rstrip(b"="),
            "base64url": base64.urlsafe_b64encode(raw).rstrip(b"="),
            "hex": raw.hex().encode(),
            "HEX": raw.hex().upper().encode(),
        }
        self.needles.update({f"{name}, {form}": needle for form, needle in forms.items()})

    def keep_key(self, name: str, pem: bytes) -> Ed25519PrivateKey:
        """Remember a private key, and return it."""
        key = load_pem_private_key(pem, None)
        assert isinstance(key, Ed25519PrivateKey)
        self.needles[f"{name}, PEM"] = pem.splitlines()[1]
        self.keep_bytes(name, key.private_bytes_raw())
        return key

    def keep_signature(self, name: str, message: Message) -> Message:
        """Remember the signature of a message, and return the message."""
        self.keep_bytes(name, base64.b64decode(message.the("signature").split(":")[1]))
        return message


def columns(path: Path) -> dict[str, list[bytes]]:
    """Return every value of every column of every table, and the schema, as bytes."""
    found: dict[str, list[bytes]] = {}
    with closing(Home(path.parent, {}).connect()) as connection:
        connection.text_factory = bytes
        tables = [
            name.decode() for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        for table in (*tables, "sqlite_master"):
            cursor = connection.execute(f"SELECT * FROM {table}")
            names = [column[0] for column in cursor.description]
            for row in cursor.fetchall():
                for name, value in zip(names, row, strict=True):
                    written = value if isinstance(value, bytes) else str(value).encode()
                    found.setdefault(f"{table}.{name}", []).append(written)
    return found


def shown(path: Path, needles: Mapping[str, bytes]) -> list[str]:
    """Return where which secret lies: in which column, or in the bytes of which file."""
    places: dict[str, list[bytes]] = columns(path)
    files = {each.name: [each.read_bytes()] for each in sorted(path.parent.glob(f"{path.name}*"))}
    assert path.name in files
    return sorted(
        f"{name} in {place}"
        for place, values in {**places, **files}.items()
        for name, needle in needles.items()
        if any(needle in value for value in values)
    )


async def full_run(home: Home, running: ServiceProcess, secrets: Secrets) -> list[httpx2.Response]:
    """Let people and programs in, let tasks die and rescue them, and let much be refused."""
    root = secrets.keep_token("root's token", let_in(home.folder, "operator", "super_admin", **SETTINGS))
    made = run_cabinet(home.folder, "admin", "keys", "generate", "k.pem", **SETTINGS)
    first = Signer(
        key_id="", authority=HOST, private_key=secrets.keep_key("the first key", (home.folder / "k.pem").read_bytes())
    )
    assert made.stdout.strip() == public_text(first.private_key)
    added = run_cabinet(home.folder, "admin", "keys", "add", "alice", made.stdout.strip(), **SETTINGS)
    first = replace(first, key_id=added.stdout.strip())
    answers: list[httpx2.Response] = []

    async def send(message: Message, signer: Signer | None = first) -> httpx2.Response:
        if signer is not None:
            message = secrets.keep_signature(f"signature {len(answers)}", signer.sign(message))
        answer = await send_wire(port_of(running), message.wire("127.0.0.1"))
        answers.append(answer)
        return answer

    second = Signer(key_id="", authority=HOST)
    secrets.keep_bytes("the second key", second.private_key.private_bytes_raw())
    body = f'{{"requested_by":"integration:two","public_key":"{public_text(second.private_key)}","reason":"work"}}'
    asked = await send(json_message("POST", "/v1/access-requests", body.encode()), None)
    second = replace(second, key_id=asked.json()["id"])
    async with running.client(root) as client:
        approved = await client.post(f"/v1/access-requests/{second.key_id}/approve", json={"reason": "known"})
        user = f"/v1/users/{approved.json()['user']['id']}"
        granted = await client.post(f"{user}/tokens", json={"ttl_seconds": 600})
        token = secrets.keep_token("a token that was handed out", granted.json()["token"])
        created = [await send(task_message(f"key-{number}"), each) for number, each in enumerate((first, second))]
        await until(lambda: len(running.events("attempt_ended")) >= len(created))
        dead = await client.get("/v1/dead-letters")
        rescue = await client.post("/v1/dead-letters/rescues", json={"reason": "mended", "dry_run": False})
        audit = await client.get("/v1/audit-events")
        await client.patch(user, json={"scopes": ["tasks.read"], "reason": "less"})
        revoked = await client.request("DELETE", f"/v1/keys/{first.key_id}", json={"reason": "lost"})
        answers += [approved, granted, dead, rescue, audit, revoked]
    async with running.client(token) as client:
        answers += [await client.get("/v1/me"), await client.get("/v1/users"), await client.get("/v1/keys")]
    await send(Message())
    await send(task_message("key-3"), second)
    await send(Message(target="/v1/users"), second)
    await send(Message().add("Authorization", f"Bearer {root}"), second)
    forged = secrets.keep_token("a forged token", root[:-6] + "AAAAAA")
    await send(Message().add("Authorization", f"Bearer {forged}"), None)
    return answers


async def test_after_a_full_run_no_secret_is_in_the_database(home: Home) -> None:
    secrets = Secrets()
    for name in ("TOKEN_SECRET", "TOKEN_SECRET_PREVIOUS"):
        secrets.keep_text(name, SETTINGS[name])
    async with service(home.folder, **SETTINGS) as running:
        answers = await full_run(home, running, secrets)
        has_wal = (home.folder / "cabinet.db-wal").stat().st_size > 0
        beside = shown(home.database, secrets.needles)
        code = await running.terminate()
    after = shown(home.database, secrets.needles)

    filled = {place.split(".")[0] for place in columns(home.database)}
    looks = [place for place, values in columns(home.database).items() if any(map(LOOKS_SECRET.search, values))]
    assert {answer.status_code for answer in answers} == {200, 201, 202, 401, 403}
    assert code == 0
    assert has_wal
    assert filled >= FILLED
    assert len(secrets.needles) > 40
    assert (beside, after, looks) == ([], [], [])


def planted(path: Path, value: bytes) -> None:
    """Write a value into a column that has no check."""
    with closing(Home(path.parent, {}).connect()) as connection:
        connection.execute("UPDATE users SET subject = ? WHERE role = 'user'", (value,))


def test_the_search_finds_a_private_key_in_every_way_to_write_it_down(home: Home) -> None:
    secrets = Secrets()
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    secrets.keep_key("a key", pem)
    nothing = shown(home.database, secrets.needles)

    found = {}
    for name, needle in secrets.needles.items():
        for value in (needle, b"before" + needle + b"after", b"x" * 5_000 + needle):
            planted(home.database, value)
            found[name, len(value)] = shown(home.database, {name: needle})

    assert nothing == []
    assert len(found) == 18
    assert all(f"{name} in users.subject" in places for (name, _), places in found.items())
    assert all(f"{name} in cabinet.db" in places for (name, length), places in found.items() if length < 100)


@pytest.mark.parametrize("text", ["Bearer x", "-----BEGIN PRIVATE KEY-----", "eyJhbGciOiJIUzI1NiJ9.e.x", "sig=:AA==:"])
def test_the_search_finds_what_looks_like_a_secret(text: str) -> None:
    assert LOOKS_SECRET.search(text.encode())


def test_the_search_finds_what_lies_in_the_log_beside_the_file_alone(home: Home) -> None:
    needles = {"a token": b"a-token-that-nobody-knows"}
    with closing(home.connect()) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("UPDATE users SET subject = 'a-token-that-nobody-knows' WHERE subject = 'alice'")
        found = shown(home.database, needles)

    assert found == ["a token in cabinet.db-wal", "a token in users.subject"]
