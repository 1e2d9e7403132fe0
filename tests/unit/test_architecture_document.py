"""docs/architecture.md: its state charts are the tables of moves, no more and no less."""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from app.domain.access import AccessStatus
from app.domain.pipeline import CHART, Event, StateStatus
from app.domain.tasks import TaskStatus
from tests.worker.test_chart import TASK_CHART

DOCUMENT = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")

ACCESS_CHART = {
    (AccessStatus.PENDING, "approve"): AccessStatus.APPROVED,
    (AccessStatus.PENDING, "reject"): AccessStatus.REJECTED,
}

Chart = Mapping[Any, StrEnum]

_MOVE = re.compile(r"^ *(\S+) --> (\S+?)(?:: (\S+))?$", re.MULTILINE)
OUTSIDE = "[*]"


def drawn(title: str) -> list[tuple[str, str, str | None]]:
    """Return all arrows of the chart under a heading: from, to, and what it is called."""
    [chart] = re.findall(rf"^### {title}.*?```mermaid\nstateDiagram-v2\n(.*?)```", DOCUMENT, re.DOTALL | re.MULTILINE)
    return [(start, end, name or None) for start, end, name in _MOVE.findall(chart)]


CHARTS: dict[str, tuple[Chart, Iterable[StrEnum], str]] = {
    "Pipeline state": (CHART, StateStatus, "queued"),
    "Task": (TASK_CHART, TaskStatus, "open"),
    "Access request": (ACCESS_CHART, AccessStatus, "pending"),
}


@pytest.mark.parametrize("title", CHARTS)
def test_a_chart_draws_every_move_of_its_table_and_no_other(title: str) -> None:
    table, _, _ = CHARTS[title]

    moves = {(start, name): end for start, end, name in drawn(title) if OUTSIDE not in (start, end)}

    assert moves == {(str(start), str(name)): str(end) for (start, name), end in table.items()}


@pytest.mark.parametrize("title", CHARTS)
def test_a_chart_draws_each_arrow_once(title: str) -> None:
    arrows = drawn(title)

    assert len(arrows) == len(set(arrows))


@pytest.mark.parametrize("title", CHARTS)
def test_a_chart_begins_where_things_begin_and_ends_where_no_move_leads_out(title: str) -> None:
    table, states, beginning = CHARTS[title]
    arrows = drawn(title)

    begins = {end for start, end, _ in arrows if start == OUTSIDE}
    ends = {start for start, end, _ in arrows if end == OUTSIDE}

    assert begins == {beginning}
    assert ends == {str(state) for state in states} - {str(start) for start, _ in table}


def test_every_move_of_a_pipeline_state_is_explained_below_its_chart() -> None:
    explained = re.findall(r"^\| ([a-z_]+) \| ", DOCUMENT, re.MULTILINE)

    assert sorted(explained) == sorted(Event)


@pytest.mark.parametrize("title", CHARTS)
def test_every_state_has_a_way_in(title: str) -> None:
    _, states, _ = CHARTS[title]

    reached = {end for _, end, _ in drawn(title)}

    assert {str(state) for state in states} <= reached
