"""Backups of a service under load, each restored into a service of its own, which holds what was promised before."""

import asyncio
import random
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx2

from app.clock import SystemClock
from app.db.backups import stamp
from app.db.restores import restore
from tests.e2e.home import Home
from tests.e2e.test_beside import beside
from tests.support.processes import ServiceProcess, run_cabinet, service

BACKUPS = 5
CLIENTS = 3
BETWEEN = 30
"""How many more tasks are acknowledged before the next backup is taken."""

FAST = {"WORKER_POLL_SECONDS": "0.05", "WORKER_CONCURRENCY": "8", "MEASURED": "no"}


@dataclass
class Load:
    """Clients that create tasks without an end, and what they were promised: the task of each key, and since when."""

    running: ServiceProcess
    token: str
    promised: dict[str, tuple[str, str]] = field(default_factory=dict)
    refusals: list[httpx2.Response] = field(default_factory=list)
    is_over: bool = False

    async def client(self, lane: int) -> None:
        """Create one task after the other."""
        async with self.running.client(self.token) as client:
            for n in count():
                if self.is_over:
                    return
                answer = await create(client, f"{lane}-{n}")
                if answer.status_code == 201:
                    self.promised[f"{lane}-{n}"] = answer.json()["id"], stamp(SystemClock().now())
                else:
                    self.refusals.append(answer)

    def promised_before(self, backup: Path) -> dict[str, str]:
        """Return what had been promised when a backup began, which its name tells."""
        began_at = backup.name.removeprefix("cabinet-").removesuffix(".db")
        return {key: task_id for key, (task_id, answered_at) in self.promised.items() if answered_at < began_at}

    async def until(self, tasks: int) -> None:
        """Wait until so many tasks were promised."""
        async with asyncio.timeout(30):
            while len(self.promised) < tasks:
                await asyncio.sleep(0.005)


async def create(client: httpx2.AsyncClient, key: str) -> httpx2.Response:
    """Send a create; the same key always with the same command."""
    return await client.post("/v1/tasks", json={"payload": {"key": key}}, headers={"Idempotency-Key": key})


async def back_up_under_load(home: Home, target: Path) -> tuple[list[tuple[Path, dict[str, str]]], Load]:
    """Return each backup with what had been promised before it began."""
    backups = []
    async with service(home.folder, **FAST) as running:
        load = Load(running, home.tokens["alice"])
        lanes = [asyncio.create_task(load.client(lane)) for lane in range(CLIENTS)]
        for _ in range(BACKUPS):
            await load.until(len(load.promised) + BETWEEN)
            code, out, err = await beside(home, "admin", "backup", str(target), "--keep", str(BACKUPS))
            assert code == 0, err
            backup = Path(out.split("  ")[0])
            backups.append((backup, load.promised_before(backup)))
        load.is_over = True
        await asyncio.gather(*lanes)
        assert await running.terminate() == 0
    return backups, load


async def hold_against(backup: Path, before: dict[str, str], place: Home) -> int:
    """Restore into a place of its own, serve it and hold it against the promises; return how many tasks it has."""
    restored = restore(backup, place.database, at=SystemClock().now(), replace=False, missing_in=lambda _ledger: [])
    assert restored.is_vouched_for
    held = dict(place.rows("SELECT idem_key, task_id FROM idempotency_keys"))
    tasks = {task_id for (task_id,) in place.rows("SELECT id FROM tasks")}
    unfinished = [task_id for (task_id,) in place.rows("SELECT task_id FROM jobs ORDER BY task_id LIMIT 40")]

    async with service(place.folder, **FAST) as running, running.client(place.tokens["alice"]) as client:
        for key in random.sample(sorted(before), 10):
            again = await create(client, key)
            assert (again.status_code, again.json()["id"]) == (201, before[key])
            assert again.headers["idempotent-replayed"] == "true"
        one = await place.ended(running, random.choice(unfinished or sorted(tasks)))  # noqa: S311 a sample
        assert await running.terminate() == 0

    assert {key: held.get(key) for key in before} == before
    assert set(held.values()) == tasks
    assert len(held) == len(tasks)
    assert {task_id for (task_id,) in place.rows("SELECT id FROM tasks")} == tasks
    assert one["status"] == "succeeded"
    return len(tasks)


async def test_each_backup_under_load_restores_to_a_service_that_holds_every_task_acknowledged_before_it(
    home: Home, tmp_path: Path
) -> None:
    target = tmp_path / "backups"
    target.mkdir(mode=0o700)

    backups, load = await back_up_under_load(home, target)
    sizes = []
    for n, (backup, before) in enumerate(backups):
        folder = tmp_path / f"restored-{n}"
        folder.mkdir()
        sizes.append(await hold_against(backup, before, Home(folder, home.tokens)))

    assert load.refusals == []
    assert len(list(target.glob("*.db"))) == BACKUPS
    assert sizes == sorted(set(sizes))
    assert sizes[-1] >= BACKUPS * BETWEEN


async def test_a_stage_that_ran_when_the_backup_was_taken_runs_again_in_the_restored_service(
    home: Home, tmp_path: Path
) -> None:
    gated = {"PIPELINE": "tests.support.pipelines:gated", "WORKER_LEASE_SECONDS": "1800"}
    target, folder = tmp_path / "backups", tmp_path / "restored"
    target.mkdir(mode=0o700)
    folder.mkdir()
    restored = Home(folder, home.tokens)

    async with service(home.folder, **gated) as running:
        before = (await home.create(running, "before")).json()["id"]
        await home.until_running(before)
        code, out, err = await beside(home, "admin", "backup", str(target))
        after = (await home.create(running, "after")).json()["id"]
        refused = await beside(home, "admin", "restore", out.split("  ")[0], "--replace")
        await running.kill()
    assert run_cabinet(folder, "admin", "restore", out.split("  ")[0]).returncode == 0
    restored.open_gate()
    async with service(folder, **gated) as again:
        standing = await restored.ended(again, before)
        taken_back = [line["task_id"] for line in again.events("lease_taken_back")]
        anew = await restored.create(again, "after")

    assert code == 0, err
    assert refused[0] == 1
    assert "is served by another process" in refused[2]
    assert taken_back == [before]
    assert standing["status"] == "succeeded"
    assert anew.status_code == 201
    assert "idempotent-replayed" not in anew.headers
    assert anew.json()["id"] != after
