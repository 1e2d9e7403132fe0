-- Who decided what. Rows are only ever added: the triggers refuse everything else.

-- `seq` grows in the order of commits, since SQLite has one writer; PostgreSQL needs `xact` for that. No foreign key to
-- users: the gate has read the actor in the same unit.
CREATE TABLE audit_events (
    seq INTEGER NOT NULL CONSTRAINT audit_events_pk PRIMARY KEY,
    xact INTEGER NOT NULL DEFAULT 0,
    at TEXT NOT NULL,
    actor_id TEXT,
    subject TEXT,
    action TEXT NOT NULL,
    target_kind TEXT NOT NULL,
    target_id TEXT NOT NULL,
    before_json TEXT,
    after_json TEXT,
    reason TEXT,
    request_id TEXT,
    outcome TEXT NOT NULL CONSTRAINT audit_events_outcome_known CHECK (outcome IN ('allowed', 'denied')),
    code TEXT,
    occurrences INTEGER NOT NULL CONSTRAINT audit_events_occurrences_count CHECK (occurrences >= 1),
    CONSTRAINT audit_events_seq_positive CHECK (seq >= 1),
    CONSTRAINT audit_events_code_agrees CHECK ((outcome = 'denied') = (code IS NOT NULL))
);

CREATE INDEX audit_events_by_actor ON audit_events (actor_id, seq);

CREATE INDEX audit_events_by_target ON audit_events (target_id, seq);

CREATE INDEX audit_events_by_action ON audit_events (action, seq) WHERE action <> 'task.created';

CREATE INDEX audit_events_denied ON audit_events (seq) WHERE outcome = 'denied';

-- Each seal names the events after the one before it, up to (last_xact, last_seq), and chains their hash to it.
CREATE TABLE audit_seals (
    number INTEGER NOT NULL CONSTRAINT audit_seals_pk PRIMARY KEY,
    first_xact INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_xact INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    events INTEGER NOT NULL CONSTRAINT audit_seals_events_count CHECK (events >= 1),
    events_hash TEXT NOT NULL,
    previous_hash TEXT NOT NULL CONSTRAINT audit_seals_previous_hash_unique UNIQUE,
    hash TEXT NOT NULL,
    sealed_at TEXT NOT NULL
);

-- REPLACE deletes without a DELETE trigger; where no `seq` is given, none that exists is seen here.
CREATE TRIGGER audit_events_no_replace BEFORE INSERT ON audit_events
WHEN EXISTS (SELECT 1 FROM audit_events WHERE seq = NEW.seq)
BEGIN
    SELECT RAISE(ABORT, 'audit_events is append-only');
END;

CREATE TRIGGER audit_events_no_update BEFORE UPDATE ON audit_events
BEGIN
    SELECT RAISE(ABORT, 'audit_events is append-only');
END;

CREATE TRIGGER audit_events_no_delete BEFORE DELETE ON audit_events
BEGIN
    SELECT RAISE(ABORT, 'audit_events is append-only');
END;

CREATE TRIGGER audit_seals_no_replace BEFORE INSERT ON audit_seals
WHEN EXISTS (SELECT 1 FROM audit_seals WHERE number = NEW.number OR previous_hash = NEW.previous_hash)
BEGIN
    SELECT RAISE(ABORT, 'audit_seals is append-only');
END;

CREATE TRIGGER audit_seals_no_update BEFORE UPDATE ON audit_seals
BEGIN
    SELECT RAISE(ABORT, 'audit_seals is append-only');
END;

CREATE TRIGGER audit_seals_no_delete BEFORE DELETE ON audit_seals
BEGIN
    SELECT RAISE(ABORT, 'audit_seals is append-only');
END;
