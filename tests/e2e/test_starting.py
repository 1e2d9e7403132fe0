"""Starting: what keeps a process from starting is said in a sentence, with the exit code of design §8."""

import socket

from tests.e2e.home import Home, until
from tests.support.processes import run_cabinet, service


def test_a_port_in_use_is_told_and_nothing_was_opened(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        ended = run_cabinet(home.folder, "serve", PORT=port)

    assert ended.returncode == 1
    assert ended.stderr.startswith(f"cabinet: Cannot listen on HOST 127.0.0.1, PORT {port}:")
    assert ended.stderr.count("\n") == 1
    assert not (home.folder / "cabinet.db.lock").exists()


def test_a_metrics_port_in_use_is_told_and_nothing_was_opened(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        ended = {command: run_cabinet(home.folder, command, METRICS_PORT=port) for command in ("serve", "worker")}

    for refused in ended.values():
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"cabinet: Cannot listen on METRICS_HOST 127.0.0.1, METRICS_PORT {port}:")
    assert not (home.folder / "cabinet.db.lock").exists()


def test_all_faults_of_the_settings_are_told_at_once(home: Home) -> None:
    faulty = {"APP_ENV": "staging", "PORT": "high", "TOKEN_SECRET": "short", "DB_PTH": "x", "PIPELINE": "nowhere"}

    ended = run_cabinet(home.folder, "serve", **faulty)

    assert ended.returncode == 3
    lines = ended.stderr.splitlines()
    assert len(lines) == len(faulty)
    assert all(line.startswith("cabinet: ") for line in lines)
    for name in faulty:
        assert sum(name in line for line in lines) >= 1
    assert "short" not in ended.stderr.replace("shorter", "")


def test_a_pipeline_that_cannot_be_imported_is_a_fault_of_the_settings(home: Home) -> None:
    ended = run_cabinet(home.folder, "serve", PIPELINE="tests.support.pipelines:nothing")

    assert ended.returncode == 3
    assert ended.stderr.startswith("cabinet: PIPELINE 'tests.support.pipelines:nothing' cannot be imported:")


def test_a_database_that_is_behind_stops_the_start_in_prod(home: Home) -> None:
    home.rows("DELETE FROM schema_migrations WHERE version = (SELECT MAX(version) FROM schema_migrations)")

    ended = run_cabinet(home.folder, "migrate", "--check")

    assert ended.returncode == 4
    assert ended.stderr.startswith("cabinet: The database is behind this version:")


async def test_a_second_process_on_the_same_file_is_refused(home: Home) -> None:
    async with service(home.folder) as running:
        second = run_cabinet(home.folder, "serve")
        worker = run_cabinet(home.folder, "worker")
        created = await home.create(running, "key-1")
        standing = await home.ended(running, created.json()["id"])

    for refused in (second, worker):
        assert refused.returncode == 1
        assert f"is served by another process (pid {running.process.pid})" in refused.stderr
        assert "PostgreSQL" in refused.stderr
        assert "Traceback" not in refused.stderr
    assert standing["status"] == "succeeded"


async def test_a_worker_alone_works_tasks_off_and_stops_with_0(home: Home) -> None:
    async with service(home.folder, WORKER_EMBEDDED="false") as running:
        for n in range(3):
            await home.create(running, f"key-{n}")
        await running.terminate()
    assert home.rows("SELECT DISTINCT status FROM tasks") == [("open",)]

    async with service(home.folder, "worker", TOKEN_SECRET="") as working:
        await until(lambda: home.rows("SELECT DISTINCT status FROM tasks") == [("succeeded",)])
        code = await working.terminate()

    assert code == 0
    assert working.events("stopped")
    assert not (home.folder / "cabinet.db-wal").exists()


async def test_stages_that_the_pipeline_does_not_have_wait_and_are_told(home: Home) -> None:
    async with service(home.folder, WORKER_EMBEDDED="false") as running:
        task_id = (await home.create(running, "key-1")).json()["id"]
        await running.terminate()
    home.rows("UPDATE jobs SET stage = 'dream'")
    home.rows("UPDATE pipeline_states SET stage = 'dream'")

    async with service(home.folder) as again, again.client(home.tokens["root"]) as client:
        ready = await client.get("/ready")
        other = (await home.create(again, "key-2")).json()["id"]
        await home.ended(again, other)

    [told] = again.events("stage_gone")
    assert (told["stage"], told["tasks"]) == ("dream", 1)
    assert ready.json()["waiting_in_unknown_stages"] == {"dream": 1}
    assert home.one("SELECT stage, status FROM pipeline_states WHERE task_id = :id", id=task_id) == ("dream", "queued")


async def test_in_memory_a_service_serves_and_leaves_no_file(home: Home) -> None:
    home.database.unlink()
    asked = {"requested_by": "bob"}
    async with service(home.folder, USE_SQLITE="false") as running, running.client() as client:
        ready = await client.get("/ready")
        first = await client.post("/v1/access-requests", json=asked)
        second = await client.post("/v1/access-requests", json=asked)
        unknown = await client.get("/v1/me", headers={"Authorization": f"Bearer {home.tokens['alice']}"})
        code = await running.terminate()

    assert ready.status_code == 200
    assert first.json() == second.json()
    assert unknown.json()["code"] == "unknown_subject"
    assert any("in memory" in line["note"] for line in running.events("setting_to_note"))
    assert code == 0
    assert list(home.folder.glob("cabinet.db*")) == []


def test_in_memory_is_refused_in_prod(home: Home) -> None:
    ended = run_cabinet(home.folder, "serve", USE_SQLITE="false", APP_ENV="prod")

    assert ended.returncode == 3
    assert "USE_SQLITE is false, which loses every task" in ended.stderr
