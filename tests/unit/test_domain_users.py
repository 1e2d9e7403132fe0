"""Users: what a subject is, and who may act upon whom and hand out what, role by role."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.users import Role, check_may_act_on, check_may_grant, is_subject
from app.errors import NotAllowedOn

USER, ADMIN, SUPER_ADMIN = Role.USER, Role.ADMIN, Role.SUPER_ADMIN

ALLOWED = {
    # actor, the other's role or the role handed out: may act upon, may grant
    (USER, USER): (False, False),
    (USER, ADMIN): (False, False),
    (USER, SUPER_ADMIN): (False, False),
    (ADMIN, USER): (True, True),
    (ADMIN, ADMIN): (False, False),
    (ADMIN, SUPER_ADMIN): (False, False),
    (SUPER_ADMIN, USER): (True, True),
    (SUPER_ADMIN, ADMIN): (True, True),
    (SUPER_ADMIN, SUPER_ADMIN): (True, True),
}

ACTS = [(actor, target) for (actor, target), (may_act, _) in ALLOWED.items() if may_act]
ACTS_REFUSED = [(actor, target) for (actor, target), (may_act, _) in ALLOWED.items() if not may_act]
GRANTS = [(actor, role) for (actor, role), (_, may_grant) in ALLOWED.items() if may_grant]
GRANTS_REFUSED = [(actor, role) for (actor, role), (_, may_grant) in ALLOWED.items() if not may_grant]

SUBJECT_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:@+|/-"


def test_the_table_has_a_line_for_every_pair_of_roles() -> None:
    assert set(ALLOWED) == {(actor, other) for actor in Role for other in Role}


def test_each_role_stands_above_the_ones_before_it() -> None:
    levels = {role: role.level for role in Role}

    assert levels == {USER: 10, ADMIN: 20, SUPER_ADMIN: 30}


@pytest.mark.parametrize(("actor", "target"), ACTS)
def test_a_role_may_act_upon_those_below_and_a_super_admin_upon_all(actor: Role, target: Role) -> None:
    check_may_act_on(actor_id="a", actor_role=actor, target_id="b", target_role=target)


@pytest.mark.parametrize(("actor", "target"), ACTS_REFUSED)
def test_a_role_may_not_act_upon_an_equal_or_higher_one(actor: Role, target: Role) -> None:
    with pytest.raises(NotAllowedOn, match=f"^A {actor} may not act on a {target}.$"):
        check_may_act_on(actor_id="a", actor_role=actor, target_id="b", target_role=target)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("target_role", Role)
def test_nobody_acts_upon_themselves_whatever_their_role(role: Role, target_role: Role) -> None:
    with pytest.raises(NotAllowedOn, match="Nobody changes their own role, scopes or activity"):
        check_may_act_on(actor_id="a", actor_role=role, target_id="a", target_role=target_role)


@pytest.mark.parametrize(("actor", "role"), GRANTS)
def test_a_role_hands_out_lower_roles_and_a_super_admin_all(actor: Role, role: Role) -> None:
    check_may_grant(actor_role=actor, actor_scopes=frozenset(), role=role, added_scopes=frozenset())


@pytest.mark.parametrize(("actor", "role"), GRANTS_REFUSED)
def test_a_role_does_not_hand_out_an_equal_or_higher_one_even_with_every_scope(actor: Role, role: Role) -> None:
    with pytest.raises(NotAllowedOn, match=f"^A {actor} may not grant the role {role}.$"):
        check_may_grant(actor_role=actor, actor_scopes=frozenset({"x"}), role=role, added_scopes=frozenset({"x"}))


def test_an_admin_hands_out_the_scopes_they_have() -> None:
    held = frozenset({"tasks.create", "tasks.read"})

    check_may_grant(actor_role=ADMIN, actor_scopes=held, role=USER, added_scopes=held)


def test_an_admin_does_not_hand_out_a_scope_they_lack_and_is_told_which() -> None:
    added = frozenset({"tasks.read", "users.manage", "audit.read"})

    with pytest.raises(NotAllowedOn) as refusal:
        check_may_grant(actor_role=ADMIN, actor_scopes=frozenset({"tasks.read"}), role=USER, added_scopes=added)

    assert refusal.value.message == "You cannot grant scopes that you lack: audit.read, users.manage."


def test_a_super_admin_hands_out_scopes_they_lack() -> None:
    check_may_grant(actor_role=SUPER_ADMIN, actor_scopes=frozenset(), role=USER, added_scopes=frozenset({"x"}))


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "alice@example.com",
        "integration:parser",
        "auth0|5f7c8ec7c33c6c004bbafe82",
        "a/b-c_d+e",
        "a" * 255,
        SUBJECT_CHARACTERS,
    ],
)
def test_a_subject_is_1_to_255_of_the_listed_characters(text: str) -> None:
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
        "https://issuer.example#42",
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
