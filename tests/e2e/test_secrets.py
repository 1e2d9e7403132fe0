"""What must never be seen: everything is run with marked secrets, and all logs, metrics and error answers searched."""

import re
from typing import Any

import httpx2

from tests.e2e.home import Home, until
from tests.support.metrics import Figures
from tests.support.processes import ServiceProcess, let_in, run_cabinet, service

MARK = "s3cr3t"
"""No secret, token, key or payload is without it; so whatever shows it has shown one of them. Names that are told back,
of stages, scopes and fields, have none."""

TOKEN_SECRET = f"{MARK}-{'t' * 40}"
PREVIOUS = f"{MARK}-{'p' * 40}"
SETTINGS = {
    "TOKEN_SECRET": TOKEN_SECRET,
    "TOKEN_SECRET_PREVIOUS": PREVIOUS,
    "LOG_LEVEL": "debug",
    "PIPELINE": "tests.support.pipelines:leaky",
    "METRICS_PORT": "0",
    "BODY_LIMIT_BYTES": "2048",
}


async def everything(client: httpx2.AsyncClient, token: str) -> list[httpx2.Response]:
    """Send what succeeds and what is refused, each with a marked value in every place that takes one."""
    person = {"Authorization": f"Bearer {token}"}
    json = person | {"Content-Type": "application/json"}
    task = person | {"Idempotency-Key": f"{MARK}-key"}
    malformed = person | {"Idempotency-Key": f"{MARK}\u00e9".encode()}
    sent: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/tasks", {"headers": task, "json": {"payload": {MARK: MARK}}}),
        ("POST", "/v1/tasks", {"headers": task, "json": {"payload": {MARK: f"{MARK} other"}}}),
        (
            "POST",
            "/v1/tasks",
            {"headers": malformed, "json": {"payload": {}}},
        ),
        ("POST", "/v1/tasks", {"headers": task, "json": {"payload": {}, "surplus": MARK}}),
        ("POST", "/v1/tasks", {"headers": task, "json": {"payload": MARK}}),
        ("POST", "/v1/tasks", {"headers": task | json, "content": f'{{"payload": {{"a": "{MARK}'}),
        ("POST", "/v1/tasks", {"headers": task | json, "content": f'"{MARK * 1000}"'}),
        ("POST", "/v1/tasks", {"headers": task | {"Content-Type": f"text/{MARK}"}, "content": MARK}),
        ("GET", f"/v1/tasks/{MARK}", {"headers": person}),
        ("GET", f"/v1/{MARK}", {"headers": person}),
        (MARK.upper(), "/v1/tasks", {"headers": person}),
        ("DELETE", f"/v1/tasks?{MARK}", {"headers": person}),
        ("GET", f"/v1/tasks?cursor={MARK}&surplus={MARK}&limit={MARK}", {"headers": person}),
        ("GET", "/v1/me", {"headers": {"Authorization": f"Bearer {MARK}.{MARK}.{MARK}"}}),
        ("GET", "/v1/me", {"headers": {"Authorization": f"Basic {MARK}"}}),
        ("GET", "/v1/me", {"headers": {"Authorization": f"Bearer {token}x"}}),
        ("GET", "/v1/me", {"headers": person | {"Cookie": MARK, "X-Request-Id": "a" * 8, "User-Agent": MARK}}),
        ("GET", "/ready", {"headers": person}),
        ("GET", "/v1/stats", {"headers": person}),
    ]
    answers = [await client.request(method, path, **more) for method, path, more in sent]
    return answers + await people(client, person) + await control(client, person, answers[0].json()["id"])


async def people(client: httpx2.AsyncClient, person: dict[str, Any]) -> list[httpx2.Response]:
    """Let somebody ask for access, let them in, and hand out a token, which is the one answer that shows one."""
    asked = await client.post("/v1/access-requests", json={"requested_by": "eve", "reason": MARK})
    request = f"/v1/access-requests/{asked.json()['id']}"
    approved = await client.post(f"{request}/approve", headers=person)
    user = f"/v1/users/{approved.json()['user']['id']}"
    granted = await client.post(f"{user}/tokens", headers=person, json={"ttl_seconds": 60})
    eve = {"Authorization": f"Bearer {granted.json()['token']}"}
    return [
        *(asked, approved, granted),
        await client.post(f"{request}/reject", headers=person),
        await client.get("/v1/users", headers=eve),
        await client.patch(user, headers=person, json={"scopes": ["no.such"]}),
        await client.patch(user, headers=person, json={"is_active": False}),
        await client.get("/v1/me", headers=eve),
    ]


async def control(client: httpx2.AsyncClient, person: dict[str, Any], task: str) -> list[httpx2.Response]:
    """Take control of stages and tasks; the reason is for the log, so it has no mark."""
    why = {"reason": "for a test"}
    sent: list[tuple[str, dict[str, Any]]] = [
        ("/v1/stages/parse/pause", why),
        ("/v1/stages/no_such/pause", why),
        ("/v1/stages/parse/resume", why | {"surplus": MARK}),
        ("/v1/stages/parse/resume", why),
        (f"/v1/tasks/{task}/retry", why | {"from_stage": "no_such"}),
        ("/v1/dead-letters/rescues", why | {"surplus": MARK}),
        (f"/v1/tasks/{task}/cancel", {"reason": [MARK]}),
    ]
    return [await client.post(path, headers=person, json=body) for path, body in sent]


async def until_failed(running: ServiceProcess, client: httpx2.AsyncClient, token: str) -> None:
    """Wait until the task has failed: its handler raised what it had been given."""
    answer = await client.get("/v1/tasks", params={"status": "failed"}, headers={"Authorization": f"Bearer {token}"})
    if not answer.json()["items"]:
        await until(lambda: any(line["is_dead_letter"] for line in running.events("attempt_ended")))


async def test_no_log_no_metric_and_no_error_shows_a_secret(home: Home) -> None:
    token = let_in(home.folder, "mallory", "super_admin", **SETTINGS)
    async with service(home.folder, **SETTINGS) as running:
        async with running.client() as client:
            answers = await everything(client, token)
            await until_failed(running, client, token)
            metrics = await client.get(running.events("serving_metrics")[0]["url"])
        code = await running.terminate()
    refused = run_cabinet(home.folder, "serve", **SETTINGS | {"PORT": "high", "DATABASE_URL": f"postgresql://{MARK}@h"})

    backups = home.folder / "backups"
    backups.mkdir(mode=0o700)
    commands = [
        run_cabinet(home.folder, "admin", *words, **SETTINGS)
        for words in (("backup", str(backups)), ("doctor",), ("doctor", "--json"), ("users", "list"))
    ]

    log = "\n".join([*map(str, running.lines), *running.other_lines])
    errors = [answer.text for answer in answers if answer.status_code >= 400]
    assert code == 0
    assert refused.returncode == 3
    assert {answer.status_code for answer in answers} >= {200, 201, 400, 401, 404, 405, 413, 415, 422}
    assert Figures(metrics.text).value("cabinet_dead_letters_total", stage="parse") == 1
    assert '"payload"' not in log
    assert [command.returncode for command in commands] == [0, 0, 0, 0]
    said = [each.stdout + each.stderr for each in (refused, *commands)]
    signatures = [
        token.rpartition(".")[2],
        *(a.json()["token"].rpartition(".")[2] for a in answers if "token_type" in a.text),
    ]
    assert len(signatures) == 2
    for shown in (log, metrics.text, *said, *errors):
        assert not re.search(MARK, shown, re.IGNORECASE)
        assert not any(signature in shown for signature in signatures)


async def test_every_line_names_the_request_and_the_task_that_it_is_about(home: Home) -> None:
    async with service(home.folder) as running:
        created = await home.create(running, "key-1")
        task_id = created.json()["id"]
        await home.ended(running, task_id)
        async with running.client(home.tokens["root"]) as client:
            await client.post(
                f"/v1/tasks/{task_id}/cancel", headers={"X-Request-Id": "cancel-it"}, json={"reason": "x"}
            )
            await client.get("/v1/stats", headers={"X-Request-Id": "look-at-it"})
        await running.terminate()

    requests = running.events("request")
    assert all(line["request_id"] for line in requests)
    about = {line["request_id"]: line.get("task_id") for line in requests}
    assert about[created.headers["X-Request-Id"]] == task_id
    assert about["cancel-it"] == task_id
    assert about["look-at-it"] is None
    assert {line["task_id"] for line in running.events("attempt_ended")} == {task_id}
