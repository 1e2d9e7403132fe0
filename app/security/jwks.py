"""The keys that an OpenID Connect provider publishes: found (Discovery 1.0 §4), fetched and read (RFC 7517)."""

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from app.errors import IdentityProviderUnavailable

FETCH_SECONDS = 5
"""How long one refresh may take: connections, discovery and keys together."""

ANSWER_BYTES_LIMIT = 262_144
"""How much the provider may answer."""

KEYS_LIMIT = 100
"""How many keys a provider may publish."""

KEY_ID_LIMIT = 255
"""How many characters the name of a key may have."""

RSA_LEAST_BITS = 2_048

DETAIL_LIMIT = 200
"""How many characters of a foreign text go into the log."""

WELL_KNOWN = "/.well-known/openid-configuration"

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_ALGORITHMS = {
    ("RSA", None): _RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
"""By `kty` and `crv`, the algorithms that a key may be for; the first is meant if it names none."""

_PUBLIC = ("kty", "crv", "n", "e", "x", "y")
"""The members that make up a public key; private ones, published by mistake, are not read."""


class KeysNotHad(IdentityProviderUnavailable):
    """The identity provider's keys could not be fetched; try again.

    For the log `kind` says why in a word, `url` where, without its query; `detail` may quote the provider.
    """

    def __init__(self, kind: str, url: str, detail: str = "") -> None:
        super().__init__()
        self.kind = kind
        self.url = url.partition("?")[0]
        self.detail = detail[:DETAIL_LIMIT]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderKey:
    """A public key that verifies signatures, bound to its one algorithm; equal to another with the same numbers."""

    key_id: str | None
    algorithm: str
    numbers: tuple[str, ...]
    key: jwt.PyJWK = field(compare=False, repr=False)


class PublishedKeys:
    """Fetches what a provider publishes, from `jwks_url` or from where its discovery document points.

    `client` makes an HTTP client for one refresh. Nothing is kept.
    """

    def __init__(self, *, issuer: str, jwks_url: str | None, client: Callable[[], httpx2.AsyncClient]) -> None:
        self._issuer = issuer
        self._jwks_url = jwks_url
        self._client = client

    async def fetch(self) -> tuple[ProviderKey, ...]:
        """Return the keys that sign, one at least; raises KeysNotHad."""
        url = self._jwks_url or self._issuer.removesuffix("/") + WELL_KNOWN
        try:
            async with asyncio.timeout(FETCH_SECONDS), self._client() as client:
                if self._jwks_url is None:
                    url = self._keys_of(await _fetch(client, url), url)
                return signing_keys(await _fetch(client, url), url)
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise KeysNotHad("timeout", url) from error
        except httpx2.TransportError as error:  # its text is the system's or that of TLS, and holds nothing of ours
            raise KeysNotHad("unreachable", url, str(error)) from error

    def _keys_of(self, document: Mapping[str, Any], url: str) -> str:
        """Return where a discovery document says that the keys are."""
        issuer, keys_url = document.get("issuer"), document.get("jwks_uri")
        if issuer != self._issuer:
            raise KeysNotHad("wrong_issuer", url, f"it calls itself {issuer!r}; OIDC_ISSUER must be exactly that")
        if not isinstance(keys_url, str) or not _may_be_asked(keys_url, issuer=self._issuer):
            raise KeysNotHad("bad_address", url, f"its jwks_uri is {keys_url!r}, not an https address")
        return keys_url


def http_clients() -> Callable[[], httpx2.AsyncClient]:
    """Return what makes a client for each refresh; proxies that the environment names are not used."""
    tls = cache(httpx2.create_ssl_context)  # takes some 20 ms, so one does for all refreshes
    return lambda: httpx2.AsyncClient(verify=tls(), timeout=FETCH_SECONDS, trust_env=False, follow_redirects=False)


def signing_keys(document: Mapping[str, Any], url: str) -> tuple[ProviderKey, ...]:
    """Return the usable keys of a key set; others are left out. Raises KeysNotHad if none is left, or if too many."""
    published = document.get("keys")
    if not isinstance(published, list):
        raise KeysNotHad("no_keys", url, "it has no list of keys")
    if len(published) > KEYS_LIMIT:
        raise KeysNotHad("too_many_keys", url, f"it has {len(published)} keys; {KEYS_LIMIT} are allowed")
    found = tuple(key for member in published if (key := _signing_key(member)) is not None)
    if not found:
        raise KeysNotHad("no_keys", url, f"of its {len(published)} keys none can verify a signature")
    return found


def _signing_key(member: Any) -> ProviderKey | None:
    """Return one key of a set, or None for one that does not sign or is not as it should be."""
    if not isinstance(member, dict) or member.get("use", "sig") != "sig":
        return None
    key_id, algorithm = member.get("kid"), _algorithm(member)
    if algorithm is None or not (key_id is None or (isinstance(key_id, str) and len(key_id) <= KEY_ID_LIMIT)):
        return None
    public = {name: member[name] for name in _PUBLIC if name in member}
    try:
        key = jwt.PyJWK(public, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < RSA_LEAST_BITS:
        return None
    numbers = tuple(str(number) for number in public.values())
    return ProviderKey(key_id=key_id, algorithm=algorithm, numbers=numbers, key=key)


def _algorithm(member: Mapping[str, Any]) -> str | None:
    """Return the one algorithm that a key is for; None if it is for none of ours."""
    kind, curve, named = member.get("kty"), member.get("crv"), member.get("alg")
    if not isinstance(kind, str) or not (curve is None or isinstance(curve, str)):
        return None
    fitting = _ALGORITHMS.get((kind, curve), ())
    if named is None:
        return fitting[0] if fitting else None
    return named if named in fitting else None


async def _fetch(client: httpx2.AsyncClient, url: str) -> dict[str, Any]:
    """Return the JSON object at an address."""
    headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "cabinet"}
    async with client.stream("GET", url, headers=headers, follow_redirects=False) as answer:
        if 300 <= answer.status_code < 400:
            raise KeysNotHad("redirect", url, f"{answer.status_code}; redirects are not followed")
        if answer.status_code != 200:
            raise KeysNotHad("status", url, str(answer.status_code))
        content = await _read(answer, url)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise KeysNotHad("not_json", url) from error
    if not isinstance(document, dict):
        raise KeysNotHad("not_json", url, "it is JSON, but no object")
    return document


async def _read(answer: httpx2.Response, url: str) -> bytes:
    """Return an answer's body as it was sent: it was asked for unpacked, and nothing is unpacked."""
    content = bytearray()
    async with aclosing(answer.aiter_raw()) as chunks:
        async for chunk in chunks:
            content += chunk
            if len(content) > ANSWER_BYTES_LIMIT:
                raise KeysNotHad("too_big", url, f"more than {ANSWER_BYTES_LIMIT} bytes")
    return bytes(content)


def _may_be_asked(url: str, *, issuer: str) -> bool:
    """Tell whether an address that the provider named is https, or http on this machine if the provider is there."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        return False
    is_local = parsed.scheme == "http" and parsed.host in _LOOPBACK and httpx2.URL(issuer).host in _LOOPBACK
    return bool(parsed.host) and not parsed.userinfo and (parsed.scheme == "https" or is_local)
