"""Signed requests: one strict profile of RFC 9421 and RFC 9530, with Ed25519 (docs/security.md has it in words).

What is checked here needs no database: form, key, times, signature and digest. Whether the key is revoked and the nonce
new is asked in the request's own unit.
"""

import base64
import binascii
import hashlib
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from app.clock import Clock, Timestamp, later, to_datetime
from app.domain.keys import SigningKey
from app.errors import BadSignature

TAG = "cabinet-v1"
ALGORITHM = "ed25519"
WINDOW_SECONDS = 60
"""How long a signature may be good, from `created` to `expires`."""
SKEW_SECONDS = 5
"""How far the signer's clock may be off."""
HEADER_LIMIT = 2_048
"""Characters of Signature-Input; a real one has about 350."""
KEYS_REMEMBERED_LIMIT = 2_048
"""How many keys a process remembers, to spare the look into the database; revocation is not remembered."""

DERIVED = ("@method", "@authority", "@path", "@query")
"""What every signature covers."""
WITH_A_BODY = ("content-type", "content-digest")
IF_SENT = ("idempotency-key", "if-match")
"""What must be covered whenever it is sent."""
PARAMETERS = frozenset({"created", "expires", "keyid", "nonce", "alg", "tag"})

ACCEPT_SIGNATURE = (
    "sig=("
    + " ".join(f'"{name}"' for name in (*DERIVED, *WITH_A_BODY, *IF_SENT))
    + f');created;expires;keyid;nonce;alg="{ALGORITHM}";tag="{TAG}"'
)
"""What a refusal asks for (RFC 9421 §5.1)."""

Headers = Sequence[tuple[bytes, bytes]]
FindKey = Callable[[str], Awaitable[SigningKey | None]]

_INPUT = re.compile(r"([a-z*][a-z0-9_.*-]{0,63})=(\(([^()]*)\)((?:;[^;]+)+))")
_COMPONENTS = re.compile(r'"[a-z@-]{1,32}"(?: "[a-z@-]{1,32}")*')
_PARAMETER = re.compile(r';([a-z]{1,16})=(?:(0|[1-9][0-9]{0,11})|"([A-Za-z0-9._:+/=-]{1,128})")')
_SIGNATURE = re.compile(r"([a-z*][a-z0-9_.*-]{0,63})=:([A-Za-z0-9+/]{86}==):")
_DIGEST = re.compile(r"(sha-256|sha-512)=:([A-Za-z0-9+/]{43,86}={1,2}):")
_NONCE = re.compile(r"[A-Za-z0-9._:+/=-]{16,128}")
_EPOCH = Timestamp("1970-01-01T00:00:00.000000Z")
_SIGNATURE_HEADERS = frozenset({b"signature", b"signature-input"})
_HASHES = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedBy:
    """What a verified signature uses up: the nonce of a key, which is kept until nobody could send it again."""

    key_id: str
    nonce: str
    kept_until: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureInput:
    """A Signature-Input header of the profile (RFC 9421 §4.1). `text` is what is signed of it, as it came in."""

    label: str
    text: str
    components: tuple[str, ...]
    created: int
    expires: int
    key_id: str
    nonce: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """What a signature speaks about, as the wire had it; `headers` have lower-case names."""

    method: str
    path: bytes
    query: bytes
    headers: Headers
    body: bytes


class Signatures:
    """Verifies signed requests for one origin, which is never taken from the request."""

    def __init__(self, *, origin: str | None, clock: Clock, find_key: FindKey) -> None:
        """Take an origin as the settings give it; without one every signature is refused."""
        self._authority = None if origin is None else origin.partition("://")[2]
        self._clock = clock
        self._find_key = find_key
        self._remembered: OrderedDict[str, tuple[SigningKey, Ed25519PublicKey]] = OrderedDict()

    async def check_head(self, headers: Headers) -> None:
        """Check form, key and times, so that nobody sends a body without a key that is known; raise BadSignature."""
        given = parse_input(_only(headers, "signature-input"))
        await self._key(given.key_id)
        self._check_times(given)

    async def verify(self, request: SignedRequest) -> tuple[str, SignedBy]:
        """Return the subject who signed and what the request uses up; raise BadSignature for anything amiss."""
        if self._authority is None:
            raise BadSignature("PUBLIC_ORIGIN is not set, so that no signature can be verified")
        given = parse_input(_only(request.headers, "signature-input"))
        signature = parse_signature(_only(request.headers, "signature"), label=given.label)
        if any(name == b"authorization" for name, _ in request.headers):
            raise BadSignature("the request has an Authorization header too")
        check_components(given, request)
        key, public_key = await self._key(given.key_id)
        self._check_times(given)
        try:
            public_key.verify(signature, signature_base(given, request, authority=self._authority))
        except InvalidSignature:
            raise BadSignature("the signature does not fit") from None
        if "content-digest" in given.components:
            check_digest(_only(request.headers, "content-digest"), request.body)
        kept_until = later(_EPOCH, given.expires + SKEW_SECONDS)
        return key.subject, SignedBy(key_id=key.id, nonce=given.nonce, kept_until=kept_until)

    async def _key(self, key_id: str) -> tuple[SigningKey, Ed25519PublicKey]:
        remembered = self._remembered.get(key_id)
        if remembered is not None:
            self._remembered.move_to_end(key_id)
            return remembered
        key = await self._find_key(key_id)
        if key is None:
            raise BadSignature("there is no key of this id")
        found = key, Ed25519PublicKey.from_public_bytes(base64.b64decode(key.public_key))
        self._remembered[key_id] = found
        if len(self._remembered) > KEYS_REMEMBERED_LIMIT:
            self._remembered.popitem(last=False)
        return found

    def _check_times(self, given: SignatureInput) -> None:
        now = to_datetime(self._clock.now()).timestamp()
        if not 0 < given.expires - given.created <= WINDOW_SECONDS:
            raise BadSignature(f"it is to be good for longer than {WINDOW_SECONDS} seconds, or for none")
        if given.created > now + SKEW_SECONDS:
            raise BadSignature("it was created in the future")
        if given.expires < now - SKEW_SECONDS:
            raise BadSignature("it has expired")


def is_signed(headers: Headers) -> bool:
    """Tell whether a request says that it is signed, well or badly."""
    return bool([name for name, _ in headers if name in _SIGNATURE_HEADERS])


def parse_input(header: str) -> SignatureInput:
    """Read a Signature-Input header that holds exactly one signature of the profile, in its one canonical form."""
    found = _INPUT.fullmatch(header) if len(header) <= HEADER_LIMIT else None
    if found is None or not _COMPONENTS.fullmatch(found[3]):
        raise BadSignature("Signature-Input has not the form of the profile")
    parameters = _parameters(found[4])
    created, expires = parameters["created"], parameters["expires"]
    if not isinstance(created, int) or not isinstance(expires, int):
        raise BadSignature("created and expires are whole numbers")
    texts = {name: parameters[name] for name in ("keyid", "nonce", "alg", "tag")}
    if texts["alg"] != ALGORITHM or texts["tag"] != TAG:
        raise BadSignature(f"alg is {ALGORITHM} and tag {TAG} here")
    key_id, nonce = texts["keyid"], texts["nonce"]
    if not isinstance(key_id, str) or not isinstance(nonce, str) or not _NONCE.fullmatch(nonce):
        raise BadSignature("keyid is a text, and nonce one of 16 to 128 characters")
    return SignatureInput(
        label=found[1],
        text=found[2],
        components=tuple(name.strip('"') for name in found[3].split(" ")),
        created=created,
        expires=expires,
        key_id=key_id,
        nonce=nonce,
    )


def parse_signature(header: str, *, label: str) -> bytes:
    """Return the 64 bytes of the one signature, which has the label of the input."""
    found = _SIGNATURE.fullmatch(header)
    if found is None or found[1] != label:
        raise BadSignature("Signature has not the form of the profile")
    return _from_base64(found[2])


def check_components(given: SignatureInput, request: SignedRequest) -> None:
    """Check that everything is covered that must be, once, and nothing else."""
    covered = set(given.components)
    sent = {name.decode("latin-1") for name, _ in request.headers}
    needed = {*DERIVED, *(WITH_A_BODY if request.body else ()), *(name for name in IF_SENT if name in sent)}
    known = {*DERIVED, *WITH_A_BODY, *IF_SENT}
    if len(covered) != len(given.components) or not needed <= covered <= known:
        raise BadSignature("it does not cover what it must, or more than it may")


def signature_base(given: SignatureInput, request: SignedRequest, *, authority: str) -> bytes:
    """Return what is signed (RFC 9421 §2.5)."""
    derived = {
        "@method": request.method.encode(),
        "@authority": authority.encode(),
        "@path": request.path or b"/",
        "@query": b"?" + request.query,
    }
    lines = [
        b'"%s": %s' % (name.encode(), derived[name] if name in derived else _field(request.headers, name))
        for name in given.components
    ]
    return b"\n".join([*lines, b'"@signature-params": ' + given.text.encode()])


def check_digest(header: str, body: bytes) -> None:
    """Check a Content-Digest header (RFC 9530) with exactly one digest against the body."""
    found = _DIGEST.fullmatch(header)
    if found is None or _from_base64(found[2]) != _HASHES[found[1]](body).digest():
        raise BadSignature("Content-Digest is not that of the body")


def _parameters(text: str) -> dict[str, int | str]:
    found: dict[str, int | str] = {}
    end = 0
    for match in _PARAMETER.finditer(text):
        if match.start() != end or match[1] in found:
            break
        found[match[1]] = match[3] if match[2] is None else int(match[2])
        end = match.end()
    if end != len(text) or found.keys() != PARAMETERS:
        raise BadSignature("its parameters are not created, expires, keyid, nonce, alg and tag, each once")
    return found


def _only(headers: Headers, name: str) -> str:
    return _field(headers, name).decode("latin-1")


def _field(headers: Headers, name: str) -> bytes:
    wanted = name.encode()
    values = [value for header, value in headers if header == wanted]
    if len(values) != 1:
        raise BadSignature(f"the header {name} is not there once")
    return values[0].strip(b" \t")


def _from_base64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        raw = b""
    if base64.b64encode(raw).decode() != text:
        raise BadSignature("its base64 is not the one form there is")
    return raw
