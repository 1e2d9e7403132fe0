"""The users table."""

from app.clock import Timestamp
from app.db.connection import Connection, Queries, Row
from app.domain.scopes import scopes_from_json, scopes_to_json
from app.domain.users import Role, User


class UsersRepository:
    """Subjects that were let in."""

    def __init__(self, connection: Connection, queries: Queries) -> None:
        self._connection = connection
        self._queries = queries

    async def add(self, user: User) -> bool:
        """Store a new user; False, and nothing changes, if the subject is a user already."""
        row = await self._connection.fetch_one(
            self._queries["users.add"],
            id=user.id,
            role=user.role,
            scopes_json=scopes_to_json(user.scopes),
            is_active=int(user.is_active),
            created_at=user.created_at,
            updated_at=user.updated_at,
            subject=user.subject,
        )
        return row is not None

    async def by_id(self, user_id: str) -> User | None:
        """Return the user of that id."""
        row = await self._connection.fetch_one(self._queries["users.by_id"], id=user_id)
        return None if row is None else _user(row)

    async def to_change(self, user_id: str) -> User | None:
        """Return the user of that id; until the unit ends no other unit can change it."""
        row = await self._connection.fetch_one(self._queries["users.to_change"], id=user_id)
        return None if row is None else _user(row)

    async def by_subject(self, subject: str) -> User | None:
        """Return the user of that subject."""
        row = await self._connection.fetch_one(self._queries["users.by_subject"], subject=subject)
        return None if row is None else _user(row)

    async def page(self, *, before: str, limit: int) -> list[User]:
        """Return the newest users whose id lies before the given one."""
        rows = await self._connection.fetch_all(self._queries["users.page"], before=before, limit=limit)
        return [_user(row) for row in rows]

    async def change(
        self, user_id: str, *, role: Role, scopes: frozenset[str], is_active: bool, updated_at: Timestamp
    ) -> None:
        """Replace what may change of a user."""
        await self._connection.fetch_one(
            self._queries["users.change"],
            id=user_id,
            role=role,
            scopes_json=scopes_to_json(scopes),
            is_active=int(is_active),
            updated_at=updated_at,
        )

    async def active_super_admin_ids(self) -> list[str]:
        """Return the ids of the active super_admins; until the unit ends no other unit can change who they are."""
        rows = await self._connection.fetch_all(self._queries["users.active_super_admins"])
        return [row["id"] for row in rows]


def _user(row: Row) -> User:
    return User(
        id=row["id"],
        subject=row["subject"],
        role=Role(row["role"]),
        scopes=scopes_from_json(row["scopes_json"]),
        is_active=bool(row["is_active"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
