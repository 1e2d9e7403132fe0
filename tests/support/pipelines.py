"""Pipelines for services that run as processes of their own."""

import asyncio
import logging
import os
import signal
import threading
import warnings
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from app.pipelines import Context, Pipeline, RetryPolicy, Stage

NAMES = ("parse", "photos", "publish", "export", "cleanup")


async def _name(context: Context) -> dict[str, Any]:
    return {"stage": context.stage}


async def _gate(context: Context) -> dict[str, Any]:
    """Tell that an attempt runs by a file, and wait until the file `open` lies beside the tasks' folders."""
    (context.folder / f"{context.stage}.running").touch()
    while not (context.folder.parent / "open").exists():
        await asyncio.sleep(0.01)
    return {"stage": context.stage, "attempt": context.attempt}


def _blocked(context: Context) -> dict[str, Any]:
    """Do the same in a thread, which nobody can stop."""
    (context.folder / f"{context.stage}.running").touch()
    while not (context.folder.parent / "open").exists():
        threading.Event().wait(0.01)
    return {}


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly(BaseModel):
    """A payload that kills the worker's process between claim and run, if the environment says so."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def die_before_the_run(self) -> "Deadly":
        """The API checks payloads in the main thread, the worker reads them in another."""
        if os.environ.get("DIES") == "before_run" and threading.current_thread() is not threading.main_thread():
            _kill()
        return self


class _KillWhenTold(logging.Filter):
    """Kills the process as soon as it is told that an attempt was recorded."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg == "attempt_ended":
            _kill()
        return True


async def _deadly(context: Context) -> dict[str, Any]:
    """Leave a line for every run, and kill the process after it or after its record, if the environment says so."""
    with (context.folder / f"{context.stage}.runs").open("a") as runs:
        runs.write(f"{os.getpid()}\n")
    if context.stage == "photos" and os.environ.get("DIES") == "after_run":
        _kill()
    if context.stage == "photos" and os.environ.get("DIES") == "after_record":
        logging.getLogger("app.worker.worker").addFilter(_KillWhenTold())
    return {"stage": context.stage}


def _exit(_context: Context) -> None:
    """End the whole process, as a library written in C may."""
    os._exit(7)


async def _busy(context: Context) -> dict[str, Any]:
    """Take a moment, so that a kill meets it at work."""
    await asyncio.sleep(0.002)
    return {"attempt_of": context.task_id, "stage": context.stage}


async def _leak(context: Context) -> dict[str, Any]:
    """Raise what it was given, as a careless library does."""
    context.progress(0.5, f"at {context.payload}")
    logging.getLogger("app.careless").error("failed", exc_info=ValueError(f"cannot take {context.payload}"))
    raise ValueError(f"cannot take {context.payload}")


leaky = Pipeline([Stage("parse", _leak, retry=RetryPolicy(max_attempts=1))])
busy = Pipeline([Stage(name, _busy) for name in NAMES])
quiet = Pipeline([Stage(name, _name) for name in NAMES])
gated = Pipeline([Stage(name, _gate, retry=RetryPolicy(base_seconds=0.01, cap_seconds=0.01)) for name in NAMES])
blocked = Pipeline([Stage(name, _blocked) for name in NAMES])
deadly = Pipeline([Stage(name, _deadly) for name in NAMES], payload=Deadly)
exiting = Pipeline([Stage("parse", _exit)])


def _fork(context: Context) -> None:
    """Leave a child behind that outlives the service."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fork beside threads is what this is about
        child = os.fork()
    if child == 0:
        os.closerange(0, 3)
        signal.pause()
        os._exit(0)
    (context.folder / "child").write_text(str(child))


forking = Pipeline([Stage("fork", _fork)])
