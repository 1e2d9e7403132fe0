"""A town: everybody and everything that the security matrix needs on a real server, made over its API."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from app.domain.scopes import ALL_SCOPES
from app.domain.users import Role
from app.ids import new_id
from app.security.gate import Requirements
from tests.support.forgeries import Hands
from tests.support.routes import GUARDED, Line, control_of, requirements_of
from tests.support.signers import Message, Signer, public_text
from tests.web.asking import bearer, claims

WAYS = ("bearer", "signature")
"""How requests say who sends them; the controls of each have things of their own to act upon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A user whom an access request with a key let in."""

    id: str
    subject: str
    signer: Signer

    def bearer(self) -> dict[str, str]:
        """Return the header with a token."""
        return bearer(claims(self.subject))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """The callers for lines that require the same: who passes, whose second key is revoked, and who lacks something."""

    fitting: Person
    revoked: Signer
    others: Mapping[str, Person]

    @property
    def hands(self) -> Hands:
        """What a forger has."""
        return Hands(
            subject=self.fitting.subject,
            fitting=self.fitting.signer,
            revoked=self.revoked,
            other=self.others["lowly"].signer,
        )


@dataclass(slots=True)
class Town:
    """Everybody and everything that the matrix needs, made by a super_admin over the API."""

    root: httpx2.AsyncClient
    casts: dict[Requirements, Cast] = field(default_factory=dict)
    ids: dict[tuple[Line, str], str] = field(default_factory=dict)
    """What a line's path names, for each way to send it."""

    async def populate(self) -> None:
        """Let everybody in, with every scope as yet, and leave dead letters behind."""
        lowly = await self._let_in("lowly", Role.USER, ALL_SCOPES)
        inactive = {}
        for role in {requirements_of(line).role for line in GUARDED}:
            inactive[role] = await self._let_in(f"inactive:{role}", role, ALL_SCOPES)
            await self._ask("PATCH", f"/v1/users/{inactive[role].id}", {"is_active": False})
        for needs in dict.fromkeys(requirements_of(line) for line in GUARDED):
            exactly = frozenset() if needs.scope is None else frozenset({needs.scope})
            fitting = await self._let_in(f"fitting:{needs.role}:{needs.scope}", needs.role, ALL_SCOPES)
            scopeless = await self._let_in(f"scopeless:{needs.role}:{needs.scope}", needs.role, ALL_SCOPES - exactly)
            others = {"lowly": lowly, "inactive": inactive[needs.role], "scopeless": scopeless}
            self.casts[needs] = Cast(fitting=fitting, revoked=await self._revoked_key(fitting), others=others)
        for line in GUARDED:
            if control_of(line).of == "task":
                for way in WAYS:
                    self.ids[line, way] = await self._task(line)
        for task in self.ids.values():
            assert (await self._ask("GET", f"/v1/tasks/{task}?wait=20"))["status"] == "failed"

    async def furnish(self) -> None:
        """Make what else the paths name, and leave those who pass the one scope that they need."""
        for line in GUARDED:
            for way in WAYS if control_of(line).of not in ("", "task") else ():
                self.ids[line, way] = await self._thing(line)
        for needs, cast in self.casts.items():
            scopes = [] if needs.scope is None else [needs.scope]
            await self._ask("PATCH", f"/v1/users/{cast.fitting.id}", {"scopes": scopes})

    def cast(self, line: Line) -> Cast:
        """Return the callers for a line."""
        return self.casts[requirements_of(line)]

    def message(self, line: Line, way: str = "bearer") -> Message:
        """Return the request of a line that passes but for saying who sends it."""
        control = control_of(line)
        body = b"" if control.body is None else json.dumps(control.body).encode()
        headers = dict(control.headers or {}) | ({"Content-Type": "application/json"} if body else {})
        target = re.sub(r"\{[a-z]+\}", self.ids.get((line, way), ""), line[1])
        return Message(method=line[0], target=target, headers=tuple(headers.items()), body=body)

    async def _ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        answer = await self.root.request(method, path, headers=headers, **({} if body is None else {"json": body}))
        assert answer.is_success, answer.text
        return answer.json()

    async def _let_in(self, subject: str, role: Role, scopes: frozenset[str]) -> Person:
        signer = Signer(key_id="")
        asked = {"requested_by": subject, "public_key": public_text(signer.private_key)}
        request = (await self._ask("POST", "/v1/access-requests", asked))["id"]
        granted = {"role": role, "scopes": sorted(scopes)}
        user = (await self._ask("POST", f"/v1/access-requests/{request}/approve", granted))["user"]
        return Person(id=user["id"], subject=subject, signer=Signer(key_id=request, private_key=signer.private_key))

    async def _revoked_key(self, person: Person) -> Signer:
        signer = Signer(key_id="")
        key = await self._key(person, public_text(signer.private_key))
        await self._ask("DELETE", f"/v1/keys/{key}")
        return Signer(key_id=key, private_key=signer.private_key)

    async def _key(self, person: Person, public_key: str) -> str:
        body = {"user_id": person.id, "public_key": public_key, "name": "another one"}
        return str((await self._ask("POST", "/v1/keys", body))["id"])

    async def _task(self, line: Line) -> str:
        headers = {**self.cast(line).fitting.bearer(), "Idempotency-Key": new_id()}
        return str((await self._ask("POST", "/v1/tasks", {"payload": {}}, **headers))["id"])

    async def _thing(self, line: Line) -> str:
        match control_of(line).of:
            case "stage":
                return "parse"
            case "waiting task":
                return await self._task(line)
            case "rescue":
                rescue = {"reason": "mended", "dry_run": False}
                return str((await self._ask("POST", "/v1/dead-letters/rescues", rescue))["rescue"]["id"])
            case "access request":
                return str((await self._ask("POST", "/v1/access-requests", {"requested_by": f"asks:{new_id()}"}))["id"])
            case "user":
                return (await self._let_in(f"target:{new_id()}", Role.USER, frozenset())).id
            case "key":
                return await self._key(self.cast(line).fitting, public_text(Signer(key_id="").private_key))
            case of:
                raise AssertionError(f"nobody knows how to make a {of}")
