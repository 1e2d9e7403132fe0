"""Authority: who may act on whom, as one function (design §7). The gate has checked what the route asks for before."""

from enum import StrEnum

from app.domain.scopes import USERS_MANAGE
from app.domain.users import Role, Standing
from app.errors import NotAllowedOn


class Act(StrEnum):
    """What somebody does to a user."""

    LET_IN = "let in"
    CHANGE = "change"
    GRANT_TOKEN = "hand out a token for"  # noqa: S105 the name of an act
    ADD_KEY = "add a key for"
    REVOKE_KEY = "revoke a key of"
    SEE_KEYS = "see the keys of"


def check_may(act: Act, actor: Standing, target: Standing, *, after: Standing | None = None) -> None:
    """Raise NotAllowedOn unless the actor may do that to the target; `after` is the target as it would be then.

    - Nobody changes or lets in themselves. Everybody adds, sees and revokes their own keys.
    - Nobody acts on an equal or higher role, nor makes one; a super_admin may do both.
    - Nobody hands out a scope that they lack, be it by granting it or by a token or key of somebody who has it.
    - Keys of others need the scope users.manage.
    """
    if actor.id == target.id:
        _check_on_oneself(act, actor)
        return
    if act in (Act.ADD_KEY, Act.REVOKE_KEY, Act.SEE_KEYS) and USERS_MANAGE not in actor.scopes:
        raise NotAllowedOn(f"To {act} somebody else you need the scope {USERS_MANAGE}.")
    if actor.role is Role.SUPER_ADMIN:
        return
    highest = max(target.role, (after or target).role, key=lambda role: role.level)
    if highest.level >= actor.role.level:
        raise NotAllowedOn(f"The role {actor.role} may not {act} a user of the role {highest}.")
    if lacking := sorted(_handed_out(act, target, after) - actor.scopes):
        raise NotAllowedOn(f"You cannot hand out scopes that you lack: {', '.join(lacking)}.")


def _check_on_oneself(act: Act, actor: Standing) -> None:
    match act:
        case Act.ADD_KEY | Act.REVOKE_KEY | Act.SEE_KEYS:
            return
        case Act.GRANT_TOKEN if actor.role is Role.SUPER_ADMIN:
            return
        case Act.GRANT_TOKEN:
            raise NotAllowedOn("Nobody but a super_admin hands out a token for themselves; ask another admin.")
        case Act.CHANGE | Act.LET_IN:
            raise NotAllowedOn("Nobody changes their own role, scopes or activity; ask another admin.")


def _handed_out(act: Act, target: Standing, after: Standing | None) -> frozenset[str]:
    match act:
        case Act.GRANT_TOKEN | Act.ADD_KEY:
            return target.scopes
        case Act.LET_IN | Act.CHANGE:
            return frozenset() if after is None else after.scopes - target.scopes
        case Act.REVOKE_KEY | Act.SEE_KEYS:
            return frozenset()
