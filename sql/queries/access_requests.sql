-- name: ask
-- A pending request of the same subject stays as it is and is returned instead.
INSERT INTO access_requests (id, requested_by, status, requested_at, resolved_at, resolved_by, reason, public_key)
VALUES (:id, :requested_by, 'pending', :requested_at, NULL, NULL, :reason, :public_key)
ON CONFLICT (requested_by) WHERE status = 'pending' DO UPDATE SET requested_by = excluded.requested_by
RETURNING id, requested_by, status, requested_at, resolved_at, resolved_by, reason, public_key

-- name: count_pending
SELECT COUNT(*) AS pending
FROM access_requests
WHERE status = 'pending'

-- name: by_id
SELECT id, requested_by, status, requested_at, resolved_at, resolved_by, reason, public_key
FROM access_requests
WHERE id = :id

-- name: page
SELECT id, requested_by, status, requested_at, resolved_at, resolved_by, reason, public_key
FROM access_requests
WHERE id < :before
ORDER BY id DESC
LIMIT :limit

-- name: page_of_status
SELECT id, requested_by, status, requested_at, resolved_at, resolved_by, reason, public_key
FROM access_requests
WHERE status = :status AND id < :before
ORDER BY id DESC
LIMIT :limit

-- name: resolve
UPDATE access_requests
SET status = :status, resolved_at = :resolved_at, resolved_by = :resolved_by
WHERE id = :id AND status = 'pending'
RETURNING id, requested_by, status, requested_at, resolved_at, resolved_by, reason, public_key
