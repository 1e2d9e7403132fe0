"""Bearer tokens: what is issued, what is accepted, and when it ends."""

import base64
import json
from typing import Any

import jwt
import pytest

from app.clock import to_datetime
from app.errors import NotAuthenticated
from app.security import tokens as module
from app.security.tokens import Tokens, bearer_token
from tests.support.clocks import HandClock

SECRET, OTHER = "s" * 32, "o" * 32
TTL_MAX = 3_600


@pytest.fixture
def clock() -> HandClock:
    """Return a clock that stands still."""
    return HandClock()


@pytest.fixture
def tokens(clock: HandClock) -> Tokens:
    """Return tokens of one secret."""
    return Tokens([SECRET], ttl_max_seconds=TTL_MAX, clock=clock)


def second(clock: HandClock) -> int:
    """Return the present second since the epoch."""
    return int(to_datetime(clock.now()).timestamp())


def signed(clock: HandClock, **changes: Any) -> str:
    """Return a token of the right secret; a change to None leaves the claim out."""
    now = second(clock)
    claims: dict[str, Any] = {"sub": "a", "iat": now, "exp": now + 60, "jti": "x", "iss": "cabinet", "aud": "cabinet"}
    kept = {name: value for name, value in (claims | changes).items() if value is not None}
    return jwt.encode(kept, SECRET, algorithm="HS256")


def test_what_was_issued_is_good_until_it_expires(tokens: Tokens, clock: HandClock) -> None:
    token, expires_at = tokens.issue("alice", token_id="t", ttl_seconds=60)

    assert tokens.verify(token) == "alice"
    clock.move(59.999)
    assert tokens.verify(token) == "alice"
    clock.move(0.001)
    with pytest.raises(NotAuthenticated, match="expired"):
        tokens.verify(token)
    assert expires_at == second(clock)


def test_a_token_holds_who_when_and_for_whom_and_nothing_else(tokens: Tokens, clock: HandClock) -> None:
    token, _ = tokens.issue("alice", token_id="t-1", ttl_seconds=60)

    assert jwt.decode(token, options={"verify_signature": False}) == {
        "sub": "alice",
        "iat": second(clock),
        "exp": second(clock) + 60,
        "jti": "t-1",
        "iss": "cabinet",
        "aud": "cabinet",
    }


@pytest.mark.parametrize("ttl_seconds", [0, -1, TTL_MAX + 1])
def test_a_life_that_is_not_allowed_is_not_issued(tokens: Tokens, ttl_seconds: int) -> None:
    with pytest.raises(ValueError, match="lives 1 to 3600 seconds"):
        tokens.issue("alice", token_id="t", ttl_seconds=ttl_seconds)


@pytest.mark.parametrize("secrets", [[], ["short"], [SECRET, "short"], ["x" * 31]])
def test_secrets_that_are_missing_or_short_are_refused(secrets: list[str], clock: HandClock) -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        Tokens(secrets, ttl_max_seconds=TTL_MAX, clock=clock)


def test_the_first_secret_signs_and_all_are_accepted(clock: HandClock) -> None:
    old = Tokens([OTHER], ttl_max_seconds=TTL_MAX, clock=clock)
    rotating = Tokens([SECRET, OTHER], ttl_max_seconds=TTL_MAX, clock=clock)
    after = Tokens([SECRET], ttl_max_seconds=TTL_MAX, clock=clock)

    before, _ = old.issue("alice", token_id="t", ttl_seconds=60)
    during, _ = rotating.issue("alice", token_id="t", ttl_seconds=60)

    assert rotating.verify(before) == rotating.verify(during) == after.verify(during) == "alice"
    with pytest.raises(NotAuthenticated):
        after.verify(before)


@pytest.mark.parametrize("skew_seconds", [0, 5])
def test_a_clock_that_is_a_little_ahead_is_forgiven(tokens: Tokens, clock: HandClock, skew_seconds: int) -> None:
    assert tokens.verify(signed(clock, iat=second(clock) + skew_seconds)) == "a"


@pytest.mark.parametrize(
    "changes",
    [
        *({name: None} for name in ("sub", "iat", "exp", "jti", "iss", "aud")),
        {"iss": "other"},
        {"iss": ["cabinet", "other"]},
        {"aud": "other"},
        {"aud": ["other"]},
        {"aud": 1},
        {"sub": ""},
        {"sub": "a b"},
        {"sub": "a\n"},
        {"sub": "a" * 256},
        {"exp": "tomorrow"},
        {"exp": True},
        {"exp": 1e12},
        {"exp": 10**400},
        {"iat": True},
    ],
    ids=repr,
)
def test_a_claim_that_is_missing_or_wrong_is_refused(tokens: Tokens, clock: HandClock, changes: dict[str, Any]) -> None:
    with pytest.raises(NotAuthenticated):
        tokens.verify(_signed_as_it_is(clock, changes))


def _signed_as_it_is(clock: HandClock, changes: dict[str, Any]) -> str:
    """Sign claims that the library would refuse to write."""
    now = second(clock)
    claims: dict[str, Any] = {"sub": "a", "iat": now, "exp": now + 60, "jti": "x", "iss": "cabinet", "aud": "cabinet"}
    kept = {name: value for name, value in (claims | changes).items() if value is not None}
    return jwt.api_jws.encode(json.dumps(kept).encode(), SECRET, algorithm="HS256")


@pytest.mark.parametrize("claims", [b"null", b"[]", b'"text"', b"{", b"\xff", b"[" * 3_000])
def test_a_signed_token_that_holds_no_claims_is_refused(tokens: Tokens, claims: bytes) -> None:
    with pytest.raises(NotAuthenticated):
        tokens.verify(jwt.api_jws.encode(claims, SECRET, algorithm="HS256"))


@pytest.mark.parametrize("offset", [(6, 60), (-100, 0), (-100, -1), (0, TTL_MAX + 1), (3, 3), (4, 3)])
def test_a_time_that_is_not_now_or_too_long_is_refused(
    tokens: Tokens, clock: HandClock, offset: tuple[int, int]
) -> None:
    now = second(clock)

    with pytest.raises(NotAuthenticated):
        tokens.verify(signed(clock, iat=now + offset[0], exp=now + offset[1]))


@pytest.mark.parametrize("head", [{}, {"alg": "none"}, {"alg": "HS512"}, {"alg": "RS256"}, {"alg": ["HS256"]}, [], 1])
def test_a_head_that_names_another_way_to_sign_is_refused(tokens: Tokens, clock: HandClock, head: Any) -> None:
    _, claims, signature = signed(clock).split(".")
    written = base64.urlsafe_b64encode(json.dumps(head).encode()).rstrip(b"=").decode()

    for forged in (f"{written}.{claims}.{signature}", f"{written}.{claims}.", f"{written}.{claims}.AAAA"):
        with pytest.raises(NotAuthenticated):
            tokens.verify(forged)


@pytest.mark.parametrize(
    "text", ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "é.b.c", "a b.c.d", "a.b.c\n", "a" * 2_000 + ".b.c"]
)
def test_what_is_no_token_is_refused(tokens: Tokens, text: str) -> None:
    with pytest.raises(NotAuthenticated):
        tokens.verify(text)


def test_a_head_nested_as_deep_as_it_can_be_is_refused(tokens: Tokens) -> None:
    head = base64.urlsafe_b64encode(b"[" * 768).decode()

    with pytest.raises(NotAuthenticated):
        tokens.verify(f"{head}.e30.AAAA")


def test_a_verified_token_is_remembered_and_still_expires(
    tokens: Tokens, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = signed(clock)
    tokens.verify(token)
    decoded = []
    monkeypatch.setattr(jwt, "decode", lambda *arguments, **_: decoded.append(arguments))

    assert tokens.verify(token) == "a"
    assert decoded == []
    clock.move(60)
    with pytest.raises(NotAuthenticated):
        tokens.verify(token)


def test_a_bounded_number_of_tokens_is_remembered(
    tokens: Tokens, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMEMBERED_LIMIT", 3)

    for number in range(10):
        tokens.verify(signed(clock, jti=str(number)))

    assert len(tokens._remembered) == 3


@pytest.mark.parametrize("header", ["Bearer abc", "bearer abc", "BEARER  abc ", "Bearer abc\t"])
def test_the_token_stands_behind_its_scheme(header: str) -> None:
    assert bearer_token(header) == "abc"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "abc", "Basic abc", "Bearer\tabc", " Bearer abc"])
def test_a_header_without_a_bearer_token_is_refused(header: str | None) -> None:
    with pytest.raises(NotAuthenticated):
        bearer_token(header)
