"""Users: what a subject is, and how roles stand to each other."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.users import Role, is_subject

USER, ADMIN, SUPER_ADMIN = Role

SUBJECT_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:@+|/-"


def test_each_role_stands_above_the_ones_before_it() -> None:
    levels = {role: role.level for role in Role}

    assert levels == {USER: 10, ADMIN: 20, SUPER_ADMIN: 30}


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "alice@example.com",
        "integration:parser",
        "auth0|5f7c8ec7c33c6c004bbafe82",
        "a/b-c_d+e",
        "a" * 255,
        "https://issuer.example/realms/one#auth0|42",
        SUBJECT_CHARACTERS,
    ],
)
def test_a_subject_is_1_to_255_of_the_listed_characters_or_an_issuer_and_its_name_for_somebody(text: str) -> None:
    assert is_subject(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a" * 256,
        "a b",
        " a",
        "a\n",
        "a\x00",
        "alice#42",
        "ftp://issuer.example#42",
        "https://issuer.example#",
        "https://issuer.example#4#2",
        "https://issuer.example#" + "4" * 240,
        "älice",
        "a,b",
        "a\\b",
        "a*",
        "\N{ARABIC-INDIC DIGIT ONE}",
    ],
)
def test_anything_else_is_no_subject(text: str) -> None:
    assert not is_subject(text)


@settings(deadline=None)
@given(st.text(min_size=1, max_size=255))
def test_a_text_is_a_subject_exactly_when_each_character_is_listed(text: str) -> None:
    expected = set(text) <= set(SUBJECT_CHARACTERS)

    assert is_subject(text) is expected


def test_upper_and_lower_case_name_different_subjects() -> None:
    both = [is_subject("Alice"), is_subject("alice")]

    assert both == [True, True]
