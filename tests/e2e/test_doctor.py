"""The doctor beside real processes: one that serves, one that was killed, one that was stopped."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.e2e.home import Home
from tests.support.processes import NOT_MEASURED, environment, run_cabinet, service


async def doctor(home: Home, *options: str, **changes: str) -> tuple[int | None, dict[str, list[dict[str, Any]]]]:
    """Run the doctor and return its exit code and what it found, by check."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app", "admin", "doctor", "--json", *options, cwd=home.folder,
        env=environment(home.folder, **changes), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert err == b"", err.decode()
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(out)["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    return process.returncode, found


def trace_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of change of every file but the log's index, which every reader writes."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.endswith("-shm")
    }


async def test_beside_a_busy_service_nothing_is_wrong_and_no_create_is_lost(home: Home) -> None:
    codes: list[int] = []
    async with service(home.folder) as running, running.client(home.tokens["alice"]) as client:
        is_over = asyncio.Event()

        async def create() -> None:
            while not is_over.is_set():
                headers = {"Idempotency-Key": f"key-{len(codes)}"}
                codes.append((await client.post("/v1/tasks", json={"payload": {}}, headers=headers)).status_code)

        creating = asyncio.create_task(create())
        runs = [await doctor(home) for _ in range(3)]
        is_over.set()
        await creating
        code = await running.terminate()

    for returned, found in runs:
        assert returned == 0, found
        assert found["service"][0]["says"] == f"process {running.process.pid} serves this database"
        assert found["integrity"][0]["level"] == "ok"
        assert "4 slots taken" in found["workers"][0]["says"]
    assert set(codes) == {201}
    assert home.rows("SELECT COUNT(*) FROM tasks") == [(len(codes),)]
    assert code == 0
    assert not (home.folder / "cabinet.db-wal").exists()


async def test_after_a_kill_what_was_left_is_told_and_stays_as_it_is(home: Home) -> None:
    async with service(home.folder, PIPELINE="tests.support.pipelines:gated", **NOT_MEASURED) as running:
        task_id = (await home.create(running, "key-1")).json()["id"]
        await home.until_running(task_id)
        await running.kill()
    before = trace_of(home.folder)

    code, found = await doctor(home, PIPELINE="tests.support.pipelines:gated", WORKER_LEASE_SECONDS="1")

    assert code == 0, found
    assert trace_of(home.folder) == before
    assert (home.folder / "cabinet.db-wal").stat().st_size > 0
    assert found["service"][0]["says"] == "nobody serves this database"
    assert "it has crashed, or its lock was deleted" in found["service"][1]["says"]
    assert found["integrity"][0]["level"] == "ok"


async def test_a_service_that_stands_still_is_found_out(home: Home) -> None:
    async with service(home.folder, WORKER_EMBEDDED="false") as running:
        await home.create(running, "key-1")
        await running.terminate()
    long_ago = "2026-01-01T00:00:00.000000Z"
    home.rows("UPDATE jobs SET run_at = :then", then=long_ago)
    home.rows("UPDATE pipeline_states SET updated_at = :then", then=long_ago)

    stopped, waiting = await doctor(home)
    async with service(home.folder, WORKER_EMBEDDED="false"):
        home.rows("DELETE FROM workers")
        at_once, early = await doctor(home, "--quick", WORKER_EMBEDDED="false")
        os.utime(home.folder / "cabinet.db.lock", (0, 0))  # as if it had begun long ago
        idle, unworked = await doctor(home, WORKER_EMBEDDED="false")

    assert (stopped, at_once, idle) == (0, 0, 1)
    assert early["workers"][0]["level"] == "note"
    assert waiting["waiting"][0]["remedy"] == "The next start of the service takes it up."
    assert unworked["workers"][0]["says"] == "work is due at parse, and no worker lives"
    assert unworked["waiting"][0]["level"] == "warning"


def test_on_a_terminal_it_is_coloured_and_aligned(home: Home) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "app", "admin", "doctor"]

    shown = b""
    with subprocess.Popen(command, cwd=home.folder, env=environment(home.folder), stdout=theirs) as process:
        os.close(theirs)
        with suppress(OSError):  # that is how a terminal ends
            while read := os.read(ours, 65_536):
                shown += read
    os.close(ours)

    assert process.returncode == 0
    assert shown.startswith(b"\x1b[32mok     \x1b[0m  settings      no fault;")


def test_a_terminal_without_unicode_is_no_reason_to_fail(home: Home) -> None:
    home.rows(
        "INSERT INTO pauses SELECT 'parse', 'from A \u2192 B', id, '2026-11-22T20:19:00.000000Z' FROM users LIMIT 1"
    )

    ended = run_cabinet(home.folder, "admin", "doctor", PYTHONIOENCODING="latin-1")

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "from A \\u2192 B" in ended.stdout


def test_the_database_is_not_made_where_there_is_none(home: Home) -> None:
    home.database.unlink()
    before = sorted(path.name for path in home.folder.iterdir())

    ended = run_cabinet(home.folder, "admin", "doctor")

    assert ended.returncode == 0
    assert "there is no database at" in ended.stdout
    assert "Traceback" not in ended.stderr
    assert sorted(path.name for path in home.folder.iterdir()) == sorted({*before, "secrets"})


async def test_another_process_may_start_while_it_looks(home: Home) -> None:
    started = []
    async with asyncio.timeout(60):
        for _ in range(3):
            looking = asyncio.create_task(doctor(home))
            async with service(home.folder) as running:
                started.append(running.url)
                code, found = await looking
                await running.terminate()
            assert code == 0, found

    assert len(started) == 3


async def test_work_that_comes_while_a_service_drains_is_no_fault(home: Home) -> None:
    async with service(home.folder, DRAIN_SECONDS="60", **NOT_MEASURED) as running:
        running.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            while home.rows("SELECT COUNT(*) FROM workers") != [(0,)]:
                await asyncio.sleep(0.02)
        created = await home.create(running, "key-1")
        code, found = await doctor(home, "--quick", DRAIN_SECONDS="60")
        await running.kill()

    assert created.status_code == 201
    assert code == 0, found
    assert found["workers"][0]["level"] == "note"
    assert "no worker lives yet, or no longer" in found["workers"][0]["says"]
