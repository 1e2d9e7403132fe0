-- name: add
INSERT INTO tasks (id, created_by, status, created_at, updated_at, reference, first_stage, payload_json)
VALUES (:id, :created_by, 'open', :created_at, :created_at, :reference, :first_stage, :payload_json)
RETURNING id

-- name: by_id
SELECT id, created_by, status, created_at, updated_at, reference, first_stage
FROM tasks
WHERE id = :id

-- name: standing
SELECT
    tasks.id, tasks.created_by, tasks.status, tasks.created_at, tasks.updated_at, tasks.reference, tasks.first_stage,
    pipeline_states.stage, pipeline_states.status AS state_status, pipeline_states.attempt,
    pipeline_states.last_error_kind, pipeline_states.is_terminal, pipeline_states.updated_at AS state_updated_at,
    jobs.run_at, jobs.cancel_by, attempts.progress_permille, attempts.progress_message, attempts.progress_at
FROM tasks
JOIN pipeline_states ON pipeline_states.task_id = tasks.id
LEFT JOIN jobs ON jobs.task_id = tasks.id
LEFT JOIN attempts ON attempts.task_id = jobs.task_id AND attempts.lease_token = jobs.lease_token
WHERE tasks.id = :id

-- name: payload
SELECT reference, payload_json
FROM tasks
WHERE id = :id

-- name: start
UPDATE tasks
SET status = 'running', updated_at = :now
WHERE id = :id AND status = 'open'
RETURNING id

-- name: finish
UPDATE tasks
SET status = 'succeeded', updated_at = :now
WHERE id = :id AND status = 'running'
RETURNING id

-- name: fail
UPDATE tasks
SET status = 'failed', updated_at = :now
WHERE id = :id AND status = 'running'
RETURNING id

-- name: rescue
UPDATE tasks
SET status = 'running', updated_at = :now
WHERE id = :id AND status = 'failed'
RETURNING id

-- name: cancel
UPDATE tasks
SET status = 'cancelled', updated_at = :now
WHERE id = :id AND status IN ('open', 'running')
RETURNING id

-- name: count_by_status
SELECT status, COUNT(*) AS tasks
FROM tasks
GROUP BY status
ORDER BY status

-- name: oldest
SELECT
    tasks.id, tasks.status, tasks.created_at, tasks.updated_at,
    EXISTS (SELECT 1 FROM idempotency_keys WHERE idempotency_keys.task_id = tasks.id) AS has_key
FROM tasks
WHERE tasks.id > :after
ORDER BY tasks.id
LIMIT :limit
/* postgres: FOR UPDATE OF tasks SKIP LOCKED */

-- name: prune
DELETE FROM tasks
WHERE id IN (
    /* sqlite: SELECT value FROM json_each(:ids_json) */
    /* postgres: SELECT jsonb_array_elements_text(CAST(CAST(:ids_json AS TEXT) AS JSONB)) */
)
RETURNING id

-- The four pages differ in the index that they walk; the planner cannot choose it behind an optional filter.

-- name: page
SELECT
    tasks.id, tasks.created_by, tasks.status, tasks.created_at, tasks.updated_at, tasks.reference, tasks.first_stage,
    pipeline_states.stage, pipeline_states.status AS state_status, pipeline_states.attempt,
    pipeline_states.last_error_kind, pipeline_states.is_terminal, pipeline_states.updated_at AS state_updated_at,
    jobs.run_at, jobs.cancel_by, attempts.progress_permille, attempts.progress_message, attempts.progress_at
FROM tasks
JOIN pipeline_states ON pipeline_states.task_id = tasks.id
LEFT JOIN jobs ON jobs.task_id = tasks.id
LEFT JOIN attempts ON attempts.task_id = jobs.task_id AND attempts.lease_token = jobs.lease_token
WHERE
    tasks.id < :before
    AND (CAST(:status AS TEXT) IS NULL OR tasks.status = CAST(:status AS TEXT))
    AND (CAST(:stage AS TEXT) IS NULL OR pipeline_states.stage = CAST(:stage AS TEXT))
    AND (CAST(:created_by AS TEXT) IS NULL OR tasks.created_by = CAST(:created_by AS TEXT))
    AND (CAST(:reference AS TEXT) IS NULL OR tasks.reference = CAST(:reference AS TEXT))
ORDER BY tasks.id DESC
LIMIT :limit

-- name: page_of_status
SELECT
    tasks.id, tasks.created_by, tasks.status, tasks.created_at, tasks.updated_at, tasks.reference, tasks.first_stage,
    pipeline_states.stage, pipeline_states.status AS state_status, pipeline_states.attempt,
    pipeline_states.last_error_kind, pipeline_states.is_terminal, pipeline_states.updated_at AS state_updated_at,
    jobs.run_at, jobs.cancel_by, attempts.progress_permille, attempts.progress_message, attempts.progress_at
FROM tasks
JOIN pipeline_states ON pipeline_states.task_id = tasks.id
LEFT JOIN jobs ON jobs.task_id = tasks.id
LEFT JOIN attempts ON attempts.task_id = jobs.task_id AND attempts.lease_token = jobs.lease_token
WHERE
    tasks.status = :status
    AND tasks.id < :before
    AND (CAST(:stage AS TEXT) IS NULL OR pipeline_states.stage = CAST(:stage AS TEXT))
    AND (CAST(:created_by AS TEXT) IS NULL OR tasks.created_by = CAST(:created_by AS TEXT))
    AND (CAST(:reference AS TEXT) IS NULL OR tasks.reference = CAST(:reference AS TEXT))
ORDER BY tasks.id DESC
LIMIT :limit

-- name: page_of_creator
SELECT
    tasks.id, tasks.created_by, tasks.status, tasks.created_at, tasks.updated_at, tasks.reference, tasks.first_stage,
    pipeline_states.stage, pipeline_states.status AS state_status, pipeline_states.attempt,
    pipeline_states.last_error_kind, pipeline_states.is_terminal, pipeline_states.updated_at AS state_updated_at,
    jobs.run_at, jobs.cancel_by, attempts.progress_permille, attempts.progress_message, attempts.progress_at
FROM tasks
JOIN pipeline_states ON pipeline_states.task_id = tasks.id
LEFT JOIN jobs ON jobs.task_id = tasks.id
LEFT JOIN attempts ON attempts.task_id = jobs.task_id AND attempts.lease_token = jobs.lease_token
WHERE
    tasks.created_by = :created_by
    AND tasks.id < :before
    AND (CAST(:status AS TEXT) IS NULL OR tasks.status = CAST(:status AS TEXT))
    AND (CAST(:stage AS TEXT) IS NULL OR pipeline_states.stage = CAST(:stage AS TEXT))
    AND (CAST(:reference AS TEXT) IS NULL OR tasks.reference = CAST(:reference AS TEXT))
ORDER BY tasks.id DESC
LIMIT :limit

-- name: page_of_reference
SELECT
    tasks.id, tasks.created_by, tasks.status, tasks.created_at, tasks.updated_at, tasks.reference, tasks.first_stage,
    pipeline_states.stage, pipeline_states.status AS state_status, pipeline_states.attempt,
    pipeline_states.last_error_kind, pipeline_states.is_terminal, pipeline_states.updated_at AS state_updated_at,
    jobs.run_at, jobs.cancel_by, attempts.progress_permille, attempts.progress_message, attempts.progress_at
FROM tasks
JOIN pipeline_states ON pipeline_states.task_id = tasks.id
LEFT JOIN jobs ON jobs.task_id = tasks.id
LEFT JOIN attempts ON attempts.task_id = jobs.task_id AND attempts.lease_token = jobs.lease_token
WHERE
    tasks.reference = :reference
    AND tasks.id < :before
    AND (CAST(:status AS TEXT) IS NULL OR tasks.status = CAST(:status AS TEXT))
    AND (CAST(:stage AS TEXT) IS NULL OR pipeline_states.stage = CAST(:stage AS TEXT))
    AND (CAST(:created_by AS TEXT) IS NULL OR tasks.created_by = CAST(:created_by AS TEXT))
ORDER BY tasks.id DESC
LIMIT :limit
