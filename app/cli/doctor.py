"""`cabinet admin doctor`: runs the examination and shows what it found, for people or for programs."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click

from app.cli.examinations import Examination
from app.cli.examinations.amounts import count
from app.cli.examinations.findings import Check, Finding, Level, exit_code
from app.clock import SystemClock

_STYLES: dict[Level, dict[str, Any]] = {
    Level.OK: {"fg": "green"},
    Level.NOTE: {"fg": "cyan"},
    Level.WARNING: {"fg": "yellow"},
    Level.FAULT: {"fg": "red", "bold": True},
}
_LEVEL_WIDTH = max(map(len, Level))
_CHECK_WIDTH = max(map(len, Check))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
@click.option("--quick", is_flag=True, help="Leave out the check that reads the whole database.")
def doctor(as_json: bool, quick: bool) -> None:
    """Look for what is wrong with the settings, the machine, the database and the work; change nothing.

    Works beside a serving process or with none. Each line is ok, a note, a warning or a fault; all but the first come
    with a remedy.

    \b
    Exit codes:
      0  no fault; there may be notes and warnings
      1  at least one fault
      2  wrong use
      3  the settings or the pipeline are bad, whatever else there is
      4  the only fault: the database is missing, behind, ahead or changed
    """
    examination = Examination(environ=os.environ, folder=Path.cwd(), clock=SystemClock(), is_quick=quick)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    show = _shown_as_json if as_json else _shown_as_lines
    sys.exit(exit_code(show(examination.findings())))


def _shown_as_lines(findings: Iterable[Finding]) -> Sequence[Finding]:
    """Print each finding as soon as it is there."""
    found = []
    for finding in findings:
        found.append(finding)
        for line in _lines(finding):
            click.echo(line)
    click.echo(f"\n{_summary(found)}")
    return found


def _shown_as_json(findings: Iterable[Finding]) -> Sequence[Finding]:
    found = list(findings)
    told = [
        {"check": finding.check, "level": finding.level, "says": finding.says, "remedy": finding.remedy}
        for finding in found
    ]
    click.echo(json.dumps({"findings": told, "exit_code": exit_code(found)}, indent=2))
    return found


def _lines(finding: Finding) -> Iterator[str]:
    level = click.style(f"{finding.level:<{_LEVEL_WIDTH}}", **_STYLES[finding.level])
    check = finding.check.replace("_", " ")
    yield f"{level}  {check:<{_CHECK_WIDTH}}  {_printable(finding.says)}"
    if finding.remedy is not None:
        yield f"{'':<{_LEVEL_WIDTH + _CHECK_WIDTH + 2}}  {_printable(finding.remedy)}"


def _summary(found: Sequence[Finding]) -> str:
    levels = Counter(finding.level for finding in found)
    parts = [count(levels[level], level) for level in (Level.FAULT, Level.WARNING, Level.NOTE) if levels[level]]
    faulty = dict.fromkeys(finding.check.replace("_", " ") for finding in found if finding.level is Level.FAULT)
    verdict = f"Something is wrong with {', '.join(faulty)}" if faulty else "No fault"
    return f"{verdict}: {', '.join([*parts, f'{levels[Level.OK]} ok'])}."


def _printable(text: str) -> str:
    """Take the power over the terminal from what users have written, a reason for example."""
    return "".join(character if character.isprintable() else "?" for character in text)
