"""Scopes: what one may do, as lowercase words joined by dots (design §7)."""

import json
from collections.abc import Iterable
from functools import lru_cache
from types import MappingProxyType

from app.domain.users import Role

TASKS_CREATE = "tasks.create"
TASKS_READ = "tasks.read"
TASKS_CANCEL = "tasks.cancel"
TASKS_READ_PAYLOAD = "tasks.read_payload"
ACCESS_READ = "access.read"
ACCESS_DECIDE = "access.decide"
USERS_READ = "users.read"
USERS_MANAGE = "users.manage"
PIPELINE_RETRY = "pipeline.retry"
PIPELINE_CONTROL = "pipeline.control"
AUDIT_READ = "audit.read"

_USER = frozenset({TASKS_CREATE, TASKS_READ, TASKS_CANCEL})
_ADMIN = _USER | {ACCESS_READ, ACCESS_DECIDE, USERS_READ, PIPELINE_RETRY, PIPELINE_CONTROL, AUDIT_READ}

ALL_SCOPES = _ADMIN | {USERS_MANAGE, TASKS_READ_PAYLOAD}
DEFAULT_SCOPES = MappingProxyType({Role.USER: _USER, Role.ADMIN: _ADMIN, Role.SUPER_ADMIN: ALL_SCOPES})


def unknown_scopes(scopes: Iterable[str]) -> list[str]:
    """Return the names among `scopes` that are no scope, sorted."""
    return sorted(set(scopes) - ALL_SCOPES)


def scopes_to_json(scopes: frozenset[str]) -> str:
    """Write scopes as they are stored: a sorted JSON list."""
    return json.dumps(sorted(scopes), separators=(",", ":"))


@lru_cache(maxsize=256)
def scopes_from_json(text: str) -> frozenset[str]:
    """Read stored scopes; the few texts that there are, are remembered."""
    return frozenset(json.loads(text))
