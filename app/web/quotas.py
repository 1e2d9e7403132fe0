"""Quotas: how often a client's address and a subject may call, and the headers that tell them."""

import ipaddress
import math

from starlette.types import Scope

from app.errors import TooManyRequests
from app.security.rate_limits import Quota, RateLimiter


class Quotas:
    """The two limits of a request: by address before anything is read, by subject once it is known.

    A limit that is None is switched off. Headers follow draft-ietf-httpapi-ratelimit-headers-10.
    """

    def __init__(self, *, client: RateLimiter | None, actor: RateLimiter | None) -> None:
        self._client = client
        self._actor = actor

    def take_for_client(self, scope: Scope) -> None:
        """Count a request of an address; raises TooManyRequests."""
        _take(self._client, scope, client_key(scope))

    def take_for_subject(self, scope: Scope, subject: str) -> None:
        """Count a request of a subject; raises TooManyRequests."""
        _take(self._actor, scope, subject)


def client_key(scope: Scope) -> str:
    """Return what addresses are counted by: all of an IPv4 address, the /64 network of an IPv6 one."""
    client = scope.get("client")
    host = client[0] if client else "unknown"
    if ":" not in host:
        return str(host)
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return str(host)
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))


def quota_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Return the headers that tell what is left, for what was counted of this request."""
    counted: list[tuple[RateLimiter, Quota]] = scope.get("cabinet.quotas", [])
    if not counted:
        return []
    policies = ", ".join(f'"{limiter.name}";q={limiter.count};w={math.ceil(limiter.seconds)}' for limiter, _ in counted)
    left = ", ".join(
        f'"{limiter.name}";r={quota.remaining};t={math.ceil(quota.reset_seconds)}' for limiter, quota in counted
    )
    return [(b"ratelimit-policy", policies.encode()), (b"ratelimit", left.encode())]


def _take(limiter: RateLimiter | None, scope: Scope, key: str) -> None:
    if limiter is None:
        return
    counted = scope.setdefault("cabinet.quotas", [])
    try:
        counted.append((limiter, limiter.take(key)))
    except TooManyRequests as refusal:
        counted.append((limiter, Quota(0, refusal.retry_after_seconds)))
        raise
