"""Running a command: its settings and log, its event loop, and how it leaves; shared by all commands."""

import asyncio
import os
import pwd
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

import click
import uvloop

from app.domain.audit import Author
from app.errors import CabinetError, StartFault
from app.log import configure
from app.main import Container
from app.settings import Settings


def load_settings(*, needs_pipeline: bool = False, needs_tokens: bool = True) -> Settings:
    """Read the settings of this process and begin its log; with bad ones the process ends."""
    try:
        settings = Settings.load(
            os.environ, folder=Path.cwd(), needs_pipeline=needs_pipeline, needs_tokens=needs_tokens
        )
    except StartFault as fault:
        refuse(fault)
    os.umask(0o077)
    configure(settings.log_level, json_lines=settings.app_env != "dev")
    return settings


def run(command: Callable[[], Coroutine[Any, Any, int]]) -> None:
    """Run a command's coroutine and leave with the exit code that it returns, or that its error stands for."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(command())
            if asyncio.all_tasks(runner.get_loop()):  # a handler that refuses to end does not hold the process
                _leave_at_once(code)
    except CabinetError as error:
        refuse(error)
    _leave(code)


def administration(settings: Settings) -> Container:
    """Return the parts for a command that works on the database beside a serving process."""
    if settings.in_memory:
        raise StartFault("USE_SQLITE is false: all there is lies in the serving process's memory, out of reach here.")
    return Container(settings)


def local_author() -> Author:
    """Return who administers this machine, as the audit keeps it: the name that the operating system has for them."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user needs no name
        name = str(os.getuid())
    return Author(user_id=None, subject=f"local:{name}")


def refuse(error: CabinetError) -> NoReturn:
    """Tell what is wrong, a line each, and leave."""
    for line in str(error).splitlines():
        click.echo(f"cabinet: {line}", err=True)
    _leave(error.exit_code if isinstance(error, StartFault) else 1)


def _leave(code: int) -> NoReturn:
    """Exit; a handler's thread that cannot be stopped does not hold the process, its attempt was given back."""
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread() and not thread.daemon]
    if others:
        _leave_at_once(code)
    sys.exit(code)


def _leave_at_once(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
