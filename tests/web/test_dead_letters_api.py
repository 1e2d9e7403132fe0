"""Dead letters over HTTP: listed, filtered, grouped by what went wrong, and rescued one at a time."""

import logging
from typing import Any

import httpx2
import pytest

from app.domain.dead_letters import signature
from app.ids import new_id
from tests.web.asking import check_problem, pointers, rows
from tests.web.shop import NOW, Shop, logged_text, told

GROUP = signature("charge", "no_card", "Order 7 has no card.")


async def list_of(shop: Shop, **query: Any) -> list[str]:
    """Return the tasks of one page of dead letters."""
    shown = await shop.seen("/v1/dead-letters", **query)
    return [item["task_id"] for item in shown["items"]]


async def retry(shop: Shop, task: str, **body: Any) -> httpx2.Response:
    """Rescue one task as the admin."""
    return await shop.post(
        f"/v1/tasks/{task}/retry", {"reason": "mended", "override_dead_letter": True, **body}, "admin"
    )


# Looking -------------------------------------------------------------------------------------------------------------


async def test_a_dead_letter_shows_what_it_died_of(shop: Shop) -> None:
    [task] = await shop.make_dead("Order 7 has no card.")

    answer = await shop.get("/v1/dead-letters")

    assert answer.status_code == 200
    assert answer.json() == {
        "items": [
            {
                "task_id": task,
                "stage": "charge",
                "error_kind": "no_card",
                "error_message": "Order 7 has no card.",
                "signature": GROUP.name,
                "died_at": NOW,
            }
        ],
        "next": None,
    }
    assert "link" not in answer.headers


async def test_dead_letters_are_walked_by_cursor_and_link_newest_first(shop: Shop) -> None:
    tasks = await shop.make_dead(*[f"Order {number} has no card." for number in range(5)])
    at: httpx2.URL | None = httpx2.URL("http://cabinet.test/v1/dead-letters?limit=2&stage=charge")
    pages = []

    while at is not None:
        answer = await shop.get(str(at))
        pages.append([item["task_id"] for item in answer.json()["items"]])
        at, cursor = None, answer.json()["next"]
        if cursor is not None:
            link, relation = answer.headers["link"].split("; ")
            assert relation == 'rel="next"'
            at = answer.request.url.join(link.strip("<>"))
            assert dict(at.params) == {"limit": "2", "stage": "charge", "cursor": cursor}

    assert pages == [tasks[:2:-1], tasks[2:0:-1], tasks[:1]]


async def test_dead_letters_are_filtered_by_stage_kind_and_signature(shop: Shop) -> None:
    at_parse = await shop.make_dead("Page 7 is torn.", at="parse", kind="torn")
    no_card = await shop.make_dead("Order 7 has no card.", "Order 8 has no card.")
    refused = await shop.make_dead("The bank said no.")

    assert await list_of(shop) == [*refused, *no_card[::-1], *at_parse]
    assert await list_of(shop, stage="parse") == at_parse
    assert await list_of(shop, error_kind="no_card") == [*refused, *no_card[::-1]]
    assert await list_of(shop, signature=GROUP.name) == no_card[::-1]
    assert await list_of(shop, signature=GROUP.name, limit=1, cursor=no_card[1]) == no_card[:1]
    assert await list_of(shop, stage="parse", signature=GROUP.name) == []
    assert await list_of(shop, stage="nowhere") == []


@pytest.mark.parametrize(
    ("path", "query", "places"),
    [
        ("", {"limit": 0}, ["/query/limit"]),
        ("", {"limit": 201}, ["/query/limit"]),
        ("", {"cursor": "7"}, ["/query/cursor"]),
        ("", {"stage": "Charge", "error_kind": "no card"}, ["/query/stage", "/query/error_kind"]),
        ("", {"signature": "../etc"}, ["/query/signature"]),
        ("", {"signature": "a" * 201}, ["/query/signature"]),
        ("", {"since": NOW}, ["/query/since"]),
        ("/groups", {"limit": 201}, ["/query/limit"]),
        ("/groups", {"stage": "a" * 65}, ["/query/stage"]),
        ("/groups", {"cursor": "ffffffff-ffff-7fff-bfff-ffffffffffff"}, ["/query/cursor"]),
        ("/rescues", {"limit": "many"}, ["/query/limit"]),
        ("/rescues", {"status": "running"}, ["/query/status"]),
    ],
)
async def test_a_bad_query_is_refused_field_by_field(
    shop: Shop, path: str, query: dict[str, Any], places: list[str]
) -> None:
    answer = await shop.get(f"/v1/dead-letters{path}", **query)

    assert pointers(answer) == places


# Groups --------------------------------------------------------------------------------------------------------------


async def test_what_failed_alike_is_one_group_with_its_newest_task_as_a_sample(shop: Shop) -> None:
    await shop.make_dead("Order 7 has no card.")
    shop.clock.move(90)
    newest = await shop.make_dead("Order 8 has no card.", "Order 9 has no card.")
    await shop.make_dead("Page 7 is torn.", at="parse", kind="torn")

    shown = await shop.seen("/v1/dead-letters/groups")

    assert set(shown) == {"items", "is_truncated"}
    assert [(group["count"], group["pattern"]) for group in shown["items"]] == [
        (3, "Order <n> has no card."),
        (1, "Page <n> is torn."),
    ]
    assert shown["is_truncated"] is False
    assert shown["items"][0] == {
        "signature": GROUP.name,
        "stage": "charge",
        "error_kind": "no_card",
        "pattern": "Order <n> has no card.",
        "count": 3,
        "first_seen": NOW,
        "last_seen": "2026-11-22T20:20:30.000000Z",
        "sample": {
            "task_id": newest[-1],
            "error_message": "Order 9 has no card.",
            "died_at": "2026-11-22T20:20:30.000000Z",
        },
    }


async def test_groups_are_filtered_and_cut_at_the_limit_with_the_largest_kept(shop: Shop) -> None:
    await shop.make_dead("Page 7 is torn.", at="parse", kind="torn")
    await shop.make_dead("Order 7 has no card.", "Order 8 has no card.")

    cut = await shop.seen("/v1/dead-letters/groups", limit=1)
    whole = await shop.seen("/v1/dead-letters/groups", limit=2)
    of_stage = await shop.seen("/v1/dead-letters/groups", stage="parse")
    of_kind = await shop.seen("/v1/dead-letters/groups", error_kind="no_card")
    of_none = await shop.seen("/v1/dead-letters/groups", stage="parse", error_kind="no_card")

    assert ([group["count"] for group in cut["items"]], cut["is_truncated"]) == ([2], True)
    assert ([group["count"] for group in whole["items"]], whole["is_truncated"]) == ([2, 1], False)
    assert [group["stage"] for group in of_stage["items"]] == ["parse"]
    assert [group["error_kind"] for group in of_kind["items"]] == ["no_card"]
    assert of_none == {"items": [], "is_truncated": False}


# One at a time -------------------------------------------------------------------------------------------------------


async def test_a_dead_letter_comes_back_at_an_earlier_stage(shop: Shop) -> None:
    [task] = await shop.make_dead("Order 7 has no card.", at="export")
    shop.machine.is_mended = True

    answer = await retry(shop, task, from_stage="charge", confirm_side_effects=True)
    await shop.work()

    shown = answer.json()
    assert (answer.status_code, shown["stage"], shown["stage_status"], shown["attempt"]) == (200, "charge", "queued", 0)
    assert (shown["next_attempt_at"], shown["is_dead_letter"]) == (NOW, False)
    assert (await shop.seen(f"/v1/tasks/{task}"))["status"] == "succeeded"
    assert await list_of(shop) == []
    history = (await shop.seen(f"/v1/tasks/{task}/history"))["items"]
    assert [item["stage"] for item in history] == ["export", "charge", "export", "charge", "parse"]


@pytest.mark.parametrize(("at", "from_stage"), [("charge", None), ("export", "parse"), ("charge", "charge")])
async def test_what_acts_on_the_world_outside_runs_again_only_if_that_is_confirmed(
    shop: Shop, at: str, from_stage: str | None
) -> None:
    [task] = await shop.make_dead("Order 7 has no card.", at=at)
    before = rows(shop.house)

    answer = await retry(shop, task, from_stage=from_stage)

    body = check_problem(answer, 409, "side_effects_unconfirmed")
    assert "charge again" in body["detail"]
    assert rows(shop.house) == before
    assert (await retry(shop, task, from_stage=from_stage, confirm_side_effects=True)).status_code == 200


async def test_what_has_no_side_effect_needs_no_confirmation(shop: Shop) -> None:
    [task] = await shop.make_dead("Order 7 has no card.", at="export")

    answer = await retry(shop, task)

    assert (answer.status_code, answer.json()["stage"]) == (200, "export")


async def test_a_stage_that_the_pipeline_does_not_have_is_a_bad_field(shop: Shop) -> None:
    [task] = await shop.make_dead("Order 7 has no card.")
    before = rows(shop.house)

    answer = await retry(shop, task, from_stage="nowhere", confirm_side_effects=True)

    assert pointers(answer) == ["/from_stage"]
    assert answer.json()["errors"][0]["detail"].endswith("it has parse, charge, export")
    assert rows(shop.house) == before


async def test_a_rescue_skips_no_stage(shop: Shop) -> None:
    [task] = await shop.make_dead("Order 7 has no card.")

    answer = await retry(shop, task, from_stage="export", confirm_side_effects=True)

    check_problem(answer, 409, "conflict")


async def test_a_dead_letter_stays_protected_whatever_the_terms_are(shop: Shop) -> None:
    [task] = await shop.make_dead("Order 7 has no card.")

    answer = await retry(shop, task, override_dead_letter=False, from_stage="parse", confirm_side_effects=True)

    check_problem(answer, 403, "dead_letter_protected")


async def test_a_stage_is_chosen_for_dead_letters_only(shop: Shop) -> None:
    task = await shop.make({"charge": {"retry": 600}})
    await shop.work()

    answer = await retry(shop, task, from_stage="parse")

    assert "from_stage is for dead letters" in check_problem(answer, 409, "conflict")["detail"]


async def test_the_log_says_who_rescued_one_and_why_and_nothing_of_the_payload(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    task = await shop.make({"export": {"fail": "marked-message"}, "marked": "payload"}, reference="marked-reference")
    await shop.work()

    with caplog.at_level(logging.INFO):
        await retry(shop, task, reason="the card is there now")
        await retry(shop, new_id(), reason="of no task")

    assert told(caplog, "task_retried") == [
        ("task_retried", {"subject": "admin", "task_id": task, "reason": "the card is there now"})
    ]
    assert "marked" not in logged_text(caplog)
