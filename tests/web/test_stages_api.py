"""Stages over HTTP: how each stands, and pausing and resuming one of them or everything."""

import asyncio
import logging
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from tests.support.house import open_house, quiet_pipeline
from tests.web.asking import check_problem, pointers, rows
from tests.web.shop import NOW, STAGES, Shop, ended, logged_text, open_shop, told

PAUSED = {"reason": "The printer burns.", "paused_by": ANY, "subject": "admin", "paused_at": NOW}
ALL = [("/v1/stages", None), *[(f"/v1/stages/{stage}", stage) for stage in STAGES]]


async def pauses(shop: Shop) -> dict[str, Any]:
    """Return the pause of each stage, and under `*` that of everything."""
    shown = await shop.seen("/v1/stages")
    return {"*": shown["paused"]} | {item["stage"]: item["paused"] for item in shown["items"]}


async def where(shop: Shop, task: str) -> tuple[str, str]:
    """Return the stage of a task and what goes on there."""
    shown = await shop.seen(f"/v1/tasks/{task}")
    return shown["stage"], shown["stage_status"]


async def test_every_stage_shows_its_pause_and_how_many_tasks_are_there(shop: Shop) -> None:
    await shop.make_dead("Order 7 has no card.")
    waiting = await shop.make({"charge": {"retry": 600}})
    await shop.work()
    held = await shop.make({"parse": {"hold": 0.5}})
    async with shop.working(held):
        shop.clock.move(5)
        await shop.make()
        await shop.make()
        answer = await shop.get("/v1/stages")

    empty = {"queued": 0, "running": 0, "failed": 0, "dead_letter": 0, "oldest_waiting_since": None}
    known: dict[str, Any] = {"is_known": True, "side_effect": False, "paused": None}
    assert await where(shop, waiting) == ("charge", "failed")
    assert answer.status_code == 200
    assert answer.json() == {
        "items": [
            {
                "stage": "parse",
                **known,
                **empty,
                "queued": 2,
                "running": 1,
                "oldest_waiting_since": "2026-11-22T20:19:05.000000Z",
            },
            {"stage": "charge", **known, **empty, "side_effect": True, "failed": 1, "dead_letter": 1},
            {"stage": "export", **known, **empty},
        ],
        "paused": None,
    }


async def test_a_stage_that_the_pipeline_has_lost_is_shown_as_long_as_something_is_there(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.make_dead("Order 7 has no card.")
        await shop.post("/v1/stages/charge/pause", {"reason": "The printer burns."})
    async with open_house(tmp_path, pipeline=quiet_pipeline(), clock=shop.clock) as house:
        headers = house.headers("admin")
        lost = (await house.client.get("/v1/stages", headers=headers)).json()["items"][-1]
        body = {"reason": "it is gone"}
        paused = await house.client.post("/v1/stages/charge/pause", json=body, headers=headers)
        resumed = await house.client.post("/v1/stages/charge/resume", json=body, headers=headers)

    assert (lost["stage"], lost["is_known"], lost["dead_letter"], lost["paused"]) == ("charge", False, 1, PAUSED)
    check_problem(paused, 404, "not_found")
    assert (resumed.status_code, resumed.json()["items"][-1]["paused"]) == (200, None)


@pytest.mark.parametrize(("path", "stage"), ALL)
async def test_a_pause_says_who_since_when_and_why_until_it_is_resumed(
    shop: Shop, path: str, stage: str | None
) -> None:
    none = dict.fromkeys(("*", *STAGES))

    paused = await shop.post(f"{path}/pause", {"reason": "The printer burns."})
    during = await pauses(shop)
    resumed = await shop.post(f"{path}/resume", {"reason": "The fire is out."})

    assert (paused.status_code, resumed.status_code) == (200, 200)
    assert set(paused.json()) == set(resumed.json()) == {"items", "paused"}
    assert during == none | {stage or "*": PAUSED}
    assert resumed.json() == await shop.seen("/v1/stages")
    assert await pauses(shop) == none


async def test_a_stage_that_is_paused_already_keeps_its_first_reason(shop: Shop) -> None:
    first = await shop.post("/v1/stages/parse/pause", {"reason": "The printer burns."})
    shop.clock.move(60)

    again = await shop.post("/v1/stages/parse/pause", {"reason": "It still burns."})

    assert (again.status_code, again.json()) == (200, first.json())
    assert (await pauses(shop))["parse"] == PAUSED


async def test_resuming_what_is_not_paused_changes_nothing(shop: Shop) -> None:
    before = rows(shop.house)

    answers = [await shop.post(f"{path}/resume", {"reason": "to be sure"}) for path, _ in ALL]

    assert {answer.status_code for answer in answers} == {200}
    assert rows(shop.house) == before


async def test_the_pause_of_a_stage_and_that_of_everything_are_two(shop: Shop) -> None:
    task = await shop.make()
    await shop.post("/v1/stages/parse/pause", {"reason": "The printer burns."})
    await shop.post("/v1/stages/pause", {"reason": "We move house."})

    await shop.post("/v1/stages/resume", {"reason": "We have moved."})
    await shop.work()

    assert await where(shop, task) == ("parse", "queued")
    assert (await pauses(shop))["parse"] == PAUSED
    await shop.post("/v1/stages/parse/resume", {"reason": "The fire is out."})
    await shop.work()
    assert await where(shop, task) == ("export", "succeeded")


async def test_no_attempt_of_a_paused_stage_begins_while_the_others_go_on(shop: Shop) -> None:
    await shop.post("/v1/stages/charge/pause", {"reason": "The bank is closed."})
    task = await shop.make()

    await shop.work()

    assert await where(shop, task) == ("charge", "queued")
    assert [item["stage"] for item in (await shop.seen(f"/v1/tasks/{task}/history"))["items"]] == ["parse"]


async def test_what_runs_when_its_stage_is_paused_is_finished(shop: Shop) -> None:
    task = await shop.make({"parse": {"hold": 0.5}})
    async with shop.working(task):
        await shop.post("/v1/stages/pause", {"reason": "We move house."})

    await shop.work()

    assert await where(shop, task) == ("charge", "queued")


@pytest.mark.parametrize(("path", "stage"), [ALL[0], ALL[1]])
async def test_resuming_wakes_the_embedded_worker(busy: Shop, path: str, stage: str | None) -> None:
    await busy.post(f"{path}/pause", {"reason": "We move house."})
    task = await busy.make()
    await _until_the_worker_has_looked(busy)
    before = await where(busy, task)

    await busy.post(f"{path}/resume", {"reason": "We have moved."})
    standing = await ended(busy, task)

    assert before == ("parse", "queued")
    assert standing["status"] == "succeeded"


async def _until_the_worker_has_looked(shop: Shop) -> None:
    """Wait until the wake-up of a create is used up, so that nothing but another one makes the worker look again."""
    while shop.house.container.wakeups._work.is_set():
        await asyncio.sleep(0)
    await shop.house.store.write(_nothing)


async def _nothing(_work: object) -> None:
    """Change nothing; the writer has done before what was asked of it before."""


@pytest.mark.parametrize("word", ["pause", "resume"])
@pytest.mark.parametrize("stage", ["nowhere", "Parse", "*", "parse%20charge", "a" * 65])
async def test_a_stage_that_is_not_there_is_not_found(shop: Shop, word: str, stage: str) -> None:
    before = rows(shop.house)

    answer = await shop.post(f"/v1/stages/{stage}/{word}", {"reason": "why"})

    check_problem(answer, 404, "not_found")
    assert rows(shop.house) == before


async def test_a_stage_that_is_not_there_is_told_with_those_that_are(shop: Shop) -> None:
    answer = await shop.post("/v1/stages/nowhere/pause", {"reason": "why"})

    assert check_problem(answer, 404, "not_found")["detail"] == (
        "The pipeline has no stage nowhere; it has parse, charge, export."
    )


@pytest.mark.parametrize("path", ["/v1/stages", "/v1/stages/parse"])
@pytest.mark.parametrize("word", ["pause", "resume"])
@pytest.mark.parametrize(
    ("body", "places"),
    [
        ({}, ["/reason"]),
        ({"reason": ""}, ["/reason"]),
        ({"reason": None}, ["/reason"]),
        ({"reason": "a\x00"}, ["/reason"]),
        ({"reason": "a" * 1_001}, ["/reason"]),
        ({"reason": "why", "until": NOW}, ["/until"]),
        ("why", [""]),
    ],
)
async def test_a_pause_and_a_resume_say_why_and_are_read_strictly(
    shop: Shop, path: str, word: str, body: Any, places: list[str]
) -> None:
    answer = await shop.post(f"{path}/{word}", body)

    assert pointers(answer) == places
    assert rows(shop.house)["pauses"] == []


@pytest.mark.parametrize("word", ["pause", "resume"])
async def test_a_pause_and_a_resume_need_a_body(shop: Shop, word: str) -> None:
    answer = await shop.post(f"/v1/stages/parse/{word}")

    check_problem(answer, 415, "unsupported_media_type")


async def test_stages_take_no_query_and_are_read_with_get_or_head(shop: Shop) -> None:
    got, headed = await shop.get("/v1/stages"), await shop.head("/v1/stages")
    asked = await shop.get("/v1/stages", stage="parse")
    posted = await shop.post("/v1/stages", {"reason": "why"})

    assert (headed.status_code, headed.content) == (200, b"")
    assert headed.headers["content-length"] == got.headers["content-length"]
    assert pointers(asked) == ["/query/stage"]
    check_problem(posted, 405, "method_not_allowed")
    assert set(posted.headers["allow"].split(", ")) == {"GET", "HEAD"}


async def test_the_log_says_who_paused_and_resumed_what_and_why(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    await shop.make({"marked": "payload"}, reference="marked-reference")

    with caplog.at_level(logging.INFO):
        await shop.post("/v1/stages/parse/pause", {"reason": "The printer burns."})
        await shop.post("/v1/stages/nowhere/pause", {"reason": "of no stage"})
        await shop.post("/v1/stages/parse/resume", {"reason": "The fire is out."})
        await shop.post("/v1/stages/pause", {"reason": "We move house."})
        await shop.post("/v1/stages/resume", {"reason": "We have moved."})

    assert told(caplog, "pause_asked", "resume_asked") == [
        ("pause_asked", {"subject": "admin", "stage": "parse", "reason": "The printer burns."}),
        ("resume_asked", {"subject": "admin", "stage": "parse", "reason": "The fire is out."}),
        ("pause_asked", {"subject": "admin", "stage": "*", "reason": "We move house."}),
        ("resume_asked", {"subject": "admin", "stage": "*", "reason": "We have moved."}),
    ]
    assert "marked" not in logged_text(caplog)
