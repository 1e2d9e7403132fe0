-- Programs get in by signing their requests; the database holds what anybody may know.

CREATE TABLE signing_keys (
    id TEXT NOT NULL CONSTRAINT signing_keys_pk PRIMARY KEY,
    user_id TEXT NOT NULL CONSTRAINT signing_keys_user_fk REFERENCES users (id),
    public_key TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at TEXT NOT NULL,
    revoked_at TEXT
);

CREATE INDEX signing_keys_by_user ON signing_keys (user_id, id);

-- What a signed request used up, until it has run out. No foreign key: a row is only made by way of a key that is there.
CREATE TABLE nonces (
    key_id TEXT NOT NULL,
    nonce TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    CONSTRAINT nonces_pk PRIMARY KEY (key_id, nonce)
) /* sqlite: WITHOUT ROWID */;

CREATE INDEX nonces_by_expiry ON nonces (expires_at);

-- Approved together with the request; its key then has the id of the request.
ALTER TABLE access_requests ADD COLUMN public_key TEXT;

-- The scope tasks.read_payload is new.
UPDATE users
SET scopes_json = CASE
    WHEN scopes_json = '[]' THEN '["tasks.read_payload"]'
    ELSE REPLACE(scopes_json, ']', ',"tasks.read_payload"]')
END
WHERE role = 'super_admin';
