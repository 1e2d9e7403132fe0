"""The access_requests table."""

from app.clock import Timestamp
from app.db.connection import Connection, Queries, Row
from app.domain.access import AccessRequest, AccessStatus


class AccessRequestsRepository:
    """Subjects asking to become users."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self._connection = connection
        self._queries = queries

    async def ask(
        self,
        *,
        request_id: str,
        requested_by: str,
        reason: str | None,
        public_key: str | None,
        requested_at: Timestamp,
    ) -> AccessRequest:
        """Store a pending request, or return the one that is pending for that subject already."""
        row = await self._connection.fetch_one(
            self._queries["access_requests.ask"],
            id=request_id,
            requested_by=requested_by,
            requested_at=requested_at,
            reason=reason,
            public_key=public_key,
        )
        if row is None:
            raise LookupError("an insert that returns gave no row")
        return _access_request(row)

    async def count_pending(self) -> int:
        """Return how many requests wait for an answer."""
        row = await self._connection.fetch_one(self._queries["access_requests.count_pending"])
        return 0 if row is None else int(row["pending"])

    async def by_id(self, request_id: str) -> AccessRequest | None:
        """Return the request of that id."""
        row = await self._connection.fetch_one(self._queries["access_requests.by_id"], id=request_id)
        return None if row is None else _access_request(row)

    async def page(self, *, before: str, limit: int, status: AccessStatus | None) -> list[AccessRequest]:
        """Return the newest requests, of one status or of all, whose id lies before the given one."""
        if status is None:
            rows = await self._connection.fetch_all(self._queries["access_requests.page"], before=before, limit=limit)
        else:
            query = self._queries["access_requests.page_of_status"]
            rows = await self._connection.fetch_all(query, before=before, limit=limit, status=status)
        return [_access_request(row) for row in rows]

    async def resolve(
        self, request_id: str, *, status: AccessStatus, resolved_at: Timestamp, resolved_by: str
    ) -> AccessRequest | None:
        """Answer a pending request; None if it is not pending."""
        row = await self._connection.fetch_one(
            self._queries["access_requests.resolve"],
            id=request_id,
            status=status,
            resolved_at=resolved_at,
            resolved_by=resolved_by,
        )
        return None if row is None else _access_request(row)


def _access_request(row: Row) -> AccessRequest:
    return AccessRequest(
        id=row["id"],
        requested_by=row["requested_by"],
        reason=row["reason"],
        public_key=row["public_key"],
        status=AccessStatus(row["status"]),
        requested_at=row["requested_at"],
        resolved_at=row["resolved_at"],
        resolved_by=row["resolved_by"],
    )
