"""The one tree of errors; what is raised here reaches a caller, an operator or a developer as a sentence.

CabinetError
├── Refusal                 the caller's request cannot be granted; the unit leaves no trace
│   ├── BadRequest          400  ├── MalformedKey
│   ├── NotAuthenticated    401  ├── BadSignature
│   ├── Forbidden           403  ├── UnknownSubject, InactiveUser, RoleTooLow, ScopeMissing,
│   │                            └── NotAllowedOn, DeadLetterProtected
│   ├── NotFound            404
│   ├── MethodNotAllowed    405
│   ├── RequestTimeout      408
│   ├── Conflict            409  ├── StageGone, SideEffectsUnconfirmed
│   ├── PayloadTooLarge     413
│   ├── UnsupportedMedia    415
│   ├── Invalid             422  ├── KeyReused
│   └── TooManyRequests     429
├── Unavailable             503  ├── WriterBusy, StorageFull, StorageBusy, StorageFailed, StoreClosed,
│                                └── DeadlinePassed, GateFailed, IdentityProviderUnavailable
├── Defect                  500  a rule of this code base was broken: UnitClosed, TransactionLost, NestedUnit,
│                                ForeignAwait, BodyEscaped, ParameterMismatch, WriteInRead, QueryFailed,
│                                ConstraintViolated, Ungated
└── StartFault                   the process does not start: BadSettings, AlreadyOwned, SchemaMismatch,
                                 MigrationFailed, BadQueries,
                                 BackupFailed, RestoreInterrupted
"""

from collections.abc import Sequence
from typing import ClassVar


class CabinetError(Exception):
    """Something went wrong inside Cabinet."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").split("\n")[0])

    @property
    def message(self) -> str:
        """One sentence that may be shown to the caller."""
        return str(self.args[0])


# Refusals: told to the caller ---------------------------------------------------------------------------------------


class Refusal(CabinetError):
    """The request was refused."""

    code = "refused"
    status = 400


class BadRequest(Refusal):
    """The request is not well formed."""

    code = "bad_request"


class MalformedKey(BadRequest):
    """Send an Idempotency-Key header of 1 to 255 printable ASCII characters; it names the one task that you intend."""

    code = "idempotency_key_malformed"


class NotAuthenticated(Refusal):
    """Authenticate with a bearer token that this service accepts, or sign the request."""

    code = "not_authenticated"
    status = 401


class BadSignature(NotAuthenticated):
    """The signature was not accepted; sign as Accept-Signature says, with a new nonce and a clock that is right.

    `reason` is for the log: whoever was refused is told no more than that.
    """

    code = "bad_signature"

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


class Forbidden(Refusal):
    """This is not allowed."""

    code = "forbidden"
    status = 403


class UnknownSubject(Forbidden):
    """This subject is not a user here; ask for access with POST /v1/access-requests."""

    code = "unknown_subject"


class InactiveUser(Forbidden):
    """This user has been deactivated; ask an admin to activate it again."""

    code = "inactive_user"


class RoleTooLow(Forbidden):
    """This needs a higher role than yours."""

    code = "role_too_low"


class ScopeMissing(Forbidden):
    """This needs a scope that you do not have."""

    code = "scope_missing"


class NotAllowedOn(Forbidden):
    """You may not do this to that user."""

    code = "not_allowed_on_user"


class DeadLetterProtected(Forbidden):
    """This task is a dead letter; send override_dead_letter: true to rescue it."""

    code = "dead_letter_protected"


class NotFound(Refusal):
    """There is nothing here."""

    code = "not_found"
    status = 404


class MethodNotAllowed(Refusal):
    """This path does not know that method; the Allow header names the ones it does."""

    code = "method_not_allowed"
    status = 405


class RequestTimeout(Refusal):
    """The request did not arrive in time and was not carried out; send it again."""

    code = "request_timeout"
    status = 408


class Conflict(Refusal):
    """The present state does not allow this."""

    code = "conflict"
    status = 409


class StageGone(Conflict):
    """The pipeline no longer has the stage where this task stands."""

    code = "stage_gone"


class SideEffectsUnconfirmed(Conflict):
    """This would run a stage again that acts on the world outside; send confirm_side_effects: true if it may."""

    code = "side_effects_unconfirmed"


class PayloadTooLarge(Refusal):
    """The request body is too large."""

    code = "payload_too_large"
    status = 413


class UnsupportedMedia(Refusal):
    """Send the body as Content-Type: application/json."""

    code = "unsupported_media_type"
    status = 415


class Invalid(Refusal):
    """The content is not valid; every bad field is listed under errors.

    `faults` are pairs of a JSON Pointer (RFC 6901) and a sentence.
    """

    code = "invalid_content"
    status = 422

    def __init__(self, faults: Sequence[tuple[str, str]] = (), message: str | None = None) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class KeyReused(Invalid):
    """This idempotency key already names another command; use a new key for a new task."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__()


class TooManyRequests(Refusal):
    """Too many requests; wait as long as Retry-After says.

    `retry_after_seconds` is rounded up to whole seconds in the answer.
    """

    code = "too_many_requests"
    status = 429

    def __init__(self, retry_after_seconds: float, message: str | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


# Unavailable: try again ---------------------------------------------------------------------------------------------


class Unavailable(CabinetError):
    """The service cannot do this now; try again."""

    code = "unavailable"
    status = 503
    retry_after_seconds: ClassVar[float] = 1


class WriterBusy(Unavailable):
    """Too many requests wait for the database; try again."""

    code = "busy"


class StorageBusy(Unavailable):
    """Another process holds the database; try again."""

    code = "storage_busy"


class StorageFull(Unavailable):
    """The disk is full; nothing was stored."""

    code = "storage_full"
    retry_after_seconds = 30


class StorageFailed(Unavailable):
    """The database failed; whether the request was stored is unknown. Send it again with the same idempotency key."""

    code = "storage_failed"
    retry_after_seconds = 5


class StoreClosed(Unavailable):
    """The service is stopping; try again."""

    code = "stopping"


class DeadlinePassed(Unavailable):
    """The request took too long and was given up; whether it was carried out is unknown."""

    code = "deadline_passed"


class GateFailed(Unavailable):
    """Whether this is allowed could not be decided, so it was denied; try again."""

    code = "gate_failed"


class IdentityProviderUnavailable(Unavailable):
    """The identity provider's keys cannot be had, so this token could not be checked; try again."""

    code = "identity_provider_unavailable"
    retry_after_seconds = 10


# Defects: a rule of this code base was broken -----------------------------------------------------------------------


class Defect(CabinetError):
    """The service has a defect; the request left no trace."""


class UnitClosed(Defect):
    """A unit of work was used after its body had ended."""


class TransactionLost(Defect):
    """The transaction ended inside a unit of work; everything in its batch is void."""


class NestedUnit(Defect):
    """A unit of work cannot begin inside another."""


class ForeignAwait(Defect):
    """A unit of work may wait for nothing but its own repositories."""


class BodyEscaped(Defect):
    """A unit of work raised something that is not an error, such as CancelledError or SystemExit."""


class ParameterMismatch(Defect):
    """The parameters given are not the parameters that the SQL names."""


class WriteInRead(Defect):
    """A unit of work that only reads tried to write."""


class QueryFailed(Defect):
    """The database refused a query."""


class ConstraintViolated(Defect):
    """The database refused a row; `constraint` names the rule as the engine does."""

    def __init__(self, kind: str, constraint: str) -> None:
        super().__init__(f"{kind} violated: {constraint}")
        self.kind = kind
        self.constraint = constraint


class Ungated(Defect):
    """An answer was about to leave that the gate had not passed; it was withheld."""


# Faults at start: the process does not start ------------------------------------------------------------------------


class StartFault(CabinetError):
    """The service cannot start; `exit_code` follows design §8."""

    exit_code: ClassVar[int] = 1


class BadSettings(StartFault):
    """The settings are wrong; `faults` holds one sentence for each."""

    exit_code = 3

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class AlreadyOwned(StartFault):
    """Another process owns this database file."""


class SchemaMismatch(StartFault):
    """The database does not have the schema that this version needs."""

    exit_code = 4


class MigrationFailed(StartFault):
    """A migration could not be applied; its transaction left no trace."""

    exit_code = 4


class BadQueries(StartFault):
    """A file of SQL queries breaks a rule of the portable subset."""


class BackupFailed(StartFault):
    """A backup could not be taken or restored; what was there before is as it was."""


class RestoreInterrupted(StartFault):
    """A restore was interrupted when the old database was gone already and the new one not yet there."""
