"""`python -m examples.demo`: exit code 0 if the checker found nothing, 1 if it did or the demo could not go on."""

import argparse
import asyncio
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from examples.demo.report import WIDTH, report, save_picture
from examples.demo.screen import Screen
from examples.demo.service import ROOT, DemoFailed
from examples.demo.story import Story

INTERRUPTED = 130


def main() -> int:
    """Run the demo that the command line asks for."""
    arguments = _arguments()
    console = _console()
    arguments.folder.mkdir(mode=0o700, parents=True)
    try:
        return asyncio.run(_run(arguments.folder, arguments.picture, console))
    except DemoFailed as failure:
        console.print(Text(f"\n✗ {failure}\n  What there is lies in {os.path.relpath(arguments.folder)}.", style="red"))
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print(Text("\nStopped; the server was ended too.", style="dim"))
        return INTERRUPTED


async def _run(folder: Path, picture: Path | None, console: Console) -> int:
    """Tell the story and what came out; SIGTERM ends it as Ctrl-C does, also where a shell has it ignore that."""
    task = asyncio.current_task()
    if task is not None:
        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(each, task.cancel)
    started = time.monotonic()
    screen = Screen(console)
    with screen.open():
        told = await Story(folder, screen).tell()
    closing = report(folder, told, time.monotonic() - started)
    console.print(closing)
    if picture is not None:
        save_picture(picture, screen, closing)
    return 1 if told.findings else 0


def _console() -> Console:
    """Return a console that holds still: not wider than can be read, plain where nobody watches."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal that knows no check mark
    console = Console(highlight=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    return console


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description="The main job, with a kill in it.")
    parser.add_argument("--folder", type=Path, help="a folder that is not there yet; by default a new one in .cabinet")
    parser.add_argument("--picture", type=Path, help="save the final screen as an SVG file")
    arguments = parser.parse_args()
    if arguments.folder is None:
        arguments.folder = ROOT / ".cabinet" / f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    arguments.folder = arguments.folder.resolve()
    if arguments.folder.exists():
        parser.error(f"{arguments.folder} is there already; the demo wants a new folder")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
