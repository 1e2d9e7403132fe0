"""The gate over HTTP: what is read in every request, what is told to whom, and answers that no gate has passed."""

from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute

from app.domain.scopes import DEFAULT_SCOPES
from app.domain.users import Role
from app.errors import Defect
from app.repositories.users import UsersRepository
from app.web.application import check_routes
from tests.support.house import SECRET, House, open_house
from tests.web.asking import HOST, ask, bearer, check_problem, claims

PREVIOUS = "previous-secret-" + "p" * 32


async def test_a_token_of_the_previous_secret_is_good_while_rotating(tmp_path: Path) -> None:
    async with open_house(tmp_path, token_secret_previous=PREVIOUS) as house:
        await house.let_in("alice")

        with_new = await house.client.get("/v1/me", headers=bearer(claims("alice"), secret=SECRET))
        with_old = await house.client.get("/v1/me", headers=bearer(claims("alice"), secret=PREVIOUS))

        assert (with_new.status_code, with_old.status_code) == (200, 200)


async def test_a_token_of_the_previous_secret_ends_with_the_rotation(house: House) -> None:
    await house.let_in("alice")

    answer = await house.client.get("/v1/me", headers=bearer(claims("alice"), secret=PREVIOUS))

    check_problem(answer, 401, "not_authenticated")


async def test_a_token_issued_while_rotating_is_of_the_new_secret(tmp_path: Path) -> None:
    async with open_house(tmp_path, token_secret_previous=PREVIOUS) as house:
        await house.let_in("alice")
        headers = house.headers("alice")
    async with open_house(tmp_path) as house:
        answer = await house.client.get("/v1/me", headers=headers)

        assert answer.status_code == 200


async def test_the_scheme_is_read_in_any_case(house: House) -> None:
    await house.let_in("alice")
    token = bearer(claims("alice"))["Authorization"].removeprefix("Bearer ")

    answers = [
        await house.client.get("/v1/me", headers={"Authorization": f"{scheme} {token}"})
        for scheme in ("bearer", "BEARER", "Bearer ")
    ]

    assert [answer.status_code for answer in answers] == [200, 200, 200]


async def test_a_token_stops_and_starts_working_with_its_user_at_once(house: House) -> None:
    await house.let_in("root", Role.SUPER_ADMIN)
    alice = await house.let_in("alice")
    headers, root = house.headers("alice"), house.headers("root")

    async def statuses_after(change: dict[str, Any]) -> tuple[int, int]:
        changed = await house.client.patch(f"/v1/users/{alice.id}", json=change, headers=root)
        assert changed.status_code == 200
        tasks = await house.client.get("/v1/tasks", headers=headers)
        return tasks.status_code, (await house.client.get("/v1/users", headers=headers)).status_code

    assert await statuses_after({"is_active": False}) == (403, 403)
    assert await statuses_after({"is_active": True}) == (200, 403)
    assert await statuses_after({"scopes": []}) == (403, 403)
    assert await statuses_after({"role": "admin"}) == (200, 200)
    assert await statuses_after({"role": "user", "scopes": ["tasks.read", "users.read"]}) == (200, 403)


async def test_a_token_says_nothing_about_what_its_subject_may(house: House) -> None:
    await house.let_in("alice")

    answer = await house.client.get(
        "/v1/me", headers=bearer(claims("alice", role="super_admin", scopes=["users.manage"], scope="users.manage"))
    )

    assert answer.json()["role"] == "user"
    assert answer.json()["scopes"] == sorted(DEFAULT_SCOPES[Role.USER])


async def test_content_is_judged_only_for_those_who_are_let_in(house: House) -> None:
    await house.let_in("alice")
    await house.let_in("scopeless", scopes=frozenset())

    async def send(identity: dict[str, str]) -> Any:
        return await house.client.post("/v1/tasks", json={"payload": 1}, headers={**identity, "Idempotency-Key": "k"})

    check_problem(await send({}), 401, "not_authenticated")
    check_problem(await send(house.headers("scopeless")), 403, "scope_missing")
    check_problem(await send(house.headers("alice")), 422, "invalid_content")


async def test_a_gate_that_fails_denies_with_503(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.let_in("alice")

    async def broken(*_: Any) -> None:
        raise RuntimeError("marked-secret")

    monkeypatch.setattr(UsersRepository, "by_subject", broken)

    answer = await house.client.get("/v1/tasks", headers=house.headers("alice"))

    check_problem(answer, 503, "gate_failed")
    assert answer.headers["retry-after"] == "1"
    assert "marked-secret" not in answer.text


async def _free(_request: Request) -> Response:
    return PlainTextResponse("marked-secret", 200)


async def _redirect(_request: Request) -> Response:
    return RedirectResponse("/elsewhere")


async def _stream(_request: Request) -> Response:
    return StreamingResponse(iter(["marked-", "secret"]))


@pytest.mark.parametrize(
    "route",
    [
        Route("/free", _free),
        Mount("/free", routes=[Route("/", _free)]),
        Mount("/free", app=Starlette()),
        WebSocketRoute("/free", _free),
    ],
)
async def test_a_route_that_does_not_pass_the_gate_is_refused(house: House, route: BaseRoute) -> None:
    app = house.container.application()

    with pytest.raises(Defect, match="/free does not pass the gate"):
        check_routes([*app.routes, route])


@pytest.mark.parametrize("endpoint", [_free, _redirect, _stream])
async def test_the_answer_of_a_route_added_later_is_withheld(house: House, endpoint: Any) -> None:
    app = house.container.application()
    app.router.routes.append(Route("/free", endpoint))

    answer = await ask(app, path="/free")

    check_problem(answer, 500, "internal_error")
    assert "secret" not in answer.text
    assert "location" not in answer.headers


async def test_a_route_added_later_may_still_refuse(house: House) -> None:
    async def refuse(_request: Request) -> Response:
        return PlainTextResponse("no", 403)

    app = house.container.application()
    app.router.routes.append(Route("/free", refuse))

    answer = await ask(app, path="/free")

    assert (answer.status_code, answer.text) == (403, "no")


async def test_a_route_added_later_with_a_mounted_application_is_withheld_too(house: House) -> None:
    app = house.container.application()
    app.router.routes.append(Mount("/inner", app=Starlette(routes=[Route("/free", _free)])))

    answer = await ask(app, path="/inner/free", headers=[HOST])

    check_problem(answer, 500, "internal_error")
