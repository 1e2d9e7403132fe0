"""What happens to the file under a running service: others write beside it, or it is destroyed."""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

import httpx2

from tests.e2e.home import Home
from tests.support.processes import environment, service


async def beside(home: Home, *arguments: str) -> tuple[int | None, str, str]:
    """Run a command beside the service and return its code and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app", *arguments, cwd=home.folder, env=environment(home.folder),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def overwrite(path: Path) -> None:
    """Put nonsense in the place of every byte."""
    with path.open("r+b") as file:
        file.write(b"\xa5" * os.fstat(file.fileno()).st_size)


async def test_administration_writes_beside_a_busy_service(home: Home) -> None:
    codes: list[int] = []
    async with service(home.folder) as running, running.client(home.tokens["alice"]) as client:
        is_over = asyncio.Event()

        async def create(lane: int) -> None:
            n = 0
            while not is_over.is_set():
                headers = {"Idempotency-Key": f"{lane}-{n}"}
                codes.append((await client.post("/v1/tasks", json={"payload": {}}, headers=headers)).status_code)
                n += 1

        lanes = [asyncio.create_task(create(lane)) for lane in range(4)]
        added = [await beside(home, "admin", "users", "add", f"user-{n}") for n in range(4)]
        listed = await beside(home, "admin", "users", "list")
        token = await beside(home, "admin", "token", "user-0")
        is_over.set()
        await asyncio.gather(*lanes)
        async with running.client(token[1].strip()) as newcomer:
            me = await newcomer.get("/v1/me")
        code = await running.terminate()

    assert [code for code, _, _ in added] == [0] * 4, added
    assert [line.split()[3] for line in listed[1].splitlines()] == [
        "user-3", "user-2", "user-1", "user-0", "root", "alice",
    ]  # fmt: skip
    assert set(codes) == {201}
    assert home.rows("SELECT COUNT(*) FROM tasks") == [(len(codes),)]
    assert me.json()["subject"] == "user-0"
    assert code == 0


async def test_a_file_destroyed_under_the_service_ends_it_with_1(home: Home) -> None:
    async with service(home.folder) as running, running.client(home.tokens["alice"]) as client:
        for n in range(20):
            payload = {"text": "x" * 10_000}
            await client.post("/v1/tasks", json={"payload": payload}, headers={"Idempotency-Key": f"key-{n}"})
        for name in ("cabinet.db", "cabinet.db-wal"):
            overwrite(home.folder / name)

        answers = []
        with suppress(httpx2.TransportError):
            for n in range(2_000):
                answers.append(await client.get("/v1/tasks", params={"limit": 200}))
                headers = {"Idempotency-Key": f"late-{n}"}
                answers.append(await client.post("/v1/tasks", json={"payload": {}}, headers=headers))
        code = await running.ended()

    assert code == 1
    assert running.events("storage_failed")
    assert {answer.json().get("code") for answer in answers if answer.status_code >= 500} <= {
        "storage_failed",
        "stopping",
        "internal_error",
    }
