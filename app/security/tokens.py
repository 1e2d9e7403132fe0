"""Bearer tokens: JWT (RFC 7519) with HS256. They say who calls; what that user may do is read in every unit."""

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from app.clock import Clock, to_datetime
from app.domain.users import is_subject
from app.errors import NotAuthenticated

NAME = "cabinet"
ALGORITHM = "HS256"
SKEW_SECONDS = 5
"""How far in the future `iat` may lie, for clocks that differ."""

REMEMBERED_LIMIT = 2_048
"""How many verified tokens are remembered until they expire."""

_CLAIMS = ["sub", "iat", "exp", "jti", "iss", "aud"]
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,1024}\.[A-Za-z0-9_-]{1,4096}\.[A-Za-z0-9_-]{1,1024}")


@dataclass(frozen=True, slots=True)
class _Verified:
    subject: str
    issued_at: int
    expires_at: int


class Tokens:
    """Issues and verifies the service's own tokens. The first secret signs, the others are accepted while rotating."""

    def __init__(self, secrets: Sequence[str], *, ttl_max_seconds: int, clock: Clock) -> None:
        if not secrets or any(len(secret.encode()) < 32 for secret in secrets):
            raise ValueError("a token secret has at least 32 bytes")
        self._secrets = tuple(secrets)
        self._ttl_max_seconds = ttl_max_seconds
        self._clock = clock
        self._remembered: OrderedDict[str, _Verified] = OrderedDict()

    def issue(self, subject: str, *, token_id: str, ttl_seconds: int) -> tuple[str, int]:
        """Make a token for a subject and return it with the second since the epoch at which it expires."""
        if not 1 <= ttl_seconds <= self._ttl_max_seconds:
            raise ValueError(f"a token lives 1 to {self._ttl_max_seconds} seconds")
        issued_at = self._now()
        expires_at = issued_at + ttl_seconds
        claims = {"sub": subject, "iat": issued_at, "exp": expires_at, "jti": token_id, "iss": NAME, "aud": NAME}
        return jwt.encode(claims, self._secrets[0], algorithm=ALGORITHM), expires_at

    def verify(self, token: str) -> str:
        """Return the subject of a good token; raise NotAuthenticated for any other."""
        verified = self._remembered.get(token)
        if verified is None:
            verified = self._decode(token)
            self._remember(token, verified)
        now = self._now()
        if verified.expires_at <= now or verified.issued_at > now + SKEW_SECONDS:
            self._remembered.pop(token, None)
            raise NotAuthenticated("This token has expired, or is not valid yet; ask an admin for a new one.")
        return verified.subject

    def _decode(self, token: str) -> _Verified:
        if not _TOKEN.fullmatch(token):
            raise NotAuthenticated
        for secret in self._secrets:
            try:
                return self._checked(self._claims(token, secret))
            except jwt.InvalidSignatureError:
                continue
            except jwt.PyJWTError as error:
                raise NotAuthenticated from error
        raise NotAuthenticated

    def _claims(self, token: str, secret: str) -> dict[str, Any]:
        # Times are compared with our own clock, below.
        options: Any = {"require": _CLAIMS, "verify_exp": False, "verify_iat": False, "verify_nbf": False}
        return jwt.decode(token, secret, algorithms=[ALGORITHM], audience=NAME, issuer=NAME, options=options)

    def _checked(self, claims: dict[str, Any]) -> _Verified:
        subject, issued_at, expires_at = claims["sub"], claims["iat"], claims["exp"]
        if type(issued_at) is not int or type(expires_at) is not int or not is_subject(subject):
            raise NotAuthenticated
        if not 0 < expires_at - issued_at <= self._ttl_max_seconds:
            raise NotAuthenticated("This token was issued for longer than tokens may live here.")
        return _Verified(subject, issued_at, expires_at)

    def _remember(self, token: str, verified: _Verified) -> None:
        self._remembered[token] = verified
        if len(self._remembered) > REMEMBERED_LIMIT:
            self._remembered.popitem(last=False)

    def _now(self) -> int:
        return int(to_datetime(self._clock.now()).timestamp())


def bearer_token(header: str | None) -> str:
    """Return the token of an Authorization header (RFC 6750 §2.1); raise NotAuthenticated if there is none."""
    scheme, _, token = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise NotAuthenticated
    return token.strip()
