-- name: begin
INSERT INTO attempts (task_id, lease_token, stage, attempt, worker, started_at)
VALUES (:task_id, :lease_token, :stage, :attempt, :worker, :started_at)
RETURNING task_id

-- name: end
UPDATE attempts
SET
    ended_at = :ended_at, outcome = :outcome, milliseconds = :milliseconds,
    error_kind = :error_kind, error_message = :error_message, traceback = :traceback
WHERE task_id = :task_id AND lease_token = :lease_token AND outcome IS NULL
RETURNING stage, worker

-- name: tell_progress
UPDATE attempts
SET progress_permille = :permille, progress_message = :message, progress_at = :now
WHERE task_id = :task_id AND lease_token = :lease_token AND outcome IS NULL
RETURNING task_id

-- name: of_task
SELECT
    task_id, lease_token, stage, attempt, worker, started_at, ended_at, outcome, error_kind, error_message, traceback,
    milliseconds, progress_permille, progress_message, progress_at
FROM attempts
WHERE task_id = :task_id AND lease_token < :before
ORDER BY lease_token DESC
LIMIT :limit

-- name: forget_snoozes
-- All but the newest ones of a task, so that a stage that waits for days leaves a history that can be read.
DELETE FROM attempts
WHERE
    task_id = :task_id
    AND outcome = 'snoozed'
    AND lease_token <= (
        SELECT older.lease_token
        FROM attempts AS older
        WHERE older.task_id = :task_id AND older.outcome = 'snoozed'
        ORDER BY older.lease_token DESC
        LIMIT 1 OFFSET :keep
    )
RETURNING task_id

-- name: prune
DELETE FROM attempts
WHERE task_id IN (
    /* sqlite: SELECT value FROM json_each(:ids_json) */
    /* postgres: SELECT jsonb_array_elements_text(CAST(CAST(:ids_json AS TEXT) AS JSONB)) */
)
RETURNING task_id
