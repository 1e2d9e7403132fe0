"""Users: subjects that were let in, and their roles (design §1)."""

import re
from dataclasses import dataclass
from enum import StrEnum

from app.clock import Timestamp

SUBJECT_LIMIT = 255
"""Characters of a subject."""

SUBJECT_PATTERN = r"(?:[A-Za-z0-9._:@+|/\-]{1,255}|https?://[A-Za-z0-9._:@+|/\-]{1,240}#[A-Za-z0-9._:@+|/=~\-]{1,240})"
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
class Standing:
    """What the rules on who may act on whom know of a user (app.domain.authority)."""

    id: str
    role: Role
    scopes: frozenset[str]


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

    @property
    def standing(self) -> Standing:
        """What the rules on who may act on whom know of this user."""
        return Standing(id=self.id, role=self.role, scopes=self.scopes)


def is_subject(text: str) -> bool:
    """Tell whether a text can be a subject: 1 to 255 of `A-Z a-z 0-9 . _ : @ + | / -`, or `ISSUER#SUB`."""
    return len(text) <= SUBJECT_LIMIT and _SUBJECT.fullmatch(text) is not None
