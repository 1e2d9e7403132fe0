"""The log of requests in one process: one line each, whatever happens inside."""

import logging
from typing import Any

import pytest

from app.ids import new_id
from app.log import entry_of, task_id
from app.repositories.tasks import TasksRepository
from tests.support.house import House
from tests.web.asking import ask


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return what was logged of requests."""
    return [dict(record.__dict__["fields"]) for record in caplog.records if record.getMessage() == "request"]


async def test_every_request_is_one_line_also_if_it_is_refused_at_the_door(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    app = house.container.application()

    with caplog.at_level(logging.INFO):
        await ask(app)
        await ask(app, headers=[])
        await ask(app, path="/nowhere")
        await ask(app, "DELETE", "/v1/tasks")
        await ask(app, "POST", "/v1/access-requests", body=())

    assert [(line["route"], line["status"]) for line in lines(caplog)] == [
        ("/health", 200),
        ("-", 400),
        ("-", 404),
        ("-", 405),
        ("/v1/access-requests", 400),
    ]


async def test_a_failure_on_the_way_names_the_task_that_it_is_about(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError

    shown: list[Any] = []
    monkeypatch.setattr(house.store, "read", broken)
    monkeypatch.setattr("app.web.problems.event", lambda *_, **__: shown.append(task_id.get()))
    task = new_id()

    await house.client.get(f"/v1/tasks/{task}", headers=house.headers("alice"))

    assert shown == [task]


async def test_a_method_of_any_length_is_cut_in_the_line(house: House, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await ask(house.container.application(), "A" * 5_000)

    assert [line["method"] for line in lines(caplog)] == ["A" * 16]


async def test_an_unforeseen_error_is_logged_once_without_its_message(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.let_in("alice")

    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("marked-secret")

    monkeypatch.setattr(TasksRepository, "add", broken)

    with caplog.at_level(logging.INFO):
        answer = await house.create("alice", "k", {"a": 1})

    failures = [entry_of(record) for record in caplog.records if record.getMessage() == "request_failed"]
    assert answer.status_code == 500
    assert len(failures) == 1
    assert "RuntimeError" in str(failures[0]["exception"])
    assert "marked-secret" not in str(failures[0])
    assert [line["status"] for line in lines(caplog)] == [500]


@pytest.mark.parametrize("status", [401, 403, 404, 422])
async def test_a_refusal_is_no_failure_of_the_service(
    house: House, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    await house.let_in("alice")
    headers = {} if status == 401 else house.headers("alice")
    path = {401: "/v1/me", 403: "/v1/users", 404: "/nowhere", 422: "/v1/tasks?limit=0"}[status]

    with caplog.at_level(logging.INFO):
        answer = await house.client.get(path, headers=headers)

    assert answer.status_code == status
    assert [record.levelname for record in caplog.records if record.name.startswith("app.")] == ["INFO"]
