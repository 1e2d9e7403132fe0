"""Signatures: the worked example of RFC 9421, an independent signer, hostile texts, and every edge of the profile."""

import base64
import string
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from app.clock import SystemClock
from app.domain.keys import SigningKey
from app.errors import BadSignature
from app.security import signatures
from app.security.signatures import (
    SignatureInput,
    Signatures,
    SignedRequest,
    check_digest,
    is_signed,
    parse_signature,
    signature_base,
)
from tests.e2e.attack_tables import ATTACKS
from tests.e2e.attacks import HOST, Bench
from tests.e2e.attacks import ORIGIN as ORIGIN_OF_ATTACKS
from tests.support.clocks import HandClock
from tests.support.signers import Message, Signer, public_text, seconds_of, sign_independently, task_message

ORIGIN = "https://cabinet.test"
NONCE = "0123456789abcdef"


class Desk:
    """A verifier with a clock that is moved by hand, one key, and a count of the looks for it."""

    def __init__(self, origin: str | None = ORIGIN) -> None:
        self.clock = HandClock()
        self.signer = Signer(key_id="key", now=seconds_of(self.clock))
        self.looks: list[str] = []
        self.verifier = Signatures(origin=origin, clock=self.clock, find_key=self._find)

    async def _find(self, key_id: str) -> SigningKey | None:
        self.looks.append(key_id)
        return None if key_id == "unknown" else a_key(key_id, public_text(self.signer.private_key))

    async def reason(self, message: Message) -> str:
        """Return why a message is refused, or nothing."""
        try:
            await self.verifier.verify(as_request(message))
        except BadSignature as refused:
            return refused.reason
        return ""


def a_key(key_id: str, public_key: str) -> SigningKey:
    """Make a key of the subject robot."""
    created_at = HandClock().now()
    return SigningKey(id=key_id, user_id="id", subject="robot", public_key=public_key, name="robot's",
                      created_at=created_at, revoked_at=None)  # fmt: skip


def as_request(message: Message) -> SignedRequest:
    """Return a message as the server hands it over."""
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in message.headers]
    path, query = message.path.encode("latin-1"), message.query.encode("latin-1")
    return SignedRequest(method=message.method, path=path, query=query, headers=headers, body=message.body)


# The worked example of RFC 9421, appendix B --------------------------------------------------------------------------

EXAMPLE_KEY = "JrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs="
EXAMPLE_SIGNATURE = "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
EXAMPLE_BODY = b'{"hello": "world"}'
EXAMPLE_DIGEST = "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:"
EXAMPLE = Message(
    method="POST",
    target="/foo?param=Value&Pet=dog",
    headers=(
        ("Host", "example.com"),
        ("Date", "Tue, 20 Apr 2021 02:07:55 GMT"),
        ("Content-Type", "application/json"),
        ("Content-Digest", EXAMPLE_DIGEST),
        ("Content-Length", "18"),
    ),
    body=EXAMPLE_BODY,
)
EXAMPLE_INPUT = SignatureInput(
    label="sig-b26",
    text=(
        '("date" "@method" "@path" "@authority" "content-type" "content-length")'
        ';created=1618884473;keyid="test-key-ed25519"'
    ),
    components=("date", "@method", "@path", "@authority", "content-type", "content-length"),
    created=1618884473,
    expires=0,
    key_id="test-key-ed25519",
    nonce="",
)
EXAMPLE_BASE = b"""\
"date": Tue, 20 Apr 2021 02:07:55 GMT
"@method": POST
"@path": /foo
"@authority": example.com
"content-type": application/json
"content-length": 18
"@signature-params": ("date" "@method" "@path" "@authority" "content-type" "content-length")\
;created=1618884473;keyid="test-key-ed25519\""""


def test_the_base_is_that_of_the_rfc() -> None:
    base = signature_base(EXAMPLE_INPUT, as_request(EXAMPLE), authority="example.com")

    assert base == EXAMPLE_BASE


def test_the_rfcs_signature_fits_our_base() -> None:
    base = signature_base(EXAMPLE_INPUT, as_request(EXAMPLE), authority="example.com")
    signature = parse_signature(f"sig-b26=:{EXAMPLE_SIGNATURE}:", label="sig-b26")

    Ed25519PublicKey.from_public_bytes(base64.b64decode(EXAMPLE_KEY)).verify(signature, base)


def test_the_rfcs_digests_fit() -> None:
    check_digest(EXAMPLE_DIGEST, EXAMPLE_BODY)
    check_digest("sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:", EXAMPLE_BODY + b"\n")


def test_the_whole_query_is_a_component_also_when_there_is_none() -> None:
    asked = replace(EXAMPLE_INPUT, components=("@query",))

    with_one = signature_base(asked, as_request(EXAMPLE), authority="example.com")
    without = signature_base(asked, as_request(EXAMPLE.but(target="/foo")), authority="example.com")

    assert with_one.startswith(b'"@query": ?param=Value&Pet=dog\n')
    assert without.startswith(b'"@query": ?\n')


def test_whitespace_around_a_header_is_not_signed_and_within_it_is() -> None:
    asked = replace(EXAMPLE_INPUT, components=("if-match",))
    message = EXAMPLE.add("If-Match", ' \t"a  b"\t ')

    assert signature_base(asked, as_request(message), authority="").startswith(b'"if-match": "a  b"\n')


# Whole requests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        Message(),
        Message(method="HEAD", target="/v1/tasks?limit=1&cursor=a%2Fb&&x"),
        task_message("key-1"),
        task_message("key-1").add("If-Match", '"7"'),
        Message(method="POST", target="/v1/x", body=b"\x00\xff" * 10, headers=(("Content-Type", "a/b"),)),
    ],
    ids=repr,
)
async def test_what_the_independent_signer_signs_is_accepted(message: Message) -> None:
    desk = Desk()

    subject, used = await desk.verifier.verify(
        as_request(sign_independently(message, desk.signer, origin=ORIGIN, nonce=NONCE))
    )

    assert (subject, used.key_id, used.nonce) == ("robot", "key", NONCE)
    assert used.kept_until == "2026-11-22T20:20:05.000000Z"  # 60 seconds and 5 of skew after the clock's 20:19:00


@given(st.data())
async def test_any_change_of_one_character_is_refused(data: st.DataObject) -> None:
    desk = Desk()
    good = desk.signer.sign(
        task_message("key-1", '{"a": 1}').add("If-Match", '"7"').but(target="/v1/tasks?a=b"), label="s"
    )
    names = [name for name, _ in good.headers]
    where = data.draw(st.sampled_from([*names, "body", "target", "method"]))
    text = {"body": good.body.decode(), "target": good.target, "method": good.method}.get(where) or good.the(where)
    place = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from(string.printable[:94]).filter(lambda other: other != text[place]))
    changed = text[:place] + letter + text[place + 1 :]

    reason = await desk.reason(
        good.but(**{where: changed.encode() if where == "body" else changed})
        if where in ("body", "target", "method")
        else good.put(where, changed)
    )

    assert await desk.reason(good) == ""
    is_the_other_mark_of_a_query = where == "target" and changed.replace("?", "") == text.replace("?", "")
    assert reason or is_the_other_mark_of_a_query


async def test_what_is_amiss_is_found_in_the_order_of_the_issue() -> None:
    desk = Desk()
    now = int(desk.signer.now())
    late = {"created": str(now - 90), "expires": str(now - 30)}

    def sign(key_id: str, **changes: str) -> Message:
        signer = replace(desk.signer, key_id=key_id)
        return signer.sign(task_message("k"), parameters=changes, make=lambda _: b"x" * 64).but(body=b"{}")

    reasons = [
        await desk.reason(sign("unknown", **late, nonce="1")),
        await desk.reason(sign("unknown", **late)),
        await desk.reason(sign("key", **late)),
        await desk.reason(sign("key")),
        await desk.reason(desk.signer.sign(task_message("k")).but(body=b"{}")),
    ]

    assert [reason.split(",")[0] for reason in reasons] == [
        "keyid is a text",
        "there is no key of this id",
        "it has expired",
        "the signature does not fit",
        "Content-Digest is not that of the body",
    ]


async def test_without_an_origin_of_its_own_nothing_is_verified() -> None:
    desk = Desk(origin=None)

    assert "PUBLIC_ORIGIN is not set" in await desk.reason(desk.signer.sign(Message()))
    assert desk.looks == []


async def test_a_key_is_looked_for_once() -> None:
    desk = Desk()

    assert [await desk.reason(desk.signer.sign(Message())) for _ in range(3)] == ["", "", ""]

    assert desk.looks == ["key"]


async def test_an_unknown_key_is_looked_for_each_time_for_it_may_be_added() -> None:
    desk = Desk()
    stranger = replace(desk.signer, key_id="unknown")

    assert [bool(await desk.reason(stranger.sign(Message()))) for _ in range(2)] == [True, True]

    assert desk.looks == ["unknown", "unknown"]


async def test_the_keys_that_were_used_longest_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "KEYS_REMEMBERED_LIMIT", 2)
    desk = Desk()

    for key_id in ("a", "b", "a", "c", "a", "b"):
        assert await desk.reason(replace(desk.signer, key_id=key_id).sign(Message())) == ""

    assert desk.looks == ["a", "b", "c", "b"]


# Times ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("created", "expires", "moved", "reason"),
    [
        (0, 60, 0, ""),
        (0, 61, 0, "longer than 60"),
        (0, 1, 0, ""),
        (0, 0, 0, "or for none"),
        (0, -1, 0, "or for none"),
        (5, 65, 0, ""),
        (6, 66, 0, "in the future"),
        (6, 66, 0.999999, "in the future"),
        (6, 66, 1, ""),
        (0, 60, 65, ""),
        (0, 60, 65.000001, "has expired"),
        (-60, -5, 0, ""),
        (-60, -6, 0, "has expired"),
    ],
)
async def test_the_times_have_exact_edges(created: int, expires: int, moved: float, reason: str) -> None:
    desk = Desk()
    now = int(desk.signer.now())
    signed = desk.signer.sign(Message(), parameters={"created": str(now + created), "expires": str(now + expires)})
    desk.clock.move(moved)

    found = await desk.reason(signed)

    assert reason in found
    assert bool(reason) == bool(found)


@pytest.mark.parametrize("created", ["999999999999", "0", "253402300800"])
async def test_no_time_is_too_far_away_to_be_refused(created: str) -> None:
    desk = Desk()

    assert await desk.reason(desk.signer.sign(Message(), parameters={"created": created}))
    assert await desk.reason(desk.signer.sign(Message(), parameters={"expires": created}))


# Attacks --------------------------------------------------------------------------------------------------------------

OF_THE_WIRE = {"a URL for a path", "a body in other chunks"}
TRIED = {
    f"{family}: {name}": attack
    for family in ("headers", "parameters", "components", "requests")
    for name, attack in ATTACKS[family].items()
    if name not in OF_THE_WIRE
}


@pytest.mark.parametrize("name", TRIED)
async def test_every_attack_is_refused_by_the_verifier_alone(name: str) -> None:
    signer = Signer(key_id="key", authority=HOST)
    bench = Bench(port=1, alice=signer, bob=signer, revoked=signer, sleeping=signer, token="", spare="/v1/keys/x")

    async def find(key_id: str) -> SigningKey:
        return a_key(key_id, public_text(signer.private_key))

    verifier = Signatures(origin=ORIGIN_OF_ATTACKS, clock=SystemClock(), find_key=find)
    tried, control = TRIED[name].tried(bench), TRIED[name].control(bench)
    assert isinstance(tried, Message)
    assert isinstance(control, Message)

    with pytest.raises(BadSignature):
        await verifier.verify(as_request(tried))

    if is_signed(as_request(control).headers):
        assert (await verifier.verify(as_request(control)))[0] == "robot"
