"""The command line: `cabinet …`, thin over the container and the services; exit codes follow design §8."""

import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from app.cli import audit, backups, doctor, keys, serving
from app.cli.running import administration, load_settings, local_author, run
from app.clock import to_timestamp
from app.db.ownership import refuse_interrupted_restore
from app.domain.scopes import unknown_scopes
from app.domain.users import Role, User, is_subject
from app.errors import SchemaMismatch
from app.ids import new_id
from app.main import Container
from app.services import users
from app.services.pages import FIRST, Page, PageCommand, to_page
from app.services.users import GrantToken, TokenGrant
from app.unit import UnitOfWork


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cabinet", message="cabinet %(version)s")
def cabinet() -> None:
    """Cabinet, an internal control plane. Settings come from the environment, .env and the secrets folder."""
    sys.path.insert(0, str(Path.cwd()))  # PIPELINE may name a module that lies here


@cabinet.command(short_help="Serve the API, and run the worker.")
def serve() -> None:
    """Serve the API; with WORKER_EMBEDDED (the default) run the worker too."""
    settings = load_settings(needs_pipeline=True)
    run(lambda: serving.serve(Container(settings)))


@cabinet.command()
def worker() -> None:
    """Run the worker alone."""
    settings = load_settings(needs_pipeline=True, needs_tokens=False)
    run(lambda: serving.work(Container(settings)))


@cabinet.command()
@click.option("--check", is_flag=True, help="Change nothing; exit 4 unless the schema is this version's.")
def migrate(check: bool) -> None:
    """Bring the database to the schema of this version."""
    settings = load_settings(needs_tokens=False)
    run(lambda: _migrate(Container(settings), check=check))


@cabinet.group(short_help="Administer users and tokens on this machine.")
def admin() -> None:
    """Local administration, on the machine where the database lies; works beside a serving process."""


admin.add_command(doctor.doctor)
admin.add_command(backups.backup)
admin.add_command(backups.restore)
admin.add_command(keys.keys)
admin.add_command(audit.audit)


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
        raise click.BadParameter("a subject has 1 to 255 characters of A-Z a-z 0-9 . _ : @ + | / -, or is ISSUER#SUB")
    if unknown := unknown_scopes(scopes):
        raise click.BadParameter(f"unknown scopes: {', '.join(unknown)}")
    settings = load_settings(needs_tokens=False)
    run(lambda: _add_user(administration(settings), subject, Role(role), frozenset(scopes) or None))


@admin_users.command("list")
def list_users() -> None:
    """Show all users, the newest first."""
    settings = load_settings(needs_tokens=False)
    run(lambda: _list_users(administration(settings)))


@admin.command("token")
@click.argument("subject")
@click.option("--ttl", type=click.IntRange(min=1), default=86_400, show_default=True, help="Seconds that it lives.")
def token(subject: str, ttl: int) -> None:
    """Print a bearer token for the user SUBJECT."""
    settings = load_settings()
    if ttl > settings.token_ttl_max:
        raise click.BadParameter(f"a token lives at most {settings.token_ttl_max} seconds here (TOKEN_TTL_MAX)")
    run(lambda: _print_token(administration(settings), subject, ttl))


def main() -> None:
    """Run the command line."""
    cabinet(prog_name="cabinet")


async def _migrate(container: Container, *, check: bool) -> int:
    path = container.factory.path
    if check and path is not None:
        refuse_interrupted_restore(path)
        if not path.exists():
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
            lambda work: users.add(work, local_author(), user_id=user_id, subject=subject, role=role, scopes=scopes)
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
    tokens = container.tokens()
    if tokens is None:
        raise click.ClickException("TOKEN_SECRET is not set, so that there is nothing to sign tokens with.")
    command = GrantToken(user_id="", token_id=new_id(), ttl_seconds=ttl_seconds)

    async def grant(work: UnitOfWork) -> TokenGrant | None:
        user = await work.users.by_subject(subject)
        return None if user is None else await users.grant_token_to(work, local_author(), user, command)

    async with container.open_beside():
        granted = await container.store.write(grant)
    if granted is None:
        raise click.ClickException(f"{subject} is not a user; let them in with: cabinet admin users add {subject}")
    issued, expires = tokens.issue(subject, token_id=granted.token_id, ttl_seconds=ttl_seconds)
    click.echo(issued)
    click.echo(f"expires {to_timestamp(datetime.fromtimestamp(expires, UTC))}", err=True)
    return 0
