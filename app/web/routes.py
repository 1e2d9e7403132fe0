"""The route table: every operation with what it requires, what it does and what it shows, a line each."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

from app.domain import scopes
from app.domain.control import EVERYTHING
from app.domain.dead_letters import Rescue
from app.domain.pipeline import PipelineShape, TaskStanding
from app.domain.users import Role
from app.errors import Conflict, Defect
from app.security.actor import Actor
from app.security.gate import Public, Requirements
from app.security.tokens import Tokens
from app.services import access, audit_trail, control, dead_letters, explain, keys, readiness, stats, tasks, users
from app.services.control import PauseStage, ResumeStage
from app.services.dead_letters import RescuePlan, StartRescue, StopRescue
from app.services.readiness import Readiness, Ready
from app.services.tasks import CancelTask, Created, RetryTask, TaskView
from app.services.users import GrantToken, TokenGrant
from app.unit import UnitOfWork
from app.wakeups import Wakeups
from app.web import audit, commands, rendering, rendering_pipeline
from app.web.commands import GetTask
from app.web.operations import Operation, RouteTable
from app.web.rendering import as_json, as_page

ASK_BYTES_LIMIT = 16_384
"""What anybody may send: enough for a subject and a reason."""

ASK_SECONDS = 5.0
"""How long anybody may take to send it, and how long it may be worked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the operations are made of, beside the services."""

    tokens: Tokens | None
    token_ttl_max_seconds: int
    shape: PipelineShape
    cancel_grace_seconds: float
    check_payload: Callable[[dict[str, Any]], None]
    readiness: Readiness


def route_table(parts: Parts) -> RouteTable:
    """Make the table; the paths that are asked for most stand first."""
    return RouteTable(
        (
            *_tasks(parts),
            *_operational(parts),
            *_dead_letters(parts),
            *_pipeline(parts),
            *_access(),
            *_users(parts),
            *_keys(),
            *_audit(),
        )
    )


def _tasks(parts: Parts) -> tuple[Operation, ...]:
    create, read = _user(scopes.TASKS_CREATE), _user(scopes.TASKS_READ)
    new_task = commands.create_task(first_stage=parts.shape.stages[0], check_payload=parts.check_payload)
    one = as_json(rendering.standing)
    return (
        Operation(method="POST", path="/v1/tasks", requirements=create, read=new_task,
                  handle=tasks.create, render=rendering.created_task, wakes=_wake_worker, task_of=_created_id),
        Operation(method="GET", path="/v1/tasks", requirements=read, read=commands.list_tasks,
                  handle=tasks.list_tasks, render=as_page(rendering.standing)),
        Operation(method="GET", path="/v1/tasks/{id}", requirements=read, read=commands.get_task,
                  handle=_get_task, render=as_json(rendering.task), wait_seconds=_wanted_wait),
        Operation(method="GET", path="/v1/tasks/{id}/history", requirements=read, read=commands.list_attempts,
                  handle=tasks.history, render=as_page(rendering.attempt)),
        Operation(method="GET", path="/v1/tasks/{id}/outputs", requirements=read, read=commands.path_id,
                  handle=tasks.outputs, render=as_json(rendering.outputs)),
        Operation(method="POST", path="/v1/tasks/{id}/retry", requirements=_admin(scopes.PIPELINE_RETRY),
                  read=commands.retry_task(parts.shape), handle=tasks.retry, render=one, wakes=_wake_worker,
                  tell=_tell_retry),
        Operation(method="POST", path="/v1/tasks/{id}/cancel", requirements=_user(scopes.TASKS_CANCEL),
                  read=commands.cancel_task(parts.cancel_grace_seconds), handle=tasks.cancel, render=one,
                  wakes=_wake_cancelled, tell=_tell_cancel),
        Operation(method="GET", path="/v1/tasks/{id}/explain", requirements=read,
                  read=commands.explain_task(parts.shape), handle=explain.explain,
                  render=as_json(rendering_pipeline.explanation)),
    )  # fmt: skip


def _dead_letters(parts: Parts) -> tuple[Operation, ...]:
    admin, rescues = _admin(scopes.PIPELINE_RETRY), "/v1/dead-letters/rescues"
    one = as_json(rendering_pipeline.rescue)
    return (
        Operation(method="GET", path="/v1/dead-letters", requirements=admin, read=commands.list_dead_letters,
                  handle=dead_letters.list_dead_letters, render=as_page(rendering_pipeline.dead_letter)),
        Operation(method="GET", path="/v1/dead-letters/groups", requirements=admin, read=commands.list_groups,
                  handle=dead_letters.list_groups, render=as_json(rendering_pipeline.groups)),
        Operation(method="POST", path=rescues, requirements=admin, read=commands.start_rescue(parts.shape),
                  handle=dead_letters.start_rescue, render=rendering_pipeline.rescue_plan, wakes=_wake_rescue,
                  tell=_tell_rescue),
        Operation(method="GET", path=rescues, requirements=admin, read=commands.page,
                  handle=dead_letters.list_rescues, render=as_page(rendering_pipeline.rescue)),
        Operation(method="GET", path=f"{rescues}/{{id}}", requirements=admin, read=commands.path_id,
                  handle=dead_letters.get_rescue, render=one),
        Operation(method="POST", path=f"{rescues}/{{id}}/stop", requirements=admin, read=commands.stop_rescue,
                  handle=dead_letters.stop_rescue, render=one, tell=_tell_stop),
    )  # fmt: skip


def _pipeline(parts: Parts) -> tuple[Operation, ...]:
    admin, shape = _admin(scopes.PIPELINE_CONTROL), parts.shape
    one = as_json(rendering_pipeline.stages)
    return (
        Operation(method="GET", path="/v1/stats", requirements=_admin(scopes.TASKS_READ), read=commands.of_shape(shape),
                  handle=stats.stats, render=as_json(rendering_pipeline.stats)),
        Operation(method="GET", path="/v1/stages", requirements=admin, read=commands.of_shape(shape),
                  handle=control.view_stages, render=one),
        Operation(method="POST", path="/v1/stages/pause", requirements=admin,
                  read=commands.pause_stage(shape, EVERYTHING), handle=control.pause, render=one, tell=_tell_pause),
        Operation(method="POST", path="/v1/stages/resume", requirements=admin,
                  read=commands.resume_stage(shape, EVERYTHING), handle=control.resume, render=one,
                  wakes=_wake_worker, tell=_tell_resume),
        Operation(method="POST", path="/v1/stages/{stage}/pause", requirements=admin,
                  read=commands.pause_stage(shape), handle=control.pause, render=one, tell=_tell_pause),
        Operation(method="POST", path="/v1/stages/{stage}/resume", requirements=admin,
                  read=commands.resume_stage(shape), handle=control.resume, render=one,
                  wakes=_wake_worker, tell=_tell_resume),
    )  # fmt: skip


def _access() -> tuple[Operation, ...]:
    read, decide = _admin(scopes.ACCESS_READ), _admin(scopes.ACCESS_DECIDE)
    decision = as_json(rendering.decision)
    return (
        Operation(method="POST", path="/v1/access-requests", requirements=Public(), read=commands.ask,
                  handle=_ask, render=as_json(rendering.asked, 202), body_limit_bytes=ASK_BYTES_LIMIT,
                  receive_timeout_seconds=ASK_SECONDS, timeout_seconds=ASK_SECONDS),
        Operation(method="GET", path="/v1/access-requests", requirements=read, read=commands.list_requests,
                  handle=access.list_requests, render=as_page(rendering.access_request)),
        Operation(method="GET", path="/v1/access-requests/{id}", requirements=read, read=commands.path_id,
                  handle=access.get_request, render=as_json(rendering.access_request)),
        Operation(method="POST", path="/v1/access-requests/{id}/approve", requirements=decide,
                  read=commands.approve, handle=access.approve, render=decision),
        Operation(method="POST", path="/v1/access-requests/{id}/reject", requirements=decide,
                  read=commands.reject, handle=access.reject, render=decision),
    )  # fmt: skip


def _users(parts: Parts) -> tuple[Operation, ...]:
    read, manage = _admin(scopes.USERS_READ), _admin(scopes.USERS_MANAGE)
    token = commands.grant_token(parts.token_ttl_max_seconds)
    one = as_json(rendering.user)
    return (
        Operation(method="GET", path="/v1/me", requirements=_user(None), read=commands.nothing,
                  handle=users.me, render=as_json(rendering.me)),
        Operation(method="GET", path="/v1/users", requirements=read, read=commands.page,
                  handle=users.list_users, render=as_page(rendering.user)),
        Operation(method="GET", path="/v1/users/{id}", requirements=read, read=commands.path_id,
                  handle=users.get_user, render=one),
        Operation(method="PATCH", path="/v1/users/{id}", requirements=manage, read=commands.change_user,
                  handle=users.change, render=one),
        Operation(method="POST", path="/v1/users/{id}/tokens", requirements=manage, read=token,
                  handle=users.grant_token if parts.tokens else _grant_nothing,
                  render=rendering.issued_token(_signer(parts.tokens))),
    )  # fmt: skip


def _keys() -> tuple[Operation, ...]:
    anybody, one = _user(None), as_json(rendering.key)  # whose keys one may touch is decided by app.domain.authority
    return (
        Operation(method="POST", path="/v1/keys", requirements=anybody, read=commands.add_key,
                  handle=keys.add, render=as_json(rendering.key, 201)),
        Operation(method="GET", path="/v1/keys", requirements=anybody, read=commands.list_keys,
                  handle=keys.list_keys, render=as_page(rendering.key)),
        Operation(method="DELETE", path="/v1/keys/{id}", requirements=anybody, read=commands.revoke_key,
                  handle=keys.revoke, render=one),
    )  # fmt: skip


def _audit() -> tuple[Operation, ...]:
    return (
        Operation(method="GET", path="/v1/audit-events", requirements=_admin(scopes.AUDIT_READ),
                  read=audit.list_events, handle=audit_trail.list_events, render=as_page(audit.event)),
    )  # fmt: skip


def _operational(parts: Parts) -> tuple[Operation, ...]:
    look = parts.readiness.look
    build = {"name": "cabinet", "version": version("cabinet")}
    return (
        Operation(method="GET", path="/health", requirements=Public(), read=commands.nothing,
                  outside_unit=lambda: {"status": "ok"}, render=as_json(dict), is_rate_limited=False),
        Operation(method="GET", path="/version", requirements=Public(), read=commands.nothing,
                  outside_unit=lambda: build, render=as_json(dict), is_rate_limited=False),
        Operation(method="GET", path="/ready", requirements=Public(identify=True), read=commands.nothing,
                  handle=_detailed(parts.readiness), outside_unit=lambda: Ready(look().is_ready),
                  render=rendering.ready, is_rate_limited=False),
    )  # fmt: skip


def _user(scope: str | None) -> Requirements:
    return Requirements(scope=scope, role=Role.USER)


def _admin(scope: str) -> Requirements:
    return Requirements(scope=scope, role=Role.ADMIN)


async def _ask(work: UnitOfWork, _nobody: None, command: access.Ask) -> Any:
    return await access.ask(work, command)


async def _get_task(work: UnitOfWork, actor: Actor, command: GetTask) -> TaskView:
    return await tasks.view(work, actor, command.task_id)


def _tell_retry(command: RetryTask, _outcome: Any) -> tuple[str, dict[str, Any]]:
    return "task_retried", {"task_id": command.task_id, "reason": command.reason}


def _tell_cancel(command: CancelTask, outcome: TaskStanding) -> tuple[str, dict[str, Any]]:
    fields = {"task_id": command.task_id, "reason": command.reason, "cancel_by": outcome.cancel_by}
    return "cancel_asked", fields


def _tell_rescue(command: StartRescue, outcome: RescuePlan) -> tuple[str, dict[str, Any]]:
    asked = {**asdict(command.wanted), **asdict(command.terms), "reason": command.reason, "matched": outcome.matched}
    if outcome.rescue is None:
        return "rescue_looked_at", asked
    return "rescue_asked", {"rescue_id": outcome.rescue.id, **asked}


def _tell_stop(command: StopRescue, outcome: Rescue) -> tuple[str, dict[str, Any]]:
    return "rescue_stop_asked", {
        "rescue_id": command.rescue_id,
        "reason": command.reason,
        "status": outcome.status,
        "rescued": outcome.rescued,
    }


def _tell_pause(command: PauseStage, _outcome: Any) -> tuple[str, dict[str, Any]]:
    return "pause_asked", {"stage": command.stage, "reason": command.reason}


def _tell_resume(command: ResumeStage, _outcome: Any) -> tuple[str, dict[str, Any]]:
    return "resume_asked", {"stage": command.stage, "reason": command.reason}


def _created_id(outcome: Created) -> str:
    return outcome.task.id


def _wake_worker(wakeups: Wakeups, _outcome: Any) -> None:
    wakeups.work_added()


def _wake_rescue(wakeups: Wakeups, _outcome: Any) -> None:
    wakeups.rescue_asked()


def _wake_cancelled(wakeups: Wakeups, outcome: TaskStanding) -> None:
    if outcome.task.status.is_ended:
        wakeups.task_ended(outcome.task.id)
    else:
        wakeups.cancel_asked()


def _wanted_wait(command: GetTask) -> float:
    return command.wait_seconds


def _detailed(state: Readiness) -> Callable[..., Any]:
    async def handle(work: UnitOfWork, actor: Actor | None, _command: None) -> Ready:
        looked = state.look()
        waiting = await readiness.detail(work, actor, state.stages)
        if waiting is None:
            return Ready(looked.is_ready)
        return replace(looked, waiting_in_unknown_stages=waiting)

    return handle


def _signer(tokens: Tokens | None) -> Callable[[TokenGrant], tuple[str, int]]:
    def sign(grant: TokenGrant) -> tuple[str, int]:
        if tokens is None:
            raise Defect("A token was granted that cannot be signed.")
        return tokens.issue(grant.user.subject, token_id=grant.token_id, ttl_seconds=grant.ttl_seconds)

    return sign


async def _grant_nothing(_work: UnitOfWork, _actor: Actor, _command: GrantToken) -> TokenGrant:
    raise Conflict("This service hands out no tokens, since TOKEN_SECRET is not set.")
