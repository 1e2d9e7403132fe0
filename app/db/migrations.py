"""Migrations: numbered SQL files, applied once each and in order, or verified to have been (design §4)."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.clock import Clock
from app.db.connection import SchemaTarget
from app.db.queries import open_dialect_marks
from app.errors import CabinetError, MigrationFailed, SchemaMismatch

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)(?:\.(sqlite|postgres))?\.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step of the schema, as one engine runs it."""

    version: int
    name: str
    script: str
    checksum: str


def load_migrations(folder: Path, *, engine: str) -> Sequence[Migration]:
    """Read the migrations of one engine in their order; versions count from 1 without a gap."""
    found: dict[int, Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise MigrationFailed(f"{path.name}: a migration is named NNNN_what.sql")
        if match[3] not in (None, engine):
            continue
        version = int(match[1])
        if version in found:
            raise MigrationFailed(f"{path.name}: version {version} is there twice")
        found[version] = _migration(path, version, match[2], engine)
    if list(found) != list(range(1, len(found) + 1)) or not found:
        raise MigrationFailed(f"the migrations in {folder} do not count from 0001 without a gap: {sorted(found)}")
    return tuple(found.values())


class MigrationsRunner:
    """Brings a database to the schema of this version, or tells that it is not there."""

    def __init__(self, migrations: Sequence[Migration], *, clock: Clock) -> None:
        self._migrations = migrations
        self._clock = clock

    async def apply(self, target: SchemaTarget) -> list[str]:
        """Apply what is missing and return the names of what this call applied.

        Several processes may do so at once: each migration is applied by one of them. Raises SchemaMismatch if the
        database is ahead or was made from other files, MigrationFailed if a file does not run.
        """
        missing = await self._missing(target)
        return [migration.name for migration in missing if await self._apply_one(target, migration)]

    async def verify(self, target: SchemaTarget) -> None:
        """Raise SchemaMismatch, with one sentence that says what to do, unless the schema is exactly this version's."""
        missing = await self._missing(target)
        if missing:
            names = ", ".join(f"{migration.version:04}_{migration.name}" for migration in missing)
            raise SchemaMismatch(
                f"The database is behind this version: not applied yet: {names}."
                " Run `cabinet migrate`, or start with RUN_MIGRATIONS=1."
            )

    async def _missing(self, target: SchemaTarget) -> Sequence[Migration]:
        applied = await target.applied()
        known = {migration.version: migration for migration in self._migrations}
        for row in applied:
            migration = known.get(row["version"])
            if migration is None:
                raise SchemaMismatch(
                    f"The database is ahead of this version: it holds migration {row['version']:04}_{row['name']},"
                    " which this version does not have. Start the newer version, or restore a backup from before it."
                )
            if migration.checksum != row["checksum"]:
                raise SchemaMismatch(
                    f"Migration {row['version']:04}_{row['name']} was applied from a file that has changed since."
                    " Applied migrations are append-only: put the old file back and write a new migration instead."
                )
        versions = {row["version"] for row in applied}
        return [migration for migration in self._migrations if migration.version not in versions]

    async def _apply_one(self, target: SchemaTarget, migration: Migration) -> bool:
        try:
            return await target.apply(
                migration.script,
                version=migration.version,
                name=migration.name,
                checksum=migration.checksum,
                applied_at=self._clock.now(),
            )
        except CabinetError as error:
            raise MigrationFailed(
                f"Migration {migration.version:04}_{migration.name} could not be applied and left no trace:"
                f" {error.message}"
            ) from error


def _migration(path: Path, version: int, name: str, engine: str) -> Migration:
    text = path.read_text(encoding="utf-8")
    checksum = hashlib.sha256(text.encode()).hexdigest()
    return Migration(version=version, name=name, script=open_dialect_marks(text, engine=engine), checksum=checksum)
