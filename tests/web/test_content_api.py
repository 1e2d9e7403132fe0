"""What of a task may be seen: payload, outputs and tracebacks are its creator's, and those of holders of a scope."""

from typing import Any

import pytest

from app.domain.scopes import DEFAULT_SCOPES
from app.domain.users import Role
from tests.web.asking import check_problem
from tests.web.shop import Shop

PAYLOAD = {"charge": {"error": "the card of Ms Miller is gone"}}
CARD = "the card of Ms Miller"


@pytest.fixture
async def task(shop: Shop) -> str:
    """A task of alice that handed something on and then failed, looked at by people of all kinds."""
    await shop.house.let_in("auditor", Role.ADMIN, scopes=DEFAULT_SCOPES[Role.ADMIN] | {"tasks.read_payload"})
    await shop.house.let_in("curious", Role.USER, scopes=DEFAULT_SCOPES[Role.USER] | {"tasks.read_payload"})
    made = await shop.make(PAYLOAD)
    await shop.work()
    return made


async def seen_by(shop: Shop, task: str, subject: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return the task, its first outputs and its newest attempt, as somebody sees them."""
    shown = await shop.seen(f"/v1/tasks/{task}", subject)
    handed_on = await shop.seen(f"/v1/tasks/{task}/outputs", subject)
    history = await shop.seen(f"/v1/tasks/{task}/history", subject)
    return shown, handed_on["items"][0], history["items"][0]


@pytest.mark.parametrize("subject", ["alice", "auditor"])
async def test_the_creator_and_holders_of_the_scope_see_the_content(shop: Shop, task: str, subject: str) -> None:
    shown, handed_on, attempt = await seen_by(shop, task, subject)

    assert shown["payload"] == PAYLOAD
    assert handed_on["outputs"] == {"attempt": 1}
    assert CARD in attempt["traceback"]


async def test_an_admin_without_the_scope_sees_the_task_without_it(shop: Shop, task: str) -> None:
    full, handed_on, attempt = await seen_by(shop, task, "alice")

    without = await seen_by(shop, task, "admin")

    assert without == (
        {name: value for name, value in full.items() if name != "payload"},
        {name: value for name, value in handed_on.items() if name != "outputs"},
        {name: value for name, value in attempt.items() if name != "traceback"},
    )


@pytest.mark.parametrize("subject", ["bob", "curious"])
async def test_the_scope_opens_no_foreign_task_to_a_user(shop: Shop, task: str, subject: str) -> None:
    for path in (f"/v1/tasks/{task}", f"/v1/tasks/{task}/outputs", f"/v1/tasks/{task}/history"):
        check_problem(await shop.get(path, subject), 404, "not_found")


async def test_a_scope_that_is_taken_away_hides_the_content_at_the_next_request(shop: Shop, task: str) -> None:
    root = await shop.house.let_in("root", Role.SUPER_ADMIN)
    auditor = await shop.house.let_in("second", Role.ADMIN, scopes=root.scopes)
    before = await shop.seen(f"/v1/tasks/{task}", "second")

    headers = shop.house.headers("root")
    scopes = sorted(DEFAULT_SCOPES[Role.ADMIN])
    await shop.house.client.patch(f"/v1/users/{auditor.id}", json={"scopes": scopes}, headers=headers)
    after = await shop.seen(f"/v1/tasks/{task}", "second")

    assert ("payload" in before, "payload" in after) == (True, False)


async def test_a_list_shows_no_payload_to_anybody(shop: Shop, task: str) -> None:
    listed = [await shop.seen("/v1/tasks", subject) for subject in ("alice", "auditor", "admin")]

    assert ["payload" in item for page in listed for item in page["items"]] == [False, False, False]
