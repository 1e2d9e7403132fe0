-- name: add
INSERT INTO dead_letters (task_id, stage, error_kind, error_message, signature, pattern, died_at)
VALUES (:task_id, :stage, :error_kind, :error_message, :signature, :pattern, :died_at)
RETURNING task_id

-- name: by_task
SELECT task_id, stage, error_kind, error_message, signature, pattern, died_at
FROM dead_letters
WHERE task_id = :task_id

-- name: remove
DELETE FROM dead_letters
WHERE task_id = :task_id
RETURNING task_id

-- name: page
SELECT task_id, stage, error_kind, error_message, signature, pattern, died_at
FROM dead_letters
WHERE
    task_id < :before
    AND (CAST(:stage AS TEXT) IS NULL OR stage = CAST(:stage AS TEXT))
    AND (CAST(:error_kind AS TEXT) IS NULL OR error_kind = CAST(:error_kind AS TEXT))
    AND (CAST(:signature AS TEXT) IS NULL OR signature = CAST(:signature AS TEXT))
ORDER BY task_id DESC
LIMIT :limit

-- name: page_of_signature
SELECT task_id, stage, error_kind, error_message, signature, pattern, died_at
FROM dead_letters
WHERE
    signature = :signature
    AND task_id < :before
    AND (CAST(:stage AS TEXT) IS NULL OR stage = CAST(:stage AS TEXT))
    AND (CAST(:error_kind AS TEXT) IS NULL OR error_kind = CAST(:error_kind AS TEXT))
ORDER BY task_id DESC
LIMIT :limit

-- name: groups
-- All of a group have the stage, kind and pattern of the sample, because the signature is made of them.
SELECT
    grouped.signature, grouped.letters, grouped.first_seen, grouped.last_seen,
    sample.task_id, sample.stage, sample.error_kind, sample.error_message, sample.pattern, sample.died_at
FROM (
    SELECT
        signature, COUNT(*) AS letters, MIN(died_at) AS first_seen, MAX(died_at) AS last_seen,
        MAX(task_id) AS sample_id
    FROM dead_letters
    GROUP BY signature
) AS grouped
JOIN dead_letters AS sample ON sample.task_id = grouped.sample_id
WHERE
    (CAST(:stage AS TEXT) IS NULL OR sample.stage = CAST(:stage AS TEXT))
    AND (CAST(:error_kind AS TEXT) IS NULL OR sample.error_kind = CAST(:error_kind AS TEXT))
ORDER BY grouped.letters DESC, grouped.signature
LIMIT :limit

-- name: count_by_stage
SELECT stage, COUNT(*) AS letters
FROM dead_letters
WHERE
    died_at <= :until
    AND (CAST(:stage AS TEXT) IS NULL OR stage = CAST(:stage AS TEXT))
    AND (CAST(:error_kind AS TEXT) IS NULL OR error_kind = CAST(:error_kind AS TEXT))
    AND (CAST(:signature AS TEXT) IS NULL OR signature = CAST(:signature AS TEXT))
GROUP BY stage
ORDER BY stage

-- name: next_to_rescue
SELECT task_id, stage, error_kind, error_message, signature, pattern, died_at
FROM dead_letters
WHERE
    task_id > :after
    AND died_at <= :until
    AND (CAST(:stage AS TEXT) IS NULL OR stage = CAST(:stage AS TEXT))
    AND (CAST(:error_kind AS TEXT) IS NULL OR error_kind = CAST(:error_kind AS TEXT))
    AND (CAST(:signature AS TEXT) IS NULL OR signature = CAST(:signature AS TEXT))
ORDER BY task_id
LIMIT :limit

-- name: next_of_signature
SELECT task_id, stage, error_kind, error_message, signature, pattern, died_at
FROM dead_letters
WHERE
    signature = :signature
    AND task_id > :after
    AND died_at <= :until
    AND (CAST(:stage AS TEXT) IS NULL OR stage = CAST(:stage AS TEXT))
    AND (CAST(:error_kind AS TEXT) IS NULL OR error_kind = CAST(:error_kind AS TEXT))
ORDER BY task_id
LIMIT :limit

-- name: prune
DELETE FROM dead_letters
WHERE task_id IN (
    /* sqlite: SELECT value FROM json_each(:ids_json) */
    /* postgres: SELECT jsonb_array_elements_text(CAST(CAST(:ids_json AS TEXT) AS JSONB)) */
)
RETURNING task_id
