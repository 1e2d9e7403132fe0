-- name: pause
-- A pause that is there already stays as it is.
INSERT INTO pauses (stage, reason, paused_by, paused_at)
VALUES (:stage, :reason, :paused_by, :paused_at)
ON CONFLICT (stage) DO UPDATE SET stage = excluded.stage
RETURNING stage

-- name: resume
DELETE FROM pauses
WHERE stage = :stage
RETURNING stage

-- name: all
SELECT pauses.stage, pauses.reason, pauses.paused_by, pauses.paused_at, users.subject
FROM pauses
JOIN users ON users.id = pauses.paused_by
ORDER BY pauses.stage

-- name: stages
SELECT stage
FROM pauses
