"""The audit on the command line: `cabinet admin audit verify`."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from app.cli.examinations.amounts import count, span
from app.cli.running import administration, load_settings, refuse
from app.clock import seconds_between
from app.db.inspection import InspectedSchema, open_unchanged, read_unit, strange_triggers, unless_restored
from app.db.migrations import load_migrations
from app.db.ownership import real, refuse_interrupted_restore
from app.db.queries import load_queries
from app.db.sqlite import DriverError, translate
from app.domain.audit import Head
from app.errors import CabinetError, RestoreInterrupted, SchemaMismatch
from app.main import SQL, Container
from app.services.audit_trail import Verified, verify
from app.unit import UnitOfWork

T = TypeVar("T")

PATIENCE_SECONDS = 60.0
"""How old an event without a seal may be before it is warned of: a service that runs seals every second."""

_HEAD = re.compile(r"([1-9][0-9]{0,17}):([0-9a-f]{64})")


class _HeadType(click.ParamType[Head]):
    name = "NUMBER:HASH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Head:
        found = _HEAD.fullmatch(value)
        if found is None:
            self.fail("a head is the number and the hash of an audit_sealed line of the log: 7:9f86…", param, ctx)
        return Head(number=int(found[1]), hash=found[2])


class _Unchanged:
    """Runs units that read on a file that is only looked at."""

    def __init__(self, raw: Any, container: Container) -> None:
        self._raw = raw
        queries = load_queries(SQL / "queries", engine=container.factory.engine)
        self._make_unit = partial(UnitOfWork, queries=queries, clock=container.clock)

    async def read(self, body: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        return read_unit(self._raw, self._make_unit, body)


@click.group("audit")
def audit() -> None:
    """Look at the audit's trail past the API."""


@audit.command("verify", short_help="Hold the audit's events against their seals.")
@click.option(
    "--head", "heads", type=_HeadType(), multiple=True, help="A seal as the log told it; as many as you have."
)
def verify_command(heads: tuple[Head, ...]) -> None:
    """Hold the audit's events against their seals; change nothing.

    Works beside a serving process or with none, and on a backup (DB_PATH). Only a head that was kept elsewhere shows
    that the trail was cut off at its end, or made anew. Exit code 1 if something is wrong.
    """
    settings = load_settings(needs_tokens=False)
    try:
        container = administration(settings)
        verified, strange = verified_file(container, settings.db_path, heads)
    except CabinetError as error:
        refuse(error)
    _show(verified, heads)
    for name in strange:
        says = "is gone, changed or none of ours: events can be changed or kept out without a word"
        click.echo(f"cabinet: the trigger {name} {says}; sql/migrations has how it should be", err=True)
    click.get_current_context().exit(1 if verified.fault or strange else 0)


def verified_file(container: Container, path: Path, heads: Sequence[Head]) -> tuple[Verified, list[str]]:
    """Verify the trail in a database file, which stays as it is, and name the triggers that are not as they should be.

    Raises SchemaMismatch if it is not of this version.
    """
    database = real(path)
    refuse_interrupted_restore(database)
    if not database.exists():
        raise SchemaMismatch(f"There is no database at {database}; make it with `cabinet migrate`.")
    try:
        with ExitStack() as stack:
            if not stack.enter_context(unless_restored(database)):
                raise RestoreInterrupted(f"{database} is being restored; verify it when that has ended.")
            raw = stack.enter_context(open_unchanged(database))
            asyncio.run(container.migrations().verify(InspectedSchema(raw)))
            scripts = [each.script for each in load_migrations(SQL / "migrations", engine=container.factory.engine)]
            return asyncio.run(verify(_Unchanged(raw, container), heads)), strange_triggers(raw, scripts)
    except DriverError as error:
        raise translate(error, str(database)) from error


def _show(verified: Verified, heads: Sequence[Head]) -> None:
    sealed = f"{count(verified.seals, 'seal')} over {count(verified.events, 'event')}"
    if verified.fault is not None:
        click.echo(f"good before that: {sealed}")
        click.echo(f"cabinet: {verified.fault.says}", err=True)
        return
    click.echo(f"good: {sealed}")
    if verified.head is not None:
        click.echo(f"head: {verified.head.number}:{verified.head.hash}")
    last = max((head.number for head in heads), default=None)
    if last is None:
        click.echo("held against no head that was kept elsewhere")
    else:
        click.echo(f"held against {count(len(heads), 'head')}, the last of seal {last}")
    click.echo(f"not sealed yet: {count(verified.unsealed, 'event')}")
    if verified.unsealed_since is not None and verified.now is not None:
        age = seconds_between(verified.unsealed_since, verified.now)
        if age > PATIENCE_SECONDS:
            says = f"the oldest event without a seal is of {verified.unsealed_since}, {span(age)} ago"
            click.echo(f"cabinet: warning: {says}; a service that runs seals every second", err=True)
