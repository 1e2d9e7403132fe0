"""A folder in which a service can be started, with users who were let in by the command line."""

import shutil
from pathlib import Path

import pytest

from tests.e2e.home import Home
from tests.support.processes import let_in, run_cabinet


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Make the users once; every test gets a copy of the file."""
    folder = tmp_path_factory.mktemp("furnished")
    assert run_cabinet(folder, "migrate").returncode == 0
    tokens = {subject: let_in(folder, subject, role) for subject, role in (("alice", "user"), ("root", "super_admin"))}
    return Home(folder, tokens)


@pytest.fixture
def home(furnished: Home, tmp_path: Path) -> Home:
    """A database file with the user alice and the super_admin root in it."""
    shutil.copy(furnished.database, tmp_path / "cabinet.db")
    return Home(tmp_path, furnished.tokens)
