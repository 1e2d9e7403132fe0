-- name: add
INSERT INTO rescues (
    id, created_by, created_at, reason, stage, error_kind, signature, from_stage, confirm_side_effects, status,
    matched, rescued, skipped, last_task_id, ended_at
)
VALUES (
    :id, :created_by, :created_at, :reason, :stage, :error_kind, :signature, :from_stage, :confirm_side_effects,
    'running', :matched, 0, 0, '', NULL
)
RETURNING id

-- name: by_id
SELECT
    id, created_by, created_at, reason, stage, error_kind, signature, from_stage, confirm_side_effects, status,
    matched, rescued, skipped, last_task_id, ended_at
FROM rescues
WHERE id = :id

-- name: page
SELECT
    id, created_by, created_at, reason, stage, error_kind, signature, from_stage, confirm_side_effects, status,
    matched, rescued, skipped, last_task_id, ended_at
FROM rescues
WHERE id < :before
ORDER BY id DESC
LIMIT :limit

-- name: next_running
SELECT
    id, created_by, created_at, reason, stage, error_kind, signature, from_stage, confirm_side_effects, status,
    matched, rescued, skipped, last_task_id, ended_at
FROM rescues
WHERE status = 'running'
ORDER BY id
LIMIT 1
/* postgres: FOR UPDATE SKIP LOCKED */

-- name: count_running
SELECT COUNT(*) AS running
FROM rescues
WHERE status = 'running'

-- name: advance
UPDATE rescues
SET rescued = rescued + :rescued, skipped = skipped + :skipped, last_task_id = :last_task_id
WHERE id = :id AND status = 'running'
RETURNING id

-- name: finish
UPDATE rescues
SET status = :status, ended_at = :now
WHERE id = :id AND status = 'running'
RETURNING id
