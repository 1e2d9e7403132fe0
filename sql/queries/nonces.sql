-- name: take
-- No row comes back if the nonce was taken before, or if the key is revoked.
INSERT INTO nonces (key_id, nonce, expires_at)
SELECT signing_keys.id, CAST(:nonce AS TEXT), CAST(:expires_at AS TEXT)
FROM signing_keys
WHERE signing_keys.id = :key_id AND signing_keys.revoked_at IS NULL
ON CONFLICT (key_id, nonce) DO NOTHING
RETURNING key_id

-- name: prune
DELETE FROM nonces
WHERE (key_id, nonce) IN (
    SELECT due.key_id, due.nonce
    FROM nonces AS due
    WHERE due.expires_at < :until
    ORDER BY due.expires_at
    LIMIT :limit
)
RETURNING key_id
