"""The command line: `cabinet …`, thin over the container and the services; exit codes follow design §8."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
import uvloop

from app.cli import serving
from app.clock import to_timestamp
from app.domain.scopes import unknown_scopes
from app.domain.users import Role, User, is_subject
from app.errors import CabinetError, SchemaMismatch, StartFault
from app.ids import new_id
from app.log import configure
from app.main import Container
from app.services import users
from app.services.pages import FIRST, Page, PageCommand, to_page
from app.settings import Settings
from app.unit import UnitOfWork


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cabinet", message="cabinet %(version)s")
def cabinet() -> None:
    """Cabinet, an internal control plane. Settings come from the environment, .env and the secrets folder."""
    sys.path.insert(0, str(Path.cwd()))  # PIPELINE may name a module that lies here


@cabinet.command(short_help="Serve the API, and run the worker.")
def serve() -> None:
    """Serve the API; with WORKER_EMBEDDED (the default) run the worker too."""
    settings = _settings(needs_pipeline=True)
    _run(lambda: serving.serve(Container(settings)))


@cabinet.command()
def worker() -> None:
    """Run the worker alone."""
    settings = _settings(needs_pipeline=True, needs_tokens=False)
    _run(lambda: serving.work(Container(settings)))


@cabinet.command()
@click.option("--check", is_flag=True, help="Change nothing; exit 4 unless the schema is this version's.")
def migrate(check: bool) -> None:
    """Bring the database to the schema of this version."""
    settings = _settings(needs_tokens=False)
    _run(lambda: _migrate(Container(settings), check=check))


@cabinet.group(short_help="Administer users and tokens on this machine.")
def admin() -> None:
    """Local administration, on the machine where the database lies; works beside a serving process."""


@admin.group("users")
def admin_users() -> None:
    """Add users, and see who there is."""


@admin_users.command("add")
@click.argument("subject")
@click.option("--role", type=click.Choice([role.value for role in Role]), default=Role.USER.value, show_default=True)
@click.option("--scope", "scopes", multiple=True, help="May be given several times; without it the role's usual ones.")
def add_user(subject: str, role: str, scopes: tuple[str, ...]) -> None:
    """Let SUBJECT in, without a request."""
    if not is_subject(subject):
        raise click.BadParameter("a subject has 1 to 255 characters of A-Z a-z 0-9 . _ : @ + | / -")
    if unknown := unknown_scopes(scopes):
        raise click.BadParameter(f"unknown scopes: {', '.join(unknown)}")
    settings = _settings(needs_tokens=False)
    _run(lambda: _add_user(_administration(settings), subject, Role(role), frozenset(scopes) or None))


@admin_users.command("list")
def list_users() -> None:
    """Show all users, the newest first."""
    settings = _settings(needs_tokens=False)
    _run(lambda: _list_users(_administration(settings)))


@admin.command("token")
@click.argument("subject")
@click.option("--ttl", type=click.IntRange(min=1), default=86_400, show_default=True, help="Seconds that it lives.")
def token(subject: str, ttl: int) -> None:
    """Print a bearer token for the user SUBJECT."""
    settings = _settings()
    if ttl > settings.token_ttl_max:
        raise click.BadParameter(f"a token lives at most {settings.token_ttl_max} seconds here (TOKEN_TTL_MAX)")
    _run(lambda: _print_token(_administration(settings), subject, ttl))


def main() -> None:
    """Run the command line."""
    cabinet(prog_name="cabinet")


async def _migrate(container: Container, *, check: bool) -> int:
    path = container.factory.path
    if check and path is not None and not path.exists():
        raise SchemaMismatch(f"There is no database at {path}; make it with `cabinet migrate`.")
    async with container.factory.schema_target() as target:
        if check:
            await container.migrations().verify(target)
            click.echo("the schema is this version's")
            return 0
        applied = await container.migrations().apply(target)
        click.echo(f"applied: {', '.join(applied)}" if applied else "nothing to apply")
        return 0


async def _add_user(container: Container, subject: str, role: Role, scopes: frozenset[str] | None) -> int:
    user_id = new_id()
    async with container.open_beside():
        user = await container.store.write(
            lambda work: users.add(work, user_id=user_id, subject=subject, role=role, scopes=scopes)
        )
    click.echo(f"{user.id}  {user.subject}  {user.role}  {' '.join(sorted(user.scopes))}")
    return 0


async def _list_users(container: Container) -> int:
    async with container.open_beside():
        before: str | None = FIRST
        while before is not None:
            page = await container.store.read(partial(_users_page, before=before))
            for user in page.items:
                state = "active" if user.is_active else "inactive"
                click.echo(f"{user.id}  {state:<8}  {user.role:<11}  {user.subject}  {' '.join(sorted(user.scopes))}")
            before = page.next
    return 0


async def _users_page(work: UnitOfWork, *, before: str) -> Page[User]:
    command = PageCommand(before=before, limit=200)
    return to_page(await work.users.page(before=before, limit=201), command, lambda user: user.id)


async def _print_token(container: Container, subject: str, ttl_seconds: int) -> int:
    async with container.open_beside():
        user = await container.store.read(lambda work: work.users.by_subject(subject))
    if user is None:
        raise click.ClickException(f"{subject} is not a user; let them in with: cabinet admin users add {subject}")
    issued, expires = container.tokens().issue(user.subject, token_id=new_id(), ttl_seconds=ttl_seconds)
    click.echo(issued)
    click.echo(f"expires {to_timestamp(datetime.fromtimestamp(expires, UTC))}", err=True)
    return 0


def _settings(*, needs_pipeline: bool = False, needs_tokens: bool = True) -> Settings:
    try:
        settings = Settings.load(
            os.environ, folder=Path.cwd(), needs_pipeline=needs_pipeline, needs_tokens=needs_tokens
        )
    except StartFault as fault:
        _refuse(fault)
    os.umask(0o077)
    configure(settings.log_level, json_lines=settings.app_env != "dev")
    return settings


def _run(command: Callable[[], Coroutine[Any, Any, int]]) -> None:
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(command())
            if asyncio.all_tasks(runner.get_loop()):  # a handler that refuses to end does not hold the process
                _leave_at_once(code)
    except CabinetError as error:
        _refuse(error)
    _leave(code)


def _administration(settings: Settings) -> Container:
    if settings.in_memory:
        raise StartFault("USE_SQLITE is false: all there is lies in the serving process's memory, out of reach here.")
    return Container(settings)


def _refuse(error: CabinetError) -> Any:
    for line in str(error).splitlines():
        click.echo(f"cabinet: {line}", err=True)
    _leave(error.exit_code if isinstance(error, StartFault) else 1)


def _leave(code: int) -> None:
    """Exit; a handler's thread that cannot be stopped does not hold the process, its attempt was given back."""
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon]
    if others:
        _leave_at_once(code)
    sys.exit(code)


def _leave_at_once(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
