-- name: store
-- A key that is there already is counted, not only read: the replay's answer is as durable as the first (fact 15).
INSERT INTO idempotency_keys (actor_id, idem_key, task_id, created_at, fingerprint, replays)
VALUES (:actor_id, :idem_key, :task_id, :created_at, :fingerprint, 0)
ON CONFLICT (actor_id, idem_key) DO UPDATE SET replays = idempotency_keys.replays + 1
RETURNING actor_id, idem_key, task_id, created_at, fingerprint

-- name: find
SELECT actor_id, idem_key, task_id, created_at, fingerprint
FROM idempotency_keys
WHERE actor_id = :actor_id AND idem_key = :idem_key

-- name: oldest
SELECT idempotency_keys.task_id, idempotency_keys.created_at, tasks.status
FROM idempotency_keys
LEFT JOIN tasks ON tasks.id = idempotency_keys.task_id
WHERE idempotency_keys.task_id > :after
ORDER BY idempotency_keys.task_id
LIMIT :limit

-- name: prune
DELETE FROM idempotency_keys
WHERE task_id IN (
    /* sqlite: SELECT value FROM json_each(:ids_json) */
    /* postgres: SELECT jsonb_array_elements_text(CAST(CAST(:ids_json AS TEXT) AS JSONB)) */
)
RETURNING task_id
