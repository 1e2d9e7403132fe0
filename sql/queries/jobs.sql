-- name: add
INSERT INTO jobs (task_id, stage, run_at, crashes, lease_token, worker, lease_expires_at, stage_started_at, cancel_by)
VALUES (:task_id, :stage, :run_at, 0, NULL, NULL, NULL, NULL, NULL)
RETURNING task_id

-- name: by_task
SELECT task_id, stage, run_at, crashes, lease_token, worker, lease_expires_at, cancel_by
FROM jobs
WHERE task_id = :task_id

-- name: heads
-- The oldest waiting job of each stage that has one.
SELECT stages.value AS stage, (
    SELECT jobs.run_at
    FROM jobs
    WHERE jobs.stage = stages.value AND jobs.lease_token IS NULL
    ORDER BY jobs.run_at
    LIMIT 1
) AS run_at
FROM
    /* sqlite: json_each(:stages_json) AS stages */
    /* postgres: jsonb_array_elements_text(CAST(CAST(:stages_json AS TEXT) AS JSONB)) AS stages (value) */

-- name: next_waits_since
-- Since when the job of each stage that is to run next could have run there. A task keeps its place in the queue from
-- stage to stage, so its wait at a stage begins when it came there. In the future for one that is not due.
SELECT stages.value AS stage, (
    SELECT CASE WHEN pipeline_states.updated_at > jobs.run_at THEN pipeline_states.updated_at ELSE jobs.run_at END
    FROM jobs
    JOIN pipeline_states ON pipeline_states.task_id = jobs.task_id
    WHERE jobs.stage = stages.value AND jobs.lease_token IS NULL
    ORDER BY jobs.run_at, jobs.task_id
    LIMIT 1
) AS since
FROM
    /* sqlite: json_each(:stages_json) AS stages */
    /* postgres: jsonb_array_elements_text(CAST(CAST(:stages_json AS TEXT) AS JSONB)) AS stages (value) */

-- name: waiting_since
-- Since when the job of each stage that waits there longest could have run; only what waits since that moment counts.
-- A task keeps its place in the queue from stage to stage, so its wait at a stage begins when it came there.
SELECT stages.value AS stage, (
    SELECT MIN(
        CASE WHEN pipeline_states.updated_at > jobs.run_at THEN pipeline_states.updated_at ELSE jobs.run_at END
    )
    FROM jobs
    JOIN pipeline_states ON pipeline_states.task_id = jobs.task_id
    WHERE
        jobs.stage = stages.value AND jobs.lease_token IS NULL AND jobs.run_at <= :moment
        AND pipeline_states.updated_at <= :moment
) AS since
FROM
    /* sqlite: json_each(:stages_json) AS stages */
    /* postgres: jsonb_array_elements_text(CAST(CAST(:stages_json AS TEXT) AS JSONB)) AS stages (value) */

-- name: claim
-- The oldest due first; a task keeps its place in the queue from stage to stage. Each stage is asked for its own
-- oldest, so that what waits in the others is not walked over.
WITH due AS (
    SELECT oldest.task_id AS due_id
    FROM
        /* sqlite: json_each(:stages_json) AS stages */
        /* sqlite: CROSS JOIN jobs AS oldest ON oldest.task_id IN */
        /* postgres: jsonb_array_elements_text(CAST(CAST(:stages_json AS TEXT) AS JSONB)) AS stages (value) */
        /* postgres: CROSS JOIN LATERAL */
        (
            SELECT jobs.task_id /* postgres: , jobs.run_at */
            FROM jobs
            WHERE
                jobs.stage = stages.value AND jobs.lease_token IS NULL AND jobs.run_at <= :now
                AND jobs.crashes < :suspicious
            ORDER BY jobs.run_at, jobs.task_id
            LIMIT :limit
            /* postgres: FOR UPDATE SKIP LOCKED */
        ) /* postgres: AS oldest */
    ORDER BY oldest.run_at, oldest.task_id
    LIMIT :limit
)
UPDATE jobs
SET
    lease_token = :lease_token, worker = :worker, lease_expires_at = :lease_expires_at,
    stage_started_at = COALESCE(stage_started_at, :now)
FROM due
WHERE task_id = due_id AND lease_token IS NULL
RETURNING task_id, stage, stage_started_at, crashes

-- name: claim_suspect
-- The oldest due of those that have lost their worker again and again. They are few and have an index of their own,
-- which the planner takes because the stage is part of an expression.
UPDATE jobs
SET
    lease_token = :lease_token, worker = :worker, lease_expires_at = :lease_expires_at,
    stage_started_at = COALESCE(stage_started_at, :now)
WHERE task_id = (
    SELECT suspect.task_id
    FROM jobs AS suspect
    WHERE
        suspect.lease_token IS NULL AND suspect.crashes >= 2 AND suspect.crashes >= :suspicious
        AND suspect.run_at <= :now
        AND suspect.stage || '' IN (
            /* sqlite: SELECT value FROM json_each(:stages_json) */
            /* postgres: SELECT jsonb_array_elements_text(CAST(CAST(:stages_json AS TEXT) AS JSONB)) */
        )
    ORDER BY suspect.run_at, suspect.task_id
    LIMIT 1
    /* postgres: FOR UPDATE SKIP LOCKED */
)
RETURNING task_id, stage, stage_started_at, crashes

-- name: extend
UPDATE jobs
SET lease_expires_at = :lease_expires_at
WHERE task_id = :task_id AND lease_token = :lease_token
RETURNING cancel_by

-- name: advance
UPDATE jobs
SET
    stage = :next_stage, crashes = 0, stage_started_at = NULL,
    lease_token = NULL, worker = NULL, lease_expires_at = NULL
WHERE task_id = :task_id AND lease_token = :lease_token
RETURNING cancel_by

-- name: postpone
UPDATE jobs
SET run_at = :run_at, lease_token = NULL, worker = NULL, lease_expires_at = NULL
WHERE task_id = :task_id AND lease_token = :lease_token
RETURNING cancel_by

-- name: snooze
-- The time that the stage may take is counted anew.
UPDATE jobs
SET run_at = :run_at, stage_started_at = NULL, lease_token = NULL, worker = NULL, lease_expires_at = NULL
WHERE task_id = :task_id AND lease_token = :lease_token
RETURNING cancel_by

-- name: release
-- Without a new time the task keeps its place in the queue.
UPDATE jobs
SET
    crashes = crashes + :crashes, run_at = COALESCE(CAST(:run_at AS TEXT), run_at),
    stage_started_at = CASE WHEN :begins_anew = 1 THEN NULL ELSE stage_started_at END,
    lease_token = NULL, worker = NULL, lease_expires_at = NULL
WHERE task_id = :task_id AND lease_token = :lease_token
RETURNING cancel_by

-- name: remove
DELETE FROM jobs
WHERE task_id = :task_id AND lease_token = :lease_token
RETURNING cancel_by

-- name: remove_waiting
DELETE FROM jobs
WHERE task_id = :task_id AND lease_token IS NULL
RETURNING task_id

-- name: cancel
-- The first deadline stands. Whether somebody holds the lease is told with the row locked.
UPDATE jobs
SET cancel_by = COALESCE(cancel_by, :cancel_by)
WHERE task_id = :task_id
RETURNING lease_token

-- name: leased_until
SELECT task_id, stage, lease_token, crashes, cancel_by
FROM jobs
WHERE lease_token IS NOT NULL AND lease_expires_at <= :moment
ORDER BY lease_expires_at
LIMIT :limit
/* postgres: FOR UPDATE SKIP LOCKED */

-- name: cancelled_until
SELECT task_id, stage, lease_token, crashes, cancel_by
FROM jobs
WHERE cancel_by <= :moment
ORDER BY cancel_by
LIMIT :limit
/* postgres: FOR UPDATE SKIP LOCKED */

-- name: make_due
UPDATE jobs
SET run_at = :now
WHERE task_id = :task_id AND lease_token IS NULL AND run_at > :now
RETURNING task_id

-- name: ahead
-- How many due jobs of the stage come before this one; counted no further than the limit.
SELECT COUNT(*) AS ahead
FROM (
    SELECT jobs.task_id
    FROM jobs
    WHERE
        jobs.stage = :stage AND jobs.lease_token IS NULL AND jobs.run_at <= :run_at
        AND (jobs.run_at < :run_at OR jobs.task_id < :task_id)
    ORDER BY jobs.run_at, jobs.task_id
    LIMIT :limit
) AS before

-- name: leased_by_worker
SELECT worker, stage, COUNT(*) AS leased
FROM jobs
WHERE lease_token IS NOT NULL
GROUP BY worker, stage

-- name: unknown_stages
SELECT stage, COUNT(*) AS tasks
FROM jobs
WHERE stage NOT IN (
    /* sqlite: SELECT value FROM json_each(:stages_json) */
    /* postgres: SELECT jsonb_array_elements_text(CAST(CAST(:stages_json AS TEXT) AS JSONB)) */
)
GROUP BY stage
ORDER BY stage
