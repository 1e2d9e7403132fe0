"""The guard: carries a request through the gate in one unit, and withholds whatever the gate has not passed."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.domain.users import Role
from app.errors import DeadlinePassed, Defect, MethodNotAllowed, Refusal, Ungated
from app.ids import is_id
from app.log import bound, event
from app.security.actor import Actor
from app.security.gate import Public, Requirements, authorise
from app.security.tokens import Tokens, bearer_token
from app.unit import Store, UnitOfWork
from app.wakeups import Wakeups
from app.web.envelope import ROUTE, TASK_ID
from app.web.incoming import Incoming, read_body, single_header
from app.web.operations import Operation
from app.web.quotas import Quotas

PASSED = "cabinet.passed"
"""The key in the scope under which the gate says that it let the request through."""

POLL_SECONDS = 2.0
"""How often somebody who waits looks at the database even if nothing wakes them."""

_ANYBODY_KNOWN = Requirements(scope=None, role=Role.USER)
_AUTHORIZATION = b"authorization"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gatehouse:
    """What the guard of every path needs."""

    store: Store
    tokens: Tokens
    quotas: Quotas
    wakeups: Wakeups
    body_limit_bytes: int
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class _Unread:
    """A refusal of the content, carried along: it is told only to those whom the gate lets pass."""

    refusal: Refusal


class GuardedPath:
    """The endpoint of one path: the only kind that the route table makes."""

    def __init__(self, operations: Mapping[str, Operation], gatehouse: Gatehouse) -> None:
        self.operations = dict(operations)
        if "GET" in self.operations:
            self.operations["HEAD"] = self.operations["GET"]
        self._gatehouse = gatehouse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        operation = self.operations.get(scope["method"])
        if operation is None:
            raise MethodNotAllowed
        scope[ROUTE] = operation.path
        if operation.path.startswith("/v1/tasks/{id}") and is_id(scope["path_params"]["id"]):
            scope[TASK_ID] = scope["path_params"]["id"]
        if operation.is_rate_limited:
            self._gatehouse.quotas.take_for_client(scope)
        limit_bytes = operation.body_limit_bytes or self._gatehouse.body_limit_bytes
        body = await read_body(scope, receive, limit_bytes=limit_bytes)
        incoming = Incoming(scope, body)
        with bound(task=scope.get(TASK_ID)):
            response = await self._answer(operation, incoming, scope)
        scope[PASSED] = True
        await response(scope, receive, send)

    async def _answer(self, operation: Operation, incoming: Incoming, scope: Scope) -> Response:
        subject = self._authenticate(operation, scope)
        command = _read(operation, incoming)
        wait_seconds = _wait_seconds(operation, command)
        if wait_seconds > 0:
            scope[ROUTE] = f"{operation.path}?wait"
        deadline = asyncio.timeout(self._gatehouse.timeout_seconds + wait_seconds)
        try:
            async with deadline:
                outcome = await self._outcome(operation, subject, command, wait_seconds)
        except TimeoutError as error:
            if deadline.expired():
                raise DeadlinePassed from error
            raise
        if operation.task_of is not None:
            scope[TASK_ID] = operation.task_of(outcome)
        if operation.tell is not None:
            name, fields = operation.tell(command, outcome)
            event(_log, logging.INFO, name, subject=subject, **fields)
        if operation.wakes is not None:
            operation.wakes(self._gatehouse.wakeups, outcome)
        return operation.render(outcome, incoming)

    def _authenticate(self, operation: Operation, scope: Scope) -> str | None:
        header = single_header(scope["headers"], _AUTHORIZATION)
        requirements = operation.requirements
        if isinstance(requirements, Public) and not (requirements.identify and header is not None):
            return None
        subject = self._gatehouse.tokens.verify(bearer_token(header))
        if operation.is_rate_limited:
            self._gatehouse.quotas.take_for_subject(scope, subject)
        return subject

    async def _outcome(self, operation: Operation, subject: str | None, command: Any, wait_seconds: float) -> Any:
        if operation.outside_unit is not None and subject is None:
            return _outside_unit(operation.outside_unit, command)

        async def body(work: UnitOfWork) -> Any:
            return await _through_the_gate(work, operation, subject, command)

        if operation.writes:
            outcome = await self._gatehouse.store.write(body)
        elif wait_seconds > 0:
            outcome = await self._wait(body, command.task_id, wait_seconds)
        else:
            outcome = await self._gatehouse.store.read(body)
        if isinstance(outcome, Refusal):
            raise outcome
        return outcome

    async def _wait(self, body: Any, task_id: str, wait_seconds: float) -> Any:
        """Look, wait outside any unit, and look again, authorised anew each time."""
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_seconds
        with self._gatehouse.wakeups.watch(task_id) as changed:
            while True:
                standing = await self._gatehouse.store.read(body)
                left = end - loop.time()
                if standing.task.status.is_ended or left <= 0 or self._gatehouse.wakeups.is_stopping:
                    return standing
                await _set_within(changed, min(left, POLL_SECONDS))


class AnswerGuard:
    """The second line: looks at every answer and withholds one below 400 that no gate has passed (fact 27)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back if it may leave."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400 and not scope.get(PASSED):
                raise Ungated
            await send(message)

        await self._app(scope, receive, guarded)


async def _through_the_gate(work: UnitOfWork, operation: Operation, subject: str | None, command: Any) -> Any:
    actor = await _actor(work, operation, subject)
    if isinstance(command, _Unread):
        raise command.refusal
    handle = operation.handle
    if handle is None:
        raise Defect("An operation that does nothing inside a unit was let in.")
    if operation.writes:
        return await work.protect(lambda: handle(work, actor, command))
    return await handle(work, actor, command)


def _outside_unit(answer: Callable[[], Any], command: Any) -> Any:
    if isinstance(command, _Unread):
        raise command.refusal
    return answer()


async def _actor(work: UnitOfWork, operation: Operation, subject: str | None) -> Actor | None:
    requirements = operation.requirements
    if isinstance(requirements, Public):
        return None if subject is None else await authorise(work, subject, _ANYBODY_KNOWN)
    if subject is None:
        raise Defect("A caller without a subject came to a gate that needs one.")
    return await authorise(work, subject, requirements)


def _read(operation: Operation, incoming: Incoming) -> Any:
    try:
        return operation.read(incoming)
    except Refusal as refusal:
        return _Unread(refusal)


def _wait_seconds(operation: Operation, command: Any) -> float:
    if operation.wait_seconds is None or isinstance(command, _Unread):
        return 0.0
    return operation.wait_seconds(command)


async def _set_within(changed: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return
    changed.clear()
