"""Authority: every act, by every role, on every role and on oneself (design §7)."""

import itertools

import pytest

from app.domain.authority import Act, check_may
from app.domain.scopes import ALL_SCOPES
from app.domain.users import Role, Standing
from app.errors import NotAllowedOn

USER, ADMIN, SUPER_ADMIN = Role
ON_KEYS = (Act.ADD_KEY, Act.SEE_KEYS, Act.REVOKE_KEY)

MAY_ACT_ON = {
    (USER, USER): False,
    (USER, ADMIN): False,
    (USER, SUPER_ADMIN): False,
    (ADMIN, USER): True,
    (ADMIN, ADMIN): False,
    (ADMIN, SUPER_ADMIN): False,
    (SUPER_ADMIN, USER): True,
    (SUPER_ADMIN, ADMIN): True,
    (SUPER_ADMIN, SUPER_ADMIN): True,
}
"""Actor and target: may the one act on the other, or make somebody one of that role, holding every scope."""

MAY_ACT_ON_ONESELF = {
    **dict.fromkeys(itertools.product((Act.CHANGE, Act.LET_IN), Role), False),
    **dict.fromkeys(itertools.product(ON_KEYS, Role), True),
    (Act.GRANT_TOKEN, USER): False,
    (Act.GRANT_TOKEN, ADMIN): False,
    (Act.GRANT_TOKEN, SUPER_ADMIN): True,
}


def somebody(role: Role, *scopes: str, name: str = "actor") -> Standing:
    """Return how somebody stands; without scopes they have all."""
    return Standing(id=name, role=role, scopes=frozenset(scopes) or ALL_SCOPES)


def target(role: Role, *scopes: str) -> Standing:
    """Return how somebody else stands, with these scopes alone."""
    return Standing(id="target", role=role, scopes=frozenset(scopes))


def is_let(act: Act, actor: Standing, other: Standing, after: Standing | None = None) -> bool:
    """Tell whether the rules let it happen."""
    try:
        check_may(act, actor, other, after=after)
    except NotAllowedOn:
        return False
    return True


def test_the_tables_have_a_line_for_every_pair_of_roles_and_every_act() -> None:
    assert set(MAY_ACT_ON) == set(itertools.product(Role, Role))
    assert set(MAY_ACT_ON_ONESELF) == set(itertools.product(Act, Role))


@pytest.mark.parametrize("act", Act)
@pytest.mark.parametrize(("actor", "other"), MAY_ACT_ON)
def test_somebody_acts_on_lower_roles_only_and_a_super_admin_on_all(act: Act, actor: Role, other: Role) -> None:
    assert is_let(act, somebody(actor), target(other)) == MAY_ACT_ON[actor, other]


@pytest.mark.parametrize("act", [Act.CHANGE, Act.LET_IN])
@pytest.mark.parametrize(("actor", "role"), MAY_ACT_ON)
def test_somebody_makes_others_of_lower_roles_only_and_a_super_admin_of_all(act: Act, actor: Role, role: Role) -> None:
    assert is_let(act, somebody(actor), target(USER), after=target(role)) == MAY_ACT_ON[actor, role]


@pytest.mark.parametrize(("act", "role"), MAY_ACT_ON_ONESELF)
def test_on_oneself_there_are_keys_and_nothing_else(act: Act, role: Role) -> None:
    oneself = somebody(role)

    assert is_let(act, oneself, oneself) == MAY_ACT_ON_ONESELF[act, role]


@pytest.mark.parametrize("act", ON_KEYS)
@pytest.mark.parametrize("role", Role)
def test_keys_of_others_need_a_scope_whatever_the_role(act: Act, role: Role) -> None:
    actor = Standing(id="actor", role=role, scopes=ALL_SCOPES - {"users.manage"})

    with pytest.raises(NotAllowedOn, match=r"you need the scope users\.manage"):
        check_may(act, actor, target(USER))


@pytest.mark.parametrize("act", ON_KEYS)
def test_ones_own_keys_need_no_scope(act: Act) -> None:
    oneself = Standing(id="actor", role=USER, scopes=frozenset())

    check_may(act, oneself, oneself)


@pytest.mark.parametrize("act", [Act.GRANT_TOKEN, Act.ADD_KEY])
def test_an_admin_hands_out_nothing_that_speaks_with_scopes_they_lack(act: Act) -> None:
    admin = somebody(ADMIN, "users.manage", "tasks.read")

    with pytest.raises(NotAllowedOn) as refusal:
        check_may(act, admin, target(USER, "tasks.read", "tasks.read_payload", "audit.read"))

    assert refusal.value.message == "You cannot hand out scopes that you lack: audit.read, tasks.read_payload."


@pytest.mark.parametrize("act", [Act.LET_IN, Act.CHANGE])
def test_an_admin_grants_no_scope_that_they_lack(act: Act) -> None:
    admin = somebody(ADMIN, "tasks.read")

    with pytest.raises(NotAllowedOn, match=r"you lack: audit\.read\.$"):
        check_may(act, admin, target(USER), after=target(USER, "tasks.read", "audit.read"))


def test_an_admin_may_leave_or_take_scopes_that_they_lack() -> None:
    admin = somebody(ADMIN, "tasks.read")
    before = target(USER, "audit.read", "users.read")

    check_may(Act.CHANGE, admin, before, after=target(USER, "audit.read"))


@pytest.mark.parametrize("act", [Act.REVOKE_KEY, Act.SEE_KEYS])
def test_seeing_and_revoking_keys_hands_nothing_out(act: Act) -> None:
    check_may(act, somebody(ADMIN, "users.manage"), target(USER, "audit.read"))


@pytest.mark.parametrize("act", [Act.LET_IN, Act.CHANGE, Act.GRANT_TOKEN])
def test_a_super_admin_hands_out_scopes_that_they_lack(act: Act) -> None:
    check_may(act, somebody(SUPER_ADMIN, "tasks.read"), target(USER, "audit.read"), after=target(ADMIN, "users.read"))
