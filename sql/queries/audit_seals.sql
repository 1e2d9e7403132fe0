-- name: add
-- Of several sealers at once one wins the number. The condition is for SQLite, whose trigger refuses a number that is
-- taken before ON CONFLICT is looked at.
INSERT INTO audit_seals (
    number, first_xact, first_seq, last_xact, last_seq, events, events_hash, previous_hash, hash, sealed_at
)
SELECT
    :number, :first_xact, :first_seq, :last_xact, :last_seq, :events, :events_hash, :previous_hash, :hash, :sealed_at
WHERE NOT EXISTS (SELECT 1 FROM audit_seals WHERE number = :number OR previous_hash = :previous_hash)
ON CONFLICT DO NOTHING
RETURNING number

-- name: last
SELECT number, first_xact, first_seq, last_xact, last_seq, events, events_hash, previous_hash, hash, sealed_at
FROM audit_seals
ORDER BY number DESC
LIMIT 1

-- name: next
SELECT number, first_xact, first_seq, last_xact, last_seq, events, events_hash, previous_hash, hash, sealed_at
FROM audit_seals
WHERE number > :number
ORDER BY number
LIMIT 1
