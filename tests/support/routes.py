"""The real route table, and for each line of it a request that passes and the callers who lack something for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.routing import Route

from app.domain.users import Role
from app.main import Container
from app.pipelines import Context, Fail, Pipeline, Stage
from app.security.gate import Public, Requirements
from app.web.guard import GuardedPath
from app.web.operations import Operation
from tests.support.house import house_settings

Line = tuple[str, str]
"""A method and a path's template."""

Verdict = tuple[int, str | None]
"""A status, and a code unless the method is HEAD, whose answers have no body."""

PUBLIC_KEY = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
"""That of RFC 8032 §7.1, test 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A request that passes; `of` names what the path's variable part belongs to."""

    passes: int = 200
    of: str = ""
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = None


CONTROLS = {
    ("POST", "/v1/tasks"): Control(passes=201, body={"payload": {}}, headers={"Idempotency-Key": "control"}),
    ("GET", "/v1/tasks"): Control(),
    ("GET", "/v1/tasks/{id}"): Control(of="task"),
    ("GET", "/v1/tasks/{id}/history"): Control(of="task"),
    ("GET", "/v1/tasks/{id}/outputs"): Control(of="task"),
    ("POST", "/v1/tasks/{id}/retry"): Control(of="task", body={"reason": "again", "override_dead_letter": True}),
    ("POST", "/v1/tasks/{id}/cancel"): Control(of="waiting task"),
    ("GET", "/v1/tasks/{id}/explain"): Control(of="task"),
    ("GET", "/v1/dead-letters"): Control(),
    ("GET", "/v1/dead-letters/groups"): Control(),
    ("POST", "/v1/dead-letters/rescues"): Control(passes=202, body={"reason": "mended", "dry_run": False}),
    ("GET", "/v1/dead-letters/rescues"): Control(),
    ("GET", "/v1/dead-letters/rescues/{id}"): Control(of="rescue"),
    ("POST", "/v1/dead-letters/rescues/{id}/stop"): Control(of="rescue"),
    ("GET", "/v1/stages"): Control(),
    ("POST", "/v1/stages/pause"): Control(body={"reason": "a flood"}),
    ("POST", "/v1/stages/resume"): Control(body={"reason": "it is dry"}),
    ("POST", "/v1/stages/{stage}/pause"): Control(of="stage", body={"reason": "a flood"}),
    ("POST", "/v1/stages/{stage}/resume"): Control(of="stage", body={"reason": "it is dry"}),
    ("GET", "/v1/stats"): Control(),
    ("POST", "/v1/access-requests"): Control(passes=202, body={"requested_by": "newcomer"}),
    ("GET", "/v1/access-requests"): Control(),
    ("GET", "/v1/access-requests/{id}"): Control(of="access request"),
    ("POST", "/v1/access-requests/{id}/approve"): Control(of="access request", body={"scopes": []}),
    ("POST", "/v1/access-requests/{id}/reject"): Control(of="access request"),
    ("GET", "/v1/me"): Control(),
    ("GET", "/v1/users"): Control(),
    ("GET", "/v1/users/{id}"): Control(of="user"),
    ("PATCH", "/v1/users/{id}"): Control(of="user", body={"is_active": False}),
    ("POST", "/v1/users/{id}/tokens"): Control(passes=201, of="user", body={"ttl_seconds": 60}),
    ("POST", "/v1/keys"): Control(passes=201, body={"public_key": PUBLIC_KEY, "name": "the new one"}),
    ("GET", "/v1/keys"): Control(),
    ("DELETE", "/v1/keys/{id}"): Control(of="key"),
    ("GET", "/v1/audit-events"): Control(),
    ("GET", "/health"): Control(),
    ("GET", "/version"): Control(),
    ("GET", "/ready"): Control(),
}


def control_of(line: Line) -> Control:
    """Return the request that passes; HEAD is asked as GET is."""
    return CONTROLS["GET" if line[0] == "HEAD" else line[0], line[1]]


def real_table() -> dict[Line, Operation]:
    """Return every operation that the application answers, taken from its routes."""
    table = {}
    container = Container(house_settings(Path("never-opened")), pipeline=broken)
    for route in container.application().routes:
        assert isinstance(route, Route)
        assert isinstance(route.endpoint, GuardedPath)
        for method in sorted(route.methods or ()):
            table[method, route.path] = route.endpoint.operations[method]
    return table


async def _fail(_context: Context) -> None:
    raise Fail("broken", "This never works.")


broken = Pipeline([Stage("parse", _fail)])
"""One stage that makes dead letters at once."""

TABLE = real_table()
GUARDED = [line for line, operation in TABLE.items() if isinstance(operation.requirements, Requirements)]
PUBLIC = [line for line, operation in TABLE.items() if isinstance(operation.requirements, Public)]


def requirements_of(line: Line) -> Requirements:
    """Return what a guarded line requires."""
    requirements = TABLE[line].requirements
    assert isinstance(requirements, Requirements)
    return requirements


def lacking(line: Line) -> dict[str, tuple[str, Verdict]]:
    """Return the callers who are known to lack something for a guarded line, and what they are told.

    `stranger` is no user. `inactive` is one with the line's role and every scope, `scopeless` has the role and every
    scope but the line's, `lowly` is a user with every scope, to whom nothing belongs.
    """
    needs, of = requirements_of(line), control_of(line).of
    found: dict[str, tuple[str, Verdict]] = {
        "unknown subject": ("stranger", (403, "unknown_subject")),
        "inactive user": ("inactive", (403, "inactive_user")),
    }
    if needs.scope is not None:
        found["scope missing"] = ("scopeless", (403, "scope_missing"))
    if needs.role is not Role.USER:
        found["role too low"] = ("lowly", (403, "role_too_low"))
    elif of in ("task", "waiting task"):
        found["foreign task"] = ("lowly", (404, "not_found"))
    elif of == "key":
        found["foreign key"] = ("lowly", (403, "not_allowed_on_user"))
    return found


def as_seen(line: Line, verdict: Verdict) -> Verdict:
    """Return a verdict as the line's method shows it."""
    return (verdict[0], None) if line[0] == "HEAD" else verdict
