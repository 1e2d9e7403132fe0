"""The gate: what an operation requires, and the ordered steps that let a caller through (design §3a)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from app.domain.users import Role, User
from app.errors import GateFailed, InactiveUser, Refusal, RoleTooLow, ScopeMissing, Unavailable, UnknownSubject
from app.security.actor import Actor
from app.unit import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What it takes to be let through: a role and a scope; both must allow. `scope=None` asks for no scope."""

    scope: str | None
    role: Role


@dataclass(frozen=True, slots=True)
class Public:
    """Anybody is let through; said in so many words, because saying nothing lets nobody through.

    With `identify` a token that is sent is looked at, and must then be good.
    """

    identify: bool = False


@dataclass(slots=True)
class Passage:
    """A caller on the way through the gate; the user is known after the first step."""

    subject: str
    requirements: Requirements
    user: User | None = None


Step = Callable[[UnitOfWork, Passage], Awaitable[None]]


async def known_and_active(work: UnitOfWork, passage: Passage) -> None:
    """The subject is a user, and active."""
    passage.user = await work.users.by_subject(passage.subject)
    if passage.user is None:
        raise UnknownSubject
    if not passage.user.is_active:
        raise InactiveUser


async def role_allows(_work: UnitOfWork, passage: Passage) -> None:
    """The user's role is at least the one required."""
    if _known(passage).role.level < passage.requirements.role.level:
        raise RoleTooLow(f"This needs the role {passage.requirements.role} or a higher one.")


async def scope_allows(_work: UnitOfWork, passage: Passage) -> None:
    """The user has the scope required."""
    scope = passage.requirements.scope
    if scope is not None and scope not in _known(passage).scopes:
        raise ScopeMissing(f"This needs the scope {scope}, which you do not have.")


STEPS: tuple[Step, ...] = (known_and_active, role_allows, scope_allows)


async def authorise(
    work: UnitOfWork, subject: str, requirements: Requirements, *, steps: tuple[Step, ...] = STEPS
) -> Actor:
    """Return the actor, or raise what denied; anything unforeseen denies as well (GateFailed)."""
    passage = Passage(subject, requirements)
    try:
        for step in steps:
            await step(work, passage)
        user = _known(passage)
        return Actor(id=user.id, subject=user.subject, role=user.role, scopes=user.scopes)
    except (Refusal, Unavailable):
        raise
    except Exception as error:
        raise GateFailed from error


def _known(passage: Passage) -> User:
    if passage.user is None:
        raise UnknownSubject
    return passage.user
