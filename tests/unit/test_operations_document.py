"""docs/operations.md says what the code does: every event, metric and alert is in it, and nothing that is not there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from app.metrics import Metrics
from app.settings import Settings

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
RULES = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]


def chapter(title: str) -> str:
    """Return the text below a heading, up to the next of its kind."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def first_cells(text: str) -> set[str]:
    """Return what stands in backticks in the first cell of each row."""
    return {name for row in re.findall(r"^\| ([^|]*)\|", text, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)}


def events() -> Iterator[str]:
    """Yield the names of all events that the code can log."""
    for path in sorted((ROOT / "app").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "event":
                yield from constants(node.args[2])
            if isinstance(node, ast.FunctionDef) and node.name.startswith("_tell_") and path.name == "routes.py":
                for found in ast.walk(node):
                    if isinstance(found, ast.Return) and isinstance(found.value, ast.Tuple):
                        yield from constants(found.value.elts[0])


def constants(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def test_the_log_has_one_vocabulary_and_it_is_documented() -> None:
    assert first_cells(chapter("Logs")) == set(events())


def test_names_of_events_are_in_snake_case() -> None:
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in events())


def test_every_metric_is_documented() -> None:
    names = {family.name for family in Metrics().registry.collect() if family.name.startswith("cabinet_")}

    documented = {re.sub(r"(_total)?(\{.*)?$", "", name) for name in first_cells(chapter("Metrics"))}

    assert documented == names | {"cabinet_build_info"}


@pytest.mark.parametrize("alert", [rule["alert"] for rule in RULES])
def test_every_alert_has_its_remedy(alert: str) -> None:
    assert re.search(rf"^\| `{alert}` \| .{{20,}} \| .{{20,}} \|$", chapter("Alerts"), re.MULTILINE)


def test_no_alert_is_described_that_does_not_exist() -> None:
    assert first_cells(chapter("Alerts")) == {rule["alert"] for rule in RULES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_alerts_ask_for_metrics_that_exist(rule: dict[str, str]) -> None:
    metrics = Metrics()
    metrics.tell_build(engine="sqlite", engine_version="0")
    known = {family.name: family.type for family in metrics.registry.collect()}

    for name in re.findall(r"\b(?:cabinet|process)_\w+", rule["expr"]):
        assert re.sub(r"_(total|bucket)$", "", name) in known, name


def test_settings_are_named_as_they_are() -> None:
    named = set(re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)\b", DOCUMENT))

    assert named <= {name.upper() for name in Settings.model_fields} | {"CABINET_SITE", "CABINET_UPSTREAM"}
    assert named
