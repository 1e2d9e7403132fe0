-- name: add
INSERT INTO signing_keys (id, user_id, public_key, name, created_at, revoked_at)
VALUES (:id, :user_id, :public_key, :name, :created_at, NULL)
RETURNING id

-- name: by_id
SELECT
    signing_keys.id, signing_keys.user_id, signing_keys.public_key, signing_keys.name, signing_keys.created_at,
    signing_keys.revoked_at, users.subject
FROM signing_keys
JOIN users ON users.id = signing_keys.user_id
WHERE signing_keys.id = :id

-- name: page_of_user
SELECT
    signing_keys.id, signing_keys.user_id, signing_keys.public_key, signing_keys.name, signing_keys.created_at,
    signing_keys.revoked_at, users.subject
FROM signing_keys
JOIN users ON users.id = signing_keys.user_id
WHERE signing_keys.user_id = :user_id AND signing_keys.id < :before
ORDER BY signing_keys.id DESC
LIMIT :limit

-- name: page
SELECT
    signing_keys.id, signing_keys.user_id, signing_keys.public_key, signing_keys.name, signing_keys.created_at,
    signing_keys.revoked_at, users.subject
FROM signing_keys
JOIN users ON users.id = signing_keys.user_id
WHERE signing_keys.id < :before
ORDER BY signing_keys.id DESC
LIMIT :limit

-- name: count_live
SELECT COUNT(*) AS keys
FROM signing_keys
WHERE user_id = :user_id AND revoked_at IS NULL

-- name: is_live
SELECT id
FROM signing_keys
WHERE id = :id AND revoked_at IS NULL

-- name: revoke
UPDATE signing_keys
SET revoked_at = :revoked_at
WHERE id = :id AND revoked_at IS NULL
RETURNING id
