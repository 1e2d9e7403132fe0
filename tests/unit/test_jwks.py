"""The keys that a provider publishes: where they are looked for, what is refused, and which of them count."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from json import dumps
from typing import Any

import httpx2
import pytest

from app.security import jwks as module
from app.security.jwks import (
    ANSWER_BYTES_LIMIT,
    KEY_ID_LIMIT,
    KEYS_LIMIT,
    KeysNotHad,
    ProviderKey,
    PublishedKeys,
    http_clients,
    signing_keys,
)
from tests.support.identity_provider import Pair, pair

ISSUER = "https://login.test/realm"
DISCOVERY = f"{ISSUER}/.well-known/openid-configuration"
KEYS = "https://login.test/jwks"
KEY = pair("EdDSA", "a").published()

Answers = dict[str, httpx2.Response]
Handler = Callable[[httpx2.Request], httpx2.Response]


async def chunks(content: bytes) -> AsyncIterator[bytes]:
    """Yield a body in pieces, as the network would."""
    for start in range(0, len(content), 65_536):
        yield content[start : start + 65_536]


async def endless() -> AsyncIterator[bytes]:
    """Yield a body that never ends, as fast as it is read."""
    while True:
        await asyncio.sleep(0)
        yield b" " * 65_536


def answer(
    status: int = 200, *, content: bytes = b"", json: Any = None, headers: Mapping[str, str] | None = None
) -> httpx2.Response:
    """Return an answer whose body has not been read."""
    body = content if json is None else dumps(json).encode()
    return httpx2.Response(status, headers=headers, content=chunks(body))


def good() -> Answers:
    """Return what a provider answers in which nothing is wrong, by address."""
    return {
        DISCOVERY: answer(json={"issuer": ISSUER, "jwks_uri": KEYS}),
        KEYS: answer(json={"keys": [KEY]}),
    }


def published(handler: Handler, *, jwks_url: str | None = None, issuer: str = ISSUER) -> PublishedKeys:
    """Return what fetches from a provider whose answers a function makes; its clients would follow redirects."""
    transport = httpx2.MockTransport(handler)
    return PublishedKeys(
        issuer=issuer,
        jwks_url=jwks_url,
        client=lambda: httpx2.AsyncClient(transport=transport, follow_redirects=True),
    )


async def fetched(answers: Answers, *, jwks_url: str | None = None, issuer: str = ISSUER) -> tuple[ProviderKey, ...]:
    """Fetch from a provider with these answers."""
    return await published(lambda request: answers[str(request.url)], jwks_url=jwks_url, issuer=issuer).fetch()


async def failure(answers: Answers, **changes: Any) -> tuple[str, str]:
    """Return why fetching from a provider with these answers fails, and where."""
    with pytest.raises(KeysNotHad) as caught:
        await fetched(answers, **changes)
    return caught.value.kind, caught.value.url


# Fetching ------------------------------------------------------------------------------------------------------------


async def test_keys_are_where_the_discovery_document_says() -> None:
    [key] = await fetched(good())

    assert (key.key_id, key.algorithm) == ("a", "EdDSA")


async def test_keys_at_a_given_address_are_fetched_without_discovery() -> None:
    [key] = await fetched({KEYS: good()[KEYS]}, jwks_url=KEYS)

    assert key.key_id == "a"


async def test_a_slash_at_the_end_of_an_issuer_belongs_to_its_name_but_not_to_the_address() -> None:
    answers = good() | {DISCOVERY: answer(json={"issuer": f"{ISSUER}/", "jwks_uri": KEYS})}

    assert len(await fetched(answers, issuer=f"{ISSUER}/")) == 1


@pytest.mark.parametrize("said", [f"{ISSUER}/", "https://other.test", ISSUER.upper(), None, [ISSUER]])
async def test_a_document_of_another_issuer_is_refused(said: Any) -> None:
    answers = good() | {DISCOVERY: answer(json={"issuer": said, "jwks_uri": KEYS})}

    assert await failure(answers) == ("wrong_issuer", DISCOVERY)


@pytest.mark.parametrize(
    "address",
    [
        None,
        5,
        "",
        "jwks",
        "https://",
        "http://login.test/jwks",
        "http://127.0.0.2/jwks",
        "http://localhost.test/jwks",
        "https://user:secret@login.test/jwks",
        "file:///etc/passwd",
        "https://login.test:port/",
    ],
)
async def test_keys_are_not_fetched_where_anybody_could_change_them(address: Any) -> None:
    answers = good() | {DISCOVERY: answer(json={"issuer": ISSUER, "jwks_uri": address})}

    assert await failure(answers) == ("bad_address", DISCOVERY)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
async def test_this_machine_is_asked_without_tls_by_a_provider_that_is_on_it_alone(host: str) -> None:
    address = f"http://{host}:9400/jwks"
    here = "http://localhost:9400/realm"
    local = {f"{here}/.well-known/openid-configuration": answer(json={"issuer": here, "jwks_uri": address})}
    elsewhere = {DISCOVERY: answer(json={"issuer": ISSUER, "jwks_uri": address})}

    keys = await fetched(local | {address: good()[KEYS]}, issuer=here)

    assert len(keys) == 1
    assert await failure(elsewhere | {address: good()[KEYS]}) == ("bad_address", DISCOVERY)


def wrong_answers() -> dict[str, tuple[httpx2.Response, str]]:
    """Return answers that are not what was asked for, each with the kind of failure."""
    moved = {"location": "https://elsewhere.test/jwks"}
    return {
        "html": (answer(content=b"<html>Sign in</html>"), "not_json"),
        "empty": (answer(), "not_json"),
        "half": (answer(content=b'{"keys": ['), "not_json"),
        "bytes": (answer(content=b"\xff\xfe"), "not_json"),
        "deep": (answer(content=b"[" * 100_000), "not_json"),
        "list": (answer(json=[KEY]), "not_json"),
        "packed": (answer(content=b"\x1f\x8b", headers={"content-encoding": "br"}), "not_json"),
        "redirect": (answer(302, headers=moved, json={"keys": [KEY]}), "redirect"),
        "permanent redirect": (answer(308, headers=moved), "redirect"),
        "not found": (answer(404, json={"keys": [KEY]}), "status"),
        "down": (answer(503, content=b"try later"), "status"),
        "no content": (answer(204), "status"),
        "too big": (answer(content=b" " * (ANSWER_BYTES_LIMIT + 1)), "too_big"),
        "endless": (httpx2.Response(200, content=endless()), "too_big"),
    }


@pytest.mark.parametrize("case", sorted(wrong_answers()))
@pytest.mark.parametrize("address", [DISCOVERY, KEYS])
async def test_an_answer_that_is_no_document_is_a_failure_of_its_kind(address: str, case: str) -> None:
    wrong, kind = wrong_answers()[case]

    assert await failure(good() | {address: wrong}) == (kind, address)


async def test_an_answer_as_big_as_allowed_is_read() -> None:
    content = dumps({"keys": [KEY]}).encode().ljust(ANSWER_BYTES_LIMIT)

    assert len(await fetched(good() | {KEYS: answer(content=content)})) == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx2.ConnectError("refused"), "unreachable"),
        (httpx2.RemoteProtocolError("half an answer"), "unreachable"),
        (httpx2.ConnectTimeout("slow"), "timeout"),
        (httpx2.ReadTimeout("slow"), "timeout"),
    ],
)
async def test_a_provider_that_does_not_answer_is_a_failure_of_its_kind(error: Exception, kind: str) -> None:
    def handler(_request: httpx2.Request) -> httpx2.Response:
        raise error

    with pytest.raises(KeysNotHad) as caught:
        await published(handler).fetch()

    assert (caught.value.kind, caught.value.url) == (kind, DISCOVERY)


async def test_an_answer_that_trickles_has_no_more_time_than_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FETCH_SECONDS", 0.02)

    async def trickle() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.005)

    assert await failure(good() | {KEYS: httpx2.Response(200, content=trickle())}) == ("timeout", KEYS)


async def test_the_log_gets_no_query_and_little_of_what_the_provider_says() -> None:
    said = "x" * 10_000
    answers = {f"{KEYS}?key=5ecre7": answer(json={"issuer": said})}

    with pytest.raises(KeysNotHad) as caught:
        await fetched(answers, jwks_url=f"{KEYS}?key=5ecre7")

    assert (caught.value.url, caught.value.kind) == (KEYS, "no_keys")
    assert len(KeysNotHad("kind", KEYS, said).detail) == module.DETAIL_LIMIT


async def test_clients_of_a_provider_use_no_proxy_and_follow_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")

    async with http_clients()() as client:
        assert (client.trust_env, client.follow_redirects, client._mounts) == (False, False, {})


# Reading -------------------------------------------------------------------------------------------------------------


def read(*members: Any) -> list[tuple[str | None, str]]:
    """Return name and algorithm of the usable keys of a set; one good key stands at its end."""
    found = signing_keys({"keys": [*members, pair("EdDSA", "last", number=9).published()]}, KEYS)
    return [(key.key_id, key.algorithm) for key in found[:-1]]


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"])
def test_the_algorithm_is_the_one_that_the_key_names(algorithm: str) -> None:
    assert read(pair(algorithm, "a").published()) == [("a", algorithm)]


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "ES384", "EdDSA"])
def test_a_key_that_names_no_algorithm_and_no_use_is_for_the_usual_one_of_its_kind(algorithm: str) -> None:
    assert read(pair(algorithm, "a").published(alg=None, use=None)) == [("a", algorithm)]


def unusable() -> dict[str, Any]:
    """Return members of a key set that no signature may be verified with."""
    rsa, curve, edwards = pair("RS256", "a"), pair("ES256", "a"), pair("EdDSA", "a")
    return {
        "symmetric": {"kty": "oct", "kid": "a", "alg": "HS256", "k": "c2VjcmV0" * 8},
        "symmetric, asymmetric name": {"kty": "oct", "kid": "a", "alg": "RS256", "k": "c2VjcmV0" * 8},
        "RSA for HMAC": rsa.published(alg="HS256"),
        "RSA for nothing": rsa.published(alg="none"),
        "RSA for a curve": rsa.published(alg="ES256"),
        "RSA for encryption": rsa.published(use="enc"),
        "RSA for another use": rsa.published(use=["sig"]),
        "RSA that encrypts": rsa.published(alg="RSA-OAEP"),
        "RSA with a list of algorithms": rsa.published(alg=["RS256"]),
        "RSA of 1024 bits": pair("RS256", "a", bits=1_024).published(),
        "RSA of 2047 bits": pair("RS256", "a", bits=2_047).published(),
        "RSA with a curve": rsa.published(crv="P-256"),
        "RSA without a number": rsa.published(n=None),
        "RSA with a number of its own": rsa.published(n=65_537),
        "RSA that is even": rsa.published(e="Ag"),
        "RSA that does nothing": rsa.published(e="AQ"),
        "P-256 for P-384": curve.published(alg="ES384"),
        "P-256 named P-384": curve.published(crv="P-384", alg=None),
        "P-256 off the curve": curve.published(y=curve.published()["x"]),
        "P-521": curve.published(crv="P-521", alg="ES512"),
        "secp256k1": curve.published(crv="secp256k1", alg="ES256K"),
        "curve without a name": curve.published(crv=None),
        "curve with a list of names": curve.published(crv=["P-256"]),
        "Ed448": edwards.published(crv="Ed448"),
        "X25519": edwards.published(crv="X25519"),
        "Ed25519 cut short": edwards.published(x="AAAA"),
        "kind unknown": rsa.published(kty="XYZ"),
        "kind with a list of names": rsa.published(kty=["RSA"]),
        "name that is a number": rsa.published(kid=5),
        "name too long": rsa.published(kid="a" * (KEY_ID_LIMIT + 1)),
        "nothing": {},
        "no object": "key",
        "null": None,
    }


@pytest.mark.parametrize("case", sorted(unusable()))
def test_what_must_verify_no_signature_is_left_out(case: str) -> None:
    assert read(unusable()[case]) == []


def test_of_a_private_key_that_is_published_only_the_public_part_is_taken() -> None:
    key: Pair = pair("RS256", "a")
    private = {"d": "AQAB", "p": "AQAB", "q": "AQAB"}

    [found, *_] = signing_keys({"keys": [key.published() | private]}, KEYS)

    assert found == signing_keys({"keys": [key.published()]}, KEYS)[0]
    assert not hasattr(found.key.key, "private_numbers")


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({}, "no_keys"),
        ({"keys": None}, "no_keys"),
        ({"keys": {"a": KEY}}, "no_keys"),
        ({"keys": []}, "no_keys"),
        ({"keys": [unusable()["symmetric"]]}, "no_keys"),
        ({"keys": [KEY] * (KEYS_LIMIT + 1)}, "too_many_keys"),
    ],
)
def test_a_set_without_a_usable_key_or_with_too_many_is_refused(document: dict[str, Any], kind: str) -> None:
    with pytest.raises(KeysNotHad) as caught:
        signing_keys(document, KEYS)

    assert caught.value.kind == kind


def test_a_set_may_have_as_many_keys_as_allowed() -> None:
    assert len(signing_keys({"keys": [KEY] * KEYS_LIMIT}, KEYS)) == KEYS_LIMIT


def test_a_key_is_known_again_by_its_numbers_name_and_algorithm() -> None:
    key, other = pair("RS256", "a"), pair("RS256", "a", number=1)

    sets = [key.published(), key.published(use=None), key.published(kid="b"), key.published(alg="RS512")]
    [first, again, *changed] = signing_keys({"keys": [*sets, other.published()]}, KEYS)

    assert first == again
    assert first not in changed
