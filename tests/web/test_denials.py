"""Denials in the audit: of users each for itself up to a rate, of everybody else as sums, and never without bounds."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from app.domain.audit import Deed
from app.domain.users import Role
from app.errors import StorageFull, TransactionLost
from app.ids import new_id
from app.repositories.audit_events import AuditEventsRepository
from app.security.denials import KEPT_LIMIT, KEPT_OF_ACTOR_LIMIT
from tests.support.database import driver
from tests.support.house import House, open_house
from tests.web.asking import bearer, check_problem, claims


def denied(house: House) -> list[tuple[Any, ...]]:
    """Return subject, target, code and occurrences of the denials that are kept, oldest first."""
    connection = driver.connect(str(house.container.settings.db_path))
    try:
        found: list[tuple[Any, ...]] = connection.execute(
            "SELECT subject, target_id, code, occurrences FROM audit_events WHERE outcome = 'denied' ORDER BY seq"
        ).fetchall()
    finally:
        connection.close()
    return found


async def ask_for(house: House, path: str, subjects: Sequence[str]) -> list[int]:
    """Ask for something as several subjects, one after the other."""
    return [(await house.client.get(path, headers=bearer(claims(subject)))).status_code for subject in subjects]


async def test_what_a_user_is_refused_is_kept_before_the_answer(house: House) -> None:
    user = await house.let_in("alice")
    path = f"/v1/users/{user.id}"

    answer = await house.client.patch(path, json={"is_active": False}, headers=house.headers("alice"))

    check_problem(answer, 403, "role_too_low")
    connection = driver.connect(str(house.container.settings.db_path))
    [event] = connection.execute(
        "SELECT actor_id, subject, action, target_kind, target_id, after_json, request_id, outcome, code, occurrences"
        " FROM audit_events"
    ).fetchall()
    connection.close()
    assert event == (
        *(user.id, "alice", "request.denied", "route", "PATCH /v1/users/{id}", f'{{"id":"{user.id}"}}'),
        *(answer.headers["x-request-id"], "denied", "role_too_low", 1),
    )


@pytest.mark.parametrize(
    ("subject", "path", "code"),
    [
        ("alice", "/v1/users", "role_too_low"),
        ("scopeless", "/v1/users", "scope_missing"),
        ("former", "/v1/me", "inactive_user"),
    ],
)
async def test_every_step_of_the_gate_that_refuses_a_user_is_kept(
    house: House, subject: str, path: str, code: str
) -> None:
    await house.let_in("alice")
    await house.let_in("scopeless", Role.ADMIN, scopes=frozenset())
    await house.let_in("former", is_active=False)

    await ask_for(house, path, [subject])

    assert denied(house) == [(subject, f"GET {path}", code, 1)]


async def test_what_the_rules_on_users_refuse_is_kept_though_the_unit_changed_nothing(house: House) -> None:
    await house.let_in("admin", Role.ADMIN)
    other = await house.let_in("other", Role.ADMIN)

    body = {"public_key": "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=", "name": "mine", "user_id": other.id}
    answer = await house.client.post("/v1/keys", json=body, headers=house.headers("admin"))

    check_problem(answer, 403, "not_allowed_on_user")
    assert denied(house) == [("admin", "POST /v1/keys", "not_allowed_on_user", 1)]


async def test_what_is_not_there_or_not_valid_is_no_denial(house: House) -> None:
    await house.let_in("alice")

    await ask_for(house, f"/v1/tasks/{new_id()}", ["alice"])
    await ask_for(house, "/v1/tasks?limit=0", ["alice"])
    await house.container.denials.write_sums()

    assert denied(house) == []


async def test_unknown_callers_are_kept_as_sums_alone(house: House) -> None:
    await ask_for(house, "/v1/me", ["stranger", "other stranger", "stranger"])
    await house.client.get("/v1/me")
    await house.client.get("/v1/me", headers={"Signature": "sig=:AA==:"})
    before = denied(house)

    await house.container.denials.write_sums()

    assert before == []
    assert denied(house) == [
        (None, "*", "bad_signature", 1),
        (None, "*", "not_authenticated", 2),  # a subject has no spaces
        (None, "*", "unknown_subject", 2),
    ]


async def test_a_sum_is_written_once(house: House) -> None:
    await house.client.get("/v1/me")

    await house.container.denials.write_sums()
    await house.container.denials.write_sums()

    assert denied(house) == [(None, "*", "not_authenticated", 1)]


async def test_a_user_who_is_refused_again_and_again_is_summed_up_beyond_a_rate(house: House) -> None:
    await house.let_in("alice")

    await ask_for(house, "/v1/users", ["alice"] * (KEPT_OF_ACTOR_LIMIT + 5))
    await house.container.denials.write_sums()

    alone = [("alice", "GET /v1/users", "role_too_low", 1)] * KEPT_OF_ACTOR_LIMIT
    assert denied(house) == [*alone, (None, "*", "role_too_low", 5)]


async def test_many_users_who_are_refused_are_summed_up_beyond_a_rate(house: House) -> None:
    subjects = [f"user{number}" for number in range(KEPT_LIMIT + 7)]
    for subject in subjects:
        await house.let_in(subject)

    await ask_for(house, "/v1/users", subjects)
    await house.container.denials.write_sums()

    kept = denied(house)
    assert [row[0] for row in kept[:-1]] == subjects[:KEPT_LIMIT]
    assert kept[-1] == (None, "*", "role_too_low", 7)


async def test_a_flood_of_strangers_writes_nothing_while_it_lasts(house: House) -> None:
    codes = await ask_for(house, "/v1/me", [f"stranger{number}" for number in range(300)])

    assert set(codes) == {403}
    assert denied(house) == []


async def test_a_denial_that_cannot_be_kept_is_told_all_the_same_and_kept_later(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.let_in("alice")

    async def full(_self: AuditEventsRepository, _deed: Deed, **_at: Any) -> None:
        raise StorageFull

    with monkeypatch.context() as patched:
        patched.setattr(AuditEventsRepository, "add", full)
        codes = await ask_for(house, "/v1/users", ["alice"])
        await house.container.denials.write_sums()
    await house.container.denials.write_sums()

    assert codes == [403]
    assert denied(house) == [(None, "*", "role_too_low", 1)]


async def test_a_service_that_stops_in_order_leaves_no_sum_behind(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        await house.client.get("/v1/me")

    assert denied(house) == [(None, "*", "not_authenticated", 1)]


async def test_a_fault_leaves_the_sums_counted_and_is_told(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await house.client.get("/v1/me")

    async def broken(_body: Any) -> None:
        raise TransactionLost

    with monkeypatch.context() as patched:
        patched.setattr(house.store, "write", broken)
        await house.container.denials.write_sums()
    await house.container.denials.write_sums()

    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["denials_not_kept"]
    assert denied(house) == [(None, "*", "not_authenticated", 1)]


async def test_a_sum_that_is_being_written_is_finished_when_its_loop_is_cancelled_and_counts_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.client.get("/v1/me")
    begun, end, write = asyncio.Event(), asyncio.Event(), house.store.write

    async def held(body: Any) -> Any:
        begun.set()
        await end.wait()
        return await write(body)

    monkeypatch.setattr(house.store, "write", held)
    writing = asyncio.create_task(house.container.denials.write_sums())
    await begun.wait()
    writing.cancel()
    await asyncio.wait([writing])
    end.set()
    await house.container.denials.write_sums()

    assert denied(house) == [(None, "*", "not_authenticated", 1)]
