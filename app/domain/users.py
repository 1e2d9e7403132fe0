"""Users: subjects that were let in, their roles, and who may act upon whom (design §1, §7)."""

import re
from dataclasses import dataclass
from enum import StrEnum

from app.clock import Timestamp
from app.errors import NotAllowedOn

SUBJECT_PATTERN = r"[A-Za-z0-9._:@+|/\-]{1,255}"
_SUBJECT = re.compile(SUBJECT_PATTERN)


class Role(StrEnum):
    """Whom one may act upon; each role stands above the ones before it."""

    USER = "user"
    ADMIN = "admin"
    SUPER_ADMIN = "super_admin"

    @property
    def level(self) -> int:
        """The rank: 10, 20 or 30."""
        return _LEVELS[self]


_LEVELS = {Role.USER: 10, Role.ADMIN: 20, Role.SUPER_ADMIN: 30}


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A subject that was let in."""

    id: str
    subject: str
    role: Role
    scopes: frozenset[str]
    is_active: bool
    created_at: Timestamp
    updated_at: Timestamp


def is_subject(text: str) -> bool:
    """Tell whether a text can be a subject: 1 to 255 of `A-Z a-z 0-9 . _ : @ + | / -`."""
    return _SUBJECT.fullmatch(text) is not None


def check_may_act_on(*, actor_id: str, actor_role: Role, target_id: str, target_role: Role) -> None:
    """Raise NotAllowedOn unless the actor may change that user: not themselves, and only a lower role.

    A super_admin may act on every role.
    """
    if actor_id == target_id:
        raise NotAllowedOn("Nobody changes their own role, scopes or activity; ask another admin.")
    if actor_role is not Role.SUPER_ADMIN and target_role.level >= actor_role.level:
        raise NotAllowedOn(f"A {actor_role} may not act on a {target_role}.")


def check_may_grant(
    *, actor_role: Role, actor_scopes: frozenset[str], role: Role, added_scopes: frozenset[str]
) -> None:
    """Raise NotAllowedOn unless the actor may hand out that role and those scopes.

    Nobody grants a role equal to or above their own, or a scope they lack; a super_admin may do both.
    """
    if actor_role is Role.SUPER_ADMIN:
        return
    if role.level >= actor_role.level:
        raise NotAllowedOn(f"A {actor_role} may not grant the role {role}.")
    if lacking := sorted(added_scopes - actor_scopes):
        raise NotAllowedOn(f"You cannot grant scopes that you lack: {', '.join(lacking)}.")
