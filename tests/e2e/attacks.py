"""Attacks: how a forger makes something of a signed request, and its smallest neighbour that passes."""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx2

from app.ids import new_id
from tests.e2e.home import Home
from tests.support.processes import ServiceProcess
from tests.support.signers import Message, Signer, covered, digest, public_text, send_wire, task_message

HOST = "cabinet.example.com:8443"
ORIGIN = f"https://{HOST}"
ORDER = 2**252 + 27742317777372353535851937790883648493
Verdict = tuple[int, str | None]
REFUSED: Verdict = (401, "bad_signature")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Whose keys a forger has seen at work; `port` is where the service listens."""

    port: int
    alice: Signer
    bob: Signer
    revoked: Signer
    sleeping: Signer
    token: str
    spare: str
    """The path of a key of alice's that may be revoked."""

    async def send(self, request: Message | bytes) -> httpx2.Response:
        """Send a request over a socket of its own."""
        return await send_wire(self.port, request if isinstance(request, bytes) else request.wire("127.0.0.1"))

    def get(self, target: str = "/v1/me", *, method: str = "GET", more: Message | None = None, **how: Any) -> Message:
        """Return a signed request without a body; `more` has further headers, which are sent."""
        headers = () if more is None else more.headers
        return self.alice.sign(Message(method=method, target=target, headers=headers), **how)

    def task(self, payload: str = "{}", **how: Any) -> Message:
        """Return a signed request for a new task."""
        return self.alice.sign(task_message(new_id(), payload), **how)

    def by(self, signer: Signer, **changes: Any) -> Message:
        """Return a request that another signer signs."""
        return replace(signer, **changes).sign(Message())

    def at(self, seconds: int) -> str:
        """Return the time in so many seconds as a signature has it."""
        return str(int(time.time()) + seconds)


Make = Callable[[Bench], Message | bytes]


@dataclass(frozen=True, slots=True)
class Attack:
    """What is tried, its neighbour that passes, and what the attack is answered."""

    tried: Make
    control: Make
    answer: Verdict = REFUSED


def edited(name: str, old: str, new: str, *, control: str | None = None) -> Attack:
    """Change a header behind the signature; the control leaves it as it was, or has it in another way that is fine."""
    return Attack(
        lambda bench: bench.get().edit(name, old, new),
        lambda bench: bench.get() if control is None else bench.get().edit(name, old, control),
    )


def said(bad: Callable[[Bench], dict[str, str | None]], good: Callable[[Bench], dict[str, str | None]]) -> Attack:
    """Sign with other parameters."""
    return Attack(lambda bench: bench.get(parameters=bad(bench)), lambda bench: bench.get(parameters=good(bench)))


def said_as(**bad: str | None) -> Attack:
    """Sign with other parameters; the control has those of the profile."""
    return said(lambda _: dict(bad), lambda _: {})


def covering(change: Callable[[list[str]], Sequence[str]], **values: str) -> Attack:
    """Sign a new task with other components; the control has those of the profile, the other way round."""

    def sign(bench: Bench, choose: Callable[[list[str]], Sequence[str]]) -> Message:
        message = task_message(new_id()).add("If-Match", '"1"').add("Date", "Tue, 20 Apr 2021 02:07:55 GMT")
        message = message.add("Content-Digest", digest(message.body))
        known = {text.replace("_", "-"): value for text, value in values.items()}
        return bench.alice.sign(message, components=choose(covered(message)), values=known)

    return Attack(lambda bench: sign(bench, change), lambda bench: sign(bench, lambda names: names[::-1]))


def without(name: str) -> Attack:
    """Leave one component out."""
    return covering(lambda names: [each for each in names if each != f'"{name}"'])


def instead(name: str, text: str) -> Attack:
    """Write a component otherwise."""
    return covering(lambda names: [text if each == f'"{name}"' else each for each in names])


def sent_as(change: Callable[[Message], Message], *, of: Callable[[Bench], Message] = Bench.task) -> Attack:
    """Send something else than what was signed; the control signs what is sent."""

    def resigned(bench: Bench) -> Message:
        bare = change(of(bench)).drop("signature").drop("signature-input").drop("content-digest")
        return bench.alice.sign(bare)

    return Attack(lambda bench: change(of(bench)), resigned)


def target(signed: str, sent: str) -> Attack:
    """Sign one target and send another; the control signs the one that is sent."""
    return sent_as(lambda message: message.but(target=sent), of=lambda bench: bench.get(signed))


def digested(make: Callable[[bytes], str]) -> Attack:
    """Sign another Content-Digest, which is sent so; the control has that of the body."""

    def sign(bench: Bench, write: Callable[[bytes], str]) -> Message:
        message = task_message(new_id())
        return bench.alice.sign(message.add("Content-Digest", write(message.body)))

    return Attack(lambda bench: sign(bench, make), lambda bench: sign(bench, lambda body: digest(body, "sha-512")))


def addressed(authority: str, **headers: str) -> Attack:
    """Sign for another authority, which the headers name; the control is for ours, under the same headers."""

    def sign(bench: Bench, signer: Signer) -> Message:
        message = Message(headers=tuple((name.replace("_", "-"), value) for name, value in headers.items()))
        return signer.sign(message)

    return Attack(
        lambda bench: sign(bench, replace(bench.alice, authority=authority.replace("PORT", str(bench.port)))),
        lambda bench: sign(bench, bench.alice),
    )


def twice(name: str) -> Attack:
    """Send a header line twice."""

    def attack(bench: Bench) -> Message:
        good = bench.alice.sign(task_message(new_id()).add("If-Match", '"1"'))
        return good.add(name, good.the(name))

    return Attack(attack, lambda bench: bench.alice.sign(task_message(new_id()).add("If-Match", '"1"')))


def two_signatures(bench: Bench, *, are_lines: bool) -> Message:
    """Send two good signatures."""
    first, second = bench.get(), bench.get(label="two")
    for name in ("Signature-Input", "Signature"):
        value = second.the(name)
        first = first.add(name, value) if are_lines else first.put(name, f"{first.the(name)}, {value}")
    return first


def with_hmac(bench: Bench) -> Callable[[bytes], bytes]:
    """Sign with what everybody knows, as if it were a secret (RFC 8725 §2.1)."""
    public = bench.alice.private_key.public_key().public_bytes_raw()
    return lambda base: hmac.new(public, base, hashlib.sha512).digest()


def plus_the_order(bench: Bench) -> Callable[[bytes], bytes]:
    """Make another text of the same signature, for verifiers that do not reduce (RFC 8032 §8.4)."""

    def sign(base: bytes) -> bytes:
        good = bench.alice.private_key.sign(base)
        return good[:32] + (int.from_bytes(good[32:], "little") + ORDER).to_bytes(32, "little")

    return sign


def spare_bits(message: Message) -> Message:
    """Write the same bytes in other letters."""
    value = message.the("signature").removesuffix("==:")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = letters[letters.index(value[-1]) + 1]
    return message.put("Signature", f"{value[:-1]}{other}==:")


def cut_short(message: Message) -> Message:
    """Send one byte of the signature less."""
    raw = base64.b64decode(message.the("signature").split(":")[1])
    return message.put("Signature", f"sig=:{base64.b64encode(raw[:63]).decode()}:")


async def furnish(running: ServiceProcess, home: Home) -> Bench:
    """Let alice have three keys, one of them revoked, and two more programs in, one of them put to sleep."""
    async with running.client(home.tokens["root"]) as root:
        bob, sleeping = [await let_in(root, subject) for subject in ("integration:bob", "integration:sleeping")]
        [user] = [
            user for user in (await root.get("/v1/users")).json()["items"] if user["subject"].endswith("sleeping")
        ]
        asleep = await root.patch(f"/v1/users/{user['id']}", json={"is_active": False})
        assert asleep.status_code == 200, asleep.text
    async with running.client(home.tokens["alice"]) as client:
        alice, revoked, spare = [await add_key(client) for _ in range(3)]
        gone = await client.delete(f"/v1/keys/{revoked.key_id}")
        assert gone.status_code == 200, gone.text
    return Bench(
        port=port_of(running),
        alice=alice,
        bob=bob,
        revoked=revoked,
        sleeping=sleeping,
        token=home.tokens["alice"],
        spare=f"/v1/keys/{spare.key_id}",
    )


async def let_in(root: httpx2.AsyncClient, subject: str) -> Signer:
    """Let a program in by its access request."""
    signer = Signer(key_id="", authority=HOST)
    body = {"requested_by": subject, "public_key": public_text(signer.private_key)}
    asked = await root.post("/v1/access-requests", json=body)
    approved = await root.post(f"/v1/access-requests/{asked.json()['id']}/approve")
    assert approved.status_code == 200, approved.text
    return replace(signer, key_id=asked.json()["id"])


async def add_key(client: httpx2.AsyncClient) -> Signer:
    """Give whoever the client is a new key."""
    signer = Signer(key_id="", authority=HOST)
    added = await client.post("/v1/keys", json={"public_key": public_text(signer.private_key), "name": "new"})
    assert added.status_code == 201, added.text
    return replace(signer, key_id=added.json()["id"])


def port_of(running: ServiceProcess) -> int:
    """Return where a service listens."""
    return int(running.url.rpartition(":")[2])
