"""Waiting over HTTP: `?wait=` answers when the task ends, when the time is up, or when the service stops."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.domain.users import Role
from app.pipelines import Context, Pipeline, Stage
from app.web import guard
from tests.support.house import House, open_house
from tests.web.asking import check_problem, pointers

NEVER_SECONDS = 1_000.0


@pytest.fixture(autouse=True)
def without_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody look again by themselves: what is seen in time was told."""
    monkeypatch.setattr(guard, "POLL_SECONDS", NEVER_SECONDS)


class Door:
    """A stage that runs until the door is opened."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()
        self.was_reached = asyncio.Event()

    async def __call__(self, _context: Context) -> None:
        """Wait at the door."""
        self.was_reached.set()
        await self.is_open.wait()


@pytest.fixture
async def door() -> Door:
    """Return a closed door."""
    return Door()


@pytest.fixture
async def working(tmp_path: Path, door: Door) -> AsyncIterator[House]:
    """Open a house whose worker runs, with one stage behind a door."""
    async with open_house(tmp_path, works=True, pipeline=Pipeline([Stage("parse", door)])) as house:
        await house.let_in("root", Role.SUPER_ADMIN)
        yield house
        door.is_open.set()


async def wait_for(house: House, path: str, seconds: float | str) -> httpx2.Response:
    """Read a task as alice and wait for its end."""
    return await house.client.get(path, params={"wait": seconds}, headers=house.headers("alice"))


async def make_task(house: House) -> tuple[str, str]:
    """Let alice in and create a task of hers; return her id and the task's path."""
    alice = await house.let_in("alice")
    location: str = (await house.create("alice", "k")).headers["location"]
    return alice.id, location


async def begin_waiting(house: House, path: str, seconds: float = 60) -> asyncio.Future[httpx2.Response]:
    """Start to wait and return once the first look was taken."""
    looked = asyncio.Event()
    read = house.store.read

    async def read_and_tell(body: Any) -> Any:
        value = await read(body)
        looked.set()
        return value

    house.container.store.read = read_and_tell  # type: ignore[method-assign]
    waiting = asyncio.ensure_future(wait_for(house, path, seconds))
    await looked.wait()
    await asyncio.sleep(0)
    assert not waiting.done()
    return waiting


async def test_a_task_that_ends_during_the_wait_is_answered_at_once(working: House, door: Door) -> None:
    _, task = await make_task(working)
    waiting = await begin_waiting(working, task)

    door.is_open.set()
    async with asyncio.timeout(5):
        answer = await waiting

    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")


async def test_many_who_wait_for_one_task_are_all_answered(working: House, door: Door) -> None:
    _, task = await make_task(working)
    await door.was_reached.wait()
    waiting = [asyncio.ensure_future(wait_for(working, task, 60)) for _ in range(20)]
    await begin_waiting(working, task)

    door.is_open.set()
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*waiting)

    assert {answer.json()["status"] for answer in answers} == {"succeeded"}


async def test_a_task_that_has_ended_is_answered_without_waiting(working: House, door: Door) -> None:
    _, task = await make_task(working)
    door.is_open.set()
    await wait_for(working, task, 60)

    async with asyncio.timeout(5):  # far below the minute that it would wait
        answer = await wait_for(working, task, 60)

    assert answer.json()["status"] == "succeeded"


@pytest.mark.parametrize("seconds", [0, 0.05])
async def test_when_the_time_is_up_the_present_state_is_shown(working: House, door: Door, seconds: float) -> None:
    _, task = await make_task(working)
    await door.was_reached.wait()

    answer = await wait_for(working, task, seconds)

    assert (answer.status_code, answer.json()["status"], answer.json()["stage_status"]) == (200, "running", "running")


async def test_a_service_that_stops_answers_those_who_wait_with_the_present_state(working: House, door: Door) -> None:
    _, task = await make_task(working)
    await door.was_reached.wait()
    waiting = await begin_waiting(working, task)

    working.container.stop()
    async with asyncio.timeout(5):
        answer = await waiting
        late = await wait_for(working, task, 60)

    assert (answer.status_code, answer.json()["status"]) == (200, "running")
    assert (late.status_code, late.json()["status"]) == (200, "running")


@pytest.mark.parametrize(
    ("change", "code"), [({"is_active": False}, "inactive_user"), ({"scopes": ["tasks.create"]}, "scope_missing")]
)
async def test_who_waits_is_authorised_again_before_the_answer(
    working: House, door: Door, change: dict[str, Any], code: str
) -> None:
    alice, task = await make_task(working)
    waiting = await begin_waiting(working, task)
    await working.client.patch(f"/v1/users/{alice}", json=change, headers=working.headers("root"))

    door.is_open.set()
    async with asyncio.timeout(5):
        answer = await waiting

    check_problem(answer, 403, code)


async def test_who_waits_looks_now_and_then_even_if_nobody_tells(
    working: House, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(working.container.wakeups, "task_ended", lambda _task_id: None)
    _, task = await make_task(working)
    waiting = await begin_waiting(working, task)

    door.is_open.set()
    async with asyncio.timeout(5):
        answer = await waiting

    assert answer.json()["status"] == "succeeded"


async def test_a_wait_may_be_longer_than_the_deadline_of_a_request(tmp_path: Path, door: Door) -> None:
    pipeline = Pipeline([Stage("parse", door)])
    async with open_house(tmp_path, works=True, pipeline=pipeline, request_timeout_seconds=0.2) as house:
        _, task = await make_task(house)
        await door.was_reached.wait()

        answer = await wait_for(house, task, 0.4)
        door.is_open.set()

        assert (answer.status_code, answer.json()["status"]) == (200, "running")


async def test_nobody_is_remembered_after_the_wait(working: House, door: Door) -> None:
    _, task = await make_task(working)
    waiting = await begin_waiting(working, task)
    watched = dict(working.container.wakeups._watchers)

    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert set(watched) == {task.rpartition("/")[2]}
    assert not working.container.wakeups._watchers


@pytest.mark.parametrize("seconds", ["61", "60.001", "-1", "nan", "inf", "1e400", "soon", ""])
async def test_a_wait_is_0_to_60_seconds(working: House, seconds: str) -> None:
    _, task = await make_task(working)

    answer = await wait_for(working, task, seconds)

    assert pointers(answer) == ["/query/wait"]
