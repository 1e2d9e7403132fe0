"""JSON Pointers: the examples of RFC 6901, and that no step is mistaken for another."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.pointers import json_pointer


@pytest.mark.parametrize(
    ("steps", "pointer"),
    [
        ((), ""),
        (("foo",), "/foo"),
        (("foo", 0), "/foo/0"),
        (("",), "/"),
        (("a/b",), "/a~1b"),
        (("c%d",), "/c%d"),
        (("m~n",), "/m~0n"),
        (("~1",), "/~01"),
        (("~/",), "/~0~1"),
        ((" ",), "/ "),
        (("payload", "photos", 3, "url"), "/payload/photos/3/url"),
    ],
)
def test_a_pointer_names_the_steps_to_a_field(steps: tuple[str | int, ...], pointer: str) -> None:
    assert json_pointer(*steps) == pointer


@settings(deadline=None)
@given(st.lists(st.text("a/~01 é", max_size=6), max_size=5))
def test_the_steps_can_be_read_back_from_a_pointer(steps: list[str]) -> None:
    pointer = json_pointer(*steps)

    read = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
    assert read == steps
