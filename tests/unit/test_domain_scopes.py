"""Scopes: which there are, which a role begins with, and how they are stored."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.scopes import ALL_SCOPES, DEFAULT_SCOPES, scopes_from_json, scopes_to_json, unknown_scopes
from app.domain.users import Role

USER = {"tasks.create", "tasks.read", "tasks.cancel"}
ADMIN = {*USER, "access.read", "access.decide", "users.read", "pipeline.retry", "pipeline.control", "audit.read"}
SUPER_ADMIN = {*ADMIN, "users.manage", "tasks.read_payload"}


@pytest.mark.parametrize(("role", "scopes"), [(Role.USER, USER), (Role.ADMIN, ADMIN), (Role.SUPER_ADMIN, SUPER_ADMIN)])
def test_a_role_begins_with_the_scopes_that_the_design_gives_it(role: Role, scopes: set[str]) -> None:
    assert DEFAULT_SCOPES[role] == scopes


def test_every_role_begins_with_scopes() -> None:
    assert set(DEFAULT_SCOPES) == set(Role)


def test_a_super_admin_begins_with_every_scope_there_is() -> None:
    assert DEFAULT_SCOPES[Role.SUPER_ADMIN] == ALL_SCOPES


def test_a_scope_is_lowercase_words_joined_by_dots() -> None:
    odd = [scope for scope in ALL_SCOPES if not re.fullmatch(r"[a-z]+(\.[a-z_]+)+", scope)]

    assert odd == []


def test_the_default_scopes_cannot_be_changed_by_whoever_reads_them() -> None:
    with pytest.raises(TypeError):
        DEFAULT_SCOPES[Role.USER] = ALL_SCOPES  # type: ignore[index]


@pytest.mark.parametrize("container", [list, tuple, set, frozenset])
def test_unknown_scopes_are_named_once_and_sorted(container: Callable[[list[str]], list[str]]) -> None:
    unknown = unknown_scopes(container(["tasks.read", "tasks.write", "Tasks.read", "tasks.write", ""]))

    assert unknown == ["", "Tasks.read", "tasks.write"]


def test_no_known_scope_is_unknown() -> None:
    assert unknown_scopes(ALL_SCOPES) == []


def test_scopes_are_stored_as_a_sorted_json_list() -> None:
    text = scopes_to_json(frozenset({"tasks.read", "audit.read"}))

    assert text == '["audit.read","tasks.read"]'


@settings(deadline=None)
@given(st.frozensets(st.sampled_from(sorted(ALL_SCOPES))))
def test_stored_scopes_are_read_back_as_they_were(scopes: frozenset[str]) -> None:
    read = scopes_from_json(scopes_to_json(scopes))

    assert read == scopes
