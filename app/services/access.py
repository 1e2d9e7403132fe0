"""Access: asking to become a user, and the answer (design §6, §7)."""

from dataclasses import dataclass

from app.domain.access import PENDING_LIMIT, AccessRequest, AccessStatus
from app.domain.audit import Action, Author, TargetKind
from app.domain.authority import Act, check_may
from app.domain.keys import fingerprint
from app.domain.scopes import DEFAULT_SCOPES
from app.domain.users import Role, Standing, User
from app.errors import Conflict, NotFound, TooManyRequests
from app.security.actor import Actor
from app.services import audit
from app.services.keys import AddKey, add_to
from app.services.pages import Page, PageCommand, to_page
from app.services.users import shown_in_audit
from app.unit import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A subject asks to be let in, with the public key by which it will be known if it is a program.

    `asked_in` is the HTTP request's id.
    """

    request_id: str
    requested_by: str
    reason: str | None
    public_key: str | None = None
    asked_in: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decide:
    """An admin answers; an approval makes a user of id `user_id`, None scopes are the role's usual ones."""

    request_id: str
    user_id: str
    role: Role = Role.USER
    scopes: frozenset[str] | None = None
    fingerprint: str | None = None
    """What the admin takes the key's fingerprint for; None if they do not say."""
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """An answered request and, if it was approved, the user that it made."""

    request: AccessRequest
    user: User | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRequests:
    """A page of requests, of one status or of all."""

    page: PageCommand
    status: AccessStatus | None


async def ask(work: UnitOfWork, command: Ask) -> AccessRequest:
    """Store a request; a pending one of the same subject is returned again. It does not look whether there is a user.

    Raises TooManyRequests when too many wait for an answer.
    """
    request = await work.access_requests.ask(
        request_id=command.request_id,
        requested_by=command.requested_by,
        reason=command.reason,
        public_key=command.public_key,
        requested_at=work.now(),
    )
    if request.id != command.request_id:
        return request
    if await work.access_requests.count_pending() > PENDING_LIMIT:
        raise TooManyRequests(3_600, "Too many access requests wait for an answer; ask an admin directly.")
    nobody = Author(user_id=None, subject=None, request_id=command.asked_in)
    target = (TargetKind.ACCESS_REQUEST, request.id)
    await audit.record(work, nobody, Action.ACCESS_ASKED, target, after=_shown(request), reason=command.reason)
    return request


async def list_requests(work: UnitOfWork, _actor: Actor, command: ListRequests) -> Page[AccessRequest]:
    """Return the newest requests first."""
    page = command.page
    found = await work.access_requests.page(before=page.before, limit=page.limit + 1, status=command.status)
    return to_page(found, page, lambda request: request.id)


async def get_request(work: UnitOfWork, _actor: Actor, request_id: str) -> AccessRequest:
    """Return one request; NotFound if there is none of that id."""
    request = await work.access_requests.by_id(request_id)
    if request is None:
        raise NotFound("There is no access request of this id.")
    return request


async def approve(work: UnitOfWork, actor: Actor, command: Decide) -> Decision:
    """Let the subject in with a role and scopes, and with its key if it came with one, which gets the request's id.

    The same answer again returns the present state.

    Raises NotFound, NotAllowedOn, or Conflict if it was rejected, the subject is a user already, or it is another key.
    """
    request = await get_request(work, actor, command.request_id)
    _check_fingerprint(request, command)
    if _is_answered(request, AccessStatus.APPROVED):
        return Decision(request=request, user=await work.users.by_subject(request.requested_by))
    scopes = DEFAULT_SCOPES[command.role] if command.scopes is None else command.scopes
    user = User(
        id=command.user_id,
        subject=request.requested_by,
        role=command.role,
        scopes=scopes,
        is_active=True,
        created_at=work.now(),
        updated_at=work.now(),
    )
    newcomer = Standing(id=user.id, role=Role.USER, scopes=frozenset())
    check_may(Act.LET_IN, actor.standing, newcomer, after=user.standing)
    if not await work.users.add(user):
        raise Conflict(f"{request.requested_by} is a user already; reject this request and change the user instead.")
    resolved = await _resolve(work, actor, request, AccessStatus.APPROVED)
    after = {**_shown(request), "user_id": user.id, **shown_in_audit(user)}
    target = (TargetKind.ACCESS_REQUEST, request.id)
    await audit.record(work, actor.author, Action.ACCESS_APPROVED, target, after=after, reason=command.reason)
    if request.public_key is not None:
        key = AddKey(key_id=request.id, user_id=user.id, public_key=request.public_key, name="access request")
        await add_to(work, actor.author, user, key)
    return Decision(request=resolved, user=user)


async def reject(work: UnitOfWork, actor: Actor, command: Decide) -> Decision:
    """Turn the subject down; the same answer again returns the present state. Conflict if it was approved."""
    request = await get_request(work, actor, command.request_id)
    if _is_answered(request, AccessStatus.REJECTED):
        return Decision(request=request, user=None)
    resolved = await _resolve(work, actor, request, AccessStatus.REJECTED)
    target = (TargetKind.ACCESS_REQUEST, request.id)
    await audit.record(work, actor.author, Action.ACCESS_REJECTED, target, after=_shown(request), reason=command.reason)
    return Decision(request=resolved, user=None)


def _check_fingerprint(request: AccessRequest, command: Decide) -> None:
    """Refuse an approval that is meant for another key, such as when somebody else has asked first."""
    there = None if request.public_key is None else fingerprint(request.public_key)
    if command.fingerprint not in (None, there):
        raise Conflict(
            "The key of this access request has another fingerprint; reject it, and let the program ask again."
        )


def _shown(request: AccessRequest) -> dict[str, str]:
    shown = {"requested_by": request.requested_by}
    return shown if request.public_key is None else {**shown, "fingerprint": fingerprint(request.public_key)}


def _is_answered(request: AccessRequest, status: AccessStatus) -> bool:
    if request.status in (AccessStatus.PENDING, status):
        return request.status is status
    raise Conflict(f"This access request was {request.status} already.")


async def _resolve(work: UnitOfWork, actor: Actor, request: AccessRequest, status: AccessStatus) -> AccessRequest:
    resolved = await work.access_requests.resolve(
        request.id, status=status, resolved_at=work.now(), resolved_by=actor.id
    )
    if resolved is None:
        raise Conflict("This access request was answered by somebody else just now.")
    return resolved
