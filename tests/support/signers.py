"""Two signers of requests: an independent one from PyPI, and our own of few lines that also makes malformed ones."""

import asyncio
import base64
import hashlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace

import httpx2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from http_message_signatures import HTTPMessageSigner, MappingKeyResolver, algorithms

from app.clock import Clock, to_datetime

TAG = "cabinet-v1"
WINDOW_SECONDS = 60
DERIVED = ("@method", "@authority", "@path", "@query")
IF_SENT = ("idempotency-key", "if-match")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A request as it goes over the wire; nothing of it is normalised."""

    method: str = "GET"
    target: str = "/v1/me"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    @property
    def path(self) -> str:
        """What stands before the first question mark."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What stands behind it."""
        return self.target.partition("?")[2]

    def all(self, name: str) -> list[str]:
        """Return the values of a header's lines."""
        return [value for header, value in self.headers if header.lower() == name.lower()]

    def the(self, name: str) -> str:
        """Return the value of a header that is there once."""
        [value] = self.all(name)
        return value

    def but(self, **changes: str | bytes) -> "Message":
        """Return it with another method, target or body under the same headers."""
        return replace(self, **changes)  # type: ignore[arg-type]  # mypy cannot see which field gets which

    def add(self, name: str, value: str) -> "Message":
        """Return it with one header line more."""
        return replace(self, headers=(*self.headers, (name, value)))

    def drop(self, name: str) -> "Message":
        """Return it without a header."""
        return replace(self, headers=tuple(line for line in self.headers if line[0].lower() != name.lower()))

    def put(self, name: str, value: str) -> "Message":
        """Return it with one line of a header in place of all."""
        return self.drop(name).add(name, value)

    def edit(self, name: str, old: str, new: str) -> "Message":
        """Return it with a part of a header's value replaced; the part must be there."""
        value = self.the(name)
        assert old in value, f"{old} is not in {value}"
        return self.put(name, value.replace(old, new, 1))

    def wire(self, host: str, *, is_chunked: bool = False) -> bytes:
        """Return the bytes of a connection's only request; a Host of its own replaces the given one."""
        lines = [f"{self.method} {self.target} HTTP/1.1"]
        lines += [] if self.all("host") else [f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        body = self.body
        if is_chunked:
            lines.append("Transfer-Encoding: chunked")
            half = len(body) // 2
            body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:half], body[half:], b""))
        elif body or self.method not in ("GET", "HEAD"):
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body


def task_message(idem_key: str, payload: str = "{}") -> Message:
    """Return POST /v1/tasks, not signed yet."""
    headers = (("Content-Type", "application/json"), ("Idempotency-Key", idem_key))
    return Message(method="POST", target="/v1/tasks", headers=headers, body=b'{"payload":%s}' % payload.encode())


def json_message(method: str, target: str, body: bytes) -> Message:
    """Return a request with a body of JSON, not signed yet."""
    return Message(method=method, target=target, headers=(("Content-Type", "application/json"),), body=body)


def digest(body: bytes, algorithm: str = "sha-256") -> str:
    """Return the Content-Digest of a body (RFC 9530)."""
    found = hashlib.new(algorithm.replace("-", ""), body).digest()
    return f"{algorithm}=:{base64.b64encode(found).decode()}:"


def public_text(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """Return a public key as Cabinet takes it."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return base64.b64encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Our own signer. What is not said otherwise is as the profile wants it."""

    key_id: str
    private_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    authority: str = "cabinet.test"
    now: Callable[[], float] = time.time

    def sign(
        self,
        message: Message,
        *,
        components: Sequence[str] | None = None,
        parameters: Mapping[str, str | None] | None = None,
        values: Mapping[str, str] | None = None,
        label: str = "sig",
        make: Callable[[bytes], bytes] | None = None,
    ) -> Message:
        """Return the message with Content-Digest, if it has a body, Signature-Input and Signature.

        `components` are written as they are given, quotes and all; `parameters` replaces values by other texts, or
        with None leaves one out; `values` says what a component is taken for; `make` makes the signature of the base.
        """
        if message.body and not message.all("content-digest"):
            message = message.add("Content-Digest", digest(message.body))
        texts = covered(message) if components is None else list(components)
        given = self._parameters() | dict(parameters or {})
        inner = f"({' '.join(texts)})" + "".join(f";{name}={text}" for name, text in given.items() if text is not None)
        known = self._values(message) | dict(values or {})
        lines = [f"{text}: {_value(message, text, known)}" for text in texts]
        base = "\n".join([*lines, f'"@signature-params": {inner}']).encode("latin-1")
        signature = base64.b64encode((make or self.private_key.sign)(base)).decode()
        return message.add("Signature-Input", f"{label}={inner}").add("Signature", f"{label}=:{signature}:")

    def _parameters(self) -> dict[str, str | None]:
        created = int(self.now())
        return {
            "created": str(created),
            "expires": str(created + WINDOW_SECONDS),
            "keyid": f'"{self.key_id}"',
            "nonce": f'"{secrets.token_urlsafe(24)}"',
            "alg": '"ed25519"',
            "tag": f'"{TAG}"',
        }

    def _values(self, message: Message) -> dict[str, str]:
        return {
            '"@method"': message.method,
            '"@authority"': self.authority,
            '"@path"': message.path,
            '"@query"': f"?{message.query}",
        }


def covered(message: Message) -> list[str]:
    """Return the components that the profile wants of a message."""
    sent = [name for name in IF_SENT if message.all(name)]
    body = ["content-type", "content-digest"] if message.body else []
    return [f'"{name}"' for name in (*DERIVED, *body, *sent)]


def _value(message: Message, component: str, known: Mapping[str, str]) -> str:
    """Return what a verifier that overlooks a component's parameters would take it for."""
    bare = component.partition(";")[0]
    lines = message.all(bare.strip('"'))
    return known.get(component) or known.get(bare) or ", ".join(value.strip(" \t") for value in lines)


def sign_independently(message: Message, signer: Signer, *, origin: str, nonce: str | None = None) -> Message:
    """Return the message signed by the package `http-message-signatures`, with the key of a signer."""
    headers = dict(message.headers)
    sent = [name for name in IF_SENT if message.all(name)]
    created = int(signer.now())
    keys = MappingKeyResolver(public_keys={}, private_keys={signer.key_id: signer.private_key})
    HTTPMessageSigner(signature_algorithm=algorithms.ED25519, key_resolver=keys).sign(
        SimpleNamespace(method=message.method, url=origin + message.target, headers=headers),
        key_id=signer.key_id,
        created=datetime.fromtimestamp(created, UTC),
        expires=datetime.fromtimestamp(created + WINDOW_SECONDS, UTC),
        nonce=nonce or secrets.token_urlsafe(24),
        tag=TAG,
        covered_component_ids=(*DERIVED, *(("content-type",) if message.body else ()), *sent),
        body=message.body or None,
    )
    return replace(message, headers=tuple(headers.items()))


def seconds_of(clock: Clock) -> Callable[[], float]:
    """Return the time of one of Cabinet's clocks for a signer."""
    return lambda: to_datetime(clock.now()).timestamp()


async def send_by(client: httpx2.AsyncClient, message: Message) -> httpx2.Response:
    """Send a message as a client does, which must not change its target."""
    headers = list(message.headers)
    return await client.request(message.method, message.target, headers=headers, content=message.body)


async def send_wire(port: int, request: bytes) -> httpx2.Response:
    """Send bytes over a connection of their own and return the answer, which ends with the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.read()
    finally:
        writer.close()
    status, *lines = head.decode("latin-1").strip().split("\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    return httpx2.Response(int(status.split(" ")[1]), headers=headers, content=body)
