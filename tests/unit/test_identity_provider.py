"""Tokens of an identity provider: whom they name, and every way in which one is not good."""

import base64
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.clock import to_datetime
from app.domain.users import SUBJECT_LIMIT
from app.errors import IdentityProviderUnavailable, NotAuthenticated
from app.security import identity_provider as module
from app.security.identity_provider import IdentityProvider, unverified_issuer
from app.security.key_cache import COOLDOWN_SECONDS, STALE_SECONDS
from tests.support.clocks import HandClock, HandSeconds
from tests.support.identity_provider import Pair, encoded, pair

ISSUER = "https://login.test/realm"
KEYS = "https://login.test/jwks"
RSA, CURVE, EDWARDS = pair("RS256", "rsa"), pair("ES256", "curve"), pair("EdDSA", "edwards")
OCT = {"kty": "oct", "kid": "oct", "alg": "HS256", "k": "c2VjcmV0" * 8}


@dataclass(kw_only=True)
class Realm:
    """A provider with its keys, seen by a service whose clocks stand still."""

    clock: HandClock = field(default_factory=HandClock)
    seconds: HandSeconds = field(default_factory=HandSeconds)
    published: list[dict[str, Any]] = field(default_factory=lambda: [RSA.published(), CURVE.published(), OCT])
    is_away: bool = False
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.provider = IdentityProvider(
            issuer=ISSUER,
            audience="cabinet",
            jwks_url=KEYS,
            clock=self.clock,
            monotonic=self.seconds,
            client=lambda: httpx2.AsyncClient(transport=httpx2.MockTransport(self._answer)),
        )

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(str(request.url))
        if self.is_away:
            raise httpx2.ConnectError("refused")

        async def body() -> AsyncIterator[bytes]:
            yield json.dumps({"keys": self.published}).encode()

        return httpx2.Response(200, content=body())

    @property
    def second(self) -> int:
        """The present second since the epoch."""
        return int(to_datetime(self.clock.now()).timestamp())

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return good claims with some changes; a change to None leaves the claim out."""
        good = {"iss": ISSUER, "aud": "cabinet", "sub": "alice", "iat": self.second, "exp": self.second + 600}
        return {name: value for name, value in (good | changes).items() if value is not None}

    async def verify(self, token: str) -> str:
        """Verify a token."""
        return await self.provider.verify(token)

    async def refusal(self, token: str) -> str:
        """Return the sentence with which a token is refused; one that is good is let in before and after."""
        assert await self.verify(RSA.sign(self.claims())) == f"{ISSUER}#alice"
        with pytest.raises(NotAuthenticated) as caught:
            await self.verify(token)
        assert await self.verify(RSA.sign(self.claims())) == f"{ISSUER}#alice"
        return caught.value.message


@pytest.fixture
async def realm() -> AsyncIterator[Realm]:
    """Return a provider with three keys, of which one is symmetric."""
    made = Realm()
    yield made
    await made.provider.close()


def forged(header: dict[str, Any], claims: dict[str, Any], secret: bytes) -> str:
    """Return a token signed with HMAC, which the library would refuse to make of a public key."""
    signing_input = f"{encoded(header)}.{encoded(claims)}"
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    return f"{signing_input}.{encoded(algorithm.sign(signing_input.encode(), secret))}"


NOT_SIGNED = "This token does not bear a signature of the identity provider that counts; sign in there again."
NOT_FOR_US = "This token of the identity provider is not one for this service; sign in again, for its audience."
NOT_NOW = "This token has expired, or is not valid yet; sign in again at the identity provider."


# Good tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "PS256", "ES256", "ES384", "EdDSA"])
async def test_a_token_of_the_provider_names_its_subject(realm: Realm, algorithm: str) -> None:
    key = pair(algorithm, "a")
    realm.published.append(key.published())

    assert await realm.verify(key.sign(realm.claims())) == f"{ISSUER}#alice"


@pytest.mark.parametrize("sub", ["a", "00u1|x", "a.b_c:d@e+f/g=h~i-j", "a" * (SUBJECT_LIMIT - len(ISSUER) - 1)])
async def test_every_subject_that_fits_is_taken_as_it_is(realm: Realm, sub: str) -> None:
    assert await realm.verify(RSA.sign(realm.claims(sub=sub))) == f"{ISSUER}#{sub}"


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["other", "cabinet"]},
        {"nbf": 0},
        {"email": "root@example.com", "cabinet_role": "super_admin"},
        {"jti": "x", "azp": "other"},
    ],
    ids=repr,
)
async def test_claims_that_say_nothing_against_it_change_nothing(realm: Realm, changes: dict[str, Any]) -> None:
    assert await realm.verify(RSA.sign(realm.claims(**changes))) == f"{ISSUER}#alice"


@pytest.mark.parametrize("kind", [None, "JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"])
async def test_id_tokens_and_access_tokens_are_taken(realm: Realm, kind: str) -> None:
    assert await realm.verify(RSA.sign(realm.claims(), typ=kind)) == f"{ISSUER}#alice"


async def test_nothing_is_fetched_before_the_first_token_nor_for_what_cannot_be_one(realm: Realm) -> None:
    with pytest.raises(NotAuthenticated):
        await realm.verify("a.b")

    assert realm.asked == []


# Algorithms and keys -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
@pytest.mark.parametrize("kid", ["rsa", "oct", None])
async def test_a_public_key_is_nobodys_secret(realm: Realm, kid: str | None, encoding: Encoding) -> None:
    assert isinstance(RSA.private, RSAPrivateKey)
    secret = RSA.private.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    header = {"typ": "JWT", "alg": "HS256"} | ({"kid": kid} if kid else {})

    assert await realm.refusal(forged(header, realm.claims(), secret)) == NOT_SIGNED


async def test_a_symmetric_key_in_the_set_signs_nothing(realm: Realm) -> None:
    token = forged({"typ": "JWT", "alg": "HS256", "kid": "oct"}, realm.claims(), base64.urlsafe_b64decode(OCT["k"]))

    assert await realm.refusal(token) == NOT_SIGNED


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None, ["RS256"], 5, "HS256", "rs256"])
@pytest.mark.parametrize("ending", ["", "AAAA"])
async def test_a_token_that_is_not_signed_is_refused(realm: Realm, algorithm: Any, ending: str) -> None:
    header = {"typ": "JWT", "alg": algorithm, "kid": "rsa"}

    assert await realm.refusal(f"{encoded(header)}.{encoded(realm.claims())}.{ending}") == NOT_SIGNED


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA", "HS256", "none"])
async def test_the_header_must_name_the_algorithm_of_the_key(realm: Realm, algorithm: str) -> None:
    assert await realm.refusal(RSA.sign(realm.claims(), alg=algorithm)) == NOT_SIGNED


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256", "PS512"])
async def test_another_algorithm_with_the_same_key_is_refused(realm: Realm, algorithm: str) -> None:
    other = Pair(key_id="rsa", algorithm=algorithm, private=RSA.private)

    assert await realm.refusal(other.sign(realm.claims())) == NOT_SIGNED


@pytest.mark.parametrize(("signer", "named"), [(RSA, "curve"), (CURVE, "rsa")])
async def test_the_name_of_another_key_is_refused(realm: Realm, signer: Pair, named: str) -> None:
    assert await realm.refusal(signer.sign(realm.claims(), kid=named)) == NOT_SIGNED


@pytest.mark.parametrize("key", [pair("RS256", "rsa", number=1), pair("ES256", "curve", number=1)])
async def test_a_key_of_somebody_else_under_a_known_name_is_refused(realm: Realm, key: Pair) -> None:
    assert await realm.refusal(key.sign(realm.claims())) == NOT_SIGNED


@pytest.mark.parametrize("kid", ["unknown", "", None, 5, ["rsa"], {"kid": "rsa"}, "a" * 500, "../../dev/null"])
async def test_among_several_keys_one_must_be_named_that_is_there(realm: Realm, kid: Any) -> None:
    assert await realm.refusal(RSA.sign(realm.claims(), kid=kid)) == NOT_SIGNED


@pytest.mark.parametrize("parameter", ["jwk", "jku", "x5u", "x5c", "x5t"])
async def test_a_key_that_the_token_brings_along_or_points_to_is_not_looked_at(realm: Realm, parameter: str) -> None:
    own = pair("RS256", "rsa", number=1)
    brought: dict[str, Any] = {"jwk": own.published(kid=None), "x5c": ["MIIB"], "x5t": "x"}
    header = {parameter: brought.get(parameter, "https://attacker.test/keys")}

    assert await realm.refusal(own.sign(realm.claims(), **header)) == NOT_SIGNED
    assert await realm.verify(RSA.sign(realm.claims(), **header)) == f"{ISSUER}#alice"
    assert set(realm.asked) == {KEYS}


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"crit": []}, {"b64": False, "crit": ["b64"]}, {"b64": False}])
async def test_what_a_header_calls_critical_is_not_passed_over(realm: Realm, header: dict[str, Any]) -> None:
    assert await realm.refusal(RSA.sign(realm.claims(), **header)) == NOT_SIGNED


@pytest.mark.parametrize("kind", ["logout+jwt", "dpop+jwt", "secevent+jwt", "JWE", "", 5, ["JWT"]])
async def test_a_token_for_another_end_lets_nobody_in(realm: Realm, kind: Any) -> None:
    assert await realm.refusal(RSA.sign(realm.claims(), typ=kind)) == NOT_FOR_US


@pytest.mark.parametrize("part", [0, 1, 2])
async def test_a_token_with_one_character_changed_is_refused(realm: Realm, part: int) -> None:
    parts = RSA.sign(realm.claims()).split(".")
    parts[part] = parts[part][:10] + ("A" if parts[part][10] != "A" else "B") + parts[part][11:]

    assert await realm.refusal(".".join(parts)) in (NOT_SIGNED, NOT_FOR_US)


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "é.b.c",
        "a b.c.d",
        "a.b.c\n",
        "a" * 1_025 + ".b.c",
        "a.b.c" + "c" * 1_024,
    ],
)
async def test_what_is_no_token_is_refused(realm: Realm, token: str) -> None:
    assert await realm.refusal(token) == NOT_SIGNED


async def test_a_token_larger_than_allowed_is_refused_though_its_signature_is_good(realm: Realm) -> None:
    assert await realm.refusal(RSA.sign(realm.claims(groups="x" * 3_000))) == NOT_SIGNED


@pytest.mark.parametrize("claims", [b"null", b"[]", b'"text"', b"{", b"\xff", b"[" * 3_000])
async def test_a_signed_token_that_holds_no_claims_is_refused(realm: Realm, claims: bytes) -> None:
    assert await realm.refusal(RSA.sign(claims)) == NOT_SIGNED


# Claims --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "exp", "iat"])
async def test_a_claim_that_is_missing_is_missed(realm: Realm, name: str) -> None:
    assert await realm.refusal(RSA.sign(realm.claims(**{name: None}))) == NOT_FOR_US


@pytest.mark.parametrize(
    "issuer", [f"{ISSUER}/", "https://login.test", ISSUER.upper(), "cabinet", [ISSUER], {"iss": ISSUER}, 5, ""]
)
async def test_another_issuer_is_refused_though_the_key_is_right(realm: Realm, issuer: Any) -> None:
    assert await realm.refusal(RSA.sign(realm.claims(iss=issuer))) == NOT_FOR_US


@pytest.mark.parametrize(
    "audience", ["other", "Cabinet", "cabinet ", ["other"], [], "", ["cabinet", 5], {"cabinet": 1}, 5, [["cabinet"]]]
)
async def test_a_token_for_another_service_is_refused(realm: Realm, audience: Any) -> None:
    assert await realm.refusal(RSA.sign(realm.claims(aud=audience))) == NOT_FOR_US


@pytest.mark.parametrize(
    "sub", ["", "a b", "a\n", "a#b", "é", "a%20b", "a?b", "<a>", "a" * (SUBJECT_LIMIT - len(ISSUER))]
)
async def test_a_subject_that_cannot_be_one_here_is_refused_with_a_sentence_that_says_so(
    realm: Realm, sub: str
) -> None:
    assert await realm.refusal(RSA.sign(realm.claims(sub=sub))) == (
        "This token's sub cannot be a subject here: with the issuer and # before it, it may have 255 characters of "
        "A-Z a-z 0-9 . _ : @ + | / = ~ -"
    )


@pytest.mark.parametrize("sub", [5, ["alice"], {"a": 1}, True])
async def test_a_subject_that_is_no_text_is_refused(realm: Realm, sub: Any) -> None:
    assert await realm.refusal(RSA.sign(realm.claims(sub=sub))) == NOT_SIGNED


# Times ---------------------------------------------------------------------------------------------------------------


async def test_a_token_is_good_until_it_expires(realm: Realm) -> None:
    token = RSA.sign(realm.claims(exp=realm.second + 60))

    realm.clock.move(59.999)
    assert await realm.verify(token) == f"{ISSUER}#alice"
    realm.clock.move(0.001)
    assert await realm.refusal(token) == NOT_NOW


@pytest.mark.parametrize("name", ["iat", "nbf"])
async def test_a_clock_that_is_a_little_ahead_is_forgiven(realm: Realm, name: str) -> None:
    assert await realm.verify(RSA.sign(realm.claims(**{name: realm.second + 5}))) == f"{ISSUER}#alice"
    assert await realm.refusal(RSA.sign(realm.claims(**{name: realm.second + 5.01}))) == NOT_NOW


async def test_a_time_may_have_a_fraction(realm: Realm) -> None:
    claims = realm.claims(iat=realm.second - 0.5, exp=realm.second + 0.5)

    assert await realm.verify(RSA.sign(claims)) == f"{ISSUER}#alice"


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize(
    "time", ["tomorrow", "1795420324", True, [], {}, -1, 1e12, 10**400, float("nan"), float("inf")], ids=repr
)
async def test_what_is_no_time_is_refused(realm: Realm, name: str, time: Any) -> None:
    assert await realm.refusal(RSA.sign(realm.claims(**{name: time}))) == NOT_NOW


# The provider --------------------------------------------------------------------------------------------------------


async def test_a_new_key_is_taken_after_the_cool_down_and_a_withdrawn_one_no_longer(realm: Realm) -> None:
    new = pair("ES256", "new", number=1)
    old_token, new_token = RSA.sign(realm.claims()), new.sign(realm.claims(sub="bob"))
    await realm.verify(old_token)
    realm.published = [new.published()]
    with pytest.raises(NotAuthenticated):
        await realm.verify(new_token)

    realm.seconds.move(COOLDOWN_SECONDS)

    assert await realm.verify(new_token) == f"{ISSUER}#bob"
    with pytest.raises(NotAuthenticated):
        await realm.verify(old_token)


async def test_a_provider_with_one_key_need_not_name_it_and_may_replace_it(realm: Realm) -> None:
    old, new = (pair("EdDSA", number=number) for number in range(2))
    realm.published = [old.published()]
    assert await realm.verify(old.sign(realm.claims())) == f"{ISSUER}#alice"
    realm.published = [new.published()]

    realm.seconds.move(COOLDOWN_SECONDS)

    assert await realm.verify(new.sign(realm.claims())) == f"{ISSUER}#alice"
    with pytest.raises(NotAuthenticated):
        await realm.verify(old.sign(realm.claims()))


async def test_a_forged_token_that_names_no_key_causes_one_fetch_in_a_cool_down(realm: Realm) -> None:
    own, other = (pair("EdDSA", number=number) for number in range(2))
    realm.published = [own.published()]
    await realm.verify(own.sign(realm.claims()))
    realm.seconds.move(COOLDOWN_SECONDS)

    for _ in range(20):
        with pytest.raises(NotAuthenticated):
            await realm.verify(other.sign(realm.claims()))

    assert len(realm.asked) == 2


async def test_a_forged_token_with_a_known_key_causes_no_fetch(realm: Realm) -> None:
    await realm.verify(RSA.sign(realm.claims()))
    realm.seconds.move(COOLDOWN_SECONDS)

    await realm.refusal(pair("RS256", "rsa", number=1).sign(realm.claims()))

    assert len(realm.asked) == 1


async def test_a_provider_that_is_away_stops_nobody_whose_key_is_known(realm: Realm) -> None:
    await realm.verify(RSA.sign(realm.claims()))
    realm.is_away = True
    realm.seconds.move(COOLDOWN_SECONDS)

    with pytest.raises(IdentityProviderUnavailable):
        await realm.verify(EDWARDS.sign(realm.claims()))

    assert await realm.verify(RSA.sign(realm.claims())) == f"{ISSUER}#alice"


async def test_a_provider_that_is_away_from_the_start_is_a_503(realm: Realm) -> None:
    realm.is_away = True

    with pytest.raises(IdentityProviderUnavailable) as caught:
        await realm.verify(RSA.sign(realm.claims()))

    assert caught.value.status == 503


@pytest.mark.parametrize("issuer", ["cabinet", "https://login.test/a?b", "https://login.test/#a", ""])
def test_an_issuer_that_no_subject_can_begin_with_is_refused(issuer: str) -> None:
    with pytest.raises(ValueError, match="no subject can begin"):
        IdentityProvider(
            issuer=issuer, audience="a", jwks_url=None, clock=HandClock(), monotonic=HandSeconds(), client=None
        )


# Remembering ---------------------------------------------------------------------------------------------------------


async def test_a_token_is_verified_once_as_long_as_its_key_is_published(
    realm: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = RSA.sign(realm.claims())
    await realm.verify(token)
    decoded = []
    monkeypatch.setattr(jwt, "decode", lambda *arguments, **_: decoded.append(arguments))

    assert [await realm.verify(token) for _ in range(3)] == [f"{ISSUER}#alice"] * 3
    assert decoded == []


async def test_a_remembered_token_falls_with_its_key_and_is_not_revived_by_another_of_its_name(realm: Realm) -> None:
    token = RSA.sign(realm.claims())
    await realm.verify(token)
    realm.published = [pair("RS256", "rsa", number=1).published()]

    realm.seconds.move(STALE_SECONDS + 1)

    with pytest.raises(NotAuthenticated):
        await realm.verify(token)


async def test_a_remembered_token_counts_no_longer_when_the_keys_have_grown_too_old(realm: Realm) -> None:
    token = RSA.sign(realm.claims(exp=realm.second + 10 * STALE_SECONDS))
    await realm.verify(token)
    realm.is_away = True

    realm.seconds.move(STALE_SECONDS + 1)

    with pytest.raises(IdentityProviderUnavailable):
        await realm.verify(token)


async def test_a_bounded_number_of_tokens_is_remembered(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED_LIMIT", 3)

    for number in range(10):
        await realm.verify(CURVE.sign(realm.claims(sub=f"user-{number}")))

    assert len(realm.provider._remembered) == 3


# Whose token it is ---------------------------------------------------------------------------------------------------


def test_a_token_says_unverified_who_issued_it() -> None:
    assert unverified_issuer(RSA.sign({"iss": ISSUER})) == ISSUER
    assert unverified_issuer(f"e30.{encoded({'iss': 'anybody'})}.AAAA") == "anybody"


def unreadable() -> Sequence[str]:
    """Return what names no issuer."""
    payloads: list[Any] = [{}, {"iss": 5}, {"iss": None}, [], "iss", None, b"{", b"\xff", b"[" * 3_000, b"9" * 3_000]
    return ["", "a", "a.b", "a.b.c", "..", "a.A.c", *(f"e30.{encoded(payload)}.AAAA" for payload in payloads)]


@pytest.mark.parametrize("token", unreadable(), ids=lambda token: token[:20])
def test_what_names_no_issuer_has_none(token: str) -> None:
    assert unverified_issuer(token) is None
