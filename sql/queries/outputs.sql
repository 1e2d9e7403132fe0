-- name: put
-- A stage that runs again after a rescue replaces what it handed on before.
INSERT INTO outputs (task_id, stage, value_json, created_at)
VALUES (:task_id, :stage, :value_json, :created_at)
ON CONFLICT (task_id, stage) DO UPDATE SET value_json = excluded.value_json, created_at = excluded.created_at
RETURNING task_id

-- name: of_task
SELECT stage, value_json, created_at
FROM outputs
WHERE task_id = :task_id
ORDER BY created_at, stage

-- name: drop_stages
DELETE FROM outputs
WHERE
    task_id = :task_id
    AND stage IN (
        /* sqlite: SELECT value FROM json_each(:stages_json) */
        /* postgres: SELECT jsonb_array_elements_text(CAST(CAST(:stages_json AS TEXT) AS JSONB)) */
    )
RETURNING stage

-- name: prune
DELETE FROM outputs
WHERE task_id IN (
    /* sqlite: SELECT value FROM json_each(:ids_json) */
    /* postgres: SELECT jsonb_array_elements_text(CAST(CAST(:ids_json AS TEXT) AS JSONB)) */
)
RETURNING task_id
