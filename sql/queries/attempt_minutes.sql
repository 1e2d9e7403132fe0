-- name: count
INSERT INTO attempt_minutes (minute, stage, outcome, worker, attempts, timed, milliseconds, longest_milliseconds)
VALUES (:minute, :stage, :outcome, :worker, 1, :timed, :milliseconds, :milliseconds)
ON CONFLICT (minute, stage, outcome, worker) DO UPDATE SET
    attempts = attempt_minutes.attempts + 1,
    timed = attempt_minutes.timed + excluded.timed,
    milliseconds = attempt_minutes.milliseconds + excluded.milliseconds,
    longest_milliseconds = CASE
        WHEN attempt_minutes.longest_milliseconds > excluded.longest_milliseconds
        THEN attempt_minutes.longest_milliseconds
        ELSE excluded.longest_milliseconds
    END
RETURNING attempts

-- name: since
SELECT
    minute, stage, outcome, SUM(attempts) AS attempts, SUM(timed) AS timed, SUM(milliseconds) AS milliseconds,
    MAX(longest_milliseconds) AS longest_milliseconds
FROM attempt_minutes
WHERE minute >= :minute
GROUP BY minute, stage, outcome
ORDER BY minute, stage, outcome

-- name: prune
DELETE FROM attempt_minutes
WHERE minute < :minute
RETURNING minute
