"""Quotas: whom a request is counted for, and the headers that tell what is left."""

from typing import Any

import pytest

from app.errors import TooManyRequests
from app.security.rate_limits import RateLimiter
from app.web.quotas import Quotas, client_key, quota_headers
from tests.support.clocks import HandSeconds


def scope_of(host: str | None) -> dict[str, Any]:
    """Return as much of a request as is counted."""
    return {"client": None if host is None else (host, 5_000)}


def limiter(name: str, count: int) -> RateLimiter:
    """Return a limiter that counts a minute which never passes."""
    return RateLimiter(name, count=count, seconds=60, monotonic=HandSeconds())


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("not:an:address", "not:an:address"),
        ("/run/cabinet.sock", "/run/cabinet.sock"),
        (None, "unknown"),
    ],
)
def test_an_address_is_counted_as_what_one_customer_gets(host: str | None, key: str) -> None:
    assert client_key(scope_of(host)) == key


def test_ipv4_addresses_written_as_ipv6_are_counted_each_for_itself() -> None:
    keys = {client_key(scope_of(host)) for host in ("::ffff:192.0.2.7", "::ffff:198.51.100.9", "::1")}

    assert len(keys) == 3
    assert client_key(scope_of("::ffff:192.0.2.7")) == client_key(scope_of("192.0.2.7"))


def test_the_headers_tell_each_limit_and_what_is_left_of_it() -> None:
    quotas = Quotas(client=limiter("client", 10), actor=limiter("actor", 4))
    scope = scope_of("192.0.2.7")

    quotas.take_for_client(scope)
    quotas.take_for_subject(scope, "alice")

    assert quota_headers(scope) == [
        (b"ratelimit-policy", b'"client";q=10;w=60, "actor";q=4;w=60'),
        (b"ratelimit", b'"client";r=9;t=6, "actor";r=3;t=15'),
    ]


def test_a_refusal_shows_nothing_left() -> None:
    quotas = Quotas(client=limiter("client", 1), actor=None)
    quotas.take_for_client(scope_of("192.0.2.7"))
    scope = scope_of("192.0.2.7")

    with pytest.raises(TooManyRequests):
        quotas.take_for_client(scope)

    assert quota_headers(scope)[1] == (b"ratelimit", b'"client";r=0;t=60')


def test_a_limit_that_is_switched_off_counts_and_tells_nothing() -> None:
    quotas = Quotas(client=None, actor=None)
    scope = scope_of("192.0.2.7")

    for _ in range(1_000):
        quotas.take_for_client(scope)
        quotas.take_for_subject(scope, "alice")

    assert quota_headers(scope) == []
