"""The promises of the specification: over HTTP against a real process, then in its file, then after a restart."""

from tests.e2e.home import Home
from tests.support.processes import service

WORKER_OFF = {"WORKER_EMBEDDED": "false"}


async def test_request_access_persists_to_database(home: Home) -> None:
    asked = {"requested_by": "bob@example.com", "reason": "I sort the pictures."}
    async with service(home.folder) as running:
        async with running.client() as client:
            answer = await client.post("/v1/access-requests", json=asked)

        stored = home.rows("SELECT id, requested_by, status, resolved_at, resolved_by, reason FROM access_requests")
        await running.terminate()

    assert answer.status_code == 202
    assert answer.json() == {"id": stored[0][0], "status": "pending"}
    assert [row[1:] for row in stored] == [("bob@example.com", "pending", None, None, "I sort the pictures.")]
    async with service(home.folder) as again, again.client(home.tokens["root"]) as client:
        seen = await client.get(f"/v1/access-requests/{answer.json()['id']}")
        repeated = await client.post("/v1/access-requests", json=asked)
    assert (seen.json()["requested_by"], seen.json()["status"]) == ("bob@example.com", "pending")
    assert repeated.json() == answer.json()
    assert home.rows("SELECT COUNT(*) FROM access_requests") == [(1,)]


async def test_create_task_persists_task_and_pipeline_state(home: Home) -> None:
    async with service(home.folder, **WORKER_OFF) as running:
        created = await home.create(running, "key-1", {"url": "https://example.com/1"})

        task_id = created.json()["id"]
        task = home.one("SELECT id, status, created_at, payload_json, first_stage FROM tasks")
        creator = home.one("SELECT users.subject FROM tasks JOIN users ON users.id = tasks.created_by")
        state = home.one(
            "SELECT task_id, stage, status, attempt, last_error_kind, is_terminal, updated_at FROM pipeline_states"
        )
        job = home.one("SELECT task_id, stage, lease_token FROM jobs")
        await running.terminate()

    at = created.json()["created_at"]
    assert created.status_code == 201
    assert task == (task_id, "open", at, '{"url":"https://example.com/1"}', "parse")
    assert creator == ("alice",)
    assert state == (task_id, "parse", "queued", 0, None, 0, at)
    assert job == (task_id, "parse", None)
    async with service(home.folder) as again:
        standing = await home.ended(again, task_id)
    assert (standing["status"], standing["stage"], standing["stage_status"]) == ("succeeded", "cleanup", "succeeded")
    assert home.one("SELECT stage, status, is_terminal FROM pipeline_states") == ("cleanup", "succeeded", 1)


async def test_idempotency_key_enforces_uniqueness(home: Home) -> None:
    async with service(home.folder, **WORKER_OFF) as running:
        first = await home.create(running, "key-1", {"n": 1})
        same = await home.create(running, "key-1", {"n": 1})
        other = await home.create(running, "key-1", {"n": 2})
        async with running.client(home.tokens["root"]) as client:
            body, headers = {"payload": {"n": 1}}, {"Idempotency-Key": "key-1"}
            by_another = await client.post("/v1/tasks", json=body, headers=headers)
        keys = home.rows("SELECT idem_key, task_id FROM idempotency_keys ORDER BY task_id")
        await running.terminate()

    assert [answer.status_code for answer in (first, same, other, by_another)] == [201, 201, 422, 201]
    assert same.content == first.content
    assert same.headers["idempotent-replayed"] == "true"
    assert other.json()["code"] == "idempotency_key_reused"
    assert keys == [("key-1", first.json()["id"]), ("key-1", by_another.json()["id"])]
    async with service(home.folder, **WORKER_OFF) as again:
        after = await home.create(again, "key-1", {"n": 2})
    assert after.status_code == 422
    assert home.rows("SELECT id FROM tasks ORDER BY id") == [(first.json()["id"],), (by_another.json()["id"],)]


async def test_idempotency_across_process_restart(home: Home) -> None:
    async with service(home.folder) as running:
        first = await home.create(running, "key-1", {"n": 1})
        await running.kill()

    async with service(home.folder) as again:
        second = await home.create(again, "key-1", {"n": 1})
        await home.ended(again, first.json()["id"])
        third = await home.create(again, "key-1", {"n": 1})
        await again.terminate()

    assert [answer.status_code for answer in (first, second, third)] == [201, 201, 201]
    assert first.content == second.content == third.content
    assert [answer.headers.get("idempotent-replayed") for answer in (first, second, third)] == [None, "true", "true"]
    assert home.rows("SELECT id FROM tasks") == [(first.json()["id"],)]
    assert home.one("SELECT idem_key, task_id, replays FROM idempotency_keys") == ("key-1", first.json()["id"], 2)


async def test_approve_access_creates_persisted_user(home: Home) -> None:
    async with service(home.folder) as running, running.client(home.tokens["root"]) as client:
        asked = await client.post("/v1/access-requests", json={"requested_by": "bob"})
        request_id = asked.json()["id"]
        approved = await client.post(f"/v1/access-requests/{request_id}/approve", json={"role": "admin"})

        user = approved.json()["user"]
        stored = home.one(
            "SELECT id, role, is_active, created_at, updated_at FROM users WHERE subject = :subject", subject="bob"
        )
        request = home.one("SELECT status, resolved_at, resolved_by FROM access_requests")
        [root_id] = home.one("SELECT id FROM users WHERE subject = :subject", subject="root")
        token = await client.post(f"/v1/users/{user['id']}/tokens", json={"ttl_seconds": 600})
        await running.kill()

    at = user["created_at"]
    assert approved.status_code == 200
    assert stored == (user["id"], "admin", 1, at, at)
    assert request == ("approved", at, root_id)
    async with service(home.folder) as again, again.client(token.json()["token"]) as client:
        me = await client.get("/v1/me")
        repeated = await client.get("/v1/users")
    assert (me.json()["id"], me.json()["subject"], me.json()["role"]) == (user["id"], "bob", "admin")
    assert sorted(known["subject"] for known in repeated.json()["items"]) == ["alice", "bob", "root"]
