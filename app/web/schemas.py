"""The shapes of what comes in: JSON bodies and query strings. Unknown fields are refused."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from app.domain.access import REASON_LIMIT, AccessStatus
from app.domain.keys import KEY_NAME_LIMIT, check_public_key
from app.domain.scopes import ALL_SCOPES, unknown_scopes
from app.domain.tasks import REFERENCE_LIMIT, TaskStatus
from app.domain.users import SUBJECT_LIMIT, SUBJECT_PATTERN, Role
from app.ids import is_id
from app.services.pages import FIRST

PAGE_LIMIT = 200
WAIT_LIMIT_SECONDS = 60

_PRINTABLE = r"^[^\x00-\x1f\x7f]*$"


class Body(BaseModel):
    """A JSON body."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Query(BaseModel):
    """A query string; its values are texts."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _known_scopes(scopes: list[str]) -> list[str]:
    if unknown := unknown_scopes(scopes):
        raise ValueError(f"unknown scopes: {', '.join(unknown)[:200]}")
    return scopes


def _an_id(text: str) -> str:
    if not is_id(text):
        raise ValueError("not an id")
    return text


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds characters that cannot be printed")
    return text


Scopes = Annotated[
    list[Annotated[str, StringConstraints(max_length=64)]],
    Field(max_length=len(ALL_SCOPES)),
    AfterValidator(_known_scopes),
]
Subject = Annotated[str, StringConstraints(pattern=f"^{SUBJECT_PATTERN}$", max_length=SUBJECT_LIMIT)]
PublicKey = Annotated[str, StringConstraints(max_length=64), AfterValidator(check_public_key)]
KeyName = Annotated[str, StringConstraints(min_length=1, max_length=KEY_NAME_LIMIT), AfterValidator(_printable)]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^SHA256:[A-Za-z0-9+/]{43}$")]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=REASON_LIMIT, pattern=r"^[^\x00]*$")]
Reference = Annotated[str, StringConstraints(min_length=1, max_length=REFERENCE_LIMIT, pattern=_PRINTABLE)]
Identifier = Annotated[str, AfterValidator(_an_id)]
StageName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
ErrorKind = StageName
SignatureName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[a-z0-9._]+$")]
Flag = Annotated[bool, Field(strict=True)]


class AskBody(Body):
    """A subject asks for access, a program with its public key."""

    requested_by: Subject
    reason: Reason | None = None
    public_key: PublicKey | None = None


class ApproveBody(Body):
    """With which role and scopes a subject is let in."""

    role: Role = Role.USER
    scopes: Scopes | None = None
    fingerprint: Fingerprint | None = None
    reason: Reason | None = None


class ChangeUserBody(Body):
    """What is to change of a user."""

    role: Role | None = None
    scopes: Scopes | None = None
    is_active: Flag | None = None
    reason: Reason | None = None


class TokenBody(Body):
    """How long a token is to live."""

    ttl_seconds: Annotated[int, Field(strict=True, ge=1)]


class KeyBody(Body):
    """A public key, for oneself or for a user below one."""

    public_key: PublicKey
    name: KeyName
    user_id: Identifier | None = None


class TaskBody(Body):
    """A piece of work."""

    payload: dict[str, JsonValue]
    reference: Reference | None = None


class RetryBody(Body):
    """Why a task is to be tried again, and how."""

    reason: Reason
    override_dead_letter: Flag = False
    from_stage: StageName | None = None
    confirm_side_effects: Flag = False


class OptionalReasonBody(Body):
    """Why somebody does something, if they say so."""

    reason: Reason | None = None


class ReasonBody(Body):
    """Why somebody does something."""

    reason: Reason


class RescueBody(Body):
    """Which dead letters are to be rescued, how, and why; only a dry run unless it says otherwise."""

    reason: Reason
    stage: StageName | None = None
    error_kind: ErrorKind | None = None
    signature: SignatureName | None = None
    from_stage: StageName | None = None
    confirm_side_effects: Flag = False
    dry_run: Flag = True


class NoQuery(Query):
    """No query string is expected."""


class PageQuery(Query):
    """Which page of a list."""

    cursor: Identifier = FIRST
    limit: Annotated[int, Field(ge=1, le=PAGE_LIMIT)] = 50


class AccessQuery(PageQuery):
    """Which access requests."""

    status: AccessStatus | None = None


class KeysQuery(PageQuery):
    """Whose keys; one's own if nobody is named."""

    user_id: Identifier | None = None


class TasksQuery(PageQuery):
    """Which tasks."""

    status: TaskStatus | None = None
    stage: StageName | None = None
    created_by: Identifier | None = None
    reference: Reference | None = None


class DeadLettersQuery(PageQuery):
    """Which dead letters."""

    stage: StageName | None = None
    error_kind: ErrorKind | None = None
    signature: SignatureName | None = None


class GroupsQuery(Query):
    """Which groups of dead letters."""

    stage: StageName | None = None
    error_kind: ErrorKind | None = None
    limit: Annotated[int, Field(ge=1, le=PAGE_LIMIT)] = 50


class WaitQuery(Query):
    """How long to wait for a task's end, in seconds."""

    wait: Annotated[float, Field(ge=0, le=WAIT_LIMIT_SECONDS)] = 0
