"""Quotas: how often a client's address and a subject may call, and the headers that tell them."""

import ipaddress
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Scope

from app.errors import TooManyRequests, Unavailable
from app.security.rate_limits import Quota, RateLimiter

CONCURRENT_LIMIT = 512
"""How many requests may be at work at once; those that wait for a task's end are counted apart."""

WAITING_LIMIT = 1_024
"""How many requests may wait for a task's end at once."""


WAITING_OF_SUBJECT_LIMIT = 256
"""How many of one user may: they are held for who hung up as well, so that one user does not hold them all."""


class Quotas:
    """The limits of a request: how many at once, by address before anything is read, by subject once it is known.

    A rate limit that is None is switched off. Headers follow draft-ietf-httpapi-ratelimit-headers-10.
    """

    def __init__(
        self, *, client: RateLimiter | None, actor: RateLimiter | None, asking: RateLimiter | None = None
    ) -> None:
        self._client = client
        self._asking = asking
        self._actor = actor
        self._at_work = 0
        self._waiting: Counter[str] = Counter()

    def begin(self, *, is_limited: bool) -> None:
        """Count a request that goes to work, until `end` is called; Unavailable if too many are and it `is_limited`."""
        if is_limited and self._at_work >= CONCURRENT_LIMIT:
            raise Unavailable("Too many requests are at work; try again.")
        self._at_work += 1

    def end(self) -> None:
        """A request that was let begin has ended."""
        self._at_work -= 1

    @contextmanager
    def waiting(self, subject: str) -> Iterator[None]:
        """Count a request of a subject at work as one that waits; Unavailable if too many do."""
        if self._waiting.total() >= WAITING_LIMIT or self._waiting[subject] >= WAITING_OF_SUBJECT_LIMIT:
            raise Unavailable("Too many requests wait for a task's end; ask again without waiting.")
        self._waiting[subject] += 1
        self._at_work -= 1
        try:
            yield
        finally:
            self._at_work += 1
            self._waiting[subject] -= 1
            self._waiting += Counter()  # who waits no longer is forgotten

    def take_for_client(self, scope: Scope) -> None:
        """Count a request of an address; raises TooManyRequests."""
        _take(self._client, scope, client_key(scope))

    def take_for_asking(self, scope: Scope) -> None:
        """Count an address's request of something that anybody may write; raises TooManyRequests."""
        _take(self._asking, scope, client_key(scope))

    def take_for_subject(self, scope: Scope, subject: str) -> None:
        """Count a request of a subject; raises TooManyRequests."""
        _take(self._actor, scope, subject)

    def give_back_to_subject(self, subject: str) -> None:
        """Let a request of a subject not count."""
        if self._actor is not None:
            self._actor.give_back(subject)


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
