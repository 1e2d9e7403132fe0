-- What the worker and those who operate it need: more outcomes and progress of attempts, dead letters by signature,
-- rescues in bulk, pauses, the workers that are alive, and what pruning leaves to be removed from the disk.

-- attempts is made anew, because SQLite cannot change a CHECK.
CREATE TABLE attempts_before AS SELECT * FROM attempts;

DROP TABLE attempts;

CREATE TABLE attempts (
    task_id TEXT NOT NULL CONSTRAINT attempts_task_fk REFERENCES tasks (id),
    lease_token TEXT NOT NULL,
    stage TEXT NOT NULL,
    attempt INTEGER NOT NULL CONSTRAINT attempts_attempt_counts CHECK (attempt >= 1),
    worker TEXT NOT NULL,
    started_at TEXT NOT NULL,
    ended_at TEXT,
    outcome TEXT
        CONSTRAINT attempts_outcome_known
        CHECK (outcome IN ('succeeded', 'failed', 'snoozed', 'released', 'lease_expired', 'cancelled')),
    error_kind TEXT,
    error_message TEXT,
    traceback TEXT,
    milliseconds BIGINT CONSTRAINT attempts_milliseconds_count CHECK (milliseconds >= 0),
    progress_permille INTEGER
        CONSTRAINT attempts_progress_is_a_share CHECK (progress_permille BETWEEN 0 AND 1000),
    progress_message TEXT,
    progress_at TEXT,
    CONSTRAINT attempts_pk PRIMARY KEY (task_id, lease_token),
    CONSTRAINT attempts_end_whole CHECK ((ended_at IS NULL) = (outcome IS NULL)),
    CONSTRAINT attempts_progress_whole CHECK ((progress_permille IS NULL) = (progress_at IS NULL))
) /* sqlite: WITHOUT ROWID */;

INSERT INTO attempts (
    task_id, lease_token, stage, attempt, worker, started_at, ended_at, outcome, error_kind, error_message
)
SELECT task_id, lease_token, stage, attempt, worker, started_at, ended_at, outcome, error_kind, error_message
FROM attempts_before;

DROP TABLE attempts_before;

-- How attempts ended, counted as they end, so that the last hour is a read of few rows. Each worker has rows of its
-- own, so that no two workers wait for each other.
CREATE TABLE attempt_minutes (
    minute TEXT NOT NULL,
    stage TEXT NOT NULL,
    outcome TEXT NOT NULL
        CONSTRAINT attempt_minutes_outcome_known
        CHECK (outcome IN ('succeeded', 'failed', 'snoozed', 'released', 'lease_expired', 'cancelled')),
    worker TEXT NOT NULL,
    attempts BIGINT NOT NULL CONSTRAINT attempt_minutes_attempts_count CHECK (attempts >= 1),
    timed BIGINT NOT NULL CONSTRAINT attempt_minutes_timed_counts CHECK (timed BETWEEN 0 AND attempts),
    milliseconds BIGINT NOT NULL CONSTRAINT attempt_minutes_milliseconds_count CHECK (milliseconds >= 0),
    longest_milliseconds BIGINT NOT NULL
        CONSTRAINT attempt_minutes_longest_counts CHECK (longest_milliseconds BETWEEN 0 AND milliseconds),
    CONSTRAINT attempt_minutes_pk PRIMARY KEY (minute, stage, outcome, worker)
) /* sqlite: WITHOUT ROWID */;

ALTER TABLE jobs ADD COLUMN stage_started_at TEXT;

ALTER TABLE jobs ADD COLUMN cancel_by TEXT;

DROP INDEX jobs_due;

CREATE INDEX jobs_due ON jobs (stage, run_at, task_id) WHERE lease_token IS NULL;

CREATE INDEX jobs_suspect ON jobs (run_at, task_id) WHERE lease_token IS NULL AND crashes >= 2;

CREATE INDEX jobs_cancelled ON jobs (cancel_by) WHERE cancel_by IS NOT NULL;

CREATE INDEX pipeline_states_active ON pipeline_states (stage, status) WHERE is_terminal = 0;

CREATE INDEX idempotency_keys_by_task ON idempotency_keys (task_id);

-- A row for each pipeline state that is a dead letter.
CREATE TABLE dead_letters (
    task_id TEXT NOT NULL
        CONSTRAINT dead_letters_pk PRIMARY KEY
        CONSTRAINT dead_letters_task_fk REFERENCES tasks (id),
    stage TEXT NOT NULL,
    error_kind TEXT NOT NULL,
    error_message TEXT NOT NULL,
    signature TEXT NOT NULL,
    pattern TEXT NOT NULL,
    died_at TEXT NOT NULL
) /* sqlite: WITHOUT ROWID */;

CREATE INDEX dead_letters_by_signature ON dead_letters (signature, task_id, died_at);

-- What counting reads, without the messages.
CREATE INDEX dead_letters_by_stage ON dead_letters (stage, error_kind, signature, died_at);

INSERT INTO dead_letters (task_id, stage, error_kind, error_message, signature, pattern, died_at)
SELECT
    dead.task_id,
    dead.stage,
    COALESCE(dead.last_error_kind, 'unknown'),
    COALESCE(
        (
            SELECT attempts.error_message
            FROM attempts
            WHERE attempts.task_id = dead.task_id AND attempts.error_message IS NOT NULL
            ORDER BY attempts.lease_token DESC
            LIMIT 1
        ),
        ''
    ),
    'earlier.' || dead.stage || '.' || COALESCE(dead.last_error_kind, 'unknown'),
    '(from before messages were grouped)',
    dead.updated_at
FROM pipeline_states AS dead
WHERE dead.status = 'dead_letter';

-- Dead letters that somebody wants rescued together; a worker carries it out in small units.
CREATE TABLE rescues (
    id TEXT NOT NULL CONSTRAINT rescues_pk PRIMARY KEY,
    created_by TEXT NOT NULL CONSTRAINT rescues_created_by_fk REFERENCES users (id),
    created_at TEXT NOT NULL,
    reason TEXT NOT NULL,
    stage TEXT,
    error_kind TEXT,
    signature TEXT,
    from_stage TEXT,
    confirm_side_effects INTEGER NOT NULL
        CONSTRAINT rescues_confirm_side_effects_boolean CHECK (confirm_side_effects IN (0, 1)),
    status TEXT NOT NULL CONSTRAINT rescues_status_known CHECK (status IN ('running', 'done', 'stopped')),
    matched BIGINT NOT NULL CONSTRAINT rescues_matched_counts CHECK (matched >= 0),
    rescued BIGINT NOT NULL CONSTRAINT rescues_rescued_counts CHECK (rescued >= 0),
    skipped BIGINT NOT NULL CONSTRAINT rescues_skipped_counts CHECK (skipped >= 0),
    last_task_id TEXT NOT NULL,
    ended_at TEXT,
    CONSTRAINT rescues_end_whole CHECK ((status = 'running') = (ended_at IS NULL))
);

CREATE INDEX rescues_running ON rescues (id) WHERE status = 'running';

-- The stage `*` stands for all of them.
CREATE TABLE pauses (
    stage TEXT NOT NULL CONSTRAINT pauses_pk PRIMARY KEY,
    reason TEXT NOT NULL,
    paused_by TEXT NOT NULL CONSTRAINT pauses_paused_by_fk REFERENCES users (id),
    paused_at TEXT NOT NULL
);

-- A worker is alive until `expires_at`, unless it says so again before.
CREATE TABLE workers (
    name TEXT NOT NULL CONSTRAINT workers_pk PRIMARY KEY,
    started_at TEXT NOT NULL,
    seen_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    concurrency INTEGER NOT NULL CONSTRAINT workers_concurrency_counts CHECK (concurrency >= 1),
    stuck_json TEXT NOT NULL,
    lost_leases BIGINT NOT NULL CONSTRAINT workers_lost_leases_counts CHECK (lost_leases >= 0),
    stages_json TEXT NOT NULL
);

-- Folders of tasks that were pruned: a row goes once its folder is gone.
CREATE TABLE pruned_folders (
    task_id TEXT NOT NULL CONSTRAINT pruned_folders_pk PRIMARY KEY,
    pruned_at TEXT NOT NULL
);
