"""Pipelines for services that run as processes of their own."""

import asyncio
from typing import Any

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


quiet = Pipeline([Stage(name, _name) for name in NAMES])
gated = Pipeline([Stage(name, _gate, retry=RetryPolicy(base_seconds=0.01, cap_seconds=0.01)) for name in NAMES])
