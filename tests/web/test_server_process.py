"""A real server process: the same deadlines on its socket, and log lines that tell every request and no secret."""

import asyncio
from pathlib import Path

import httpx2

from tests.support.processes import ServiceProcess, let_in, run_cabinet, service
from tests.web.asking import bearer, check_problem, claims

MARK = "marked5ecret"


async def cut(running: ServiceProcess, begun: bytes) -> bytes:
    """Begin a request, fall silent, and return what came until the connection was closed."""
    url = httpx2.URL(running.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(begun)
    async with asyncio.timeout(5):
        received = await reader.read()
    writer.close()
    await writer.wait_closed()
    return received


async def test_a_real_process_cuts_silence_and_serves_all_others(tmp_path: Path) -> None:
    assert run_cabinet(tmp_path, "migrate").returncode == 0
    token = let_in(tmp_path, "alice")
    gated = {"PIPELINE": "tests.support.pipelines:gated"}
    async with service(tmp_path, RECEIVE_TIMEOUT_SECONDS="0.3", **gated) as running, running.client(token) as client:
        created = await client.post("/v1/tasks", json={"payload": {}}, headers={"Idempotency-Key": "k"})
        waiting = asyncio.ensure_future(client.get(created.headers["location"], params={"wait": 1.5}))
        silent, half_a_head, half_a_body = await asyncio.gather(
            cut(running, b""),
            cut(running, b"GET /health HTTP/1.1\r\nHost: a\r\n"),
            cut(running, b"POST /v1/access-requests HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"),
        )
        waited = await waiting

    assert (silent, half_a_head) == (b"", b"")
    assert half_a_body.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in half_a_body
    assert (waited.status_code, waited.json()["status"]) == (200, "running")


async def test_a_real_process_lets_listed_pages_in_and_tells_browsers_to_come_by_https(tmp_path: Path) -> None:
    assert run_cabinet(tmp_path, "migrate").returncode == 0
    given = {"PUBLIC_ORIGIN": "https://cabinet.example.com", "CORS_ORIGINS": "https://desk.example.com"}
    async with service(tmp_path, **given) as running, running.client() as client:
        listed = await client.get("/health", headers={"Origin": "https://desk.example.com"})
        stranger = await client.get("/health", headers={"Origin": "https://evil.example.com"})
        not_http = await client.request("BREW", "/health")

    assert listed.headers["access-control-allow-origin"] == "https://desk.example.com"
    assert not [name for name in stranger.headers if name.startswith("access-control-")]
    assert not_http.status_code == 400
    assert [answer.headers["strict-transport-security"] for answer in (listed, stranger, not_http)] == [
        "max-age=31536000"
    ] * 3


async def test_no_log_line_and_no_error_shows_a_token_a_payload_or_a_reference(tmp_path: Path) -> None:
    assert run_cabinet(tmp_path, "migrate").returncode == 0
    token = let_in(tmp_path, "alice")
    errors: list[httpx2.Response] = []
    async with service(tmp_path, LOG_LEVEL="debug") as running, running.client() as client:
        good = {"Authorization": f"Bearer {token}", "Idempotency-Key": f"key-{MARK}"}
        body = {"payload": {MARK: MARK}, "reference": MARK}
        created = await client.post("/v1/tasks", json=body, headers=good)
        await client.get(created.headers["location"], params={"wait": 20}, headers=good)
        await client.get("/v1/tasks", params={"reference": MARK}, headers=good)
        errors += [
            await client.post("/v1/tasks", json={**body, "reference": MARK * 100}, headers=good),
            await client.post("/v1/tasks", json={**body, "payload": {}}, headers=good),
            await client.post("/v1/tasks", content=f'{{"payload": {MARK}', headers=good),
            await client.post("/v1/tasks", content=f'"{MARK}"', headers={**good, "Content-Type": "application/json"}),
            await client.post("/v1/tasks", json=body, headers={"Authorization": f"Bearer {MARK}"}),
            await client.post("/v1/tasks", json=body, headers={"Authorization": f"Basic {MARK}"}),
            await client.post("/v1/tasks", json=body, headers=bearer(claims(MARK), secret=MARK * 4)),
            await client.post("/v1/tasks", json=body, headers=bearer(claims(MARK))),
            await client.get("/v1/tasks", params={"limit": MARK, "cursor": MARK}, headers=good),
            await client.get(f"/v1/tasks/{MARK}", headers=good),
            await client.get(f"/{MARK}"),
            await client.request(MARK, "/health"),
            await client.post("/v1/access-requests", json={"requested_by": f"{MARK} {MARK}", "reason": MARK}),
            await client.get("/health", headers={"X-Request-Id": f"{MARK} {MARK}"}),
        ]
        await running.terminate()

    logged = "\n".join(map(str, running.lines)) + "\n".join(running.other_lines)
    assert created.status_code == 201
    assert {answer.status_code for answer in errors} == {200, 400, 401, 403, 404, 415, 422}
    assert running.other_lines == []
    assert len(running.events("request")) >= len(errors)
    assert running.events("attempt_ended")
    assert MARK not in logged
    assert token not in logged
    assert token.rpartition(".")[2] not in logged
    assert not [answer.text for answer in errors if MARK in answer.text]


async def test_each_request_has_one_line_with_its_id(tmp_path: Path) -> None:
    assert run_cabinet(tmp_path, "migrate").returncode == 0
    async with service(tmp_path) as running, running.client() as client:
        answers = [
            await client.get("/health", headers={"X-Request-Id": "request-1"}),
            await client.get("/nowhere", headers={"X-Request-Id": "request-2"}),
            await client.get("/v1/tasks/some-id", headers={"X-Request-Id": "request-3"}),
        ]
        await running.terminate()

    lines = {line["request_id"]: line for line in running.events("request") if line["request_id"].startswith("request")}
    check_problem(answers[2], 401, "not_authenticated")
    assert [(line["method"], line["route"], line["status"]) for line in lines.values()] == [
        ("GET", "/health", 200),
        ("GET", "-", 404),
        ("GET", "/v1/tasks/{id}", 401),
    ]
    assert all(line["milliseconds"] >= 0 for line in lines.values())
