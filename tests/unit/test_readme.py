"""What the README says is held against the code."""

import re
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import pytest

from app.domain.pipeline import PipelineShape
from app.pipelines import Pipeline
from app.security.gate import Public
from app.security.tokens import Tokens
from app.services.readiness import Readiness
from app.settings import Settings
from app.web.operations import RouteTable
from app.web.routes import Parts, route_table
from tests.support.clocks import HandClock, HandSeconds

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(first_line: str) -> str:
    """Return the code block that begins with that line."""
    found = re.search(rf"```python\n({re.escape(first_line)}.*?)```", README, re.DOTALL)
    assert found, first_line
    return found[1]


def api_rows() -> list[tuple[str, str, str]]:
    """Return operation, least role and scope of every line of the route table, as the README shows them."""
    rows = []
    for operation in table().operations:
        required = operation.requirements
        who = ("public", "") if isinstance(required, Public) else (required.role.value, required.scope or "")
        rows.append((f"{operation.method} {operation.path}", *who))
    return rows


def table() -> RouteTable:
    """Return the route table of a service."""
    tokens = Tokens(["x" * 32], ttl_max_seconds=60, clock=HandClock())
    readiness = Readiness(Mock(), monotonic=HandSeconds())
    return route_table(
        Parts(
            tokens=tokens,
            token_ttl_max_seconds=60,
            shape=PipelineShape(stages=("parse",), side_effects=frozenset()),
            cancel_grace_seconds=30,
            check_payload=lambda _payload: None,
            readiness=readiness,
        )
    )


def test_the_api_table_lists_every_operation_with_the_role_and_scope_that_the_gate_asks_for() -> None:
    rows = re.findall(r"^\| `((?:GET|POST|PATCH|DELETE) [^`]+)` \| ([a-z_]+) \| ([a-z.]*) \|", README, re.MULTILINE)

    assert rows == api_rows()


def test_the_settings_table_lists_every_setting_with_its_default_and_meaning() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \| (.*) \|$", README, re.MULTILINE)

    assert [
        (name, default.strip("`").replace("none", ""), meaning) for name, default, meaning in rows
    ] == Settings.table()


def test_the_pipeline_in_the_readme_is_a_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("shop")
    monkeypatch.setitem(sys.modules, "shop", module)

    exec(compile(block("# shop.py"), "shop.py", "exec"), module.__dict__)  # noqa: S102 the README's own words

    assert isinstance(module.__dict__["pipeline"], Pipeline)
    assert module.__dict__["pipeline"].names == ("charge", "receipt")


def test_every_command_of_the_readme_is_a_target_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE)) <= targets


def test_the_layout_names_what_is_there() -> None:
    named = re.findall(r"\b(app/[a-z_.]+|sql/|tests/)", README)

    assert [path for path in named if not (ROOT / path).exists()] == []
