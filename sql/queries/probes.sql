-- name: write
INSERT INTO probes (name, written_at)
VALUES (:name, :written_at)
ON CONFLICT (name) DO UPDATE SET written_at = excluded.written_at
RETURNING written_at

-- name: last
SELECT written_at
FROM probes
WHERE name = :name
