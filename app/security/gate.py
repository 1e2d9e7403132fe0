"""The gate: what an operation requires, and the ordered steps that let a caller through (design §3a)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from app.domain.users import Role, User
from app.errors import (
    BadSignature,
    GateFailed,
    InactiveUser,
    Refusal,
    RoleTooLow,
    ScopeMissing,
    Unavailable,
    UnknownSubject,
)
from app.security.actor import Actor
from app.security.signatures import SignedBy
from app.unit import UnitOfWork

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What it takes to be let through: a role and a scope; both must allow. `scope=None` asks for no scope."""

    scope: str | None
    role: Role


@dataclass(frozen=True, slots=True)
class Public:
    """Anybody is let through; said in so many words, because saying nothing lets nobody through.

    With `identify` a token or signature that is sent is looked at, and must then be good.
    """

    identify: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who authenticated, and by which signature if it was one; `request_id` names the HTTP request."""

    subject: str
    signed_by: SignedBy | None = None
    request_id: str | None = None


@dataclass(slots=True)
class Passage:
    """A caller on the way through the gate; the user is known after the first step."""

    caller: Caller
    requirements: Requirements
    user: User | None = None


Step = Callable[[UnitOfWork, Passage], Awaitable[None]]


async def admit(work: UnitOfWork, caller: Caller) -> None:
    """Use up the nonce of a signed request, whose key is not revoked; BadSignature if that cannot be.

    This stands although a later step refuses, so that nobody can send the request again.
    """
    if caller.signed_by is None:
        return
    if work.now() > caller.signed_by.kept_until:  # it waited so long for its unit that its nonce may be forgotten
        raise BadSignature("it has expired")
    if not await _forced(_is_taken(work, caller.signed_by)):
        is_live = await _forced(work.signing_keys.is_live(caller.signed_by.key_id))
        raise BadSignature("the nonce was used before" if is_live else "the key is revoked")


async def admit_again(work: UnitOfWork, caller: Caller) -> None:
    """Look again at the key of a request that waits; BadSignature if it was revoked meanwhile."""
    if caller.signed_by is not None and not await _forced(work.signing_keys.is_live(caller.signed_by.key_id)):
        raise BadSignature("the key is revoked")


async def known_and_active(work: UnitOfWork, passage: Passage) -> None:
    """The subject is a user, and active."""
    passage.user = await work.users.by_subject(passage.caller.subject)
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
    work: UnitOfWork, caller: Caller, requirements: Requirements, *, steps: tuple[Step, ...] = STEPS
) -> Actor:
    """Return the actor, or raise what denied; anything unforeseen denies as well (GateFailed)."""
    passage = Passage(caller, requirements)
    await _forced(_all(steps, work, passage))
    user = _known(passage)
    return Actor(id=user.id, subject=user.subject, role=user.role, scopes=user.scopes, request_id=caller.request_id)


async def _all(steps: tuple[Step, ...], work: UnitOfWork, passage: Passage) -> None:
    for step in steps:
        await step(work, passage)


async def _forced(step: Awaitable[T]) -> T:
    """Await a step; whatever it raises that is not foreseen denies."""
    try:
        return await step
    except (Refusal, Unavailable):
        raise
    except Exception as error:
        raise GateFailed from error


async def _is_taken(work: UnitOfWork, signed_by: SignedBy) -> bool:
    return await work.nonces.take(key_id=signed_by.key_id, nonce=signed_by.nonce, expires_at=signed_by.kept_until)


def _known(passage: Passage) -> User:
    if passage.user is None:
        raise UnknownSubject
    return passage.user
