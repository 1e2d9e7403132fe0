"""Signing keys: adding, seeing and revoking them, one's own or those of users below one (design §7)."""

from dataclasses import dataclass, replace

from app.domain.audit import Action, Author, TargetKind
from app.domain.authority import Act, check_may
from app.domain.keys import KEYS_LIMIT, SigningKey
from app.domain.users import User
from app.errors import Conflict, NotFound
from app.security.actor import Actor
from app.services import audit
from app.services.pages import Page, PageCommand, to_page
from app.unit import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class AddKey:
    """A public key for a user, or without `user_id` for whoever asks; `key_id` names it in every signature."""

    key_id: str
    user_id: str | None
    public_key: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListKeys:
    """A page of a user's keys, or without `user_id` of the keys of whoever asks."""

    page: PageCommand
    user_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeKey:
    """A key is to be taken out of use for ever."""

    key_id: str
    reason: str | None = None


async def add(work: UnitOfWork, actor: Actor, command: AddKey) -> SigningKey:
    """Give a user a key. Raises NotFound, NotAllowedOn, or Conflict as `add_to` does."""
    user = await work.users.to_change(command.user_id or actor.id)  # so that keys are counted one after the other
    if user is None:
        raise NotFound("There is no user of this id.")
    check_may(Act.ADD_KEY, actor.standing, user.standing)
    return await add_to(work, actor.author, user, command)


async def add_to(work: UnitOfWork, author: Author, user: User, command: AddKey) -> SigningKey:
    """Give a user a key, whoever says so; Conflict if the user is not active or has as many as one may have."""
    if not user.is_active:
        raise Conflict("This user is not active; activate it first.")
    if await work.signing_keys.count_live(user.id) >= KEYS_LIMIT:
        raise Conflict(f"A user may have {KEYS_LIMIT} keys that are not revoked; revoke one first.")
    key = SigningKey(
        id=command.key_id,
        user_id=user.id,
        subject=user.subject,
        public_key=command.public_key,
        name=command.name,
        created_at=work.now(),
        revoked_at=None,
    )
    await work.signing_keys.add(key)
    shown = {"user_id": user.id, "name": key.name, "fingerprint": key.fingerprint}
    await audit.record(work, author, Action.KEY_ADDED, (TargetKind.SIGNING_KEY, key.id), after=shown)
    return key


async def list_keys(work: UnitOfWork, actor: Actor, command: ListKeys) -> Page[SigningKey]:
    """Return a user's newest keys first. Raises NotFound or NotAllowedOn."""
    user = await _user(work, command.user_id or actor.id)
    check_may(Act.SEE_KEYS, actor.standing, user.standing)
    page = command.page
    found = await work.signing_keys.page(user_id=user.id, before=page.before, limit=page.limit + 1)
    return to_page(found, page, lambda key: key.id)


async def revoke(work: UnitOfWork, actor: Actor, command: RevokeKey) -> SigningKey:
    """Take a key out of use; revoking it again changes nothing. Raises NotFound or NotAllowedOn."""
    key = await _key(work, command.key_id)
    check_may(Act.REVOKE_KEY, actor.standing, (await _user(work, key.user_id)).standing)
    return await revoke_by(work, actor.author, command)


async def revoke_by(work: UnitOfWork, author: Author, command: RevokeKey) -> SigningKey:
    """Take a key out of use, whoever says so; NotFound if there is none of that id."""
    key = await _key(work, command.key_id)
    if not await work.signing_keys.revoke(key.id, revoked_at=work.now()):
        return key
    target = (TargetKind.SIGNING_KEY, key.id)
    shown = {"user_id": key.user_id, "name": key.name, "fingerprint": key.fingerprint}
    await audit.record(work, author, Action.KEY_REVOKED, target, before=shown, reason=command.reason)
    return replace(key, revoked_at=work.now())


async def _user(work: UnitOfWork, user_id: str) -> User:
    user = await work.users.by_id(user_id)
    if user is None:
        raise NotFound("There is no user of this id.")
    return user


async def _key(work: UnitOfWork, key_id: str) -> SigningKey:
    key = await work.signing_keys.by_id(key_id)
    if key is None:
        raise NotFound("There is no key of this id.")
    return key
