"""The workers table: who works, and until when they are taken to be alive."""

import json
from collections import defaultdict

from app.clock import Timestamp
from app.db.connection import Connection, Queries
from app.domain.control import Heartbeat, LivingWorker


class WorkersRepository:
    """One row for each worker, written anew with every heartbeat."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self._connection = connection
        self._queries = queries

    async def beat(self, heartbeat: Heartbeat, *, now: Timestamp, expires_at: Timestamp) -> None:
        """A worker says that it lives."""
        await self._connection.fetch_one(
            self._queries["workers.beat"],
            name=heartbeat.name,
            now=now,
            expires_at=expires_at,
            concurrency=heartbeat.concurrency,
            stuck_json=json.dumps(dict(heartbeat.stuck), separators=(",", ":")),
            lost_leases=heartbeat.lost_leases,
            stages_json=json.dumps(dict(heartbeat.stages), separators=(",", ":")),
        )

    async def remove(self, name: str) -> None:
        """A worker has stopped."""
        await self._connection.fetch_one(self._queries["workers.remove"], name=name)

    async def remove_dead(self, moment: Timestamp) -> None:
        """Forget the workers that have not said by that moment that they live."""
        await self._connection.fetch_all(self._queries["workers.remove_dead"], moment=moment)

    async def alive(self, *, now: Timestamp) -> list[LivingWorker]:
        """Return the workers that are alive, with what they have leased."""
        rows = await self._connection.fetch_all(self._queries["workers.alive"], now=now)
        leased: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for row in await self._connection.fetch_all(self._queries["jobs.leased_by_worker"]):
            leased[row["worker"]][row["stage"]] = row["leased"]
        return [
            LivingWorker(
                heartbeat=Heartbeat(
                    name=row["name"],
                    concurrency=row["concurrency"],
                    stuck=json.loads(row["stuck_json"]),
                    lost_leases=row["lost_leases"],
                    stages=json.loads(row["stages_json"]),
                ),
                started_at=row["started_at"],
                seen_at=row["seen_at"],
                leased=leased[row["name"]],
            )
            for row in rows
        ]
