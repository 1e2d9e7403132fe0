"""docs/security.md says what the code does."""

import re
from pathlib import Path

import pytest

from app.domain.authority import Act
from tests.support.route_matrix import RULES, matrix, rules_of
from tests.support.routes import TABLE

DOCUMENT = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")


def between(marker: str) -> str:
    """Return what stands between two markers."""
    [found] = re.findall(rf"^<!-- {marker} -->\n(.*?)^<!-- /{marker} -->$", DOCUMENT, re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_matrix_of_routes_scopes_and_roles_is_that_of_the_route_table() -> None:
    assert between("routes") == matrix(), "write what `python -m tests.support.route_matrix` prints between the markers"


def test_the_matrix_has_a_row_for_every_operation() -> None:
    rows = re.findall(r"^\| `([A-Z]+) ([^`]+)` ", between("routes"), re.MULTILINE)

    assert set(rows) == {line for line in TABLE if line[0] != "HEAD"}


def test_every_rule_on_objects_is_followed_somewhere() -> None:
    followed = {rule for operation in TABLE.values() for rule in rules_of(operation.handle)}

    assert followed == set(RULES)
    assert {f"Act.{act.name}" for act in Act} <= followed


@pytest.mark.parametrize(
    ("method", "path", "rules"),
    [
        ("GET", "/v1/me", set()),
        ("PATCH", "/v1/users/{id}", {"Act.CHANGE"}),
        ("GET", "/v1/tasks/{id}", {"actor.id", "actor.sees_all_tasks", "actor.sees_content"}),
        ("GET", "/ready", {"actor.role"}),
    ],
)
def test_rules_are_found_in_all_functions_that_a_handler_names(method: str, path: str, rules: set[str]) -> None:
    assert rules_of(TABLE[method, path].handle) == rules


def test_a_rule_that_nobody_has_described_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RULES, "Act.CHANGE")

    with pytest.raises(KeyError, match=r"PATCH /v1/users/\{id\} restricts by Act\.CHANGE"):
        matrix()
