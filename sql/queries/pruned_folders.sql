-- name: add
INSERT INTO pruned_folders (task_id, pruned_at)
VALUES (:task_id, :now)
ON CONFLICT (task_id) DO UPDATE SET pruned_at = excluded.pruned_at
RETURNING task_id

-- name: next
SELECT task_id
FROM pruned_folders
WHERE task_id > :after
ORDER BY task_id
LIMIT :limit

-- name: remove
DELETE FROM pruned_folders
WHERE task_id IN (
    /* sqlite: SELECT value FROM json_each(:ids_json) */
    /* postgres: SELECT jsonb_array_elements_text(CAST(CAST(:ids_json AS TEXT) AS JSONB)) */
)
RETURNING task_id
