"""Rescues over HTTP: first told what they would do, then started, followed, stopped, and carried out by the worker."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.domain.dead_letters import signature
from app.ids import new_id
from app.services import dead_letters
from tests.support.house import open_house, quiet_pipeline
from tests.web.asking import check_problem, pointers, rows
from tests.web.shop import NOW, PATIENCE_SECONDS, Shop, ended, logged_text, open_shop, told

RESCUES = "/v1/dead-letters/rescues"
GROUP = signature("charge", "no_card", "Order 7 has no card.")


async def rescue(shop: Shop, **body: Any) -> httpx2.Response:
    """Ask for a rescue as the admin; it is started."""
    return await shop.post(RESCUES, {"reason": "mended", "dry_run": False, **body})


async def start(shop: Shop, **body: Any) -> Any:
    """Start a rescue and return what is shown of it."""
    answer = await rescue(shop, confirm_side_effects=True, **body)
    assert answer.status_code == 202, answer.text
    return answer.json()["rescue"]


# The dry run ---------------------------------------------------------------------------------------------------------


async def test_without_more_words_a_rescue_only_tells_what_it_would_do(shop: Shop) -> None:
    await shop.make_dead("Order 7 has no card.", "Order 8 has no card.")
    await shop.make_dead("The disk is full.", at="export", kind="disk")
    before = rows(shop.house)

    answer = await shop.post(RESCUES, {"reason": "let me see"})

    assert answer.status_code == 200
    assert "location" not in answer.headers
    assert answer.json() == {
        "matched": 3,
        "stages": [
            {
                "stage": "charge",
                "count": 2,
                "runs_again": ["charge"],
                "refused_because": "side_effects_unconfirmed",
                "detail": "This runs charge again, which acts on the world outside; look whether it has done so "
                "already, then send confirm_side_effects: true.",
            },
            {"stage": "export", "count": 1, "runs_again": ["export"], "refused_because": None, "detail": None},
        ],
        "rescue": None,
    }
    assert rows(shop.house) == before


@pytest.mark.parametrize(
    ("terms", "plans"),
    [
        ({"confirm_side_effects": True}, [("charge", ["charge"], None), ("export", ["export"], None)]),
        (
            {"from_stage": "parse"},
            [
                ("charge", ["parse", "charge"], "side_effects_unconfirmed"),
                ("export", ["parse", "charge", "export"], "side_effects_unconfirmed"),
            ],
        ),
        ({"from_stage": "export"}, [("charge", [], "conflict"), ("export", ["export"], None)]),
        ({"stage": "export"}, [("export", ["export"], None)]),
        ({"error_kind": "no_card", "confirm_side_effects": True}, [("charge", ["charge"], None)]),
        ({"signature": GROUP.name, "confirm_side_effects": True}, [("charge", ["charge"], None)]),
    ],
)
async def test_a_dry_run_names_the_stages_that_would_run_again_and_what_stands_against_it(
    shop: Shop, terms: dict[str, Any], plans: list[Any]
) -> None:
    await shop.make_dead("Order 7 has no card.")
    await shop.make_dead("The disk is full.", at="export", kind="disk")

    answer = await shop.post(RESCUES, {"reason": "let me see", "dry_run": True, **terms})

    assert answer.status_code == 200
    shown = answer.json()["stages"]
    assert [(plan["stage"], plan["runs_again"], plan["refused_because"]) for plan in shown] == plans


@pytest.mark.parametrize("dry_run", [True, False])
async def test_where_nothing_matches_nothing_is_started(shop: Shop, dry_run: bool) -> None:
    await shop.make_dead("Order 7 has no card.")
    before = rows(shop.house)

    answer = await rescue(shop, stage="parse", dry_run=dry_run)

    assert (answer.status_code, answer.json()) == (200, {"matched": 0, "stages": [], "rescue": None})
    assert rows(shop.house) == before


# Starting ------------------------------------------------------------------------------------------------------------


async def test_a_started_rescue_is_accepted_with_the_place_where_it_is_followed(shop: Shop) -> None:
    await shop.make_dead("Order 7 has no card.", "Order 8 has no card.")

    answer = await rescue(shop, signature=GROUP.name, from_stage="parse", confirm_side_effects=True)

    shown = answer.json()["rescue"]
    assert answer.status_code == 202
    assert answer.headers["location"] == f"{RESCUES}/{shown['id']}"
    assert answer.json() == {
        "matched": 2,
        "stages": [
            {
                "stage": "charge",
                "count": 2,
                "runs_again": ["parse", "charge"],
                "refused_because": None,
                "detail": None,
            }
        ],
        "rescue": {
            "id": shown["id"],
            "status": "running",
            "matched": 2,
            "rescued": 0,
            "skipped": 0,
            "reason": "mended",
            "filter": {"stage": None, "error_kind": None, "signature": GROUP.name},
            "from_stage": "parse",
            "confirm_side_effects": True,
            "created_by": shop.users["admin"].id,
            "created_at": NOW,
            "ended_at": None,
        },
    }
    assert await shop.seen(answer.headers["location"]) == shown


async def test_a_worker_carries_a_rescue_out_and_it_is_followed_to_its_end(shop: Shop) -> None:
    tasks = await shop.make_dead("Order 7 has no card.", "Order 8 has no card.")
    [other] = await shop.make_dead("Page 7 is torn.", at="parse", kind="torn")
    started = await start(shop, stage="charge")
    shop.machine.is_mended = True
    shop.clock.move(1)

    await shop.worker.upkeep.rescue_once()
    await shop.work()

    done = await shop.seen(f"{RESCUES}/{started['id']}")
    assert done == {**started, "status": "done", "rescued": 2, "ended_at": "2026-11-22T20:19:01.000000Z"}
    assert {(await shop.seen(f"/v1/tasks/{task}"))["status"] for task in tasks} == {"succeeded"}
    assert (await shop.seen(f"/v1/tasks/{other}"))["is_dead_letter"] is True


async def test_the_embedded_worker_carries_a_started_rescue_out(busy: Shop) -> None:
    task = await busy.make({"charge": {"fail": "Order 7 has no card."}})
    assert (await ended(busy, task))["status"] == "failed"
    busy.machine.is_mended = True

    with busy.house.container.wakeups.watch(task) as changed:
        started = await start(busy)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await changed.wait()

    assert (await busy.seen(f"/v1/tasks/{task}"))["status"] == "succeeded"
    done = await busy.seen(f"{RESCUES}/{started['id']}")
    assert (done["status"], done["rescued"], done["skipped"]) == ("done", 1, 0)


async def test_what_dies_after_the_wish_is_not_rescued(shop: Shop) -> None:
    await shop.make_dead("Order 7 has no card.")
    started = await start(shop)
    shop.clock.move(1)
    [late] = await shop.make_dead("Order 8 has no card.")

    await shop.worker.upkeep.rescue_once()

    assert (await shop.seen(f"{RESCUES}/{started['id']}"))["rescued"] == 1
    assert (await shop.seen(f"/v1/tasks/{late}"))["is_dead_letter"] is True


async def test_dead_letters_at_a_stage_that_is_gone_are_skipped_and_counted(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.make_dead("Order 7 has no card.")
        await shop.make_dead("The disk is full.", at="export", kind="disk")
    async with open_house(tmp_path, pipeline=quiet_pipeline(), clock=shop.clock) as house:
        headers = house.headers("admin")
        answer = await house.client.post(RESCUES, json={"reason": "mended", "dry_run": False}, headers=headers)
        await house.container.worker().upkeep.rescue_once()
        done = (await house.client.get(answer.headers["location"], headers=headers)).json()

    shown = [(plan["stage"], plan["runs_again"], plan["refused_because"]) for plan in answer.json()["stages"]]
    assert shown == [("charge", [], "stage_gone"), ("export", ["export"], None)]
    assert (done["status"], done["matched"], done["rescued"], done["skipped"]) == ("done", 2, 1, 1)


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "places"),
    [
        ({}, ["/reason"]),
        ({"reason": ""}, ["/reason"]),
        ({"reason": "a" * 1_001}, ["/reason"]),
        ({"reason": ["mended"]}, ["/reason"]),
        ({"reason": "mended", "dry_run": "false"}, ["/dry_run"]),
        ({"reason": "mended", "dry_run": 0}, ["/dry_run"]),
        ({"reason": "mended", "confirm_side_effects": 1}, ["/confirm_side_effects"]),
        ({"reason": "mended", "stage": "Charge", "error_kind": "no card"}, ["/stage", "/error_kind"]),
        ({"reason": "mended", "signature": "'"}, ["/signature"]),
        ({"reason": "mended", "from_stage": "a" * 65}, ["/from_stage"]),
        ({"reason": "mended", "limit": 10}, ["/limit"]),
    ],
)
async def test_a_rescue_is_read_strictly(shop: Shop, body: dict[str, Any], places: list[str]) -> None:
    await shop.make_dead("Order 7 has no card.")
    before = rows(shop.house)

    answer = await shop.post(RESCUES, body)

    assert pointers(answer) == places
    assert rows(shop.house) == before


async def test_a_stage_to_begin_at_that_the_pipeline_does_not_have_is_a_bad_field(shop: Shop) -> None:
    await shop.make_dead("Order 7 has no card.")

    answer = await rescue(shop, from_stage="nowhere")

    assert pointers(answer) == ["/from_stage"]
    assert answer.json()["errors"][0]["detail"].endswith("it has parse, charge, export")
    assert rows(shop.house)["rescues"] == []


@pytest.mark.parametrize(("terms", "code"), [({}, "side_effects_unconfirmed"), ({"from_stage": "export"}, "conflict")])
async def test_a_rescue_that_cannot_be_carried_out_as_it_is_wished_is_not_started(
    shop: Shop, terms: dict[str, Any], code: str
) -> None:
    await shop.make_dead("Order 7 has no card.")
    before = rows(shop.house)

    answer = await rescue(shop, **terms)

    check_problem(answer, 409, code)
    assert rows(shop.house) == before


async def test_only_so_many_rescues_wait_to_be_carried_out(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "RESCUES_AT_ONCE_LIMIT", 2)
    await shop.make_dead("Order 7 has no card.")
    first, _ = await start(shop), await start(shop)

    refused = await rescue(shop, confirm_side_effects=True)
    looked = await rescue(shop, confirm_side_effects=True, dry_run=True)
    await shop.post(f"{RESCUES}/{first['id']}/stop")

    check_problem(refused, 409, "conflict")
    assert looked.status_code == 200
    assert (await start(shop))["status"] == "running"


# Following and stopping ----------------------------------------------------------------------------------------------


async def test_rescues_are_walked_by_cursor_and_link_newest_first(shop: Shop) -> None:
    await shop.make_dead("Order 7 has no card.")
    started = [await start(shop, reason=f"wish {number}") for number in range(3)]

    first = await shop.get(f"{RESCUES}?limit=2")
    link, relation = first.headers["link"].split("; ")
    second = await shop.get(str(first.request.url.join(link.strip("<>"))))

    assert relation == 'rel="next"'
    assert first.json() == {"items": started[:0:-1], "next": started[1]["id"]}
    assert second.json() == {"items": started[:1], "next": None}
    assert "link" not in second.headers


async def test_a_stopped_rescue_rescues_no_more(shop: Shop) -> None:
    [task] = await shop.make_dead("Order 7 has no card.")
    started = await start(shop)

    stopped = await shop.post(f"{RESCUES}/{started['id']}/stop")
    shop.clock.move(60)
    again = await shop.post(f"{RESCUES}/{started['id']}/stop", {})
    await shop.worker.upkeep.rescue_once()

    assert (stopped.status_code, stopped.json()) == (200, {**started, "status": "stopped", "ended_at": NOW})
    assert again.json() == stopped.json() == await shop.seen(f"{RESCUES}/{started['id']}")
    assert (await shop.seen(f"/v1/tasks/{task}"))["is_dead_letter"] is True


async def test_a_rescue_that_is_done_stays_done(shop: Shop) -> None:
    await shop.make_dead("Order 7 has no card.")
    started = await start(shop)
    await shop.worker.upkeep.rescue_once()

    answer = await shop.post(f"{RESCUES}/{started['id']}/stop")

    assert (answer.status_code, answer.json()["status"]) == (200, "done")


async def test_a_rescue_that_is_not_there_is_not_found(shop: Shop) -> None:
    for answer in (
        await shop.get(f"{RESCUES}/{new_id()}"),
        await shop.get(f"{RESCUES}/7"),
        await shop.post(f"{RESCUES}/{new_id()}/stop"),
        await shop.post(f"{RESCUES}/groups/stop"),
    ):
        check_problem(answer, 404, "not_found")


@pytest.mark.parametrize("body", [None, {}, {"reason": "enough"}])
async def test_stopping_may_say_why(shop: Shop, body: dict[str, str] | None) -> None:
    await shop.make_dead("Order 7 has no card.")
    started = await start(shop)

    answer = await shop.post(f"{RESCUES}/{started['id']}/stop", body)

    assert answer.status_code == 200
    assert (await shop.seen(f"{RESCUES}/{started['id']}"))["status"] == "stopped"


async def test_stopping_takes_nothing_but_a_reason(shop: Shop) -> None:
    await shop.make_dead("Order 7 has no card.")
    started = await start(shop)

    answer = await shop.post(f"{RESCUES}/{started['id']}/stop", {"because": "enough"})

    check_problem(answer, 422, "invalid_content")
    assert (await shop.seen(f"{RESCUES}/{started['id']}"))["status"] == "running"


async def test_a_stage_that_is_none_is_refused_before_anything_is_counted(shop: Shop) -> None:
    await shop.make_dead("Order 7 has no card.")

    answers = [await rescue(shop, dry_run=dry_run, from_stage="nowhere") for dry_run in (True, False)]

    assert [pointers(answer) for answer in answers] == [["/from_stage"]] * 2


async def test_the_log_says_who_wished_a_rescue_and_why_and_nothing_of_the_payloads(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    await shop.make({"export": {"fail": "marked-message"}, "marked": "payload"}, reference="marked-reference")
    await shop.work()

    with caplog.at_level(logging.INFO):
        await rescue(shop, reason="let me see", dry_run=True)
        started = (await rescue(shop, reason="the disk has room")).json()["rescue"]
        await shop.post(f"{RESCUES}/{new_id()}/stop")
        await shop.worker.upkeep.rescue_once()
        await shop.post(f"{RESCUES}/{started['id']}/stop", {"reason": "enough"})

    (looked, of_looked), *others = told(caplog, "rescue_looked_at", "rescue_asked", "rescue_step", "rescue_stop_asked")
    assert (looked, of_looked["subject"], of_looked["reason"]) == ("rescue_looked_at", "admin", "let me see")
    assert others == [
        (
            "rescue_asked",
            {
                "subject": "admin",
                "rescue_id": started["id"],
                "stage": None,
                "error_kind": None,
                "signature": None,
                "from_stage": None,
                "confirm_side_effects": False,
                "reason": "the disk has room",
                "matched": 1,
            },
        ),
        ("rescue_step", {"rescue_id": started["id"], "rescued": 1, "skipped": 0, "is_done": True}),
        (
            "rescue_stop_asked",
            {"subject": "admin", "rescue_id": started["id"], "reason": "enough", "status": "done", "rescued": 1},
        ),
    ]
    assert "marked" not in logged_text(caplog)
