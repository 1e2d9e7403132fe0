-- name: begin
INSERT INTO attempts (
    task_id, lease_token, stage, attempt, worker, started_at, ended_at, outcome, error_kind, error_message
)
VALUES (:task_id, :lease_token, :stage, :attempt, :worker, :started_at, NULL, NULL, NULL, NULL)
RETURNING task_id

-- name: end
UPDATE attempts
SET ended_at = :ended_at, outcome = :outcome, error_kind = :error_kind, error_message = :error_message
WHERE task_id = :task_id AND lease_token = :lease_token AND outcome IS NULL
RETURNING task_id

-- name: of_task
SELECT task_id, lease_token, stage, attempt, worker, started_at, ended_at, outcome, error_kind, error_message
FROM attempts
WHERE task_id = :task_id AND lease_token < :before
ORDER BY lease_token DESC
LIMIT :limit
