"""Access: asking to become a user, and the answer (design §6, §7)."""

from dataclasses import dataclass

from app.domain.access import PENDING_LIMIT, AccessRequest, AccessStatus
from app.domain.scopes import DEFAULT_SCOPES
from app.domain.users import Role, User, check_may_grant
from app.errors import Conflict, NotFound, TooManyRequests
from app.security.actor import Actor
from app.services.pages import Page, PageCommand, to_page
from app.unit import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A subject asks to be let in."""

    request_id: str
    requested_by: str
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decide:
    """An admin answers; an approval makes a user of id `user_id`, None scopes are the role's usual ones."""

    request_id: str
    user_id: str
    role: Role = Role.USER
    scopes: frozenset[str] | None = None


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
        requested_at=work.now(),
    )
    if request.id == command.request_id and await work.access_requests.count_pending() > PENDING_LIMIT:
        raise TooManyRequests(3_600, "Too many access requests wait for an answer; ask an admin directly.")
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
    """Let the subject in with a role and scopes; the same answer again returns the present state.

    Raises NotFound, NotAllowedOn, or Conflict if it was rejected or the subject is a user already.
    """
    request = await get_request(work, actor, command.request_id)
    if _is_answered(request, AccessStatus.APPROVED):
        return Decision(request=request, user=await work.users.by_subject(request.requested_by))
    scopes = DEFAULT_SCOPES[command.role] if command.scopes is None else command.scopes
    check_may_grant(actor_role=actor.role, actor_scopes=actor.scopes, role=command.role, added_scopes=scopes)
    user = User(
        id=command.user_id,
        subject=request.requested_by,
        role=command.role,
        scopes=scopes,
        is_active=True,
        created_at=work.now(),
        updated_at=work.now(),
    )
    if not await work.users.add(user):
        raise Conflict(f"{request.requested_by} is a user already; reject this request and change the user instead.")
    return Decision(request=await _resolve(work, actor, request, AccessStatus.APPROVED), user=user)


async def reject(work: UnitOfWork, actor: Actor, command: Decide) -> Decision:
    """Turn the subject down; the same answer again returns the present state. Conflict if it was approved."""
    request = await get_request(work, actor, command.request_id)
    if _is_answered(request, AccessStatus.REJECTED):
        return Decision(request=request, user=None)
    return Decision(request=await _resolve(work, actor, request, AccessStatus.REJECTED), user=None)


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
