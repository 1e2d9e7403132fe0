"""The guard: carries a request through the gate in one unit, and withholds whatever the gate has not passed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.domain.users import Role
from app.errors import (
    BadSignature,
    CabinetError,
    DeadlinePassed,
    Defect,
    MethodNotAllowed,
    Refusal,
    RequestTimeout,
    Ungated,
)
from app.ids import is_id
from app.log import bound, event, request_id
from app.security.actor import Actor
from app.security.authentication import Authentication, says_who
from app.security.denials import Denial, Denials
from app.security.gate import Caller, Public, Requirements, admit, admit_again, authorise
from app.security.signatures import SignedRequest, is_signed
from app.unit import Store, UnitOfWork
from app.wakeups import Wakeups
from app.web.envelope import DENIALS, ROUTE, TASK_ID
from app.web.incoming import Incoming, read_body, single_header
from app.web.operations import Operation
from app.web.quotas import Quotas

PASSED = "cabinet.passed"
"""The key in the scope under which the gate says that it let the request through."""

CALLER = "cabinet.caller"
"""The key in the scope under which lies who authenticated."""

POLL_SECONDS = 2.0
"""How often somebody who waits looks at the database even if nothing wakes them."""

Look = Callable[[], Awaitable[Any]]

_IDENTIFYING = Public(identify=True)
_ANYBODY_KNOWN = Requirements(scope=None, role=Role.USER)
_AUTHORIZATION = b"authorization"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gatehouse:
    """What the guard of every path needs."""

    store: Store
    authentication: Authentication
    denials: Denials
    quotas: Quotas
    wakeups: Wakeups
    body_limit_bytes: int
    timeout_seconds: float
    receive_timeout_seconds: float


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
        try:
            response = await self._respond(operation, scope, receive)
        except DENIALS as denial:
            await self._keep_denial(denial, operation, scope)
            raise
        scope[PASSED] = True
        await response(scope, receive, send)

    async def _respond(self, operation: Operation, scope: Scope, receive: Receive) -> Response:
        is_limited = _is_limited(operation, scope)
        if is_limited:
            self._gatehouse.quotas.take_for_client(scope)
        if operation.writes and isinstance(operation.requirements, Public):
            self._gatehouse.quotas.take_for_asking(scope)
        longest = self._gatehouse.receive_timeout_seconds
        deadline = asyncio.timeout(min(operation.receive_timeout_seconds or longest, longest))
        incoming = None
        try:
            async with deadline:
                await self._look_at_head(operation, scope)
                limit_bytes = operation.body_limit_bytes or self._gatehouse.body_limit_bytes
                incoming = Incoming(scope, await read_body(scope, receive, limit_bytes=limit_bytes))
                self._gatehouse.quotas.begin(is_limited=is_limited)
                try:
                    with bound(task=scope[TASK_ID]) if TASK_ID in scope else nullcontext():
                        return await self._answer(operation, incoming, scope, deadline)
                finally:
                    self._gatehouse.quotas.end()
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise (RequestTimeout if incoming is None else DeadlinePassed) from error

    async def _answer(
        self, operation: Operation, incoming: Incoming, scope: Scope, deadline: asyncio.Timeout
    ) -> Response:
        begun = asyncio.get_running_loop().time()
        timeout_seconds = operation.timeout_seconds or self._gatehouse.timeout_seconds
        deadline.reschedule(begun + timeout_seconds)
        caller = await self._authenticate(operation, incoming, scope)
        command = _read(operation, incoming)
        wait_seconds = _wait_seconds(operation, command)
        if wait_seconds > 0:
            scope[ROUTE] = f"{operation.path}?wait"
            deadline.reschedule(begun + timeout_seconds + wait_seconds)
        outcome = await self._outcome(operation, caller, command, wait_seconds)
        if operation.task_of is not None:
            scope[TASK_ID] = operation.task_of(outcome)
        if operation.tell is not None and caller is not None:
            name, fields = operation.tell(command, outcome)
            event(_log, logging.INFO, name, subject=caller.subject, **fields)
        if operation.wakes is not None:
            operation.wakes(self._gatehouse.wakeups, outcome)
        return operation.render(outcome, incoming)

    async def _look_at_head(self, operation: Operation, scope: Scope) -> None:
        """Refuse whoever cannot be let in whatever their body says, before there is memory for a body."""
        authorization = single_header(scope["headers"], _AUTHORIZATION)
        if not _is_asked(operation, scope):
            return
        if is_signed(scope["headers"]):
            await self._gatehouse.authentication.check_head(scope["headers"])
        else:
            caller = await self._gatehouse.authentication.by_token(authorization, request_id.get())
            self._known(operation, scope, caller)

    async def _authenticate(self, operation: Operation, incoming: Incoming, scope: Scope) -> Caller | None:
        """Return who the head has named already, or whose signature is good for head and body."""
        if CALLER not in scope and _is_asked(operation, scope):
            signed = SignedRequest(
                method=scope["method"],
                path=scope["raw_path"],
                query=scope["query_string"],
                headers=scope["headers"],
                body=incoming.body,
            )
            caller = await self._gatehouse.authentication.by_signature(signed, request_id.get())
            self._known(operation, scope, caller)
        return scope.get(CALLER)

    def _known(self, operation: Operation, scope: Scope, caller: Caller) -> None:
        scope[CALLER] = caller
        if _is_limited(operation, scope):
            self._gatehouse.quotas.take_for_subject(scope, caller.subject)

    async def _outcome(self, operation: Operation, caller: Caller | None, command: Any, wait_seconds: float) -> Any:
        if operation.outside_unit is not None and caller is None:
            return _outside_unit(operation.outside_unit, command)
        is_signed = caller is not None and caller.signed_by is not None

        async def body(work: UnitOfWork) -> Any:
            if caller is not None:
                await admit(work, caller)
            if is_signed:  # the nonce outlives a refusal
                return await work.protect(lambda: _through_the_gate(work, operation, caller, command))
            return await _through_the_gate(work, operation, caller, command)

        async def look() -> Any:
            run = self._gatehouse.store.write if operation.writes or is_signed else self._gatehouse.store.read
            outcome = await run(body)
            if isinstance(outcome, Refusal):
                raise outcome
            return outcome

        async def body_again(work: UnitOfWork) -> Any:
            if caller is not None:
                await admit_again(work, caller)
            return await _through_the_gate(work, operation, caller, command)

        if wait_seconds > 0:
            subject = "" if caller is None else caller.subject
            again = partial(self._gatehouse.store.read, body_again)
            return await self._wait(subject, command.task_id, wait_seconds, look, again)
        return await look()

    async def _wait(self, subject: str, task_id: str, wait_seconds: float, look: Look, again: Look) -> Any:
        """Look, wait outside any unit, and look again, admitted and authorised anew each time."""
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_seconds
        with self._gatehouse.wakeups.watch(task_id) as changed, self._gatehouse.quotas.waiting(subject):
            seen = await look()
            while True:
                left = end - loop.time()
                if seen.task.status.is_ended or left <= 0 or self._gatehouse.wakeups.is_stopping:
                    return seen
                await _set_within(changed, min(left, POLL_SECONDS))
                seen = await again()

    async def _keep_denial(self, error: CabinetError, operation: Operation, scope: Scope) -> None:
        caller: Caller | None = scope.get(CALLER)
        if isinstance(error, BadSignature):
            event(_log, logging.INFO, "signature_refused", reason=error.reason)
            if caller is not None:  # whoever recorded a request shall not use up what its sender may send
                self._gatehouse.quotas.give_back_to_subject(caller.subject)
        path_id = scope["path_params"].get("id", "")
        denial = Denial(
            error=error,
            caller=caller,
            request_id=request_id.get(),
            route=f"{operation.method} {operation.path}",
            path_id=path_id if is_id(path_id) else None,
        )
        await self._gatehouse.denials.keep(denial)


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


async def _through_the_gate(work: UnitOfWork, operation: Operation, caller: Caller | None, command: Any) -> Any:
    actor = await _actor(work, operation, caller)
    if isinstance(command, _Unread):
        raise command.refusal
    if operation.handle is None:
        raise Defect("An operation that does nothing inside a unit was let in.")
    return await operation.handle(work, actor, command)


def _outside_unit(answer: Callable[[], Any], command: Any) -> Any:
    if isinstance(command, _Unread):
        raise command.refusal
    return answer()


async def _actor(work: UnitOfWork, operation: Operation, caller: Caller | None) -> Actor | None:
    requirements = operation.requirements
    if isinstance(requirements, Public):
        return None if caller is None else await authorise(work, caller, _ANYBODY_KNOWN)
    if caller is None:
        raise Defect("Nobody came to a gate that needs somebody.")
    return await authorise(work, caller, requirements)


def _is_limited(operation: Operation, scope: Scope) -> bool:
    """Tell whether the limits hold; where they do not, they do for whoever wants to be identified."""
    return operation.is_rate_limited or _is_identified(operation, scope)


def _is_asked(operation: Operation, scope: Scope) -> bool:
    """Tell whether it matters who calls."""
    return isinstance(operation.requirements, Requirements) or _is_identified(operation, scope)


def _is_identified(operation: Operation, scope: Scope) -> bool:
    return operation.requirements == _IDENTIFYING and says_who(scope["headers"])


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
