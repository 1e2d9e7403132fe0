"""The security matrix in this process: every route of the real table against every way of not being allowed."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import httpx2
import pytest

from app.domain.dead_letters import DeadLetterFilter, RescueTerms
from app.domain.scopes import ALL_SCOPES
from app.domain.tasks import CreateTask
from app.domain.users import Role
from app.ids import new_id
from app.security.actor import Actor
from app.security.gate import Requirements
from app.services import access, dead_letters, keys, tasks
from app.services.access import Ask
from app.services.dead_letters import StartRescue
from app.services.keys import AddKey
from app.unit import UnitOfWork
from tests.support.forgeries import bad_identities
from tests.support.house import House, open_house
from tests.support.routes import (
    CONTROLS,
    GUARDED,
    PUBLIC,
    PUBLIC_KEY,
    TABLE,
    Line,
    Verdict,
    as_seen,
    broken,
    control_of,
    lacking,
    requirements_of,
)
from tests.web.asking import bearer, claims, rows


class Scene:
    """A house with a task, an access request, a user to act upon, and callers who lack one thing each."""

    def __init__(self, house: House, line: Line) -> None:
        self.house = house
        self.line = line
        self.control = control_of(line)
        self.ids: dict[str, str] = {"": "", "stage": "parse"}

    @property
    def needs(self) -> Requirements:
        """What the route requires."""
        return requirements_of(self.line)

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
        self.ids["key"] = await self.house.store.write(lambda work: _add_key(work, actor))
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


async def _add_key(work: UnitOfWork, actor: Actor) -> str:
    command = AddKey(key_id=new_id(), user_id=None, public_key=PUBLIC_KEY, name="the old one")
    return (await keys.add(work, actor, command)).id


async def _start_rescue(work: UnitOfWork, actor: Actor) -> str:
    command = StartRescue(
        rescue_id=new_id(),
        wanted=DeadLetterFilter(),
        terms=RescueTerms(),
        reason="mended",
        is_dry_run=False,
        shape=broken.shape,
    )
    await dead_letters.start_rescue(work, actor, command)
    return command.rescue_id


def test_every_route_has_a_control_request_and_every_control_request_a_route() -> None:
    assert set(CONTROLS) == {line for line in TABLE if line[0] != "HEAD"}
    assert {path for method, path in TABLE if method == "HEAD"} == {path for method, path in TABLE if method == "GET"}


def test_only_these_routes_are_public() -> None:
    assert set(PUBLIC) == {
        ("POST", "/v1/access-requests"),
        *((method, path) for method in ("GET", "HEAD") for path in ("/health", "/version", "/ready")),
    }


@pytest.mark.parametrize("line", GUARDED, ids=" ".join)
async def test_a_guarded_route_lets_in_exactly_whom_it_should(tmp_path: Path, line: Line) -> None:
    async with open_house(tmp_path, pipeline=broken) as house:
        scene = Scene(house, line)
        await scene.furnish()
        before = rows(house)
        forged = bad_identities("fitting")
        expected = dict.fromkeys(forged, as_seen(line, (401, "not_authenticated")))
        expected |= {name: as_seen(line, verdict) for name, (_, verdict) in lacking(line).items()}

        verdicts = {name: await scene.verdict(headers) for name, headers in forged.items()}
        verdicts |= {name: await scene.verdict(bearer(claims(subject))) for name, (subject, _) in lacking(line).items()}
        after = rows(house)
        passed = await scene.send(bearer(claims("fitting")))

        assert verdicts == expected
        assert after == before
        assert passed.status_code == scene.control.passes, passed.text


@pytest.mark.parametrize("line", GUARDED, ids=" ".join)
async def test_a_guarded_route_takes_no_content_from_strangers(tmp_path: Path, line: Line) -> None:
    async with open_house(tmp_path, pipeline=broken) as house:
        scene = Scene(house, line)
        await scene.furnish()
        callers: dict[str, dict[str, str]] = {"nobody": {}, "unknown": bearer(claims("stranger"))}
        callers["scopeless"] = bearer(claims("scopeless"))

        statuses = {
            name: (await scene.send(headers, content=b"{", params={"unknown": "field"})).status_code
            for name, headers in callers.items()
        }

        assert (statuses["nobody"], statuses["unknown"]) == (401, 403)
        assert statuses["scopeless"] in ([403] if scene.needs.scope else [415, 422])


@pytest.mark.parametrize("line", [line for line in GUARDED if line[0] in ("GET", "HEAD")], ids=" ".join)
async def test_what_only_reads_gets_along_without_a_unit_that_writes(
    tmp_path: Path, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_house(tmp_path, pipeline=broken) as house:
        scene = Scene(house, line)
        await scene.furnish()
        writing = AsyncMock(side_effect=AssertionError("nothing is to be written"))
        monkeypatch.setattr(house.store, "write", writing)

        answer = await scene.send(bearer(claims("fitting")))

        assert (answer.status_code, writing.await_count) == (200, 0), answer.text
        assert (answer.content == b"") == (line[0] == "HEAD")


@pytest.mark.parametrize("line", PUBLIC, ids=" ".join)
async def test_a_public_route_lets_anybody_in(tmp_path: Path, line: Line) -> None:
    async with open_house(tmp_path) as house:
        scene = Scene(house, line)

        answer = await scene.send({})

        assert answer.status_code == scene.control.passes


@pytest.mark.parametrize("line", [line for line in PUBLIC if line[1] == "/ready"], ids=" ".join)
async def test_a_public_route_that_identifies_refuses_whoever_it_cannot_identify(tmp_path: Path, line: Line) -> None:
    async with open_house(tmp_path) as house:
        scene = Scene(house, line)
        await house.let_in("inactive", is_active=False)
        bad = {name: headers for name, headers in bad_identities("fitting").items() if "Authorization" in headers}

        unidentified = {name: (await scene.send(headers)).status_code for name, headers in bad.items()}
        unknown = await scene.send(bearer(claims("stranger")))
        inactive = await scene.send(bearer(claims("inactive")))

        assert unidentified == dict.fromkeys(bad, 401)
        assert (unknown.status_code, inactive.status_code) == (403, 403)
