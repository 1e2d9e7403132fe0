"""The work over HTTP: history, outputs, and trying again what failed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.domain.users import Role
from app.pipelines import Context, Fail, Pipeline, RetryPolicy, Stage
from tests.support.clocks import HandClock
from tests.support.house import House, open_house
from tests.web.asking import check_problem, pointers, rows

SLOW_RETRY = RetryPolicy(max_attempts=3, base_seconds=3_600, cap_seconds=3_600)


@dataclass(slots=True)
class Moods:
    """What the stage `parse` does at its next attempts: nothing, or raise; when the list is empty it succeeds."""

    errors: list[Exception | None] = field(default_factory=list)

    def pipeline(self) -> Pipeline:
        """Return two stages, of which the first has moods."""

        async def parse(context: Context) -> dict[str, Any]:
            error = self.errors.pop(0) if self.errors else None
            if error is not None:
                raise error
            return {"found": [context.attempt, "ä"]}

        async def publish(_context: Context) -> None:
            return None

        return Pipeline([Stage("parse", parse, retry=SLOW_RETRY), Stage("publish", publish)])


@asynccontextmanager
async def moody_house(folder: Path, *errors: Exception | None) -> AsyncIterator[House]:
    """Open a house with an admin, a user and one task of hers; the first attempts end as told."""
    async with open_house(folder, pipeline=Moods(list(errors)).pipeline(), clock=HandClock()) as house:
        await house.let_in("admin", Role.ADMIN)
        await house.let_in("alice")
        yield house


async def make_task(house: House) -> str:
    """Create a task and return its path."""
    location: str = (await house.create("alice", "k")).headers["location"]
    return location


async def get(house: House, path: str) -> Any:
    """Read as alice."""
    answer = await house.client.get(path, headers=house.headers("alice"))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def retry(house: House, path: str, **body: Any) -> httpx2.Response:
    """Ask as the admin that a task is tried again."""
    return await house.client.post(f"{path}/retry", json={"reason": "fixed", **body}, headers=house.headers("admin"))


async def test_history_shows_attempts_newest_first_with_what_went_wrong(tmp_path: Path) -> None:
    async with moody_house(tmp_path, ValueError("the page is empty")) as house:
        task = await make_task(house)
        worker = house.container.worker()
        await worker.step()
        await retry(house, task)
        await worker.step()
        await worker.step()

        history = await get(house, f"{task}/history")
        second_page = await get(
            house, f"{task}/history?limit=2&cursor={(await get(house, f'{task}/history?limit=2'))['next']}"
        )

        shown = [(item["stage"], item["attempt"], item["outcome"], item["error_kind"]) for item in history["items"]]
        assert shown == [
            ("publish", 1, "succeeded", None),
            ("parse", 2, "succeeded", None),
            ("parse", 1, "failed", "internal_error"),
        ]
        assert history["next"] is None
        assert second_page["items"] == history["items"][2:]
        assert set(history["items"][0]) == {
            "stage", "attempt", "worker", "started_at", "ended_at", "outcome", "error_kind", "error_message",
            "traceback", "milliseconds", "progress",
        }  # fmt: skip


async def test_outputs_show_what_each_stage_handed_on(tmp_path: Path) -> None:
    async with moody_house(tmp_path) as house:
        task = await make_task(house)
        nothing_yet = await get(house, f"{task}/outputs")
        await house.container.worker().step()
        await house.container.worker().step()

        outputs = await get(house, f"{task}/outputs")

        assert nothing_yet == {"items": []}
        assert [(item["stage"], item["outputs"]) for item in outputs["items"]] == [
            ("parse", {"found": [1, "ä"]}),
            ("publish", {}),
        ]


async def test_a_retry_makes_a_waiting_attempt_due_now(tmp_path: Path) -> None:
    async with moody_house(tmp_path, OSError()) as house:
        task = await make_task(house)
        worker = house.container.worker()
        await worker.step()
        waited = await worker.step()

        answer = await retry(house, task)
        ran = await worker.step()

        assert (waited, ran) == (0, 1)
        assert answer.status_code == 200
        assert (answer.json()["stage"], answer.json()["stage_status"], answer.json()["attempt"]) == (
            "parse",
            "failed",
            1,
        )
        assert (await get(house, task))["stage"] == "publish"


async def test_a_retry_of_what_is_due_already_changes_nothing(tmp_path: Path) -> None:
    async with moody_house(tmp_path, OSError()) as house:
        task = await make_task(house)
        await house.container.worker().step()
        await retry(house, task)
        before = rows(house)

        again = await retry(house, task)

        assert again.status_code == 200
        assert rows(house) == before


async def test_a_dead_letter_is_protected(tmp_path: Path) -> None:
    async with moody_house(tmp_path, Fail("no_pages", "There are no pages.")) as house:
        task = await make_task(house)
        await house.container.worker().step()
        before = rows(house)

        answer = await retry(house, task)

        check_problem(answer, 403, "dead_letter_protected")
        assert rows(house) == before
        standing = await get(house, task)
        assert (standing["status"], standing["is_dead_letter"], standing["last_error_kind"]) == (
            "failed",
            True,
            "no_pages",
        )


async def test_a_dead_letter_is_rescued_with_the_override(tmp_path: Path) -> None:
    async with moody_house(tmp_path, Fail("no_pages", "There are no pages.")) as house:
        task = await make_task(house)
        worker = house.container.worker()
        await worker.step()

        answer = await retry(house, task, override_dead_letter=True)
        ran = [await worker.step() for _ in range(3)]

        rescued = answer.json()
        assert (rescued["status"], rescued["stage_status"], rescued["attempt"]) == ("running", "queued", 0)
        assert rescued["is_dead_letter"] is False
        assert ran == [1, 1, 0]
        assert (await get(house, task))["status"] == "succeeded"


async def test_a_rescued_task_becomes_a_dead_letter_again_if_it_fails_again(tmp_path: Path) -> None:
    refusal = Fail("no_pages", "There are no pages.")
    async with moody_house(tmp_path, refusal, refusal) as house:
        task = await make_task(house)
        await house.container.worker().step()
        await retry(house, task, override_dead_letter=True)
        await house.container.worker().step()

        answer = await retry(house, task)

        check_problem(answer, 403, "dead_letter_protected")


@pytest.mark.parametrize("override", [False, True])
async def test_what_neither_waits_nor_is_dead_cannot_be_tried_again(tmp_path: Path, override: bool) -> None:
    async with moody_house(tmp_path) as house:
        task = await make_task(house)
        queued = await retry(house, task, override_dead_letter=override)
        await house.container.worker().step()
        await house.container.worker().step()

        succeeded = await retry(house, task, override_dead_letter=override)

        assert "queued" in check_problem(queued, 409, "conflict")["detail"]
        assert "succeeded" in check_problem(succeeded, 409, "conflict")["detail"]


@pytest.mark.parametrize(
    ("body", "places"),
    [
        ({"reason": ""}, ["/reason"]),
        ({"reason": None}, ["/reason"]),
        ({"reason": "a\x00"}, ["/reason"]),
        ({"override_dead_letter": 1}, ["/override_dead_letter"]),
        ({"override_dead_letter": "true"}, ["/override_dead_letter"]),
        ({"reason": "a" * 1_001}, ["/reason"]),
        ({"from_stage": "Parse"}, ["/from_stage"]),
        ({"from_stage": 1}, ["/from_stage"]),
        ({"confirm_side_effects": "yes"}, ["/confirm_side_effects"]),
        ({"to_stage": "parse", "confirm": True}, ["/to_stage", "/confirm"]),
    ],
)
async def test_a_retry_says_why_and_is_read_strictly(tmp_path: Path, body: dict[str, Any], places: list[str]) -> None:
    async with moody_house(tmp_path) as house:
        task = await make_task(house)

        answer = await retry(house, task, **body)

        assert pointers(answer) == places


async def test_the_owner_of_a_task_who_is_a_user_cannot_rescue_it(tmp_path: Path) -> None:
    async with moody_house(tmp_path) as house:
        task = await make_task(house)

        answer = await house.client.post(f"{task}/retry", json={"reason": "please"}, headers=house.headers("alice"))

        check_problem(answer, 403, "role_too_low")
