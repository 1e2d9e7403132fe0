-- The five tables of the specification, with the further columns that the service needs in them.

CREATE TABLE users (
    id TEXT NOT NULL CONSTRAINT users_pk PRIMARY KEY,
    role TEXT NOT NULL CONSTRAINT users_role_known CHECK (role IN ('user', 'admin', 'super_admin')),
    scopes_json TEXT NOT NULL,
    is_active INTEGER NOT NULL CONSTRAINT users_is_active_boolean CHECK (is_active IN (0, 1)),
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    subject TEXT NOT NULL CONSTRAINT users_subject_unique UNIQUE
);

CREATE INDEX users_active_super_admins ON users (id) WHERE role = 'super_admin' AND is_active = 1;

CREATE TABLE access_requests (
    id TEXT NOT NULL CONSTRAINT access_requests_pk PRIMARY KEY,
    requested_by TEXT NOT NULL,
    status TEXT NOT NULL
        CONSTRAINT access_requests_status_known CHECK (status IN ('pending', 'approved', 'rejected')),
    requested_at TEXT NOT NULL,
    resolved_at TEXT,
    resolved_by TEXT CONSTRAINT access_requests_resolved_by_fk REFERENCES users (id),
    reason TEXT,
    CONSTRAINT access_requests_resolved_whole
        CHECK ((status = 'pending') = (resolved_at IS NULL) AND (resolved_at IS NULL) = (resolved_by IS NULL))
);

CREATE UNIQUE INDEX access_requests_one_pending ON access_requests (requested_by) WHERE status = 'pending';

CREATE INDEX access_requests_by_status ON access_requests (status, id);

CREATE TABLE tasks (
    id TEXT NOT NULL CONSTRAINT tasks_pk PRIMARY KEY,
    created_by TEXT NOT NULL CONSTRAINT tasks_created_by_fk REFERENCES users (id),
    status TEXT NOT NULL
        CONSTRAINT tasks_status_known CHECK (status IN ('open', 'running', 'succeeded', 'failed', 'cancelled')),
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    reference TEXT,
    first_stage TEXT NOT NULL,
    payload_json TEXT NOT NULL
);

CREATE INDEX tasks_by_creator ON tasks (created_by, id);

CREATE INDEX tasks_by_status ON tasks (status, id);

CREATE INDEX tasks_by_reference ON tasks (reference, id) WHERE reference IS NOT NULL;

CREATE TABLE pipeline_states (
    task_id TEXT NOT NULL
        CONSTRAINT pipeline_states_pk PRIMARY KEY
        CONSTRAINT pipeline_states_task_fk REFERENCES tasks (id),
    stage TEXT NOT NULL,
    status TEXT NOT NULL
        CONSTRAINT pipeline_states_status_known
        CHECK (status IN ('queued', 'running', 'failed', 'succeeded', 'dead_letter', 'cancelled')),
    attempt INTEGER NOT NULL CONSTRAINT pipeline_states_attempt_counts CHECK (attempt >= 0),
    last_error_kind TEXT,
    is_terminal INTEGER NOT NULL,
    updated_at TEXT NOT NULL,
    CONSTRAINT pipeline_states_terminal_agrees
        CHECK (is_terminal = CASE WHEN status IN ('succeeded', 'dead_letter', 'cancelled') THEN 1 ELSE 0 END)
) /* sqlite: WITHOUT ROWID */;

-- No foreign key to tasks: a key is claimed before its task is written, in the same unit.
CREATE TABLE idempotency_keys (
    actor_id TEXT NOT NULL CONSTRAINT idempotency_keys_actor_fk REFERENCES users (id),
    idem_key TEXT NOT NULL,
    task_id TEXT NOT NULL,
    created_at TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    replays INTEGER NOT NULL CONSTRAINT idempotency_keys_replays_counts CHECK (replays >= 0),
    CONSTRAINT idempotency_keys_pk PRIMARY KEY (actor_id, idem_key)
) /* sqlite: WITHOUT ROWID */;
