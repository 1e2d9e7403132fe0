"""People behind an OpenID Connect provider: its tokens (JWT, RFC 7519) verified with its keys, never with our own."""

import base64
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
import jwt

from app.clock import Clock, to_datetime
from app.domain.users import SUBJECT_LIMIT, is_subject
from app.errors import NotAuthenticated
from app.security.jwks import ProviderKey, PublishedKeys, http_clients
from app.security.key_cache import KeyCache

SKEW_SECONDS = 5
"""How far in the future `iat` and `nbf` may lie, for clocks that differ; `exp` is held against our own alone."""

TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
"""What `typ` may say, if anything: JWTs for other ends, such as `logout+jwt`, let nobody in (RFC 8725 §3.11)."""

REMEMBERED_LIMIT = 2_048
"""How many verified tokens are remembered; each counts as long as the provider publishes its key."""

_CLAIMS = ["iss", "aud", "sub", "exp", "iat"]
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,1024}\.[A-Za-z0-9_-]{1,4096}\.[A-Za-z0-9_-]{1,1024}")
_LAST_SECOND = 253_402_300_799

_NOT_SIGNED = "This token does not bear a signature of the identity provider that counts; sign in there again."
_NOT_FOR_US = "This token of the identity provider is not one for this service; sign in again, for its audience."
_NOT_NOW = "This token has expired, or is not valid yet; sign in again at the identity provider."
_NO_SUBJECT = (
    "This token's sub cannot be a subject here: with the issuer and # before it, it may have "
    f"{SUBJECT_LIMIT} characters of A-Z a-z 0-9 . _ : @ + | / = ~ -"
)


@dataclass(frozen=True, slots=True)
class _Verified:
    key_id: str | None
    key: ProviderKey
    subject: str
    begins_at: float
    expires_at: float


class IdentityProvider:
    """Verifies the tokens of one provider; its keys come from `jwks_url`, or else from where its discovery points.

    Nothing is fetched before the first token. `client` makes the HTTP client of one refresh.
    """

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        jwks_url: str | None,
        clock: Clock,
        monotonic: Callable[[], float],
        client: Callable[[], httpx2.AsyncClient] | None = None,
    ) -> None:
        if not is_subject(f"{issuer}#a"):
            raise ValueError("no subject can begin with this issuer")
        self.issuer = issuer
        self._audience = audience
        self._clock = clock
        self._remembered: OrderedDict[str, _Verified] = OrderedDict()
        published = PublishedKeys(issuer=issuer, jwks_url=jwks_url, client=client or http_clients())
        self._keys = KeyCache(published.fetch, monotonic=monotonic)

    async def verify(self, token: str) -> str:
        """Return the subject `ISSUER#SUB` of a good token.

        Raises NotAuthenticated for any other, IdentityProviderUnavailable if no fresh enough keys can be had.
        """
        verified = self._remembered.get(token)
        if verified is None or await self._keys.find(verified.key_id) != verified.key:
            verified = await self._verified(token)
            self._remember(token, verified)
        now = to_datetime(self._clock.now()).timestamp()
        if verified.expires_at <= now or verified.begins_at > now + SKEW_SECONDS:
            self._remembered.pop(token, None)
            raise NotAuthenticated(_NOT_NOW)
        return verified.subject

    async def close(self) -> None:
        """End what runs in the background; from now on nothing is fetched."""
        await self._keys.close()

    async def _verified(self, token: str) -> _Verified:
        if not _TOKEN.fullmatch(token):
            raise NotAuthenticated(_NOT_SIGNED)
        try:
            key_id = _key_id(jwt.get_unverified_header(token))
            key, claims = await self._signed(token, key_id)
        except (jwt.InvalidAudienceError, jwt.InvalidIssuerError, jwt.MissingRequiredClaimError) as error:
            raise NotAuthenticated(_NOT_FOR_US) from error
        except jwt.PyJWTError as error:
            raise NotAuthenticated(_NOT_SIGNED) from error
        subject = f"{self.issuer}#{claims['sub']}"
        if not is_subject(subject):
            raise NotAuthenticated(_NO_SUBJECT)
        begins_at = max(_second(claims["iat"]), _second(claims.get("nbf", 0)))
        return _Verified(key_id, key, subject, begins_at, _second(claims["exp"]))

    async def _signed(self, token: str, key_id: str | None) -> tuple[ProviderKey, dict[str, Any]]:
        """Return the claims of a token and the key that they are signed with."""
        key = await self._keys.find(key_id)
        if key is None:
            raise NotAuthenticated(_NOT_SIGNED)
        try:
            return key, self._claims(token, key)
        except jwt.InvalidSignatureError:
            # Of a key that is never named only this tells that another has taken its place.
            successor = await self._keys.successor(key) if key_id is None else None
            if successor is None:
                raise
            return successor, self._claims(token, successor)

    def _claims(self, token: str, key: ProviderKey) -> dict[str, Any]:
        """Verify with the key's own algorithm, which the header must name too, and whatever else the header says."""
        # Times are compared with our own clock, below.
        options: Any = {"require": _CLAIMS, "verify_exp": False, "verify_iat": False, "verify_nbf": False}
        return jwt.decode(
            token, key.key, algorithms=[key.algorithm], audience=self._audience, issuer=self.issuer, options=options
        )

    def _remember(self, token: str, verified: _Verified) -> None:
        self._remembered[token] = verified
        if len(self._remembered) > REMEMBERED_LIMIT:
            self._remembered.popitem(last=False)


def unverified_issuer(token: str) -> str | None:
    """Return what a token says of its issuer, to choose who verifies it; nothing of it may be believed otherwise."""
    if not _TOKEN.fullmatch(token):
        return None
    payload = token.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, RecursionError):
        return None
    issuer = claims.get("iss") if isinstance(claims, dict) else None
    return issuer if isinstance(issuer, str) else None


def _key_id(header: Mapping[str, Any]) -> str | None:
    """Return the name of the key; NotAuthenticated for a JWT that is meant for something else."""
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in TYPES:
        raise NotAuthenticated(_NOT_FOR_US)
    return header.get("kid")


def _second(value: Any) -> float:
    """Return a NumericDate (RFC 7519 §2); NotAuthenticated for what is none: NaN, for example."""
    if type(value) not in (int, float) or not 0 <= value <= _LAST_SECOND:
        raise NotAuthenticated(_NOT_NOW)
    return float(value)
