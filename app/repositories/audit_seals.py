"""The audit_seals table."""

from app.db.connection import Connection, Queries, Row
from app.domain.audit import Seal


class AuditSealsRepository:
    """The chain of seals over the audit's events; rows are only ever added."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self._connection = connection
        self._queries = queries

    async def add(self, seal: Seal) -> bool:
        """Store a seal; False, and nothing changes, if its number is taken."""
        row = await self._connection.fetch_one(
            self._queries["audit_seals.add"],
            number=seal.number,
            first_xact=seal.first[0],
            first_seq=seal.first[1],
            last_xact=seal.last[0],
            last_seq=seal.last[1],
            events=seal.events,
            events_hash=seal.events_hash,
            previous_hash=seal.previous_hash,
            hash=seal.hash,
            sealed_at=seal.sealed_at,
        )
        return row is not None

    async def last(self) -> Seal | None:
        """Return the newest seal."""
        row = await self._connection.fetch_one(self._queries["audit_seals.last"])
        return None if row is None else _seal(row)

    async def next(self, number: int) -> Seal | None:
        """Return the first seal whose number lies after the given one."""
        row = await self._connection.fetch_one(self._queries["audit_seals.next"], number=number)
        return None if row is None else _seal(row)


def _seal(row: Row) -> Seal:
    return Seal(
        number=row["number"],
        first=(row["first_xact"], row["first_seq"]),
        last=(row["last_xact"], row["last_seq"]),
        events=row["events"],
        events_hash=row["events_hash"],
        previous_hash=row["previous_hash"],
        hash=row["hash"],
        sealed_at=row["sealed_at"],
    )
