"""Fixtures that many tests share."""

import shutil
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import pytest

from tests.e2e.home import Home
from tests.support.house import House, open_house
from tests.support.processes import let_in, run_cabinet


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let what hostile values have left in the captured log pass from one process of the tests to the other."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A whole service in this process, on a file of its own, with nobody working."""
    async with open_house(tmp_path) as opened:
        yield opened


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
