"""Stopping a service: requests in flight are answered, what runs is finished or given back, the file is left whole."""

import asyncio
import signal
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.home import Home, until
from tests.support.processes import ServiceProcess, service, started

GATED = {"PIPELINE": "tests.support.pipelines:gated"}


def log_is_empty(home: Home) -> bool:
    """Tell whether everything was copied from SQLite's log into the file."""
    wal = home.folder / "cabinet.db-wal"
    return not wal.exists() or wal.stat().st_size == 0


async def closed(running: ServiceProcess) -> None:
    """Wait until the service takes no more connections: it has been told to stop, and heard it."""
    place = urlsplit(running.url)
    while True:
        try:
            _, writer = await asyncio.open_connection(place.hostname, place.port)
        except OSError:
            return
        writer.close()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_an_idle_service_stops_with_0_and_leaves_one_whole_file(home: Home, number: signal.Signals) -> None:
    async with service(home.folder) as running:
        await home.ended(running, (await home.create(running, "key-1")).json()["id"])

        running.process.send_signal(number)
        code = await running.ended()

    assert code == 0
    assert log_is_empty(home)
    assert home.rows("PRAGMA integrity_check") == [("ok",)]
    assert running.lines[-1]["event"] == "stopped"
    assert running.other_lines == []


async def connected(running: ServiceProcess) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection that is written to by hand."""
    place = urlsplit(running.url)
    return await asyncio.open_connection(place.hostname, place.port)


async def arrived(running: ServiceProcess) -> None:
    """Ask something else: what was sent on other connections before has arrived when that is answered."""
    async with running.client() as client:
        assert (await client.get("/health")).status_code == 200


async def test_a_request_in_flight_is_answered_before_the_end(home: Home) -> None:
    body = b'{"payload":{}}'
    head = (
        f"POST /v1/tasks HTTP/1.1\r\nHost: cabinet\r\nAuthorization: Bearer {home.tokens['alice']}\r\n"
        f"Idempotency-Key: key-1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    async with service(home.folder) as running:
        reader, writer = await connected(running)
        writer.write(head.encode() + body[:5])
        await writer.drain()
        await arrived(running)

        running.process.send_signal(signal.SIGTERM)
        await closed(running)
        writer.write(body[5:])
        answer = await reader.readuntil(b"\r\n")
        writer.close()
        code = await running.ended()

    assert answer == b"HTTP/1.1 201 Created\r\n"
    assert code == 0
    assert home.rows("SELECT COUNT(*) FROM tasks") == [(1,)]


async def test_who_waits_for_a_task_is_answered_when_the_service_stops(home: Home) -> None:
    async with service(home.folder, SHUTDOWN_GRACE_SECONDS="1", **GATED) as running:
        task_id = (await home.create(running, "key-1")).json()["id"]
        await home.until_running(task_id)
        reader, writer = await connected(running)
        head = f"GET /v1/tasks/{task_id}?wait=60 HTTP/1.1\r\nHost: cabinet\r\nConnection: close\r\n"
        writer.write(f"{head}Authorization: Bearer {home.tokens['alice']}\r\n\r\n".encode())
        await writer.drain()
        await arrived(running)

        running.process.send_signal(signal.SIGTERM)
        answer = await reader.read()
        writer.close()
        await running.ended()

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'"status":"running"' in answer


async def test_an_attempt_that_ends_within_the_grace_is_recorded(home: Home) -> None:
    async with service(home.folder, SHUTDOWN_GRACE_SECONDS="60", **GATED) as running:
        task_id = (await home.create(running, "key-1")).json()["id"]
        await home.until_running(task_id)

        running.process.send_signal(signal.SIGTERM)
        await closed(running)
        home.open_gate()
        code = await running.ended()

    assert code == 0
    assert log_is_empty(home)
    assert home.rows("SELECT stage, attempt, outcome FROM attempts") == [("parse", 1, "succeeded")]
    assert home.one("SELECT stage, status, attempt FROM pipeline_states") == ("photos", "queued", 0)


@pytest.mark.parametrize("pipeline", ["gated", "blocked"])
async def test_an_attempt_that_does_not_end_within_the_grace_is_given_back(home: Home, pipeline: str) -> None:
    async with service(
        home.folder, SHUTDOWN_GRACE_SECONDS="0", PIPELINE=f"tests.support.pipelines:{pipeline}"
    ) as running:
        task_id = (await home.create(running, "key-1")).json()["id"]
        await home.until_running(task_id)

        code = await running.terminate()

    assert code == 0
    assert log_is_empty(home)
    assert home.rows("SELECT stage, attempt, outcome FROM attempts") == [("parse", 1, "released")]
    assert home.one("SELECT status, attempt FROM pipeline_states") == ("queued", 0)
    assert home.one("SELECT crashes, lease_token FROM jobs") == (0, None)


async def test_a_second_signal_ends_the_service_without_its_grace(home: Home) -> None:
    async with service(home.folder, SHUTDOWN_GRACE_SECONDS="600", **GATED) as running:
        task_id = (await home.create(running, "key-1")).json()["id"]
        await home.until_running(task_id)
        running.process.send_signal(signal.SIGTERM)
        await closed(running)

        running.process.send_signal(signal.SIGTERM)
        has_ended = await ends_soon(running)

    home.open_gate()
    async with service(home.folder, **GATED) as again:
        standing = await home.ended(again, task_id)
    assert standing["status"] == "succeeded"
    assert has_ended


async def test_while_it_drains_readiness_is_down_and_requests_are_still_answered(home: Home) -> None:
    async with service(home.folder, DRAIN_SECONDS="300", METRICS_PORT="0") as running:
        running.process.send_signal(signal.SIGTERM)
        await until(lambda: running.events("stopping"))

        async with running.client() as client:
            ready = await client.get("/ready")
            metrics = await client.get(running.events("serving_metrics")[0]["url"])
        created = await home.create(running, "key-1")
        running.process.send_signal(signal.SIGTERM)
        has_ended = await ends_soon(running)

    assert ready.status_code == 503
    assert "\ncabinet_ready 0.0\n" in metrics.text
    assert created.status_code == 201
    assert home.rows("SELECT status FROM pipeline_states") == [("queued",)]
    assert has_ended


async def test_while_it_drains_those_who_wait_for_a_task_go_on_waiting(home: Home) -> None:
    async with service(home.folder, DRAIN_SECONDS="1", SHUTDOWN_GRACE_SECONDS="5", WORKER_EMBEDDED="false") as running:
        task_id = (await home.create(running, "key-1")).json()["id"]
        async with running.client(home.tokens["alice"]) as client:
            waiting = asyncio.create_task(client.get(f"/v1/tasks/{task_id}", params={"wait": 30}))
            await arrived(running)
            running.process.send_signal(signal.SIGTERM)
            await until(lambda: running.events("stopping"))
            late = await client.get(f"/v1/tasks/{task_id}", params={"wait": 30})
            answer = await waiting
        code = await running.ended()

    for seen in (late, answer):
        assert (seen.status_code, seen.json()["status"]) == (200, "open")
    assert len([line for line in running.events("request") if line["route"] == "/v1/tasks/{id}?wait"]) == 2
    assert min(line["milliseconds"] for line in running.events("request") if "?wait" in line["route"]) > 100
    assert code == 0


async def test_a_stop_that_comes_while_it_starts_is_heard(home: Home) -> None:
    lock = home.folder / "cabinet.db.lock"
    with closing(home.connect()) as holder:
        holder.execute("BEGIN IMMEDIATE")
        async with started(home.folder, "serve") as starting:
            await until(lambda: lock.exists() and lock.read_text() == str(starting.process.pid))
            starting.process.send_signal(signal.SIGTERM)
            await until(lambda: starting.events("stopping"))
            holder.execute("ROLLBACK")
            code = await starting.ended()

    assert code == 0
    assert starting.lines[-1]["event"] == "stopped"


async def test_when_it_has_drained_it_stops_as_ever(home: Home) -> None:
    async with service(home.folder, DRAIN_SECONDS="0.2") as running:
        code = await running.terminate()

    assert code == 0
    told = [line["event"] for line in running.lines if line["event"] != "audit_sealed"]
    assert told[-2:] == ["stopping", "stopped"]


async def test_further_signals_end_a_worker_without_its_grace(home: Home) -> None:
    async with service(home.folder, WORKER_EMBEDDED="false", **GATED) as running:
        task_id = (await home.create(running, "key-1")).json()["id"]
        await running.terminate()
    async with service(home.folder, "worker", SHUTDOWN_GRACE_SECONDS="600", **GATED) as working:
        await home.until_running(task_id)

        for _ in range(3):
            working.process.send_signal(signal.SIGTERM)
            has_ended = await ends_soon(working, seconds=2)
            if has_ended:
                break

    assert has_ended


async def ends_soon(running: ServiceProcess, *, seconds: float = 5) -> bool:
    """Wait a time that is far below the grace, and tell whether the process has ended in it."""
    done, _ = await asyncio.wait([asyncio.create_task(running.process.wait())], timeout=seconds)
    return bool(done)


async def test_work_that_comes_in_while_it_stops_is_never_left_half_claimed(home: Home) -> None:
    answers: list[Any] = []
    async with service(home.folder, SHUTDOWN_GRACE_SECONDS="5") as running:

        async def send(n: int) -> None:
            answers.append(await home.create(running, f"key-{n}"))

        sending = [asyncio.create_task(send(n)) for n in range(60)]
        await until(lambda: len(answers) > 10)
        running.process.send_signal(signal.SIGTERM)
        code = await running.ended()
        await asyncio.gather(*sending, return_exceptions=True)

    assert code == 0
    accepted = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    assert {row[0] for row in home.rows("SELECT id FROM tasks")} >= accepted
    assert home.rows("SELECT outcome FROM attempts WHERE outcome IS NULL") == []
    assert home.rows("SELECT task_id FROM jobs WHERE lease_token IS NOT NULL") == []
