"""The screen: the steps of the demo as they happen, live in a terminal, else a plain line for each when it is done."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

ACCENT = "cyan"
TITLE = "Cabinet"
SUBTITLE = "a print shop's catalogue through five stages, with a SIGKILL in the middle"


@dataclass(eq=False, slots=True, kw_only=True)
class Step:
    """One thing that the demo does: what is said about it, and how far it is."""

    name: str
    detail: str
    notes: list[str] = field(default_factory=list)
    done: int = 0
    total: int = 0
    started: float = field(default_factory=time.monotonic)
    seconds: float | None = None
    has_failed: bool = False
    spinner: Spinner = field(default_factory=lambda: Spinner("dots", style=ACCENT))

    def say(self, detail: str, *notes: str) -> None:
        """Say what is being done or, at last, what was done; notes stand on lines of their own."""
        self.detail, self.notes = detail, list(notes)

    def reach(self, done: int, total: int) -> None:
        """Say how far it is; shown until the step has ended."""
        self.done, self.total = done, total


class Screen:
    """Shows steps. In a terminal all of them stay in sight and the present one moves."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._steps: list[Step] = []

    @contextmanager
    def open(self) -> Iterator[None]:
        """Show what happens within."""
        if not self._console.is_terminal:
            self._console.print(_heading())
            yield
            return
        with Live(get_renderable=self.frame, console=self._console, refresh_per_second=12):
            yield

    @contextmanager
    def step(self, name: str, detail: str) -> Iterator[Step]:
        """Show a step as long as the block runs, and how it ended."""
        step = Step(name=name, detail=detail)
        self._steps.append(step)
        try:
            yield step
        except BaseException:
            step.has_failed = True
            raise
        finally:
            step.seconds = time.monotonic() - step.started
            self._print_plainly(step)

    def frame(self) -> RenderableType:
        """Return all steps as they stand."""
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(width=1)
        table.add_column(width=8)
        table.add_column(ratio=1)
        table.add_column(justify="right", style="dim", width=6)
        for step in self._steps:
            table.add_row(_mark(step), Text(step.name, style="bold"), _detail(step), _seconds(step))
            for note in step.notes:
                table.add_row("", "", Text(note, style="dim"), "")
        return Group(_heading(), table)

    def _print_plainly(self, step: Step) -> None:
        if self._console.is_terminal:
            return
        mark = "failed: " if step.has_failed else ""
        self._console.print(Text(f"{step.name:<8}  {mark}{step.detail} ({step.seconds:.1f} s)"), soft_wrap=True)
        for note in step.notes:
            self._console.print(Text(f"{'':<8}  {note}"), soft_wrap=True)


def _heading() -> Text:
    return Text.assemble("\n", (TITLE, f"bold {ACCENT}"), "  ", (SUBTITLE, "dim"), "\n")


def _mark(step: Step) -> RenderableType:
    if step.seconds is None:
        return step.spinner
    return Text("✗", style="bold red") if step.has_failed else Text("✓", style=ACCENT)


def _detail(step: Step) -> RenderableType:
    if step.seconds is not None or not step.total:
        return Text(step.detail)
    row = Table.grid(padding=(0, 2))
    bar = ProgressBar(step.total, step.done, width=36, complete_style=ACCENT, finished_style=ACCENT)
    row.add_row(bar, Text(f"{step.done:>3} of {step.total} {step.detail}"))
    return row


def _seconds(step: Step) -> str:
    return "" if step.seconds is None else f"{step.seconds:.1f} s"
