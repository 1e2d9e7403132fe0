"""What must hold between settings, and between them and the machine (design §8); a check yields a sentence a fault."""

import os
import shlex
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr

OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def url(given: SecretStr | None) -> Iterator[str]:
    """Refuse the engine that is not built yet."""
    if given is not None:
        yield "DATABASE_URL is set, but PostgreSQL comes in a later version; unset it."


def memory(*, prod: bool, use_sqlite: bool) -> Iterator[str]:
    """Check that in prod the database lasts."""
    if prod and not use_sqlite:
        yield "USE_SQLITE is false, which loses every task when the process ends; in prod set it to true or unset it."


def tokens(secret: SecretStr | None, previous: SecretStr | None, *, needed: bool) -> Iterator[str]:
    """Check the secrets of bearer tokens; one is needed where nobody could authenticate otherwise."""
    if secret is None and previous is not None:
        yield "TOKEN_SECRET_PREVIOUS is set without TOKEN_SECRET; set TOKEN_SECRET, or unset TOKEN_SECRET_PREVIOUS."
    elif secret is None and needed:
        remedy = 'python -c "import secrets; print(secrets.token_urlsafe(48))"'
        yield f"TOKEN_SECRET is missing, so nobody could authenticate; make one with: {remedy}"
    elif secret is not None and secret == previous:
        yield "TOKEN_SECRET and TOKEN_SECRET_PREVIOUS are the same; make a new TOKEN_SECRET, or unset the other."


def identity_provider(issuer: str | None, audience: str | None, jwks_url: str | None) -> Iterator[str]:
    """Check that a provider's tokens are held against an issuer and an audience."""
    if issuer is None:
        for name, given in (("OIDC_AUDIENCE", audience), ("OIDC_JWKS_URL", jwks_url)):
            if given is not None:
                yield f"{name} is set without OIDC_ISSUER; set OIDC_ISSUER, or unset {name}."
    elif audience is None:
        yield (
            "OIDC_AUDIENCE is missing, so the provider's tokens for other services would let their holders in; "
            "set it to what the provider puts into aud for this one."
        )


def pipeline(chosen: str | None, *, needed: bool) -> Iterator[str]:
    """Check that there is a pipeline: a worker runs its stages, the API checks payloads against it."""
    if chosen is None and needed:
        yield "PIPELINE is missing, so tasks have no stages to go through; set it to module:attribute."


def ports(port: int, metrics_port: int | None) -> Iterator[str]:
    """Check that metrics do not want the port of the API."""
    if metrics_port == port != 0:
        yield f"METRICS_PORT is {port}, as is PORT; give another one."


def database(path: Path, *, prod: bool) -> Iterator[str]:
    """Check that a file can lie there; in prod, that it lasts and belongs to its owner alone."""
    if not path.parent.is_dir():
        command = f"mkdir -p -m 700 {shlex.quote(str(path.parent))}"
        yield f"DB_PATH {path} has no folder to lie in; make it with: {command}"
    elif not stat.S_ISREG(_mode(path, default=stat.S_IFREG)):
        yield f"DB_PATH {path} is not a file; give the path of the database file."
    if prod and is_temporary(path):
        yield f"DB_PATH {path} lies under a temporary folder, which the machine may empty; give a folder that lasts."
    elif prod:
        target = _real(path)
        yield from _writable_by_others("DB_PATH", {path.parent, target.parent, target})


def artifacts(path: Path, *, prod: bool, database: Path) -> Iterator[str]:
    """Check that what is there already is a folder; in prod, that it lasts as the database does and is its owner's."""
    if not stat.S_ISDIR(_mode(path, default=stat.S_IFDIR)):
        yield f"ARTIFACTS_DIR {path} is not a folder; give the path of a folder."
    elif prod and is_temporary(path) and not is_temporary(database):
        yield f"ARTIFACTS_DIR {path} lies under a temporary folder, which the machine may empty; give one that lasts."
    elif prod:
        yield from _writable_by_others("ARTIFACTS_DIR", {path})


def is_temporary(path: Path) -> bool:
    """Tell whether a path, its links followed, lies under a folder that the machine may empty."""
    return any(_real(path).is_relative_to(_real(folder)) for folder in temporary_folders())


def temporary_folders() -> tuple[Path, ...]:
    """Return the folders that a machine may empty at any start."""
    return tuple(map(Path, ("/tmp", "/var/tmp", "/dev/shm", tempfile.gettempdir())))  # noqa: S108 they are refused


def _writable_by_others(name: str, paths: set[Path]) -> Iterator[str]:
    for path in sorted(paths):
        if _mode(path, default=0) & OTHERS_MAY_WRITE:
            yield f"{name}: {path} may be written by others than its owner; run: chmod go-w {shlex.quote(str(path))}"


def _mode(path: Path, *, default: int) -> int:
    """Return kind and permissions of what a path leads to, or the default if nothing is there; may raise OSError."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return default


def _real(path: Path) -> Path:
    """Follow links, which may end in nothing or go in a circle."""
    return Path(os.path.realpath(path))
