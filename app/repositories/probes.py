"""The probes table: the row that shows that writing works."""

from app.clock import Timestamp
from app.db.connection import Connection, Queries


class ProbesRepository:
    """When each kind of probe was last written."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self._connection = connection
        self._queries = queries

    async def write(self, name: str, *, now: Timestamp) -> None:
        """Write the present down under that name."""
        await self._connection.fetch_one(self._queries["probes.write"], name=name, written_at=now)

    async def last(self, name: str) -> Timestamp | None:
        """Return when something was last written under that name."""
        row = await self._connection.fetch_one(self._queries["probes.last"], name=name)
        return None if row is None else row["written_at"]
