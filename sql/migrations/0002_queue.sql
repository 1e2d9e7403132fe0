-- The queue, the history of attempts, what stages handed on, and the row that a timed probe writes.

-- A row exists as long as there is something to do for its task.
CREATE TABLE jobs (
    task_id TEXT NOT NULL CONSTRAINT jobs_pk PRIMARY KEY CONSTRAINT jobs_task_fk REFERENCES tasks (id),
    stage TEXT NOT NULL,
    run_at TEXT NOT NULL,
    crashes INTEGER NOT NULL CONSTRAINT jobs_crashes_counts CHECK (crashes >= 0),
    lease_token TEXT,
    worker TEXT,
    lease_expires_at TEXT,
    CONSTRAINT jobs_lease_whole
        CHECK (
            (lease_token IS NULL) = (worker IS NULL)
            AND (lease_token IS NULL) = (lease_expires_at IS NULL)
        )
) /* sqlite: WITHOUT ROWID */;

CREATE INDEX jobs_due ON jobs (run_at, task_id) WHERE lease_token IS NULL;

CREATE INDEX jobs_leased ON jobs (lease_expires_at) WHERE lease_token IS NOT NULL;

CREATE TABLE attempts (
    task_id TEXT NOT NULL CONSTRAINT attempts_task_fk REFERENCES tasks (id),
    lease_token TEXT NOT NULL,
    stage TEXT NOT NULL,
    attempt INTEGER NOT NULL CONSTRAINT attempts_attempt_counts CHECK (attempt >= 1),
    worker TEXT NOT NULL,
    started_at TEXT NOT NULL,
    ended_at TEXT,
    outcome TEXT
        CONSTRAINT attempts_outcome_known CHECK (outcome IN ('succeeded', 'failed', 'released', 'lease_expired')),
    error_kind TEXT,
    error_message TEXT,
    CONSTRAINT attempts_pk PRIMARY KEY (task_id, lease_token),
    CONSTRAINT attempts_end_whole CHECK ((ended_at IS NULL) = (outcome IS NULL))
) /* sqlite: WITHOUT ROWID */;

CREATE TABLE outputs (
    task_id TEXT NOT NULL CONSTRAINT outputs_task_fk REFERENCES tasks (id),
    stage TEXT NOT NULL,
    value_json TEXT NOT NULL,
    created_at TEXT NOT NULL,
    CONSTRAINT outputs_pk PRIMARY KEY (task_id, stage)
) /* sqlite: WITHOUT ROWID */;

CREATE TABLE probes (
    name TEXT NOT NULL CONSTRAINT probes_pk PRIMARY KEY,
    written_at TEXT NOT NULL
);
