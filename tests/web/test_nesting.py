"""Nesting: JSON is refused beyond a depth, whatever its strings hold, and hostile bodies cost no more than parsing."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadRequest
from app.web.nesting import JSON_DEPTH_LIMIT, check_depth

TEXTS = st.text(st.sampled_from('[]{}"\\,:/abn\u2028é😀'), max_size=8)
LEAVES = st.none() | st.booleans() | st.integers() | TEXTS


def is_refused(body: bytes) -> bool:
    """Tell whether a body is refused for its depth."""
    try:
        check_depth(body)
    except BadRequest:
        return True
    return False


def depth(value: Any) -> int:
    """Return how deep a value is nested, as a child would count."""
    match value:
        case dict():
            return 1 + max(map(depth, value.values()), default=0)
        case list():
            return 1 + max(map(depth, value), default=0)
    return 0


@st.composite
def values(draw: st.DrawFn) -> Any:
    """Make a value of any breadth and of a depth around the limit."""
    value = draw(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=30))
    for _ in range(draw(st.integers(0, JSON_DEPTH_LIMIT + 2))):
        beside: list[Any] = draw(st.lists(LEAVES | st.just([]) | st.just({}), max_size=3))
        value = draw(st.sampled_from([[*beside, value], [value, *beside], {draw(TEXTS): value, "[": beside}]))
    return value


@given(value=values(), escapes=st.booleans(), indent=st.sampled_from([None, 1]))
def test_a_body_is_refused_exactly_if_it_is_deeper_than_the_limit(
    value: Any, escapes: bool, indent: int | None
) -> None:
    body = json.dumps(value, ensure_ascii=escapes, indent=indent).encode()

    assert is_refused(body) == (depth(value) > JSON_DEPTH_LIMIT)


@pytest.mark.parametrize("pair", [b"[]", b"{}"], ids=["arrays", "objects"])
def test_the_limit_itself_is_taken(pair: bytes) -> None:
    begin, end = (b"[", b"]") if pair == b"[]" else (b'{"a":', b"}")
    beside = b"[" + b"[]," * 100

    def nested(levels: int) -> bytes:
        return beside + begin * (levels - 1) + b"1" + end * (levels - 1) + b"]"

    assert not is_refused(nested(JSON_DEPTH_LIMIT))
    assert is_refused(nested(JSON_DEPTH_LIMIT + 1))


@pytest.mark.parametrize(
    "text",
    ["[" * 100, "{[" * 50, '"' + "[" * 100, "\\" + "[" * 100, '\\"' + "[" * 100, '\\\\"[' * 50, "[\\", '["],[' * 40],
    ids=lambda text: text[:6],
)
def test_brackets_in_strings_do_not_count(text: str) -> None:
    body = json.dumps({text: [text, {"a": text}], "b": [[], {}] * 40}).encode()

    assert not is_refused(body)


@pytest.mark.parametrize(
    "piece",
    [b"[", b"{", b"[]", b"[],", b"]", b'"', b'\\"', b"\\", b'"[', b'["', b'"\\"[', b"[]]", b"[[]", b"[{]}"],
)
def test_hostile_bodies_are_judged_in_linear_time(piece: bytes) -> None:
    megabyte = piece * (1_048_576 // len(piece))

    assert is_refused(b"[" * 33 + megabyte)  # work that is quadratic in a megabyte would outlast the test's own limit
