"""Commands from requests: each function reads one kind of request, strictly, and makes what a service takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.domain.dead_letters import DeadLetterFilter, RescueTerms
from app.domain.idempotency import parse_key
from app.domain.pipeline import PipelineShape
from app.domain.tasks import CreateTask, TaskFilter
from app.errors import Invalid, Refusal
from app.ids import new_id
from app.log import request_id
from app.services.access import Ask, Decide, ListRequests
from app.services.control import PauseStage, ResumeStage
from app.services.dead_letters import ListDeadLetters, ListGroups, StartRescue, StopRescue
from app.services.explain import ExplainTask
from app.services.keys import AddKey, ListKeys, RevokeKey
from app.services.pages import PageCommand
from app.services.tasks import CancelTask, ListAttempts, ListTasks, RetryTask
from app.services.users import ChangeUser, GrantToken
from app.web import schemas
from app.web.incoming import Incoming, Model


@dataclass(frozen=True, slots=True, kw_only=True)
class GetTask:
    """A task, now or at its end if that comes within so many seconds."""

    task_id: str
    wait_seconds: float


def nothing(incoming: Incoming) -> None:
    """Take no query."""
    incoming.query(schemas.NoQuery)


def path_id(incoming: Incoming) -> str:
    """Take the id in the path and nothing else."""
    incoming.query(schemas.NoQuery)
    return incoming.path_id()


def ask(incoming: Incoming) -> Ask:
    """Read an access request."""
    body = incoming.json(schemas.AskBody)
    return Ask(
        request_id=new_id(),
        requested_by=body.requested_by,
        reason=body.reason,
        public_key=body.public_key,
        asked_in=request_id.get(),
    )


def list_requests(incoming: Incoming) -> ListRequests:
    """Read which access requests are wanted."""
    query = incoming.query(schemas.AccessQuery)
    return ListRequests(page=_page(query), status=query.status)


def approve(incoming: Incoming) -> Decide:
    """Read an approval; without a body the role is user, with its usual scopes."""
    body = _optional_body(incoming, schemas.ApproveBody)
    return Decide(
        request_id=incoming.path_id(),
        user_id=new_id(),
        role=body.role,
        scopes=_scopes(body.scopes),
        fingerprint=body.fingerprint,
        reason=body.reason,
    )


def reject(incoming: Incoming) -> Decide:
    """Read a rejection, and why; a body is not needed."""
    return Decide(request_id=incoming.path_id(), user_id=new_id(), reason=_optional_reason(incoming))


def page(incoming: Incoming) -> PageCommand:
    """Read which page of a list is wanted."""
    return _page(incoming.query(schemas.PageQuery))


def change_user(incoming: Incoming) -> ChangeUser:
    """Read what is to change of a user."""
    body = incoming.json(schemas.ChangeUserBody)
    if body.role is None and body.scopes is None and body.is_active is None:
        raise Invalid([("", "name at least one of role, scopes and is_active")])
    return ChangeUser(
        user_id=incoming.path_id(),
        role=body.role,
        scopes=_scopes(body.scopes),
        is_active=body.is_active,
        reason=body.reason,
    )


def grant_token(ttl_max_seconds: int) -> Callable[[Incoming], GrantToken]:
    """Make the reader of token requests; a token lives at most so long."""

    def read(incoming: Incoming) -> GrantToken:
        body = incoming.json(schemas.TokenBody)
        if body.ttl_seconds > ttl_max_seconds:
            raise Invalid([("/ttl_seconds", f"a token lives at most {ttl_max_seconds} seconds here")])
        return GrantToken(user_id=incoming.path_id(), token_id=new_id(), ttl_seconds=body.ttl_seconds)

    return read


def add_key(incoming: Incoming) -> AddKey:
    """Read a public key and whose it is."""
    body = incoming.json(schemas.KeyBody)
    return AddKey(key_id=new_id(), user_id=body.user_id, public_key=body.public_key, name=body.name)


def list_keys(incoming: Incoming) -> ListKeys:
    """Read whose keys are wanted."""
    query = incoming.query(schemas.KeysQuery)
    return ListKeys(page=_page(query), user_id=query.user_id)


def revoke_key(incoming: Incoming) -> RevokeKey:
    """Read which key is to be taken out of use, and why; a body is not needed."""
    return RevokeKey(key_id=incoming.path_id(), reason=_optional_reason(incoming))


def create_task(
    *, first_stage: str, check_payload: Callable[[dict[str, Any]], None]
) -> Callable[[Incoming], CreateTask]:
    """Make the reader of new tasks; `check_payload` raises Invalid if a payload does not fit the pipeline."""

    def read(incoming: Incoming) -> CreateTask:
        idem_key = parse_key(incoming.header(b"idempotency-key"))
        body = incoming.json(schemas.TaskBody)
        refusal = _refusal_of(check_payload, body.payload)
        try:
            return CreateTask.of(
                task_id=new_id(),
                idem_key=idem_key,
                reference=body.reference,
                payload=body.payload,
                first_stage=first_stage,
                refusal=refusal,
            )
        except ValueError:
            raise Invalid([("/payload", "holds a number that JSON cannot carry")]) from None

    return read


def list_tasks(incoming: Incoming) -> ListTasks:
    """Read which tasks are wanted."""
    query = incoming.query(schemas.TasksQuery)
    wanted = TaskFilter(status=query.status, stage=query.stage, created_by=query.created_by, reference=query.reference)
    return ListTasks(page=_page(query), wanted=wanted)


def get_task(incoming: Incoming) -> GetTask:
    """Read which task is wanted, and how long the caller waits for its end."""
    return GetTask(task_id=incoming.path_id(), wait_seconds=incoming.query(schemas.WaitQuery).wait)


def list_attempts(incoming: Incoming) -> ListAttempts:
    """Read which task's history is wanted."""
    return ListAttempts(task_id=incoming.path_id(), page=_page(incoming.query(schemas.PageQuery)))


def retry_task(shape: PipelineShape) -> Callable[[Incoming], RetryTask]:
    """Make the reader of why a task is to be tried again, and from where."""

    def read(incoming: Incoming) -> RetryTask:
        body = incoming.json(schemas.RetryBody)
        return RetryTask(
            task_id=incoming.path_id(),
            override_dead_letter=body.override_dead_letter,
            reason=body.reason,
            terms=_terms(body, shape),
            shape=shape,
        )

    return read


def cancel_task(grace_seconds: float) -> Callable[[Incoming], CancelTask]:
    """Make the reader of why a task is to end; a body is not needed."""

    def read(incoming: Incoming) -> CancelTask:
        return CancelTask(task_id=incoming.path_id(), reason=_optional_reason(incoming), grace_seconds=grace_seconds)

    return read


def explain_task(shape: PipelineShape) -> Callable[[Incoming], ExplainTask]:
    """Make the reader of which task is to be explained."""
    return lambda incoming: ExplainTask(task_id=path_id(incoming), shape=shape)


def list_dead_letters(incoming: Incoming) -> ListDeadLetters:
    """Read which dead letters are wanted."""
    query = incoming.query(schemas.DeadLettersQuery)
    return ListDeadLetters(page=_page(query), wanted=_dead_letters(query))


def list_groups(incoming: Incoming) -> ListGroups:
    """Read which groups of dead letters are wanted."""
    query = incoming.query(schemas.GroupsQuery)
    return ListGroups(stage=query.stage, error_kind=query.error_kind, limit=query.limit)


def start_rescue(shape: PipelineShape) -> Callable[[Incoming], StartRescue]:
    """Make the reader of which dead letters are to be rescued."""

    def read(incoming: Incoming) -> StartRescue:
        body = incoming.json(schemas.RescueBody)
        return StartRescue(
            rescue_id=new_id(),
            wanted=_dead_letters(body),
            terms=_terms(body, shape),
            reason=body.reason,
            is_dry_run=body.dry_run,
            shape=shape,
        )

    return read


def stop_rescue(incoming: Incoming) -> StopRescue:
    """Read which rescue is to stop, and why; a body is not needed."""
    return StopRescue(rescue_id=incoming.path_id(), reason=_optional_reason(incoming))


def pause_stage(shape: PipelineShape, stage: str | None = None) -> Callable[[Incoming], PauseStage]:
    """Make the reader of why a stage is paused: this one, or the one in the path."""
    return lambda incoming: PauseStage(
        stage=stage or incoming.path_stage(), reason=incoming.json(schemas.ReasonBody).reason, shape=shape
    )


def resume_stage(shape: PipelineShape, stage: str | None = None) -> Callable[[Incoming], ResumeStage]:
    """Make the reader of why a stage goes on: this one, or the one in the path."""
    return lambda incoming: ResumeStage(
        stage=stage or incoming.path_stage(), reason=incoming.json(schemas.ReasonBody).reason, shape=shape
    )


def of_shape(shape: PipelineShape) -> Callable[[Incoming], PipelineShape]:
    """Make the reader of requests that ask about the whole pipeline."""

    def read(incoming: Incoming) -> PipelineShape:
        nothing(incoming)
        return shape

    return read


def _optional_reason(incoming: Incoming) -> str | None:
    return _optional_body(incoming, schemas.OptionalReasonBody).reason


def _optional_body(incoming: Incoming, model: type[Model]) -> Model:
    if incoming.body.strip():
        return incoming.json(model)
    incoming.query(schemas.NoQuery)
    return model()


def _terms(body: schemas.RetryBody | schemas.RescueBody, shape: PipelineShape) -> RescueTerms:
    if body.from_stage is not None and body.from_stage not in shape.stages:
        raise Invalid([("/from_stage", f"the pipeline has no such stage; it has {', '.join(shape.stages)}")])
    return RescueTerms(from_stage=body.from_stage, confirm_side_effects=body.confirm_side_effects)


def _dead_letters(query: schemas.DeadLettersQuery | schemas.RescueBody) -> DeadLetterFilter:
    return DeadLetterFilter(stage=query.stage, error_kind=query.error_kind, signature=query.signature)


def _refusal_of(check: Callable[[dict[str, Any]], None], payload: dict[str, Any]) -> Refusal | None:
    try:
        check(payload)
    except Refusal as refusal:
        return refusal
    return None


def _page(query: schemas.PageQuery) -> PageCommand:
    return PageCommand(before=query.cursor, limit=query.limit)


def _scopes(scopes: list[str] | None) -> frozenset[str] | None:
    return None if scopes is None else frozenset(scopes)
