-- name: add
INSERT INTO jobs (task_id, stage, run_at, crashes, lease_token, worker, lease_expires_at)
VALUES (:task_id, :stage, :run_at, 0, NULL, NULL, NULL)
RETURNING task_id

-- name: claim
-- The oldest due first; a task keeps its place in the queue from stage to stage.
WITH due AS (
    SELECT task_id AS due_id
    FROM jobs
    WHERE
        lease_token IS NULL
        AND run_at <= :now
        AND stage IN (
            /* sqlite: SELECT value FROM json_each(:stages_json) */
            /* postgres: SELECT jsonb_array_elements_text(CAST(CAST(:stages_json AS TEXT) AS JSONB)) */
        )
    ORDER BY run_at, task_id
    LIMIT :limit
    /* postgres: FOR UPDATE SKIP LOCKED */
)
UPDATE jobs
SET lease_token = :lease_token, worker = :worker, lease_expires_at = :lease_expires_at
FROM due
WHERE task_id = due_id AND lease_token IS NULL
RETURNING task_id, stage

-- name: extend
UPDATE jobs
SET lease_expires_at = :lease_expires_at
WHERE task_id = :task_id AND lease_token = :lease_token
RETURNING task_id

-- name: advance
UPDATE jobs
SET stage = :next_stage, crashes = 0, lease_token = NULL, worker = NULL, lease_expires_at = NULL
WHERE task_id = :task_id AND lease_token = :lease_token
RETURNING task_id

-- name: postpone
UPDATE jobs
SET run_at = :run_at, lease_token = NULL, worker = NULL, lease_expires_at = NULL
WHERE task_id = :task_id AND lease_token = :lease_token
RETURNING task_id

-- name: release
UPDATE jobs
SET crashes = crashes + :crashes, lease_token = NULL, worker = NULL, lease_expires_at = NULL
WHERE task_id = :task_id AND lease_token = :lease_token
RETURNING crashes

-- name: remove
DELETE FROM jobs
WHERE task_id = :task_id AND lease_token = :lease_token
RETURNING task_id

-- name: leased_until
SELECT task_id, stage, lease_token, crashes
FROM jobs
WHERE lease_token IS NOT NULL AND lease_expires_at <= :moment
ORDER BY lease_expires_at
LIMIT :limit

-- name: make_due
UPDATE jobs
SET run_at = :now
WHERE task_id = :task_id AND lease_token IS NULL AND run_at > :now
RETURNING task_id

-- name: next_due
SELECT MIN(run_at) AS run_at
FROM jobs
WHERE lease_token IS NULL AND run_at > :now

-- name: unknown_stages
SELECT stage, COUNT(*) AS tasks
FROM jobs
WHERE stage NOT IN (
    /* sqlite: SELECT value FROM json_each(:stages_json) */
    /* postgres: SELECT jsonb_array_elements_text(CAST(CAST(:stages_json AS TEXT) AS JSONB)) */
)
GROUP BY stage
ORDER BY stage
