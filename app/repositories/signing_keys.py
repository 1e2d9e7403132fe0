"""The signing_keys table."""

from app.clock import Timestamp
from app.db.connection import Connection, Queries, Row
from app.domain.keys import SigningKey


class SigningKeysRepository:
    """Public keys of users; a revoked one stays."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self._connection = connection
        self._queries = queries

    async def add(self, key: SigningKey) -> None:
        """Store a new key."""
        await self._connection.fetch_one(
            self._queries["signing_keys.add"],
            id=key.id,
            user_id=key.user_id,
            public_key=key.public_key,
            name=key.name,
            created_at=key.created_at,
        )

    async def by_id(self, key_id: str) -> SigningKey | None:
        """Return the key of that id, revoked or not."""
        row = await self._connection.fetch_one(self._queries["signing_keys.by_id"], id=key_id)
        return None if row is None else _signing_key(row)

    async def page(self, *, user_id: str | None, before: str, limit: int) -> list[SigningKey]:
        """Return the newest keys, of one user or of all, whose id lies before the given one."""
        if user_id is None:
            rows = await self._connection.fetch_all(self._queries["signing_keys.page"], before=before, limit=limit)
        else:
            query = self._queries["signing_keys.page_of_user"]
            rows = await self._connection.fetch_all(query, user_id=user_id, before=before, limit=limit)
        return [_signing_key(row) for row in rows]

    async def count_live(self, user_id: str) -> int:
        """Return how many keys of a user are not revoked."""
        row = await self._connection.fetch_one(self._queries["signing_keys.count_live"], user_id=user_id)
        return 0 if row is None else int(row["keys"])

    async def is_live(self, key_id: str) -> bool:
        """Tell whether there is a key of that id that is not revoked."""
        return await self._connection.fetch_one(self._queries["signing_keys.is_live"], id=key_id) is not None

    async def revoke(self, key_id: str, *, revoked_at: Timestamp) -> bool:
        """Take a key out of use for ever; False if it was already."""
        query = self._queries["signing_keys.revoke"]
        return await self._connection.fetch_one(query, id=key_id, revoked_at=revoked_at) is not None


def _signing_key(row: Row) -> SigningKey:
    return SigningKey(
        id=row["id"],
        user_id=row["user_id"],
        subject=row["subject"],
        public_key=row["public_key"],
        name=row["name"],
        created_at=row["created_at"],
        revoked_at=row["revoked_at"],
    )
