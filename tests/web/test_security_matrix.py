"""The security matrix: every route of the real table against every way of not being allowed, and one that is."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import httpx2
import pytest
from starlette.routing import Route

from app.domain.dead_letters import DeadLetterFilter, RescueTerms
from app.domain.scopes import ALL_SCOPES
from app.domain.tasks import CreateTask
from app.domain.users import Role
from app.ids import new_id
from app.main import Container
from app.pipelines import Context, Fail, Pipeline, Stage
from app.security.actor import Actor
from app.security.gate import Public, Requirements
from app.services import access, dead_letters, tasks
from app.services.access import Ask
from app.services.dead_letters import StartRescue
from app.unit import UnitOfWork
from app.web.guard import GuardedPath
from app.web.operations import Operation
from tests.support.house import House, house_settings, open_house
from tests.web.asking import bearer, claims, rows

Verdict = tuple[int, str | None]


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
    ("GET", "/health"): Control(),
    ("GET", "/version"): Control(),
    ("GET", "/ready"): Control(),
}


def real_table() -> dict[tuple[str, str], Operation]:
    """Return every operation that the application answers, taken from its routes."""
    table = {}
    container = Container(house_settings(Path("never-opened")), pipeline=broken_pipeline())
    for route in container.application().routes:
        assert isinstance(route, Route)
        assert isinstance(route.endpoint, GuardedPath)
        for method in sorted(route.methods or ()):
            table[method, route.path] = route.endpoint.operations[method]
    return table


def broken_pipeline() -> Pipeline:
    """Return a stage that makes dead letters at once."""

    async def handler(_context: Context) -> None:
        raise Fail("broken", "This never works.")

    return Pipeline([Stage("parse", handler)])


TABLE = real_table()
GUARDED = [line for line, operation in TABLE.items() if isinstance(operation.requirements, Requirements)]
PUBLIC = [line for line, operation in TABLE.items() if isinstance(operation.requirements, Public)]


class Scene:
    """A house with a task, an access request, a user to act upon, and callers who lack one thing each."""

    def __init__(self, house: House, line: tuple[str, str]) -> None:
        self.house = house
        self.line = line
        self.operation = TABLE[line]
        self.control = CONTROLS["GET" if line[0] == "HEAD" else line[0], line[1]]
        self.ids: dict[str, str] = {"": "", "stage": "parse"}

    @property
    def needs(self) -> Requirements:
        """What the route requires."""
        assert isinstance(self.operation.requirements, Requirements)
        return self.operation.requirements

    async def furnish(self) -> None:
        """Let everybody in and make what the paths name."""
        exactly = frozenset() if self.needs.scope is None else frozenset({self.needs.scope})
        caller = await self.house.let_in("fitting", self.needs.role, scopes=exactly)
        await self.house.let_in("inactive", self.needs.role, scopes=ALL_SCOPES, is_active=False)
        await self.house.let_in("scopeless", self.needs.role, scopes=ALL_SCOPES - exactly)
        await self.house.let_in("lowly", Role.USER, scopes=ALL_SCOPES)
        self.ids["user"] = (await self.house.let_in("target", scopes=frozenset())).id
        actor = Actor(id=caller.id, subject=caller.subject, role=caller.role, scopes=caller.scopes)
        self.ids["task"] = await self.house.store.write(lambda work: _make_task(work, actor))
        await self.house.container.worker().step()
        self.ids["waiting task"] = await self.house.store.write(lambda work: _make_task(work, actor))
        self.ids["access request"] = await self.house.store.write(_make_access_request)
        self.ids["rescue"] = await self.house.store.write(lambda work: _start_rescue(work, actor))

    async def send(self, headers: Mapping[str, str], **changes: Any) -> httpx2.Response:
        """Send the control request with these headers for identity."""
        method, path = self.line
        path = re.sub(r"\{[a-z]+\}", self.ids[self.control.of], path)
        body = None if self.control.body is None else dict(self.control.body)
        return await self.house.client.request(
            method, path, headers={**headers, **(self.control.headers or {})}, **({"json": body} | changes)
        )

    async def verdict(self, headers: Mapping[str, str]) -> Verdict:
        """Return the status, and the code unless the method is HEAD, which has no body."""
        answer = await self.send(headers)
        return answer.status_code, None if self.line[0] == "HEAD" else answer.json()["code"]


async def _make_task(work: UnitOfWork, actor: Actor) -> str:
    command = CreateTask.of(task_id=new_id(), idem_key=new_id(), reference=None, payload={}, first_stage="parse")
    created = await tasks.create(work, actor, command)
    return created.task.id


async def _make_access_request(work: UnitOfWork) -> str:
    asked = await access.ask(work, Ask(request_id=new_id(), requested_by="asking", reason=None))
    return asked.id


async def _start_rescue(work: UnitOfWork, actor: Actor) -> str:
    command = StartRescue(
        rescue_id=new_id(),
        wanted=DeadLetterFilter(),
        terms=RescueTerms(),
        reason="mended",
        is_dry_run=False,
        shape=broken_pipeline().shape,
    )
    await dead_letters.start_rescue(work, actor, command)
    return command.rescue_id


def bad_identities() -> dict[str, dict[str, str]]:
    """Return everything that does not say who calls."""
    now = int(time.time())
    good = bearer(claims("fitting"))["Authorization"]
    head, middle, signature = good.split(".")
    forged = signature[:-4] + ("AAAA" if not signature.endswith("AAAA") else "BBBB")
    return {
        "no token": {},
        "empty": {"Authorization": ""},
        "no scheme": {"Authorization": good.removeprefix("Bearer ")},
        "other scheme": {"Authorization": good.replace("Bearer", "Basic")},
        "scheme alone": {"Authorization": "Bearer"},
        "not a token": {"Authorization": "Bearer a.b.c"},
        "two parts": {"Authorization": f"{head}.{middle}"},
        "token twice": {"Authorization": f"{good} {good}"},
        "signature forged": {"Authorization": f"{head}.{middle}.{forged}"},
        "signature missing": {"Authorization": f"{head}.{middle}."},
        "other secret": bearer(claims("fitting"), secret="other-secret-" + "y" * 32),
        "algorithm none": bearer(claims("fitting"), algorithm="none"),
        "algorithm HS512": bearer(claims("fitting"), secret="test-secret-" + "x" * 64, algorithm="HS512"),
        "wrong issuer": bearer(claims("fitting", iss="other")),
        "wrong audience": bearer(claims("fitting", aud="other")),
        **{f"no {name}": bearer(claims("fitting", **{name: None})) for name in claims("fitting")},
        "not a subject": bearer(claims("white space")),
        "expired": bearer(claims("fitting", iat=now - 100, exp=now - 1)),
        "issued in the future": bearer(claims("fitting", iat=now + 60)),
        "expires before it was issued": bearer(claims("fitting", iat=now + 4, exp=now + 3)),
        "lives too long": bearer(claims("fitting", iat=now, exp=now + 2_592_001)),
        "times that are texts": bearer(claims("fitting", exp=str(now + 100))),
        "times that are fractions": bearer(claims("fitting", exp=now + 100.5)),
    }  # fmt: skip


def lacking(scene: Scene) -> dict[str, tuple[str, Verdict]]:
    """Return the callers who are known to lack something for this route, and what they are told."""
    found: dict[str, tuple[str, Verdict]] = {
        "unknown subject": ("stranger", (403, "unknown_subject")),
        "inactive user": ("inactive", (403, "inactive_user")),
    }
    if scene.needs.scope is not None:
        found["scope missing"] = ("scopeless", (403, "scope_missing"))
    if scene.needs.role is not Role.USER:
        found["role too low"] = ("lowly", (403, "role_too_low"))
    elif scene.control.of in ("task", "waiting task"):
        found["foreign task"] = ("lowly", (404, "not_found"))
    return found


def test_every_route_has_a_control_request_and_every_control_request_a_route() -> None:
    assert set(CONTROLS) == {line for line in TABLE if line[0] != "HEAD"}
    assert {path for method, path in TABLE if method == "HEAD"} == {path for method, path in TABLE if method == "GET"}


def test_only_these_routes_are_public() -> None:
    assert set(PUBLIC) == {
        ("POST", "/v1/access-requests"),
        *((method, path) for method in ("GET", "HEAD") for path in ("/health", "/version", "/ready")),
    }


@pytest.mark.parametrize("line", GUARDED, ids=" ".join)
async def test_a_guarded_route_lets_in_exactly_whom_it_should(tmp_path: Path, line: tuple[str, str]) -> None:
    async with open_house(tmp_path, pipeline=broken_pipeline()) as house:
        scene = Scene(house, line)
        await scene.furnish()
        before = rows(house)
        expected: dict[str, Verdict] = dict.fromkeys(bad_identities(), (401, "not_authenticated"))
        expected |= {name: verdict for name, (_, verdict) in lacking(scene).items()}
        if line[0] == "HEAD":
            expected = {name: (status, None) for name, (status, _) in expected.items()}

        verdicts = {name: await scene.verdict(headers) for name, headers in bad_identities().items()}
        verdicts |= {
            name: await scene.verdict(bearer(claims(subject))) for name, (subject, _) in lacking(scene).items()
        }
        after = rows(house)
        passed = await scene.send(bearer(claims("fitting")))

        assert verdicts == expected
        assert after == before
        assert passed.status_code == scene.control.passes, passed.text


@pytest.mark.parametrize("line", GUARDED, ids=" ".join)
async def test_a_guarded_route_takes_no_content_from_strangers(tmp_path: Path, line: tuple[str, str]) -> None:
    async with open_house(tmp_path, pipeline=broken_pipeline()) as house:
        scene = Scene(house, line)
        await scene.furnish()
        callers: dict[str, dict[str, str]] = {"nobody": {}, "unknown": bearer(claims("stranger"))}
        callers["scopeless"] = bearer(claims("scopeless"))

        answers = {
            name: await scene.send(headers, content=b"{", params={"unknown": "field"})
            for name, headers in callers.items()
        }

        assert {name: answer.status_code for name, answer in answers.items()} == {
            "nobody": 401,
            "unknown": 403,
            "scopeless": 403 if scene.needs.scope else 422,
        }


@pytest.mark.parametrize("line", [line for line in GUARDED if line[0] in ("GET", "HEAD")], ids=" ".join)
async def test_what_only_reads_gets_along_without_a_unit_that_writes(
    tmp_path: Path, line: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_house(tmp_path, pipeline=broken_pipeline()) as house:
        scene = Scene(house, line)
        await scene.furnish()
        writing = AsyncMock(side_effect=AssertionError("nothing is to be written"))
        monkeypatch.setattr(house.store, "write", writing)

        answer = await scene.send(bearer(claims("fitting")))

        assert (answer.status_code, writing.await_count) == (200, 0), answer.text
        assert (answer.content == b"") == (line[0] == "HEAD")


@pytest.mark.parametrize("line", PUBLIC, ids=" ".join)
async def test_a_public_route_lets_anybody_in(tmp_path: Path, line: tuple[str, str]) -> None:
    async with open_house(tmp_path) as house:
        scene = Scene(house, line)

        answer = await scene.send({})

        assert answer.status_code == scene.control.passes


@pytest.mark.parametrize("line", [line for line in PUBLIC if line[1] == "/ready"], ids=" ".join)
async def test_a_public_route_that_identifies_refuses_whoever_it_cannot_identify(
    tmp_path: Path, line: tuple[str, str]
) -> None:
    async with open_house(tmp_path) as house:
        scene = Scene(house, line)
        await house.let_in("inactive", is_active=False)
        bad = {name: headers for name, headers in bad_identities().items() if headers}

        unidentified = {name: (await scene.send(headers)).status_code for name, headers in bad.items()}
        unknown = await scene.send(bearer(claims("stranger")))
        inactive = await scene.send(bearer(claims("inactive")))

        assert unidentified == dict.fromkeys(bad, 401)
        assert (unknown.status_code, inactive.status_code) == (403, 403)
