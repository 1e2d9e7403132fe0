-- name: add
INSERT INTO pipeline_states (task_id, stage, status, attempt, last_error_kind, is_terminal, updated_at)
VALUES (:task_id, :stage, 'queued', 0, NULL, 0, :now)
RETURNING task_id

-- name: by_task
SELECT task_id, stage, status, attempt, last_error_kind, is_terminal, updated_at
FROM pipeline_states
WHERE task_id = :task_id

-- name: claim
UPDATE pipeline_states
SET status = 'running', attempt = attempt + 1, updated_at = :now
WHERE task_id = :task_id AND stage = :stage AND status IN ('queued', 'failed')
RETURNING attempt

-- name: advance
UPDATE pipeline_states
SET stage = :next_stage, status = 'queued', attempt = 0, last_error_kind = NULL, updated_at = :now
WHERE task_id = :task_id AND stage = :stage AND status = 'running'
RETURNING task_id

-- name: finish
UPDATE pipeline_states
SET status = 'succeeded', is_terminal = 1, last_error_kind = NULL, updated_at = :now
WHERE task_id = :task_id AND stage = :stage AND status = 'running'
RETURNING task_id

-- name: fail
UPDATE pipeline_states
SET status = 'failed', last_error_kind = :error_kind, updated_at = :now
WHERE task_id = :task_id AND stage = :stage AND status = 'running'
RETURNING task_id

-- name: give_up
UPDATE pipeline_states
SET status = 'dead_letter', is_terminal = 1, last_error_kind = :error_kind, updated_at = :now
WHERE task_id = :task_id AND stage = :stage AND status = 'running'
RETURNING task_id

-- name: release
-- The attempt is not counted.
UPDATE pipeline_states
SET status = 'queued', attempt = attempt - 1, updated_at = :now
WHERE task_id = :task_id AND stage = :stage AND status = 'running'
RETURNING task_id

-- name: rescue
UPDATE pipeline_states
SET stage = :stage, status = 'queued', attempt = 0, is_terminal = 0, updated_at = :now
WHERE task_id = :task_id AND stage = :died_at AND status = 'dead_letter'
RETURNING stage

-- name: cancel
UPDATE pipeline_states
SET status = 'cancelled', is_terminal = 1, updated_at = :now
WHERE task_id = :task_id AND status IN ('queued', 'running', 'failed')
RETURNING stage

-- name: count_active
SELECT stage, status, COUNT(*) AS tasks
FROM pipeline_states
WHERE is_terminal = 0
GROUP BY stage, status
ORDER BY stage, status

-- name: prune
DELETE FROM pipeline_states
WHERE task_id IN (
    /* sqlite: SELECT value FROM json_each(:ids_json) */
    /* postgres: SELECT jsonb_array_elements_text(CAST(CAST(:ids_json AS TEXT) AS JSONB)) */
)
RETURNING task_id
