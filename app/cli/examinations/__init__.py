"""The examination of a machine, its settings and its database: every check in its order; none changes a thing."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from app.cli.examinations import configuration, contents, disks, files, rights, work
from app.cli.examinations.configuration import Configuration
from app.cli.examinations.files import Files
from app.cli.examinations.findings import Check, Finding, Level, alone, reason
from app.clock import Clock
from app.db.inspection import open_unchanged, read_unit, unless_restored
from app.db.migrations import MigrationsRunner, load_migrations
from app.db.ownership import real
from app.db.queries import load_queries
from app.db.sqlite import SQLITE_VERSION, DriverError, SqliteConnectionFactory
from app.main import SQL
from app.pipelines import Pipeline
from app.services import examination
from app.services.examination import Examine, Examined
from app.settings import Settings
from app.settings_sources import DEFAULT_SECRETS_DIR
from app.unit import UnitOfWork

ENGINE = SqliteConnectionFactory.engine

_OF_WORK = tuple(Check)[tuple(Check).index(Check.CLOCK) :]
"""What is looked at in the database when its schema is this version's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """One look at everything: whose environment and working directory it is, when it is, and whether time is short."""

    environ: Mapping[str, str]
    folder: Path
    clock: Clock
    is_quick: bool = False

    def findings(self) -> Iterator[Finding]:
        """Yield what each check finds, as soon as it is found."""
        read = configuration.read(self.environ, self.folder)
        yield from configuration.examine_settings(read)
        pipeline, found = _pipeline(read.settings)
        yield from found
        if read.settings.in_memory:
            says = "USE_SQLITE is false: all there is lies in the serving process's memory, out of reach here"
            yield Finding(Check.SERVICE, Level.NOTE, says, "Ask the service: GET /ready and GET /v1/stats")
        elif "db_path" in read.unusable:
            yield Finding(Check.SERVICE, Level.NOTE, "no database is looked at", "Set DB_PATH, and run doctor again.")
        else:
            yield from self._of_machine(read)
            yield from self._of_database(read.settings, pipeline)

    def _of_machine(self, read: Configuration) -> Iterator[Finding]:
        settings = read.settings
        database, is_prod = real(settings.db_path), settings.app_env == "prod"
        yield from alone(Check.FILE_SYSTEM, lambda: _kind(database.parent, is_prod=is_prod))
        yield from alone(Check.DISK_SPACE, lambda: _room(settings, database))
        yield from alone(Check.RIGHTS, lambda: _rights(settings, database, is_prod=is_prod))
        yield from alone(Check.SECRETS, lambda: _secrets(settings, self.folder))
        yield from contents.examine_sqlite(SQLITE_VERSION)

    def _of_database(self, settings: Settings, pipeline: Pipeline | None) -> Iterator[Finding]:
        with ExitStack() as stack:
            try:
                is_free = stack.enter_context(unless_restored(real(settings.db_path)))
                seen = files.look_at(settings.db_path, is_restored=not is_free)
            except OSError as error:
                remedy = "Run doctor as the user that runs cabinet serve."
                yield Finding(Check.SERVICE, Level.FAULT, f"the database cannot be looked at: {reason(error)}", remedy)
                return
            yield from files.examine_service(seen)
            yield from files.examine_restore(seen)
            yield from self._of_file(seen, settings, pipeline)

    def _of_file(self, seen: Files, settings: Settings, pipeline: Pipeline | None) -> Iterator[Finding]:
        left_out = (Check.LOG_SIZE, Check.MIGRATIONS, Check.INTEGRITY, *_OF_WORK)
        if seen.is_restored:
            yield _left_out(left_out)
            return
        if seen.database_bytes is None:
            if seen.interrupted is None:
                yield from files.examine_missing(seen, migrates=settings.migrates)
            yield _left_out(tuple(check for check in left_out if check is not Check.MIGRATIONS))
            return
        yield from files.examine_log_size(seen)
        with ExitStack() as stack:
            try:
                raw = stack.enter_context(open_unchanged(seen.database))
            except DriverError as error:
                says = f"the database cannot be opened: {reason(error)}"
                yield Finding(Check.INTEGRITY, Level.FAULT, says, contents.mend(seen.database, error))
                yield _left_out((Check.MIGRATIONS, *_OF_WORK))
                return
            yield from self._of_contents(raw, seen, settings, pipeline)

    def _of_contents(self, raw: Any, seen: Files, settings: Settings, pipeline: Pipeline | None) -> Iterator[Finding]:
        mend = partial(contents.mend, seen.database)
        schema = list(alone(Check.INTEGRITY, partial(self._of_schema, raw), mend=mend))
        yield from schema
        quick = self.is_quick
        yield from alone(Check.INTEGRITY, lambda: contents.examine_integrity(raw, seen, is_quick=quick), mend=mend)
        if any(finding.level is Level.FAULT for finding in schema):
            yield _left_out(_OF_WORK)
            return
        grace = work.grace(settings)
        yield from alone(
            Check.INTEGRITY,
            lambda: self._of_work(self._examined(raw, settings, pipeline), seen, grace_seconds=grace),
            mend=mend,
        )

    def _of_schema(self, raw: Any) -> Iterator[Finding]:
        runner = MigrationsRunner(load_migrations(SQL / "migrations", engine=ENGINE), clock=self.clock)
        yield from contents.examine_schema(raw, runner)

    def _of_work(self, examined: Examined, seen: Files, *, grace_seconds: float) -> Iterator[Finding]:
        now = self.clock.now()
        yield from contents.examine_signs(examined, seen, now=now)
        yield from contents.examine_clock(examined, now=now)
        for check, look in work.examine_work(
            examined, now=now, owned_since=seen.owned_since, grace_seconds=grace_seconds, is_served=seen.is_served
        ):
            yield from alone(check, look)

    def _examined(self, raw: Any, settings: Settings, pipeline: Pipeline | None) -> Examined:
        queries = load_queries(SQL / "queries", engine=ENGINE)
        command = Examine(
            stages=None if pipeline is None else pipeline.names,
            slack_seconds=work.SLACK_LEASES * settings.worker_lease_seconds,
            patience_seconds=min(work.grace(settings), work.PATIENCE_SECONDS),
        )
        return read_unit(
            raw,
            lambda connection: UnitOfWork(connection, queries, self.clock),
            partial(examination.examine, command=command),
        )


def _left_out(checks: Sequence[Check]) -> Finding:
    names = ", ".join(check.replace("_", " ") for check in checks)
    return Finding(checks[0], Level.NOTE, f"not looked at: {names}", "Mend what is told above, and run doctor again.")


def _pipeline(settings: Settings) -> tuple[Pipeline | None, Iterable[Finding]]:
    """Import the pipeline; without a setting there is none, which the settings' faults have told."""
    if settings.pipeline is None:
        return None, ()
    pipeline, found = configuration.import_pipeline(settings.pipeline)
    return pipeline, (found,)


def _kind(folder: Path, *, is_prod: bool) -> Iterator[Finding]:
    mounts = disks.MOUNTS.read_text(encoding="utf-8", errors="replace") if disks.MOUNTS.exists() else ""
    yield from disks.examine_kind(disks.kind_of(folder, mounts), folder, is_prod=is_prod)


def _room(settings: Settings, database: Path) -> Iterator[Finding]:
    rooms = [
        disks.measure("the database", database.parent),
        disks.measure("the folders of tasks", real(settings.artifacts_dir)),
    ]
    size = database.stat().st_size if database.exists() else 0
    yield from disks.examine_room(rooms, database_bytes=size)


def _rights(settings: Settings, database: Path, *, is_prod: bool) -> Iterator[Finding]:
    beside = [database.with_name(database.name + ending) for ending in files.BESIDE]
    paths = (database.parent, database, *beside, settings.artifacts_dir)
    yield from rights.examine_rights(rights.look_at(paths), user=os.geteuid(), is_prod=is_prod)


def _secrets(settings: Settings, folder: Path) -> Iterator[Finding]:
    # what a container engine puts at the default place is only there inside the container, whatever its mode
    chosen = settings.secrets_dir
    paths = sorted(chosen.iterdir()) if chosen.is_dir() and chosen != DEFAULT_SECRETS_DIR else []
    yield from rights.examine_secrets(rights.look_at([folder / ".env", *paths]))
