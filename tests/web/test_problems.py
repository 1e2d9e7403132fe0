"""Problems: every error is one kind of document, says what to do, and shows nothing from inside."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.domain.users import Role
from app.errors import QueryFailed, StorageFull, WriterBusy
from app.repositories.tasks import TasksRepository
from app.unit import UnitOfWork
from tests.support.house import House, open_house
from tests.web.asking import HOST, JSON, ask, check_problem, pointers

NOBODY = "01a206ab-ec79-741d-89db-ba887380d315"
"""An id that nothing has."""


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v1/tasks/", "/V1/tasks", "/v1/tasks/a/b"])
async def test_a_path_that_is_not_known_is_a_404(house: House, path: str) -> None:
    answer = await ask(house.container.application(), path=path)

    check_problem(answer, 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v1/tasks", {"GET", "HEAD", "POST"}),
        ("OPTIONS", "/v1/tasks", {"GET", "HEAD", "POST"}),
        ("POST", "/v1/me", {"GET", "HEAD"}),
        ("PUT", f"/v1/users/{NOBODY}", {"GET", "HEAD", "PATCH"}),
        ("GET", f"/v1/tasks/{NOBODY}/retry", {"POST"}),
        ("TRACE", "/health", {"GET", "HEAD"}),
        ("get", "/health", {"GET", "HEAD"}),
    ],
)
async def test_a_method_that_is_not_known_is_a_405_that_names_the_others(
    house: House, method: str, path: str, allow: set[str]
) -> None:
    answer = await ask(house.container.application(), method, path)

    check_problem(answer, 405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == allow


async def test_who_is_not_authenticated_is_told_how_to(house: House) -> None:
    answer = await house.client.get("/v1/tasks")

    check_problem(answer, 401, "not_authenticated")
    assert answer.headers["www-authenticate"] == 'Bearer realm="cabinet"'


async def test_every_bad_field_is_listed_with_its_place(house: House) -> None:
    await house.let_in("root", Role.SUPER_ADMIN)
    target = await house.let_in("target")
    body = {"role": "king", "scopes": ["tasks.read", 1, "x" * 65], "is_active": "yes", "a/b~c": 1, "": 2}

    answer = await house.client.patch(f"/v1/users/{target.id}", json=body, headers=house.headers("root"))

    assert sorted(pointers(answer)) == ["/", "/a~1b~0c", "/is_active", "/role", "/scopes/1", "/scopes/2"]
    assert all(fault["detail"] for fault in answer.json()["errors"])


async def test_a_body_that_is_no_object_is_pointed_to_as_a_whole(house: House) -> None:
    answer = await house.client.post("/v1/access-requests", json=["alice"])

    assert pointers(answer) == [""]


async def test_an_answer_lists_a_bounded_number_of_bad_fields(house: House) -> None:
    answer = await house.client.post("/v1/access-requests", json={f"field-{number}": 1 for number in range(1_000)})

    assert 1 <= len(pointers(answer)) <= 50


async def test_an_unforeseen_error_shows_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.let_in("alice")

    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("marked-secret")

    monkeypatch.setattr(TasksRepository, "add", broken)

    answer = await house.create("alice", "k")

    check_problem(answer, 500, "internal_error")
    assert "marked-secret" not in answer.text
    assert "RuntimeError" not in answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("error", [QueryFailed("SELECT marked-secret"), KeyError("marked-secret"), StopIteration()])
async def test_a_defect_says_that_it_is_one_and_no_more(
    house: House, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    await house.let_in("alice")

    async def broken(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(TasksRepository, "page", broken)

    answer = await house.client.get("/v1/tasks", headers=house.headers("alice"))

    body = check_problem(answer, 500, "internal_error")
    assert body["detail"] == "The service has a defect; the request left no trace."


@pytest.mark.parametrize(
    ("error", "code", "retry_after"), [(StorageFull(), "storage_full", "30"), (WriterBusy(), "busy", "1")]
)
async def test_what_is_not_available_now_says_when_to_try_again(
    house: House, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str, retry_after: str
) -> None:
    await house.let_in("alice")

    async def unavailable(*_: Any) -> None:
        raise error

    monkeypatch.setattr(house.container.store, "write", unavailable)

    answer = await house.create("alice", "k")

    check_problem(answer, 503, code)
    assert answer.headers["retry-after"] == retry_after


async def test_a_service_that_has_closed_its_database_says_that_it_stops(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        await house.let_in("alice")
        headers = house.headers("alice")
        app = house.container.application()

    answer = await ask(app, path="/v1/me", headers=[HOST, (b"authorization", headers["Authorization"].encode())])

    check_problem(answer, 503, "stopping")


async def test_a_request_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    async with open_house(tmp_path, request_timeout_seconds=0.1) as house:
        await house.let_in("alice")

        async def hold_the_writer(_work: UnitOfWork) -> None:
            time.sleep(0.3)  # noqa: ASYNC251 in the writer's thread

        holding = house.store.write(hold_the_writer)
        answer, _ = await _together(house.create("alice", "k"), holding)

        check_problem(answer, 503, "deadline_passed")
        assert answer.headers["retry-after"] == "1"


async def _together(asking: Any, holding: Any) -> tuple[httpx2.Response, Any]:
    held = asyncio.ensure_future(holding)
    await asyncio.sleep(0)
    answer = await asking
    return answer, await held


async def test_a_caller_who_leaves_before_the_body_is_there_changes_nothing(house: House) -> None:
    await house.let_in("alice")
    identity = house.headers("alice")["Authorization"].encode()
    headers = [HOST, JSON, (b"authorization", identity), (b"idempotency-key", b"k")]

    answer = await ask(house.container.application(), "POST", "/v1/tasks", headers=headers, body=())
    listed = await house.client.get("/v1/tasks", headers=house.headers("alice"))

    check_problem(answer, 400, "bad_request")
    assert listed.json()["items"] == []


async def test_every_answer_has_an_id_of_its_own(house: House) -> None:
    await house.let_in("alice")
    app = house.container.application()
    answers = [
        await house.create("alice", "k"),
        await house.create("alice", "bad key\x7f"),
        await house.client.get("/health"),
        await house.client.get("/v1/tasks"),
        await house.client.get("/nowhere"),
        await house.client.delete("/v1/tasks"),
        await house.client.get("/ready", headers={"Authorization": "Bearer x"}),
        await ask(app, headers=[]),
    ]

    assert [answer.status_code for answer in answers] == [201, 400, 200, 401, 404, 405, 401, 400]
    assert {len(answer.headers["x-request-id"]) for answer in answers} == {36}
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


@pytest.mark.parametrize("given", ["12345678", "a" * 64, "Trace-1_2.3-abc"])
async def test_a_well_formed_request_id_of_the_caller_is_kept(house: House, given: str) -> None:
    answer = await house.client.get("/v1/tasks", headers={"X-Request-Id": given})

    assert answer.headers["x-request-id"] == given
    assert answer.json()["request_id"] == given


@pytest.mark.parametrize("given", ["", "1234567", "a" * 65, "a b c d e f", "<script>1", "a%0d%0ab-12", "ä" * 10])
async def test_a_malformed_request_id_of_the_caller_is_replaced(house: House, given: str) -> None:
    answer = await house.client.get("/health", headers=[(b"X-Request-Id", given.encode())])

    assert answer.status_code == 200
    assert len(answer.headers["x-request-id"]) == 36


async def test_a_problem_is_utf_8_whatever_the_caller_named(house: House) -> None:
    answer = await house.client.post(
        "/v1/access-requests", content=json.dumps({"ä€😀": 1}), headers={"Content-Type": "application/json"}
    )

    assert "/ä€😀" in pointers(answer)
