"""`make demo`: the real thing in a process of its own, with its kill and its checker."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT, START_SECONDS


def demo(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "examples.demo", *arguments]


@pytest.mark.timeout(240)
def test_the_demo_ends_well_and_says_what_came_out(tmp_path: Path) -> None:
    folder, picture = tmp_path / "run", tmp_path / "demo.svg"

    ended = subprocess.run(
        demo("--folder", str(folder), "--picture", str(picture)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert said(
        r"^Kill +SIGKILL at (2[5-9]|[3-6]\d|7[0-5])%, \d+ of 331 stages recorded, [1-4] attempts? running:",
        ended.stdout,
    )
    assert said(r"^Restart +process \d+ took back [1-4] lost attempts? ", ended.stdout)
    assert said(r"^Repeat +71 creates sent again: 71 replays", ended.stdout)
    assert said(r"^Explain +why is MIC-001 not running\?", ended.stdout)
    assert said(r"It is a dead letter: stage parse failed for good at \S+ with picture_changed: ", ended.stdout)
    assert said(r"^Rescue +picture mended, MIC-001 rescued by \S+: it has succeeded", ended.stdout)
    assert said(r"^Stop +SIGTERM, exit code 0", ended.stdout)
    assert said(r"^Check +no findings", ended.stdout)
    assert said(r"^Tasks +71  ", ended.stdout)
    assert said(r"^Succeeded +66  ", ended.stdout)
    assert said(r"^Dead letters +5  ", ended.stdout)
    assert said(r"^Lost to the kill +[1-4]  ", ended.stdout)
    assert said(r"^ROC-008 +photos +picture_unreadable", ended.stdout)
    assert (folder / "artifacts" / "index.html").is_file()
    assert picture.stat().st_size < 60_000
    assert str(ROOT) not in picture.read_text(encoding="utf-8")


async def test_interrupted_it_leaves_no_server_behind(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = await asyncio.create_subprocess_exec(
        *demo("--folder", str(folder)), cwd=ROOT, stdout=asyncio.subprocess.DEVNULL
    )
    async with asyncio.timeout(START_SECONDS):
        while '"serving"' not in server_log(folder):
            await asyncio.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code = await asyncio.wait_for(process.wait(), START_SECONDS)

    assert code == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "cabinet.db.lock").read_text()), 0)


def test_a_folder_that_is_there_already_is_refused(tmp_path: Path) -> None:
    ended = subprocess.run(
        demo("--folder", str(tmp_path)), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.returncode == 2
    assert "wants a new folder" in ended.stderr


def said(pattern: str, text: str) -> list[str]:
    return re.findall(pattern, text, re.MULTILINE)


def server_log(folder: Path) -> str:
    log = folder / "server.log"
    return log.read_text() if log.exists() else ""
