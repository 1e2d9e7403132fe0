"""The matrix of routes, scopes and roles for docs/security.md; `python -m tests.support.route_matrix` prints it.

Who gets through is asked of the gate itself. Which rule restricts the objects is read from the code: from the function
that handles an operation and all those of the services that it names.
"""

import ast
import asyncio
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

from app.clock import Timestamp
from app.domain.scopes import DEFAULT_SCOPES
from app.domain.users import Role, User
from app.errors import Forbidden
from app.ids import new_id
from app.security.gate import Caller, Public, authorise
from app.unit import UnitOfWork
from app.web.operations import Operation
from tests.support.routes import TABLE

RULES = {
    "actor.id": "own tasks",
    "actor.sees_all_tasks": "admins all",
    "actor.sees_content": "content of others with `tasks.read_payload`",
    "actor.role": "details for admins",
    "Act.LET_IN": "roles below, own scopes",
    "Act.CHANGE": "users below, own scopes; never oneself",
    "Act.GRANT_TOKEN": "users below with no scope that one lacks",
    "Act.ADD_KEY": "oneself; with `users.manage` users below with no scope that one lacks",
    "Act.SEE_KEYS": "own; with `users.manage` those of users below",
    "Act.REVOKE_KEY": "own; with `users.manage` those of users below",
}
"""What is told of each rule on objects that the code may follow, in the order in which it is told."""

HEAD = (
    "| Operation | Least role | Scope | user | admin | super_admin | Objects |\n"
    "|---|---|---|:-:|:-:|:-:|---|\n"
)  # fmt: skip

_WHERE = ("app.services.", "app.web.routes")
"""The modules whose functions are read; what app.domain.authority decides is named by its Act."""

_TOLD_ELSEWHERE = frozenset({"author", "standing", "subject"})
"""What functions hand on of an actor without deciding by it; `standing` goes to check_may, which names its Act."""


def matrix() -> str:
    """Return the whole table."""
    return HEAD + "".join(_row(operation) for line, operation in TABLE.items() if line[0] != "HEAD")


def rules_of(function: Callable[..., Any] | None) -> set[str]:
    """Return the rules on objects that a function follows: what it asks of `actor`, and which Act it checks."""
    waiting, seen, found = [function], set(), set()
    while waiting:
        each = waiting.pop()
        if isinstance(each, FunctionType) and each not in seen and each.__module__.startswith(_WHERE):
            seen.add(each)
            tree = ast.parse(textwrap.dedent(inspect.getsource(each)))
            found |= set(_rules(tree))
            waiting += [_resolve(node, each.__globals__) for node in ast.walk(tree)]
    return found


def _row(operation: Operation) -> str:
    required = operation.requirements
    who = ("anybody", "") if isinstance(required, Public) else (required.role.value, _code(required.scope))
    found = rules_of(operation.handle)
    if unknown := found - RULES.keys():
        raise KeyError(f"say in RULES what {operation.method} {operation.path} restricts by {', '.join(unknown)}")
    objects = "; ".join(text for rule, text in RULES.items() if rule in found)
    passes = ["yes" if asyncio.run(_passes(role, operation)) else "no" for role in Role]
    return f"| `{operation.method} {operation.path}` | {' | '.join([*who, *passes, objects])} |\n"


def _code(scope: str | None) -> str:
    return "" if scope is None else f"`{scope}`"


async def _passes(role: Role, operation: Operation) -> bool:
    """Tell whether the gate lets in a user with a role and its default scopes."""
    if isinstance(operation.requirements, Public):
        return True
    at = Timestamp("2026-01-01T00:00:00.000000Z")
    user = User(
        id=new_id(),
        subject="somebody",
        role=role,
        scopes=DEFAULT_SCOPES[role],
        is_active=True,
        created_at=at,
        updated_at=at,
    )
    work = SimpleNamespace(users=SimpleNamespace(by_subject=AsyncMock(return_value=user)))
    try:
        await authorise(cast("UnitOfWork", work), Caller(subject=user.subject), operation.requirements)
    except Forbidden:
        return False
    return True


def _rules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="Act"), attr=act):
                yield f"Act.{act}"
            case ast.Compare(left=left, comparators=others) if "actor.id" in _compared(left, *others):
                yield "actor.id"
            case ast.Attribute(value=ast.Name(id="actor"), attr=asked) if (
                asked != "id" and asked not in _TOLD_ELSEWHERE
            ):
                yield f"actor.{asked}"


def _compared(*operands: ast.expr) -> Iterator[str]:
    """Yield what is compared, and the members of a tuple that is."""
    for operand in operands:
        yield from (ast.unparse(each) for each in (operand.elts if isinstance(operand, ast.Tuple) else [operand]))


def _resolve(node: ast.AST, names: dict[str, Any]) -> Any:
    """Return what a name, or a name of a module, stands for."""
    match node:
        case ast.Name(id=name):
            return names.get(name)
        case ast.Attribute(value=ast.Name(id=name), attr=attribute) if isinstance(names.get(name), ModuleType):
            return getattr(names[name], attribute, None)
    return None


if __name__ == "__main__":
    sys.stdout.write(matrix())
