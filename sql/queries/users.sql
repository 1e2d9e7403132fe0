-- name: add
INSERT INTO users (id, role, scopes_json, is_active, created_at, updated_at, subject)
VALUES (:id, :role, :scopes_json, :is_active, :created_at, :updated_at, :subject)
ON CONFLICT (subject) DO NOTHING
RETURNING id

-- name: by_id
SELECT id, role, scopes_json, is_active, created_at, updated_at, subject
FROM users
WHERE id = :id

-- name: to_change
-- Locked, so that what is decided on it is true when it is written.
SELECT id, role, scopes_json, is_active, created_at, updated_at, subject
FROM users
WHERE id = :id
/* postgres: FOR UPDATE */

-- name: by_subject
SELECT id, role, scopes_json, is_active, created_at, updated_at, subject
FROM users
WHERE subject = :subject

-- name: page
SELECT id, role, scopes_json, is_active, created_at, updated_at, subject
FROM users
WHERE id < :before
ORDER BY id DESC
LIMIT :limit

-- name: change
UPDATE users
SET role = :role, scopes_json = :scopes_json, is_active = :is_active, updated_at = :updated_at
WHERE id = :id
RETURNING id

-- name: active_super_admins
SELECT id
FROM users
WHERE role = 'super_admin' AND is_active = 1
ORDER BY id
/* postgres: FOR UPDATE */
