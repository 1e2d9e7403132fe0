"""The command line, run in the test's own process."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import cabinet
from tests.support.processes import environment

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run a command in a folder of its own; what it does to the process is undone."""
    root = logging.getLogger()
    handlers, level, umask = root.handlers[:], root.level, os.umask(0o022)
    os.umask(umask)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str, **changes: str) -> Result:
        for name in os.environ:
            monkeypatch.delenv(name)
        for name, value in environment(tmp_path, **changes).items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(cabinet, arguments, prog_name="cabinet")

    yield invoke
    os.umask(umask)
    root.handlers[:] = handlers
    root.setLevel(level)
