"""The nonces table: what signed requests have used up."""

from app.clock import Timestamp
from app.db.connection import Connection, Queries


class NoncesRepository:
    """One row for each signed request, until nobody could send it again."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self._connection = connection
        self._queries = queries

    async def take(self, *, key_id: str, nonce: str, expires_at: Timestamp) -> bool:
        """Use up a nonce; False if it was used before, or if the key is revoked."""
        query = self._queries["nonces.take"]
        row = await self._connection.fetch_one(query, key_id=key_id, nonce=nonce, expires_at=expires_at)
        return row is not None

    async def prune(self, *, until: Timestamp, limit: int) -> int:
        """Forget at most so many that ran out before then, and return how many."""
        return len(await self._connection.fetch_all(self._queries["nonces.prune"], until=until, limit=limit))
