"""Backup and restore on the command line: `cabinet admin backup` and `cabinet admin restore`."""

import asyncio
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

import click

from app.cli.examinations.amounts import count
from app.cli.running import administration, load_settings, refuse
from app.db import backups, restores
from app.db.connection import Row
from app.errors import BackupFailed, CabinetError
from app.main import Container
from app.settings_checks import OTHERS_MAY_WRITE

KEEP_LIMIT = 10_000
"""The most backups that may be asked to be kept."""


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--keep", type=click.IntRange(1, KEEP_LIMIT), help="Keep that many backups there, delete older ones.")
def backup(target: Path, keep: int | None) -> None:
    """Put a checked copy of the database into the folder TARGET, also while it is served."""
    settings = load_settings(needs_tokens=False)
    began_at = time.monotonic()
    try:
        container = administration(settings)
        with backups.telling(target):
            _check_target(target)
        taken = backups.take(settings.db_path, target, at=container.clock.now(), keep=keep)
    except CabinetError as error:
        refuse(error)
    seconds = time.monotonic() - began_at
    if taken.ahead:
        says = f"{count(len(taken.ahead), 'backup')} there with a time that lies ahead, such as {taken.ahead[0].name}"
        click.echo(
            f"{says}: was the clock wrong? --keep deletes older ones before them; rename or remove them", err=True
        )
    click.echo(f"{taken.path}  {taken.size_bytes} bytes  {seconds:.2f} seconds  sha256 {taken.sha256}")


@click.command()
@click.argument("backup_file", metavar="BACKUP", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Move the database that is there aside; it is not deleted.")
def restore(backup_file: Path, replace: bool) -> None:
    """Make the file BACKUP the database, while nobody serves it."""
    settings = load_settings(needs_tokens=False)
    try:
        container = administration(settings)
        restored = restores.restore(
            backup_file,
            settings.db_path,
            at=container.clock.now(),
            replace=replace,
            missing_in=lambda ledger: _missing_in(container, ledger),
        )
    except CabinetError as error:
        refuse(error)
    if not restored.is_vouched_for:
        click.echo(f"there is no {backups.checksum_of(backup_file)}; only SQLite's own checks were made", err=True)
    if restored.aside is not None:
        click.echo(f"the database before it: {restored.aside}")
    if restored.missing:
        click.echo(f"it is behind this version ({', '.join(restored.missing)}): run cabinet migrate")
    click.echo(f"restored: {settings.db_path}  {restored.size_bytes} bytes")


class _DryRun:
    """A ledger of migrations to hold against this version's; what is missing is named, not applied."""

    def __init__(self, ledger: Sequence[Row]) -> None:
        self._ledger = ledger

    async def applied(self) -> Sequence[Row]:
        return self._ledger

    async def apply(self, *_migration: object, **_row: object) -> bool:
        return True


def _missing_in(container: Container, ledger: Sequence[Row]) -> Sequence[str]:
    return asyncio.run(container.migrations().apply(_DryRun(ledger)))


def _check_target(target: Path) -> None:
    if not target.is_dir():
        raise BackupFailed(f"{target} is not a folder; make it with: mkdir -p -m 700 {shlex.quote(str(target))}")
    if target.stat().st_mode & OTHERS_MAY_WRITE:
        remedy = f"chmod go-w {shlex.quote(str(target))}"
        raise BackupFailed(f"{target} may be written by others than its owner; run: {remedy}")
