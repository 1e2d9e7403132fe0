"""Signing keys: the public halves by which programs are known; what anybody may know, and nobody can use alone."""

import base64
import binascii
import hashlib
from dataclasses import dataclass

from app.clock import Timestamp

KEYS_LIMIT = 20
"""How many keys that are not revoked a user may have at once."""

KEY_NAME_LIMIT = 100
"""Characters of a key's name."""

PUBLIC_KEY_BYTES = 32

_PRIME = 2**255 - 19
_CURVE = -121665 * pow(121666, -1, _PRIME) % _PRIME
"""d of the curve (RFC 8032 §5.1)."""

_LOW_ORDER = frozenset(
    {
        0,
        1,
        _PRIME - 1,
        2707385501144840649318225287225658788936804267575313519463743609750303402022,
        55188659117513257062467267217118295137698188065244968500265048394206261417927,
    }
)
"""The y coordinates of the points of Ed25519 whose order is 1, 2, 4 or 8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A program's public key (Ed25519), and whose it is; `public_key` is the base64 of its 32 bytes."""

    id: str
    user_id: str
    subject: str
    public_key: str
    name: str
    created_at: Timestamp
    revoked_at: Timestamp | None

    @property
    def fingerprint(self) -> str:
        """What people compare."""
        return fingerprint(self.public_key)


def check_public_key(text: str) -> str:
    """Return the key as it is stored, or raise ValueError with a sentence that says what to send."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != PUBLIC_KEY_BYTES or base64.b64encode(raw).decode() != text:
        raise ValueError("send the 32 bytes of an Ed25519 public key in base64, 44 characters with the = at the end")
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    if y in _LOW_ORDER or y >= _PRIME:
        raise ValueError("this public key is one for which anybody can make signatures; make a new one")
    if not _is_on_curve(y):
        raise ValueError("these 32 bytes are no Ed25519 public key; send the one that belongs to the private key")
    return text


def fingerprint(public_key: str) -> str:
    """Return what `ssh-keygen -l` prints for the same key: the SHA-256 of its SSH form (RFC 8709 §4)."""
    wire = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + base64.b64decode(public_key)
    return f"SHA256:{base64.b64encode(hashlib.sha256(wire).digest()).decode().rstrip('=')}"


def _is_on_curve(y: int) -> bool:
    """Tell whether (y² - 1) / (dy² + 1) is a square (RFC 8032 §5.1.3), as it is if the product of both is one."""
    return pow((y * y - 1) * (_CURVE * y * y + 1), (_PRIME - 1) // 2, _PRIME) <= 1
