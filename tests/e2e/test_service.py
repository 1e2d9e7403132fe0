"""A real process."""

from pathlib import Path

from tests.support.processes import let_in, run_cabinet, service


async def test_a_service_starts_serves_and_stops(tmp_path: Path) -> None:
    assert run_cabinet(tmp_path, "migrate").returncode == 0
    token = let_in(tmp_path, "alice")
    async with service(tmp_path) as running:
        async with running.client(token) as client:
            headers = {"Idempotency-Key": "k"}
            created = await client.post("/v1/tasks", json={"payload": {}}, headers=headers)
            ended = await client.get(created.headers["location"], params={"wait": 20})
        code = await running.terminate()

    assert created.status_code == 201
    assert ended.json()["status"] == "succeeded"
    assert code == 0
