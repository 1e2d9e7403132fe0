-- name: add
INSERT INTO audit_events (
    at, actor_id, subject, action, target_kind, target_id, before_json, after_json, reason, request_id, outcome, code,
    occurrences
)
VALUES (
    :at, :actor_id, :subject, :action, :target_kind, :target_id, :before_json, :after_json, :reason, :request_id,
    :outcome, :code, :occurrences
)
RETURNING seq

-- name: final
-- The order is that in which events become final: on SQLite that of `seq`, as there is one writer. On PostgreSQL no
-- transaction below the oldest one that runs can add anything any more.
SELECT
    seq, xact, at, actor_id, subject, action, target_kind, target_id, before_json, after_json, reason, request_id,
    outcome, code, occurrences
FROM audit_events
WHERE
    /* sqlite: (seq, xact) > (:seq, :xact) */
    /* postgres:
        (xact, seq) > (:xact, :seq)
        AND xact < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS TEXT) AS BIGINT)
    */
ORDER BY
    /* sqlite: seq, xact */
    /* postgres: xact, seq */
LIMIT :limit

-- name: between
SELECT
    seq, xact, at, actor_id, subject, action, target_kind, target_id, before_json, after_json, reason, request_id,
    outcome, code, occurrences
FROM audit_events
WHERE
    /* sqlite: (seq, xact) > (:after_seq, :after_xact) AND (seq, xact) <= (:until_seq, :until_xact) */
    /* postgres: (xact, seq) > (:after_xact, :after_seq) AND (xact, seq) <= (:until_xact, :until_seq) */
ORDER BY
    /* sqlite: seq, xact */
    /* postgres: xact, seq */
LIMIT :limit

-- name: count_after
SELECT COUNT(*) AS events, MIN(at) AS oldest_at
FROM audit_events
WHERE
    /* sqlite: (seq, xact) > (:seq, :xact) */
    /* postgres: (xact, seq) > (:xact, :seq) */

-- name: page
SELECT
    seq, xact, at, actor_id, subject, action, target_kind, target_id, before_json, after_json, reason, request_id,
    outcome, code, occurrences
FROM audit_events
WHERE
    seq < :before
    AND (CAST(:actor_id AS TEXT) IS NULL OR actor_id = CAST(:actor_id AS TEXT))
    AND (CAST(:action AS TEXT) IS NULL OR action = CAST(:action AS TEXT))
    AND (CAST(:target_id AS TEXT) IS NULL OR target_id = CAST(:target_id AS TEXT))
    AND (CAST(:outcome AS TEXT) IS NULL OR outcome = CAST(:outcome AS TEXT))
ORDER BY seq DESC
LIMIT :limit

-- name: page_of_target
SELECT
    seq, xact, at, actor_id, subject, action, target_kind, target_id, before_json, after_json, reason, request_id,
    outcome, code, occurrences
FROM audit_events
WHERE
    target_id = :target_id
    AND seq < :before
    AND (CAST(:actor_id AS TEXT) IS NULL OR actor_id = CAST(:actor_id AS TEXT))
    AND (CAST(:action AS TEXT) IS NULL OR action = CAST(:action AS TEXT))
    AND (CAST(:outcome AS TEXT) IS NULL OR outcome = CAST(:outcome AS TEXT))
ORDER BY seq DESC
LIMIT :limit

-- name: page_of_action
-- Every action but task.created, which the index leaves out: the whole table is nearly all creates, and its own walk
-- finds them at once.
SELECT
    seq, xact, at, actor_id, subject, action, target_kind, target_id, before_json, after_json, reason, request_id,
    outcome, code, occurrences
FROM audit_events
WHERE
    action = :action
    AND action <> 'task.created'
    AND seq < :before
    AND (CAST(:actor_id AS TEXT) IS NULL OR actor_id = CAST(:actor_id AS TEXT))
    AND (CAST(:target_id AS TEXT) IS NULL OR target_id = CAST(:target_id AS TEXT))
    AND (CAST(:outcome AS TEXT) IS NULL OR outcome = CAST(:outcome AS TEXT))
ORDER BY seq DESC
LIMIT :limit

-- name: page_of_denied
SELECT
    seq, xact, at, actor_id, subject, action, target_kind, target_id, before_json, after_json, reason, request_id,
    outcome, code, occurrences
FROM audit_events
WHERE
    outcome = 'denied'
    AND outcome = :outcome
    AND seq < :before
    AND (CAST(:actor_id AS TEXT) IS NULL OR actor_id = CAST(:actor_id AS TEXT))
    AND (CAST(:action AS TEXT) IS NULL OR action = CAST(:action AS TEXT))
    AND (CAST(:target_id AS TEXT) IS NULL OR target_id = CAST(:target_id AS TEXT))
ORDER BY seq DESC
LIMIT :limit

-- name: page_of_actor
SELECT
    seq, xact, at, actor_id, subject, action, target_kind, target_id, before_json, after_json, reason, request_id,
    outcome, code, occurrences
FROM audit_events
WHERE
    actor_id = :actor_id
    AND seq < :before
    AND (CAST(:action AS TEXT) IS NULL OR action = CAST(:action AS TEXT))
    AND (CAST(:target_id AS TEXT) IS NULL OR target_id = CAST(:target_id AS TEXT))
    AND (CAST(:outcome AS TEXT) IS NULL OR outcome = CAST(:outcome AS TEXT))
ORDER BY seq DESC
LIMIT :limit
