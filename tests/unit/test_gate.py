"""The gate: its steps and their order, and that whatever it did not foresee denies."""

from typing import Any, cast

import pytest

from app.clock import Timestamp
from app.domain.users import Role, User
from app.errors import (
    Defect,
    GateFailed,
    InactiveUser,
    RoleTooLow,
    ScopeMissing,
    StorageBusy,
    TooManyRequests,
    UnknownSubject,
)
from app.metrics import Metrics
from app.security.actor import Actor
from app.security.gate import (
    STEPS,
    Caller,
    Passage,
    Public,
    Requirements,
    Step,
    authorise,
    known_and_active,
    role_allows,
)
from app.unit import UnitOfWork
from app.web.application import build
from app.web.guard import Gatehouse
from app.web.operations import Operation, RouteTable

ADMIN_WHO_READS = Requirements(scope="users.read", role=Role.ADMIN)
MOMENT = Timestamp("2026-11-22T20:19:00.000000Z")


class Users:
    """A repository that knows at most one user."""

    def __init__(self, user: User | None) -> None:
        self._user = user

    async def by_subject(self, subject: str) -> User | None:
        """Return the user if that is their subject."""
        return self._user if self._user is not None and self._user.subject == subject else None


class Work:
    """As much of a unit as the gate needs."""

    def __init__(self, user: User | None) -> None:
        self.users = Users(user)


def user(*, role: Role = Role.ADMIN, scopes: frozenset[str] = frozenset({"users.read"}), active: bool = True) -> User:
    """Make the user anna."""
    return User(
        id="id", subject="anna", role=role, scopes=scopes, is_active=active, created_at=MOMENT, updated_at=MOMENT
    )


async def pass_gate(known: User | None, subject: str = "anna", **more: Any) -> Actor:
    """Send somebody through the gate."""
    return await authorise(cast("UnitOfWork", Work(known)), Caller(subject=subject), ADMIN_WHO_READS, **more)


async def test_who_has_all_that_is_required_becomes_the_actor() -> None:
    actor = await pass_gate(user())

    assert actor == Actor(id="id", subject="anna", role=Role.ADMIN, scopes=frozenset({"users.read"}))


@pytest.mark.parametrize(
    ("known", "told"),
    [
        (None, UnknownSubject),
        (user(active=False, role=Role.USER, scopes=frozenset()), InactiveUser),
        (user(role=Role.USER, scopes=frozenset()), RoleTooLow),
        (user(scopes=frozenset({"tasks.read"})), ScopeMissing),
    ],
)
async def test_who_lacks_several_things_is_told_the_first(known: User | None, told: type[Exception]) -> None:
    with pytest.raises(told):
        await pass_gate(known)


async def test_a_higher_role_does_not_replace_a_scope() -> None:
    with pytest.raises(ScopeMissing):
        await pass_gate(user(role=Role.SUPER_ADMIN, scopes=frozenset()))


async def test_subjects_are_told_apart_by_case() -> None:
    with pytest.raises(UnknownSubject):
        await pass_gate(user(), "Anna")


async def test_the_steps_run_in_their_order_and_stop_at_the_first_that_denies() -> None:
    ran = []

    def step(name: str, error: Exception | None = None) -> Step:
        async def run(_work: UnitOfWork, _passage: Passage) -> None:
            ran.append(name)
            if error is not None:
                raise error

        return run

    with pytest.raises(TooManyRequests):
        await pass_gate(user(), steps=(*STEPS, step("one"), step("two", TooManyRequests(1)), step("three")))

    assert ran == ["one", "two"]
    assert [each.__name__ for each in STEPS] == ["known_and_active", "role_allows", "scope_allows"]


@pytest.mark.parametrize(
    "unforeseen", [ValueError("secret"), KeyError("x"), Defect("bug"), AssertionError(), OSError()]
)
async def test_a_step_that_raises_something_unforeseen_denies(unforeseen: Exception) -> None:
    async def broken(_work: UnitOfWork, _passage: Passage) -> None:
        raise unforeseen

    with pytest.raises(GateFailed) as caught:
        await pass_gate(user(), steps=(known_and_active, broken))

    assert caught.value.__cause__ is unforeseen
    assert (caught.value.status, caught.value.code) == (503, "gate_failed")
    assert "secret" not in caught.value.message


async def test_a_database_that_is_busy_says_so_and_denies() -> None:
    async def busy(_work: UnitOfWork, _passage: Passage) -> None:
        raise StorageBusy

    with pytest.raises(StorageBusy):
        await pass_gate(user(), steps=(known_and_active, busy))


@pytest.mark.parametrize("steps", [(), (role_allows,)])
async def test_a_gate_that_was_never_told_who_calls_lets_nobody_through(steps: tuple[Step, ...]) -> None:
    with pytest.raises(UnknownSubject):
        await pass_gate(user(), steps=steps)


async def _handle(*_: Any) -> None:
    return None


def operation(requirements: Any, **more: Any) -> Operation:
    """Make a line of a route table."""
    fields: dict[str, Any] = {"method": "GET", "path": "/x", "read": lambda _: None, "handle": _handle, "render": None}
    return Operation(requirements=requirements, **(fields | more))


@pytest.mark.parametrize("nothing", [None, (), "tasks.read", True, Requirements, Public])
def test_a_line_without_requirements_does_not_come_into_the_table(nothing: Any) -> None:
    with pytest.raises(Defect, match="GET /x does not declare what it requires"):
        RouteTable([operation(nothing)])


def test_a_line_that_lets_callers_in_and_does_nothing_does_not_come_into_the_table() -> None:
    with pytest.raises(Defect, match="does nothing for them"):
        RouteTable([operation(ADMIN_WHO_READS, handle=None)])


def test_a_line_that_would_answer_outside_the_gate_does_not_come_into_the_table() -> None:
    with pytest.raises(Defect, match="no gate has seen"):
        RouteTable([operation(ADMIN_WHO_READS, outside_unit=dict)])


def test_a_line_that_is_there_twice_does_not_come_into_the_table() -> None:
    with pytest.raises(Defect, match="there twice"):
        RouteTable([operation(Public()), operation(ADMIN_WHO_READS)])


def test_a_table_of_sound_lines_becomes_an_application() -> None:
    table = RouteTable([operation(ADMIN_WHO_READS), operation(Public(), method="POST")])

    app = build(table, cast("Gatehouse", None), Metrics())

    assert [sorted(getattr(route, "methods", ())) for route in app.routes] == [["GET", "HEAD", "POST"]]
