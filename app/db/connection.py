"""The ports of the database: what a repository may ask of a connection, and what the engines offer."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from app.clock import Timestamp
from app.db.queries import Query
from app.errors import Refusal

T = TypeVar("T")

Queries = Mapping[str, Query]
"""All queries of one engine, keyed `file.verb`."""


class Row(Protocol):
    """One row of a result, by column name."""

    def __getitem__(self, name: str, /) -> Any:
        """Return the column of that name."""
        ...


class Connection(Protocol):
    """What repositories get: two ways to run a query of sql/queries, with results always fetched whole.

    Both raise ParameterMismatch unless exactly the parameters that the query names are given, UnitClosed after the
    unit's body has ended, and WriteInRead for a query that writes in a unit that only reads.
    """

    async def fetch_one(self, query: Query, /, **parameters: Any) -> Row | None:
        """Return the first row, or None if there is none."""
        ...

    async def fetch_all(self, query: Query, /, **parameters: Any) -> Sequence[Row]:
        """Return all rows."""
        ...


class UnitConnection(Connection, Protocol):
    """A connection inside a unit of work, which can also protect the unit from a refusal."""

    async def protect(self, body: Callable[[], Awaitable[T]]) -> T | Refusal:
        """Run a part of the unit in an inner savepoint: a Refusal undoes that part alone and is returned.

        Anything else that it raises fails the whole unit.
        """
        ...


class SchemaTarget(Protocol):
    """A database whose schema is being brought up to date."""

    async def applied(self) -> Sequence[Row]:
        """Return version, name and checksum of every applied migration, in order; none if there is no ledger yet."""
        ...

    async def apply(self, script: str, *, version: int, name: str, checksum: str, applied_at: Timestamp) -> bool:
        """Run a migration and write its ledger row in one transaction under the engine's lock.

        Returns False, and changes nothing, if another process has applied that version meanwhile.
        """
        ...


class ConnectionFactory(Protocol):
    """Opens the connections of one database; every connection lives inside an `async with`."""

    engine: str
    """`sqlite` or `postgres`: which dialect marks are opened in SQL texts."""

    def schema_target(self) -> AbstractAsyncContextManager[SchemaTarget]:
        """Open the database to look at its schema or change it."""
        ...
