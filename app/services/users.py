"""Users: who there is, what they may do, and the tokens by which they get in (design §7)."""

from dataclasses import dataclass, replace
from typing import Any

from app.domain.audit import Action, Author, TargetKind
from app.domain.authority import Act, check_may
from app.domain.scopes import DEFAULT_SCOPES
from app.domain.users import Role, User
from app.errors import Conflict, NotFound
from app.security.actor import Actor
from app.services import audit
from app.services.pages import Page, PageCommand, to_page
from app.unit import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeUser:
    """What is to change of a user; None stays. A new role without scopes brings that role's usual ones."""

    user_id: str
    role: Role | None = None
    scopes: frozenset[str] | None = None
    is_active: bool | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantToken:
    """A token for a user, to be signed after the commit."""

    user_id: str
    token_id: str
    ttl_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGrant:
    """The right to a token: it is signed outside the unit, and shown once."""

    user: User
    token_id: str
    ttl_seconds: int


async def me(_work: UnitOfWork, actor: Actor, _command: None) -> Actor:
    """Return who the caller is."""
    return actor


async def list_users(work: UnitOfWork, _actor: Actor, command: PageCommand) -> Page[User]:
    """Return the newest users first."""
    found = await work.users.page(before=command.before, limit=command.limit + 1)
    return to_page(found, command, lambda user: user.id)


async def get_user(work: UnitOfWork, _actor: Actor, user_id: str) -> User:
    """Return one user; NotFound if there is none of that id."""
    user = await work.users.by_id(user_id)
    if user is None:
        raise NotFound("There is no user of this id.")
    return user


async def change(work: UnitOfWork, actor: Actor, command: ChangeUser) -> User:
    """Change a user's role, scopes or activity; the rules of design §7 decide whether the actor may.

    Raises NotFound, NotAllowedOn, or Conflict if nobody active would be left who is a super_admin.
    """
    before = await work.users.to_change(command.user_id)
    if before is None:
        raise NotFound("There is no user of this id.")
    after = _changed(before, command)
    check_may(Act.CHANGE, actor.standing, before.standing, after=after.standing)
    await _keep_a_super_admin(work, before, after)
    after = replace(after, updated_at=work.now())
    await work.users.change(
        after.id, role=after.role, scopes=after.scopes, is_active=after.is_active, updated_at=after.updated_at
    )
    target = (TargetKind.USER, after.id)
    shown = {"before": shown_in_audit(before), "after": shown_in_audit(after)}
    await audit.record(work, actor.author, Action.USER_CHANGED, target, **shown, reason=command.reason)
    return after


async def grant_token(work: UnitOfWork, actor: Actor, command: GrantToken) -> TokenGrant:
    """Let a user have a token. Raises NotFound, NotAllowedOn, or Conflict if the user is not active."""
    user = await get_user(work, actor, command.user_id)
    check_may(Act.GRANT_TOKEN, actor.standing, user.standing)
    if not user.is_active:
        raise Conflict("This user is not active; activate it first.")
    return await grant_token_to(work, actor.author, user, command)


async def grant_token_to(work: UnitOfWork, author: Author, user: User, command: GrantToken) -> TokenGrant:
    """Let a user have a token, whoever says so."""
    shown = {"token_id": command.token_id, "ttl_seconds": command.ttl_seconds}
    await audit.record(work, author, Action.TOKEN_GRANTED, (TargetKind.USER, user.id), after=shown)
    return TokenGrant(user=user, token_id=command.token_id, ttl_seconds=command.ttl_seconds)


async def add(
    work: UnitOfWork, author: Author, *, user_id: str, subject: str, role: Role, scopes: frozenset[str] | None
) -> User:
    """Make a user without a request: for whoever administers the machine. Conflict if there is one of that subject."""
    user = User(
        id=user_id,
        subject=subject,
        role=role,
        scopes=DEFAULT_SCOPES[role] if scopes is None else scopes,
        is_active=True,
        created_at=work.now(),
        updated_at=work.now(),
    )
    if not await work.users.add(user):
        raise Conflict(f"{subject} is a user already.")
    target = (TargetKind.USER, user.id)
    await audit.record(work, author, Action.USER_ADDED, target, after={"subject": subject, **shown_in_audit(user)})
    return user


def shown_in_audit(user: User) -> dict[str, Any]:
    """Return what may change of a user, as the audit keeps it."""
    return {"role": user.role, "scopes": sorted(user.scopes), "is_active": user.is_active}


def _changed(user: User, command: ChangeUser) -> User:
    role = user.role if command.role is None else command.role
    usual = user.scopes if role is user.role else DEFAULT_SCOPES[role]
    return replace(
        user,
        role=role,
        scopes=usual if command.scopes is None else command.scopes,
        is_active=user.is_active if command.is_active is None else command.is_active,
    )


async def _keep_a_super_admin(work: UnitOfWork, before: User, after: User) -> None:
    was, stays = (user.role is Role.SUPER_ADMIN and user.is_active for user in (before, after))
    if was and not stays and await work.users.active_super_admin_ids() == [before.id]:
        raise Conflict("This is the last active super_admin; make another one first.")
