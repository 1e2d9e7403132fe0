"""Idempotency: which headers name a key, and which bytes mean the same command."""

import hashlib
import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.idempotency import canonical_json, fingerprint, parse_key
from app.errors import MalformedKey

PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
CONTROLS = [chr(code) for code in (*range(0x20), 0x7F)]

printable_keys = st.text(PRINTABLE, min_size=1, max_size=255)
bare_keys = printable_keys.filter(lambda key: key == key.strip(" ") and not key.startswith('"'))
json_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
json_values = st.recursive(
    json_scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)


def quoted(key: str) -> str:
    """Write a key as a string of RFC 8941."""
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


@settings(deadline=None)
@given(bare_keys)
def test_the_bare_and_the_quoted_form_name_the_same_key(key: str) -> None:
    named = (parse_key(key), parse_key(quoted(key)))

    assert named == (key, key)


@settings(deadline=None)
@given(printable_keys)
def test_every_printable_key_has_a_quoted_form(key: str) -> None:
    named = parse_key(quoted(key))

    assert named == key


@settings(deadline=None)
@given(st.text(max_size=300))
def test_a_header_names_a_printable_key_within_the_limit_or_is_refused(header: str) -> None:
    try:
        key = parse_key(header)
    except MalformedKey:
        return

    assert 1 <= len(key) <= 255
    assert set(key) <= set(PRINTABLE)


@settings(deadline=None)
@given(bare_keys, st.text(" \t", max_size=3), st.text(" \t", max_size=3), st.booleans())
def test_white_space_around_a_header_is_no_part_of_the_key(key: str, before: str, after: str, bare: bool) -> None:
    named = parse_key(before + (key if bare else quoted(key)) + after)

    assert named == key


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("8e03978e-40d5-43e8-bc93-6894a57f9324", "8e03978e-40d5-43e8-bc93-6894a57f9324"),
        ('"8e03978e-40d5-43e8-bc93-6894a57f9324"', "8e03978e-40d5-43e8-bc93-6894a57f9324"),
        ("order 7, line 2", "order 7, line 2"),
        ('" padded "', " padded "),
        ('" "', " "),
        (r'"\""', '"'),
        (r'"\\"', "\\"),
        (r'"a\\\"b"', r"a\"b"),
        (r'"\\\\"', r"\\"),
        (r"a\b", r"a\b"),
        ('a"b', 'a"b'),
        ('ends"', 'ends"'),
        ("'single'", "'single'"),
    ],
)
def test_a_header_names_the_key_that_it_spells(header: str, key: str) -> None:
    assert parse_key(header) == key


def test_escapes_do_not_count_against_the_limit() -> None:
    key = '"' * 255

    assert parse_key(quoted(key)) == key


@pytest.mark.parametrize("length", [1, 2, 254, 255])
def test_a_key_of_1_to_255_characters_is_taken_in_both_forms(length: int) -> None:
    key = "k" * length

    assert (parse_key(key), parse_key(quoted(key))) == (key, key)


@pytest.mark.parametrize("header", ["k" * 256, '"' + "k" * 256 + '"', '"' + r"\"" * 256 + '"', "k" * 100_000])
def test_a_longer_key_is_refused(header: str) -> None:
    with pytest.raises(MalformedKey):
        parse_key(header)


@pytest.mark.parametrize("header", [None, "", " ", "\t", '""', '"', '"""', '"a', r'"a\"', r'"\a"', '"a"b"', '"a"; b'])
def test_a_missing_empty_or_half_quoted_key_is_refused(header: str | None) -> None:
    with pytest.raises(MalformedKey):
        parse_key(header)


@pytest.mark.parametrize("form", ["a{}b", '"a{}b"', '"{}"'])
@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_character_is_refused(form: str, control: str) -> None:
    with pytest.raises(MalformedKey):
        parse_key(form.format(control))


@pytest.mark.parametrize("control", [control for control in CONTROLS if control != "\t"])
def test_a_control_character_at_the_edge_is_not_stripped_but_refused(control: str) -> None:
    with pytest.raises(MalformedKey):
        parse_key(f"key{control}")


@pytest.mark.parametrize("form", ["{}", "a{}b", '"{}"'])
@pytest.mark.parametrize(
    "character", ["ä", "\x80", "\xa0", "\xff", "\N{ARABIC-INDIC DIGIT ONE}", "\N{GRINNING FACE}", "\ud800", "\u2028"]
)
def test_a_character_beyond_ascii_is_refused(form: str, character: str) -> None:
    with pytest.raises(MalformedKey):
        parse_key(form.format(character))


def test_keys_that_differ_only_in_case_are_different() -> None:
    keys = {parse_key("Order-1"), parse_key("order-1")}

    assert len(keys) == 2


@pytest.mark.parametrize(
    "text",
    [
        '{"b":2,"a":[1,{"d":null,"c":true}],"e":"\\u00e9/"}',
        '{"a": [1, {"c": true, "d": null}], "b": 2, "e": "é/"}',
        '{\n\t"e" : "\\u00E9\\/",\r\n\t"b" : 2,\n\t"a" : [ 1, { "d" : null, "c" : true } ]\n}',
    ],
)
def test_another_serializers_bytes_have_the_same_canonical_form(text: str) -> None:
    canonical = canonical_json(json.loads(text))

    assert canonical == '{"a":[1,{"c":true,"d":null}],"b":2,"e":"é/"}'


@settings(deadline=None)
@given(json_values)
def test_canonical_json_means_the_value(value: Any) -> None:
    text = canonical_json(value)

    assert json.loads(text) == value


@settings(deadline=None)
@given(json_values, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_a_value_keeps_its_fingerprint_through_any_way_of_writing_it(
    value: Any, indent: int | str | None, ascii_only: bool
) -> None:
    rewritten = json.loads(json.dumps(value, indent=indent, ensure_ascii=ascii_only))

    assert fingerprint(canonical_json(rewritten)) == fingerprint(canonical_json(value))


@settings(deadline=None)
@given(st.dictionaries(st.text(), json_values, min_size=2, max_size=6), st.randoms())
def test_the_order_of_members_does_not_matter(members: dict[str, Any], random: Random) -> None:
    shuffled = list(members.items())
    random.shuffle(shuffled)

    assert canonical_json(dict(shuffled)) == canonical_json(members)


@pytest.mark.parametrize(
    ("one", "other"),
    [([1, 2], [2, 1]), ({"a": None}, {}), ("1", 1), (True, 1), ("é", "e\u0301"), ({"a": ""}, {"a": None}), ([], {})],
)
def test_different_values_have_different_fingerprints(one: Any, other: Any) -> None:
    marks = {fingerprint(canonical_json(one)), fingerprint(canonical_json(other))}

    assert len(marks) == 2


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("wrap", [lambda number: number, lambda number: {"deep": [number]}])
def test_a_number_that_json_does_not_have_is_refused(number: float, wrap: Callable[[float], object]) -> None:
    value = wrap(number)

    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)


def test_a_fingerprint_is_the_sha_256_of_the_text() -> None:
    mark = fingerprint('{"a":1}')

    assert mark == hashlib.sha256(b'{"a":1}').hexdigest()
    assert len(mark) == 64
