-- name: beat
INSERT INTO workers (name, started_at, seen_at, expires_at, concurrency, stuck_json, lost_leases, stages_json)
VALUES (:name, :now, :now, :expires_at, :concurrency, :stuck_json, :lost_leases, :stages_json)
ON CONFLICT (name) DO UPDATE SET
    seen_at = excluded.seen_at, expires_at = excluded.expires_at, concurrency = excluded.concurrency,
    stuck_json = excluded.stuck_json, lost_leases = excluded.lost_leases, stages_json = excluded.stages_json
RETURNING name

-- name: remove
DELETE FROM workers
WHERE name = :name
RETURNING name

-- name: remove_dead
DELETE FROM workers
WHERE expires_at <= :moment
RETURNING name

-- name: alive
SELECT name, started_at, seen_at, expires_at, concurrency, stuck_json, lost_leases, stages_json
FROM workers
WHERE expires_at > :now
ORDER BY name
