"""The report: what came out, in numbers, and where to look at it; on the screen and as a picture of the screen."""

import io
import os
import re
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from examples.demo.checker import Counts, DeadLetter, count
from examples.demo.screen import ACCENT, Screen
from examples.demo.story import Told

WIDTH = 100
PICTURE_BYTES_LIMIT = 60_000


def report(folder: Path, told: Told, seconds: float) -> RenderableType:
    """Return the closing table. If there are findings it claims nothing, and they come last, where they are seen."""
    counts = count(folder)
    parts: list[RenderableType] = [Text(), _numbers(counts, told, seconds), Text(), _dead_letters(counts.dead_letters)]
    parts += [Text(), _places(folder), Text()]
    parts += [Text.assemble(("✗ ", "bold red"), finding) for finding in told.findings]
    return Group(*parts)


def save_picture(path: Path, screen: Screen, closing: RenderableType) -> None:
    """Write the final screen as an SVG that loads nothing from elsewhere."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(screen.frame())
    console.print(closing)
    svg = console.export_svg(title="make demo", unique_id="demo")
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), encoding="utf-8")


def _numbers(counts: Counts, told: Told, seconds: float) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(width=17)
    table.add_column(justify="right", style=f"bold {ACCENT}", min_width=7)
    table.add_column(style="dim")
    letters = len(counts.dead_letters)
    failed = counts.attempts - counts.stages - counts.lost
    rows = (
        ("Tasks", counts.tasks, "one for each idempotency key"),
        ("Succeeded", counts.succeeded, "every stage's success recorded exactly once"),
        ("Dead letters", letters, "what cannot succeed, each with its reason; a sixth was rescued"),
        ("Stages recorded", counts.stages, f"{told.kill_share:.0%} of them when the server was killed"),
        ("Attempts", counts.attempts, f"{counts.stages} succeeded, {failed} failed, {counts.lost} lost"),
        ("Lost to the kill", counts.lost, "taken back and made again"),
        ("Replays", counts.replays, f"{told.same_answers} answers byte for byte the first ones"),
        ("Files", counts.files, "on disk as recorded, by SHA-256, and no others"),
        (
            "Creates a second",
            f"{told.creates_per_second:.0f}",
            "over HTTP, each on disk before its answer, the worker busy beside them",
        ),
        ("Seconds in all", f"{seconds:.1f}", ""),
    )
    for name, number, meaning in rows:
        table.add_row(name, str(number), "" if told.findings else meaning)
    return table


def _dead_letters(letters: tuple[DeadLetter, ...]) -> Table:
    table = Table.grid(padding=(0, 2))
    for letter in letters:
        table.add_row(letter.reference, letter.stage, letter.kind, Text(letter.message, style="dim"))
    return table


def _places(folder: Path) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(width=8)
    places = (("Gallery", "artifacts/index.html"), ("Database", "cabinet.db"), ("Log", "server.log"))
    for name, file in places:
        table.add_row(name, Text(os.path.relpath(folder / file), style=ACCENT, overflow="fold"))
    return table
