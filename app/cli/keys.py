"""`cabinet admin keys`: the signing keys of programs; the private half never comes near the database."""

import base64
import os
from functools import partial
from pathlib import Path

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from app.cli.running import administration, load_settings, local_author, run
from app.domain.access import REASON_LIMIT
from app.domain.keys import KEY_NAME_LIMIT, SigningKey, check_public_key, fingerprint
from app.ids import new_id
from app.main import Container
from app.services.keys import AddKey, RevokeKey, add_to, revoke_by
from app.services.pages import FIRST
from app.unit import UnitOfWork

PAGE_LIMIT = 200


@click.group("keys")
def keys() -> None:
    """Make, add, see and revoke the signing keys of programs."""


@keys.command("generate")
@click.argument("file", type=click.Path(path_type=Path))
def generate(file: Path) -> None:
    """Write a new private key to FILE (PEM, readable by you alone) and print its public key.

    Needs no settings and no database: do it where the program runs.
    """
    private_key = Ed25519PrivateKey.generate()
    pem = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(pem)
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror}.") from error
    public_key = base64.b64encode(private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    click.echo(public_key)
    click.echo(f"fingerprint {fingerprint(public_key)}", err=True)


@keys.command("add")
@click.argument("subject")
@click.argument("public_key")
@click.option("--name", default="key", show_default=True, help="What people call it, such as the program's host.")
def add(subject: str, public_key: str, name: str) -> None:
    """Let the user SUBJECT sign with PUBLIC_KEY (base64) and print the key's id, the keyid of its signatures."""
    try:
        check_public_key(public_key)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if not 1 <= len(name) <= KEY_NAME_LIMIT or not name.isprintable():
        raise click.BadParameter(f"a name has 1 to {KEY_NAME_LIMIT} printable characters")
    settings = load_settings(needs_tokens=False)
    command = AddKey(key_id=new_id(), user_id=None, public_key=public_key, name=name)
    run(lambda: _add(administration(settings), subject, command))


@keys.command("list")
@click.argument("subject", required=False)
def list_keys(subject: str | None) -> None:
    """Show all keys, or those of the user SUBJECT, the newest first."""
    settings = load_settings(needs_tokens=False)
    run(lambda: _list(administration(settings), subject))


@keys.command("revoke")
@click.argument("key_id")
@click.option("--reason", help="Why; the audit keeps it.")
def revoke(key_id: str, reason: str | None) -> None:
    """Take the key KEY_ID out of use for ever; the next request that it signs is refused."""
    if reason is not None and not 1 <= len(reason) <= REASON_LIMIT:
        raise click.BadParameter(f"a reason has 1 to {REASON_LIMIT:,} characters")
    settings = load_settings(needs_tokens=False)
    run(lambda: _revoke(administration(settings), RevokeKey(key_id=key_id, reason=reason)))


async def _add(container: Container, subject: str, command: AddKey) -> int:
    async def body(work: UnitOfWork) -> SigningKey | None:
        user = await work.users.by_subject(subject)
        return None if user is None else await add_to(work, local_author(), user, command)

    async with container.open_beside():
        key = await container.store.write(body)
    if key is None:
        raise click.ClickException(f"{subject} is not a user; let them in with: cabinet admin users add {subject}")
    click.echo(key.id)
    return 0


async def _list(container: Container, subject: str | None) -> int:
    async with container.open_beside():
        user = None if subject is None else await container.store.read(lambda work: work.users.by_subject(subject))
        if subject is not None and user is None:
            raise click.ClickException(f"{subject} is not a user.")
        before = FIRST
        while True:
            found = await container.store.read(partial(_page, user_id=user.id if user else None, before=before))
            for key in found:
                state = "live" if key.revoked_at is None else f"revoked {key.revoked_at}"
                name = key.name if key.name.isprintable() else ascii(key.name)  # it came in over HTTP, for a terminal
                click.echo(f"{key.id}  {key.subject}  {key.fingerprint}  {name}  {state}")
            if len(found) < PAGE_LIMIT:
                return 0
            before = found[-1].id


async def _page(work: UnitOfWork, *, user_id: str | None, before: str) -> list[SigningKey]:
    return await work.signing_keys.page(user_id=user_id, before=before, limit=PAGE_LIMIT)


async def _revoke(container: Container, command: RevokeKey) -> int:
    async with container.open_beside():
        key = await container.store.write(lambda work: revoke_by(work, local_author(), command))
    click.echo(f"{key.id}  revoked {key.revoked_at}")
    return 0
