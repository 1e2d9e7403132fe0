"""Texts of signatures: what the parsers make of good, hostile and random ones, held against an independent parser."""

import base64
import string
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import http_sf
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import BadSignature
from app.security.signatures import (
    ACCEPT_SIGNATURE,
    HEADER_LIMIT,
    SignatureInput,
    check_digest,
    parse_input,
    parse_signature,
)
from tests.support.signers import digest

NONCE = "0123456789abcdef"
GOOD = (
    'sig=("@method" "@authority" "@path" "@query");created=1;expires=61;keyid="key";'
    f'nonce="{NONCE}";alg="ed25519";tag="cabinet-v1"'
)
PIECES = (
    "sig", "=", "(", ")", '"', ";", ",", " ", "\t", "\n", "\\", ":", "@method", '"@path"', ";sf", ";bs", ';key="a"',
    "?1", ";created=1", ";created=-1", ";expires=61.0", "00", "9" * 20,
    ';tag="x"', ';alg="none"', "\x00", "\xff", ":AAAA:",
)  # fmt: skip


def nothing_but_bad_signature(parse: Callable[[], object]) -> None:
    """Assert that a parser returns or refuses, whatever it is given."""
    with suppress(BadSignature):
        parse()


def test_a_good_input_is_read() -> None:
    read = parse_input(GOOD)

    assert read == SignatureInput(
        label="sig",
        text=GOOD.removeprefix("sig="),
        components=("@method", "@authority", "@path", "@query"),
        created=1,
        expires=61,
        key_id="key",
        nonce=NONCE,
    )


def test_an_input_has_a_bounded_length() -> None:
    longest = '"@path" ' * ((HEADER_LIMIT - len(GOOD)) // 8)

    assert parse_input(GOOD.replace("(", f"({longest}")).key_id == "key"
    with pytest.raises(BadSignature):
        parse_input(GOOD.replace("(", f'({longest}"@path" '))


def test_what_a_refusal_asks_for_is_a_structured_field_that_names_the_profile() -> None:
    asked: Any = http_sf.parse(ACCEPT_SIGNATURE.encode(), tltype="dictionary")

    [(components, parameters)] = asked.values()
    assert [name for name, _ in components] == [
        "@method", "@authority", "@path", "@query", "content-type", "content-digest", "idempotency-key", "if-match",
    ]  # fmt: skip
    assert parameters == {"created": True, "expires": True, "keyid": True, "nonce": True, "alg": "ed25519",
                          "tag": "cabinet-v1"}  # fmt: skip


def hostile() -> st.SearchStrategy[str]:
    """Return texts that are anything, or nearly good."""
    anything = st.text(st.characters(max_codepoint=255))
    cut = st.tuples(st.integers(0, len(GOOD)), st.integers(0, 20), st.sampled_from(PIECES) | anything)

    def spoil(cuts: list[tuple[int, int, str]]) -> str:
        text = GOOD
        for place, length, piece in cuts:
            text = text[:place] + piece + text[place + length :]
        return text

    return anything | st.lists(cut, min_size=1, max_size=4).map(spoil)


@given(hostile())
@example(GOOD.replace("created=1", "created=" + "9" * 4_000))
@example(GOOD + " " * HEADER_LIMIT)
@example(f"{GOOD}\n")
def test_the_parser_raises_nothing_but_bad_signature(text: str) -> None:
    nothing_but_bad_signature(lambda: parse_input(text))
    nothing_but_bad_signature(lambda: parse_signature(text, label="sig"))
    nothing_but_bad_signature(lambda: check_digest(text, b""))


def good_inputs() -> st.SearchStrategy[str]:
    """Return inputs of the profile, with components and parameters in any order."""
    components = st.lists(st.sampled_from(["@method", "@authority", "@path", "if-match", "@query"]), min_size=1)
    nonce = st.text(string.ascii_letters + string.digits + "._:+/=-", min_size=16, max_size=128)
    key_id = st.text(string.ascii_letters + string.digits + "._:+/=-", min_size=1, max_size=128)
    label = st.text(string.ascii_lowercase + string.digits + "_.*-", max_size=63).map("a{}".format)
    whole = st.integers(0, 999_999_999_999)

    def write(parts: tuple[list[str], str, str, str, int, int, list[int]]) -> str:
        names, nonce, key_id, label, created, expires, order = parts
        given = [f"created={created}", f"expires={expires}", f'keyid="{key_id}"', f'nonce="{nonce}"',
                 'alg="ed25519"', 'tag="cabinet-v1"']  # fmt: skip
        quoted = " ".join(f'"{name}"' for name in names)
        return f"{label}=({quoted});" + ";".join(given[place] for place in order)

    return st.tuples(components, nonce, key_id, label, whole, whole, st.permutations(range(6))).map(write)


@given(good_inputs() | hostile())
def test_whatever_parses_is_the_same_to_an_independent_parser_and_written_back_the_same(text: str) -> None:
    try:
        read = parse_input(text)
    except BadSignature:
        return

    parsed: Any = http_sf.parse(text.encode("latin-1"), tltype="dictionary")

    assert http_sf.ser(parsed) == text
    [(label, (components, parameters))] = parsed.items()
    assert (read.label, read.text) == (label, text.partition("=")[2])
    assert list(read.components) == [name for name, _ in components]
    assert parameters == {"created": read.created, "expires": read.expires, "keyid": read.key_id, "nonce": read.nonce,
                          "alg": "ed25519", "tag": "cabinet-v1"}  # fmt: skip


@given(good_inputs())
def test_every_input_of_the_profile_parses(text: str) -> None:
    assert parse_input(text).text == text.partition("=")[2]


@pytest.mark.parametrize(
    "digest_text",
    [
        digest(b"a"),
        digest(b"b", "sha-512") + ", " + digest(b"b"),
        digest(b"b") + ", " + digest(b"b"),
        digest(b"b", "md5"),
        digest(b"b").replace("sha-256", "SHA-256"),
        digest(b"b").replace("sha-256", "sha-512"),
        digest(b"b", "sha-512").replace("sha-512", "sha-256"),
        digest(b"b").replace("=:", "=:="),
        digest(b"b").removesuffix(":"),
        digest(b"b") + ";a=b",
        digest(b"b").replace("AJ0=", "AJ1="),
        "",
    ],
)
def test_another_digest_is_refused(digest_text: str) -> None:
    check_digest(digest(b"b"), b"b")
    check_digest(digest(b"b", "sha-512"), b"b")

    with pytest.raises(BadSignature):
        check_digest(digest_text, b"b")


def test_base64_with_bits_to_spare_is_refused() -> None:
    good = base64.b64encode(b"x" * 64).decode()
    other = good.replace("eA==", "eB==")
    assert base64.b64decode(other) == base64.b64decode(good)
    assert parse_signature(f"sig=:{good}:", label="sig") == b"x" * 64

    with pytest.raises(BadSignature):
        parse_signature(f"sig=:{other}:", label="sig")


@pytest.mark.parametrize("nonce", ["x" * 15, "x" * 129, "x" * 15 + " ", "x" * 15 + "#"])
def test_a_nonce_has_16_to_128_letters(nonce: str) -> None:
    assert parse_input(GOOD.replace(NONCE, "x" * 16)).nonce == "x" * 16
    assert parse_input(GOOD.replace(NONCE, "x" * 128)).nonce == "x" * 128

    with pytest.raises(BadSignature):
        parse_input(GOOD.replace(NONCE, nonce))
