"""A stage that forks: its child must not hold what the next start needs."""

import asyncio
import os
import signal
from pathlib import Path

from tests.support.processes import let_in, run_cabinet, service


async def test_a_child_of_a_stage_does_not_hold_the_file_after_the_service_was_killed(tmp_path: Path) -> None:
    settings = {"PIPELINE": "tests.support.pipelines:forking"}
    assert run_cabinet(tmp_path, "migrate", **settings).returncode == 0
    token = let_in(tmp_path, "alice", **settings)
    async with service(tmp_path, **settings) as running, running.client(token) as client:
        created = await client.post("/v1/tasks", json={"payload": {}}, headers={"Idempotency-Key": "k"})
        await client.get(created.headers["location"], params={"wait": 20})
        await running.kill()
    (child,) = await asyncio.to_thread(lambda: list(tmp_path.glob("artifacts/*/child")))

    async with service(tmp_path, **settings) as again, again.client(token) as client:
        answer = await client.get(created.headers["location"])
    os.kill(int(child.read_text()), signal.SIGKILL)

    assert answer.json()["status"] == "succeeded"
