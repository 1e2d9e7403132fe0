"""Answers: outcomes as JSON. What is not named here does not leave the service."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode

from pydantic_core import to_json
from starlette.responses import Response

from app.clock import to_timestamp
from app.domain.access import AccessRequest
from app.domain.jobs import Output, ProgressTold
from app.domain.keys import SigningKey, fingerprint
from app.domain.pipeline import StateStatus, TaskStanding
from app.domain.tasks import Task, TaskStatus
from app.domain.users import User
from app.security.actor import Actor
from app.services.access import Decision
from app.services.pages import Page
from app.services.readiness import Ready
from app.services.tasks import AttemptView, Created, OutputsView, TaskView
from app.services.users import TokenGrant
from app.web.incoming import Incoming

T = TypeVar("T")


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Make an answer of anything that JSON can hold."""
    return Response(to_json(value), status, headers, media_type="application/json")


def as_json(shape: Callable[[Any], Any], status: int = 200) -> Callable[[Any, Incoming], Response]:
    """Make a renderer that shows one outcome."""
    return lambda outcome, _incoming: json_response(shape(outcome), status)


def as_page(shape: Callable[[Any], Any]) -> Callable[[Page[Any], Incoming], Response]:
    """Make a renderer that shows a page of things, with the cursor of the next in the body and a Link header."""

    def render(page: Page[Any], incoming: Incoming) -> Response:
        body = {"items": [shape(item) for item in page.items], "next": page.next}
        return json_response(body, headers=None if page.next is None else {"Link": _next_link(page.next, incoming)})

    return render


def created_task(outcome: Created, _incoming: Incoming) -> Response:
    """Show a created task; a replay has the same status and the same bytes."""
    headers = {"Location": f"/v1/tasks/{outcome.task.id}"}
    if outcome.is_replay:
        headers["Idempotent-Replayed"] = "true"
    return json_response(accepted(outcome.task), 201, headers)


def accepted(task: Task) -> dict[str, Any]:
    """Show the part of a task that never changes."""
    return {
        "id": task.id,
        "reference": task.reference,
        "created_by": task.created_by,
        "created_at": task.created_at,
        "status": TaskStatus.OPEN,
        "stage": task.first_stage,
    }


def standing(outcome: TaskStanding) -> dict[str, Any]:
    """Show a task and where it stands."""
    task, state = outcome.task, outcome.state
    return {
        "id": task.id,
        "reference": task.reference,
        "created_by": task.created_by,
        "created_at": task.created_at,
        "updated_at": max(task.updated_at, state.updated_at),
        "status": task.status,
        "stage": state.stage,
        "stage_status": state.status,
        "attempt": state.attempt,
        "last_error_kind": state.last_error_kind,
        "is_dead_letter": state.status is StateStatus.DEAD_LETTER,
        "next_attempt_at": outcome.next_attempt_at,
        "cancel_by": outcome.cancel_by,
        "progress": progress(outcome.progress),
    }


def progress(outcome: ProgressTold | None) -> dict[str, Any] | None:
    """Show how far an attempt has come."""
    if outcome is None:
        return None
    return {"fraction": outcome.fraction, "message": outcome.message, "told_at": outcome.told_at}


def task(outcome: TaskView) -> dict[str, Any]:
    """Show a task, with its payload if it is the caller's to see."""
    shown = standing(outcome.standing)
    return shown if outcome.payload is None else {**shown, "payload": json.loads(outcome.payload.json)}


def attempt(view: AttemptView) -> dict[str, Any]:
    """Show one execution of a stage, with its traceback if that is the caller's to see."""
    outcome = view.attempt
    shown = {
        "stage": outcome.stage,
        "attempt": outcome.attempt,
        "worker": outcome.worker,
        "started_at": outcome.started_at,
        "ended_at": outcome.ended_at,
        "outcome": outcome.outcome,
        "error_kind": outcome.error_kind,
        "error_message": outcome.error_message,
        "milliseconds": outcome.milliseconds,
        "progress": progress(outcome.progress),
    }
    return {**shown, "traceback": outcome.traceback} if view.is_content_shown else shown


def outputs(outcome: OutputsView) -> dict[str, Any]:
    """Show which stages of a task handed something on, and what, if that is the caller's to see."""
    return {"items": [_output(output, is_shown=outcome.is_content_shown) for output in outcome.items]}


def _output(output: Output, *, is_shown: bool) -> dict[str, Any]:
    shown = {"stage": output.stage, "created_at": output.created_at}
    return {**shown, "outputs": json.loads(output.value_json)} if is_shown else shown


def asked(outcome: AccessRequest) -> dict[str, Any]:
    """Show somebody who asked that their request is there, and no more."""
    return {"id": outcome.id, "status": outcome.status}


def access_request(outcome: AccessRequest) -> dict[str, Any]:
    """Show an access request to an admin."""
    return {
        "id": outcome.id,
        "requested_by": outcome.requested_by,
        "reason": outcome.reason,
        "public_key": outcome.public_key,
        "fingerprint": None if outcome.public_key is None else fingerprint(outcome.public_key),
        "status": outcome.status,
        "requested_at": outcome.requested_at,
        "resolved_at": outcome.resolved_at,
        "resolved_by": outcome.resolved_by,
    }


def decision(outcome: Decision) -> dict[str, Any]:
    """Show an answered request and the user whom it made."""
    return {
        "access_request": access_request(outcome.request),
        "user": None if outcome.user is None else user(outcome.user),
    }


def me(outcome: Actor) -> dict[str, Any]:
    """Show callers who they are."""
    return {
        "id": outcome.id,
        "subject": outcome.subject,
        "role": outcome.role,
        "scopes": sorted(outcome.scopes),
    }


def user(outcome: User) -> dict[str, Any]:
    """Show a user."""
    return {
        "id": outcome.id,
        "subject": outcome.subject,
        "role": outcome.role,
        "scopes": sorted(outcome.scopes),
        "is_active": outcome.is_active,
        "created_at": outcome.created_at,
        "updated_at": outcome.updated_at,
    }


def key(outcome: SigningKey) -> dict[str, Any]:
    """Show a signing key; its id is the keyid of signatures."""
    return {
        "id": outcome.id,
        "user_id": outcome.user_id,
        "subject": outcome.subject,
        "name": outcome.name,
        "public_key": outcome.public_key,
        "fingerprint": outcome.fingerprint,
        "created_at": outcome.created_at,
        "revoked_at": outcome.revoked_at,
    }


def ready(outcome: Ready, _incoming: Incoming) -> Response:
    """Show whether the process is ready: 200 or 503, with the details that the outcome holds."""
    body: dict[str, Any] = {"status": "ready" if outcome.is_ready else "not ready"}
    if outcome.checks:
        body["checks"] = outcome.checks
    if outcome.waiting_in_unknown_stages is not None:
        body["waiting_in_unknown_stages"] = outcome.waiting_in_unknown_stages
    return json_response(body, 200 if outcome.is_ready else 503)


def issued_token(sign: Callable[[TokenGrant], tuple[str, int]]) -> Callable[[TokenGrant, Incoming], Response]:
    """Make a renderer that signs a token and shows it once; `sign` returns it and its last second since the epoch."""

    def render(grant: TokenGrant, _incoming: Incoming) -> Response:
        token, expires = sign(grant)
        expires_at = to_timestamp(datetime.fromtimestamp(expires, UTC))
        body = {"token": token, "token_type": "Bearer", "subject": grant.user.subject, "expires_at": expires_at}
        return json_response(body, 201)

    return render


def _next_link(cursor: str, incoming: Incoming) -> str:
    fields = [pair for pair in parse_qsl(incoming.query_string.decode("ascii")) if pair[0] != "cursor"]
    return f'<?{urlencode([*fields, ("cursor", cursor)])}>; rel="next"'
