"""The architecture: who imports whom (design §2) and the house numbers, read from the sources and held to."""

import ast
import graphlib
import re
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MODULE_LINES_LIMIT = 400
FUNCTION_LINES_LIMIT = 70

EVERYONE = frozenset({"app.errors", "app.clock", "app.ids", "app.log", "app.metrics", "app.wakeups"})
"""Everything may import these."""

ANYTHING = "app"

MAY_IMPORT: dict[str, frozenset[str]] = {
    **{module: frozenset() for module in EVERYONE},
    "app.settings": frozenset(),
    "app.domain": frozenset(),
    "app.db": frozenset(),
    "app.repositories": frozenset({"app.domain", "app.db.connection", "app.db.queries"}),
    "app.unit": frozenset({"app.db.connection", "app.repositories"}),
    "app.security": frozenset({"app.domain", "app.unit"}),
    "app.services": frozenset({"app.domain", "app.unit", "app.security.actor"}),
    "app.pipelines.testing": frozenset({ANYTHING}),  # the second composition root: a service in memory, for tests
    "app.pipelines": frozenset({"app.domain"}),
    "app.worker": frozenset({"app.services", "app.domain", "app.unit", "app.pipelines"}),
    "app.web": frozenset({"app.services", "app.security", "app.domain", "app.unit"}),
    "app.console": frozenset(),
    "app.client": frozenset(),
    "app.main": frozenset({ANYTHING}),
    "app.cli": frozenset({ANYTHING}),
    "app.__main__": frozenset({ANYTHING}),
}
"""The table of design §2: what a package, or a module beside the packages, may import besides itself and EVERYONE."""

ONLY_IMPORTED_BY: dict[str, frozenset[str]] = {
    "app.settings": frozenset({"app.main", "app.cli", "app.__main__", "app.pipelines.testing"}),
    "app.main": frozenset({"app.cli", "app.__main__", "app.pipelines.testing"}),
    "app.pipelines.testing": frozenset(),
    "app.cli": frozenset({"app.__main__"}),
    "app.__main__": frozenset(),
}
"""These stand above the table: also of those who may import anything, only these may import them."""

THIRD_PARTY: dict[str, frozenset[str]] = {
    # drivers: one file each
    "aiosqlite": frozenset({"app.db.sqlite"}),
    "sqlite3": frozenset({"app.db.sqlite"}),
    "pysqlite3": frozenset({"app.db.sqlite"}),
    "databases": frozenset({"app.db.postgres"}),
    "asyncpg": frozenset({"app.db.postgres"}),
    # HTTP
    "starlette": frozenset({"app.web", "app.main"}),
    "uvicorn": frozenset({"app.web.server", "app.cli"}),
    "httpx2": frozenset({"app.client", "app.pipelines", "app.security"}),
    # the rest
    "pydantic": frozenset({"app.web", "app.pipelines", "app.settings"}),
    "pydantic_core": frozenset({"app.web", "app.pipelines", "app.settings"}),
    "pydantic_settings": frozenset({"app.settings"}),
    "dotenv": frozenset({"app.settings"}),
    "jwt": frozenset({"app.security"}),
    "cryptography": frozenset({"app.security", "app.cli"}),
    "anyio": frozenset({"app.worker", "app.main", "app.cli"}),
    "click": frozenset({"app.cli"}),
    "uvloop": frozenset({"app.cli"}),
    "prometheus_client": frozenset({"app.metrics"}),
    "uuid_utils": frozenset({"app.ids"}),
}
"""Who may import which package of others; what has no line is refused. The standard library but sqlite3 is free."""

IMPORTED_AS = {"pyjwt": "jwt", "python-dotenv": "dotenv"}
"""Distributions whose package has another name."""

NOT_IMPORTED = {
    "httptools": "uvicorn loads its parser by name",
    "databases": "comes into use with PostgreSQL, in app/db/postgres.py",
}
"""Dependencies that nothing in app/ imports, each with its reason."""

NOT_REQUIRED = {
    "sqlite3": "the standard library has it",
    "asyncpg": "databases[asyncpg] brings it",
    "pydantic_core": "a part of pydantic, which pins it",
}
"""Packages that may be imported though no dependency has their name, each with its reason."""


# Reading -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One module naming another, somewhere in its text."""

    importer: str
    target: str
    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.importer} may not import {self.target}"


def sources_of(folder: Path) -> dict[str, str]:
    """Return the text of every module below a folder, by its path from the folder's parent."""
    return {str(path.relative_to(folder.parent)): path.read_text("utf-8") for path in sorted(folder.rglob("*.py"))}


def module_name(path: str) -> str:
    """Turn `app/db/__init__.py` into `app.db`, and `app/clock.py` into `app.clock`."""
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def imports_of(sources: Mapping[str, str]) -> list[Import]:
    """Return every import of every module, wherever it stands: in functions, under TYPE_CHECKING, by name."""
    modules = {module_name(path) for path in sources}
    return [
        Import(importer=module_name(path), target=target, path=path, line=node.lineno)
        for path, text in sources.items()
        for node in ast.walk(ast.parse(text, path))
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Call)
        for target in targets_of(node, path, modules)
    ]


def targets_of(node: ast.Import | ast.ImportFrom | ast.Call, path: str, modules: set[str]) -> Iterator[str]:
    """Yield the modules that one node of a module's text imports."""
    match node:
        case ast.Import():
            yield from (alias.name for alias in node.names)
        case ast.ImportFrom():
            origin = absolute(node, path)
            members = [f"{origin}.{alias.name}" for alias in node.names]
            yield from (member if member in modules else origin for member in members)
        case ast.Call(
            func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            yield name


def absolute(node: ast.ImportFrom, path: str) -> str:
    """Return the full name of the module that a `from` names, also if it is a relative one."""
    if node.level == 0:
        return node.module or ""
    package = path.split("/")[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def lies_in(module: str, places: Collection[str]) -> bool:
    """Tell whether a module is one of the places or lies inside one; `app.settings_x` lies in `app.settings`."""
    module = re.sub(r"^app\.settings_\w+", "app.settings", module)
    return any(module == place or module.startswith(f"{place}.") for place in places)


# Judging -------------------------------------------------------------------------------------------------------------


def forbidden(sources: Mapping[str, str]) -> list[str]:
    """Return a line for each import that the tables do not allow."""
    return sorted({str(found) for found in imports_of(sources) if not is_allowed(found)})


def is_allowed(found: Import) -> bool:
    """Tell whether the tables allow one import."""
    top = found.target.partition(".")[0]
    if top == "app":
        return is_allowed_within(found.importer, found.target)
    if top in THIRD_PARTY:
        return lies_in(found.importer, THIRD_PARTY[top])
    return top in sys.stdlib_module_names


def is_allowed_within(importer: str, target: str) -> bool:
    """Tell whether one module of Cabinet may import another."""
    home = home_of(importer)
    if home in MAY_IMPORT and home_of(target) == home:
        return True
    for place, importers in ONLY_IMPORTED_BY.items():
        if lies_in(target, {place}):
            return lies_in(importer, importers)
    return lies_in(target, MAY_IMPORT.get(home, frozenset()) | EVERYONE)


def home_of(module: str) -> str:
    """Return the line of the table that a module belongs to: `app.db` for `app.db.sqlite`."""
    return next((line for line in MAY_IMPORT if lies_in(module, {line})), ".".join(module.split(".")[:2]))


def without_a_line(sources: Mapping[str, str]) -> list[str]:
    """Return the modules that the table does not know; `app` itself only holds the others."""
    return sorted({home_of(module_name(path)) for path in sources} - set(MAY_IMPORT) - {"app"})


def cycle(sources: Mapping[str, str]) -> list[str]:
    """Return the modules of one cycle of imports, the first again at the end; nothing if there is none."""
    graph: dict[str, set[str]] = {module_name(path): set() for path in sources}
    for found in imports_of(sources):
        if found.target in graph:
            graph[found.importer].add(found.target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        modules: list[str] = error.args[1]
        return modules
    return []


def too_long(sources: Mapping[str, str]) -> list[str]:
    """Return a line for each module and each function that exceeds the house numbers."""
    found = []
    for path, text in sources.items():
        if (lines := len(text.splitlines())) > MODULE_LINES_LIMIT:
            found.append(f"{path}: {lines} lines")
        for node in ast.walk(ast.parse(text, path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                found += [f"{path}:{node.lineno}: {node.name} has {lines} lines"] * (lines > FUNCTION_LINES_LIMIT)
    return found


def distributions(requirements: list[str]) -> dict[str, str]:
    """Return the importable name of each distribution that is required: `jwt` for `PyJWT>=2,<3`."""
    names = [re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower() for requirement in requirements]
    return {name: IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}


# Cabinet -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cabinet() -> dict[str, str]:
    """Return the text of every module of Cabinet."""
    return sources_of(ROOT / "app")


@pytest.fixture(scope="module")
def required() -> dict[str, str]:
    """Return the distributions that Cabinet requires, with their importable names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return distributions(project["dependencies"])


def test_the_sources_are_found(cabinet: dict[str, str]) -> None:
    assert {"app/__init__.py", "app/clock.py", "app/domain/users.py"} <= set(cabinet)


def test_every_module_belongs_to_a_line_of_the_table(cabinet: dict[str, str]) -> None:
    unknown = without_a_line(cabinet)

    assert not unknown, "\n".join(unknown)


def test_every_module_imports_only_what_the_design_allows(cabinet: dict[str, str]) -> None:
    found = forbidden(cabinet)

    assert not found, "\n".join(found)


def test_no_modules_import_each_other_in_a_circle(cabinet: dict[str, str]) -> None:
    modules = cycle(cabinet)

    assert not modules, " -> ".join(modules)


def test_no_module_and_no_function_exceeds_the_house_numbers(cabinet: dict[str, str]) -> None:
    found = too_long(cabinet)

    assert not found, "\n".join(found)


def test_every_dependency_is_imported_or_has_a_reason(cabinet: dict[str, str], required: dict[str, str]) -> None:
    imported = {found.target.partition(".")[0] for found in imports_of(cabinet)}

    idle = [name for name, package in required.items() if package not in imported and name not in NOT_IMPORTED]

    assert not idle, "\n".join(idle)


def test_no_reason_outlives_its_dependency(required: dict[str, str]) -> None:
    assert set(NOT_IMPORTED) <= set(required)


def test_every_package_that_may_be_imported_is_required_by_name(required: dict[str, str]) -> None:
    unknown = set(THIRD_PARTY) - set(required.values()) - set(NOT_REQUIRED)

    assert unknown == set()


# The checker itself --------------------------------------------------------------------------------------------------


def planted(path: str, text: str, *others: str) -> dict[str, str]:
    """Return a small tree of sources: one with a text, the others empty."""
    return {"app/__init__.py": "", path: text, **dict.fromkeys(others, "")}


@pytest.mark.parametrize(
    ("path", "text", "target"),
    [
        ("app/domain/users.py", "import app.db.sqlite", "app.db.sqlite"),
        ("app/domain/users.py", "from app.repositories import users", "app.repositories"),
        ("app/domain/users.py", "from app.settings import Settings", "app.settings"),
        ("app/domain/users.py", "import app", "app"),
        ("app/__init__.py", "from app.domain.users import Role", "app.domain.users"),
        ("app/clock.py", "from app.domain.users import Role", "app.domain.users"),
        ("app/db/store.py", "from app.unit import UnitOfWork", "app.unit"),
        ("app/db/store.py", "from app.domain.users import Role", "app.domain.users"),
        ("app/repositories/users.py", "from app.db.sqlite import connect", "app.db.sqlite"),
        ("app/repositories/users.py", "from app.db import connect", "app.db"),
        ("app/repositories/users.py", "from app.db.connections import pool", "app.db.connections"),
        ("app/unit.py", "from app.services.tasks import create", "app.services.tasks"),
        ("app/security/gate.py", "from app.services.tasks import create", "app.services.tasks"),
        ("app/services/tasks.py", "from app.security.gate import Gate", "app.security.gate"),
        ("app/services/tasks.py", "from app.security import actor_of", "app.security"),
        ("app/pipelines/stage.py", "from app.unit import UnitOfWork", "app.unit"),
        ("app/pipelines/stage.py", "from app.pipelines.testing import Simulation", "app.pipelines.testing"),
        ("app/main.py", "from app.pipelines.testing import Simulation", "app.pipelines.testing"),
        ("app/worker/loop.py", "from app.repositories.jobs import Jobs", "app.repositories.jobs"),
        ("app/worker/loop.py", "from app.web.routes import routes", "app.web.routes"),
        ("app/web/routes.py", "from app.db.store import Store", "app.db.store"),
        ("app/web/routes.py", "from app.worker.loop import Loop", "app.worker.loop"),
        ("app/web/routes.py", "from app.settings import Settings", "app.settings"),
        ("app/web/routes.py", "from app.main import create_app", "app.main"),
        ("app/main.py", "from app.cli import main", "app.cli"),
        ("app/web/routes.py", "from app.settings_files import Files", "app.settings_files"),
        ("app/settings_files.py", "from app.domain.users import Role", "app.domain.users"),
        ("app/cli/__init__.py", "import app.__main__", "app.__main__"),
        ("app/console/page.py", "from app.web.routes import routes", "app.web.routes"),
        ("app/client/http.py", "from app.services.tasks import create", "app.services.tasks"),
    ],
)
def test_an_import_that_the_table_does_not_list_is_found(path: str, text: str, target: str) -> None:
    found = forbidden(planted(path, text))

    assert found == [f"{path}:1: {module_name(path)} may not import {target}"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("app/domain/users.py", "import pydantic"),
        ("app/domain/users.py", "import sqlite3"),
        ("app/domain/users.py", "import cryptography"),
        ("app/web/routes.py", "import httpx2"),
        ("app/domain/users.py", "from starlette.requests import Request"),
        ("app/services/tasks.py", "import starlette.requests"),
        ("app/cli/serve.py", "import starlette"),
        ("app/web/routes.py", "import uvicorn"),
        ("app/web/routes.py", "import jwt"),
        ("app/main.py", "import uvicorn"),
        ("app/main.py", "import aiosqlite"),
        ("app/db/store.py", "import aiosqlite"),
        ("app/db/store.py", "from sqlite3 import Connection"),
        ("app/db/sqlite.py", "import asyncpg"),
        ("app/db/postgres.py", "from pysqlite3 import dbapi2"),
        ("app/repositories/tasks.py", "import databases"),
        ("app/web/schemas.py", "import pydantic_settings"),
        ("app/domain/tasks.py", "import uuid_utils"),
        ("app/worker/loop.py", "import requests"),
        ("app/worker/loop.py", "from tests.support import clocks"),
    ],
)
def test_a_package_of_others_outside_its_place_is_found(path: str, text: str) -> None:
    found = forbidden(planted(path, text))

    assert len(found) == 1
    assert found[0].startswith(f"{path}:1: {module_name(path)} may not import ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("def late():\n    import app.web.routes", 2),
        ("class Late:\n    async def run(self):\n        from app.web import routes", 3),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from app.web.routes import Route", 3),
        ("try:\n    import app.web.routes\nexcept ImportError:\n    pass", 2),
        ("import json, app.web.routes as routes", 1),
        ("from ..web import routes", 1),
        ("from ..web.routes import Route", 1),
        ("from .. import web", 1),
        ("from app import web", 1),
        ("from app.web.routes import *", 1),
        ("import importlib\nimportlib.import_module('app.web.routes')", 2),
        ("from importlib import import_module\nimport_module('app.web.routes')", 2),
        ("__import__('app.web.routes')", 1),
    ],
)
def test_an_import_is_found_wherever_it_hides(text: str, line: int) -> None:
    found = forbidden(planted("app/domain/users.py", text, "app/web/__init__.py", "app/web/routes.py"))

    assert len(found) == 1
    assert re.fullmatch(
        rf"app/domain/users\.py:{line}: app\.domain\.users may not import app\.web(\.routes)?", found[0]
    )


@pytest.mark.parametrize("importer", sorted(MAY_IMPORT))
def test_everything_may_import_itself_what_its_line_lists_and_what_everyone_may(importer: str) -> None:
    targets = (MAY_IMPORT[importer] | EVERYONE | {f"{importer}.part"}) - {ANYTHING}
    text = "\n".join(f"import {target}.thing\nfrom {target} import thing" for target in sorted(targets))

    found = forbidden(planted(f"{importer.replace('.', '/')}/here.py", text))

    assert found == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("app/main.py", "from app.settings import Settings\nfrom app.web.routes import routes\nimport starlette"),
        ("app/cli/serve.py", "from app.main import create_app\nimport click\nimport uvicorn"),
        ("app/__main__.py", "from app.cli import main\nfrom app.main import create_app"),
        ("app/web/server.py", "from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol"),
        ("app/web/routes.py", "from starlette.routing import Route\nimport pydantic"),
        ("app/db/sqlite.py", "import aiosqlite\ntry:\n    import pysqlite3\nexcept ImportError:\n    import sqlite3"),
        ("app/db/postgres.py", "import asyncpg\nimport databases"),
        (
            "app/domain/users.py",
            "from . import scopes\nfrom .scopes import ALL\nfrom ..clock import Timestamp\nimport re",
        ),
        ("app/settings.py", "from app.settings_files import Files\nimport pydantic_settings"),
        ("app/settings_files.py", "import pydantic"),
        ("app/repositories/users.py", "from app.db import connection, queries"),
        ("app/services/tasks.py", "from app.security import actor"),
        ("app/security/tokens.py", "import jwt"),
        ("app/pipelines/pipeline.py", "import pydantic"),
        ("app/pipelines/testing/parts.py", "from app.main import Container\nfrom app.settings import Settings"),
    ],
)
def test_what_the_design_allows_is_not_held_against_anybody(path: str, text: str) -> None:
    others = ("app/db/connection.py", "app/db/queries.py", "app/security/actor.py", "app/domain/scopes.py")

    found = forbidden(planted(path, text, *others))

    assert found == []


def test_a_module_that_the_table_does_not_know_is_found() -> None:
    sources = planted("app/utils/text.py", "", "app/helpers.py", "app/domain/users.py")

    assert without_a_line(sources) == ["app.helpers", "app.utils"]


def test_a_module_that_the_table_does_not_know_may_import_no_other() -> None:
    found = forbidden(planted("app/utils/text.py", "import app.domain.users"))

    assert found == ["app/utils/text.py:1: app.utils.text may not import app.domain.users"]


@pytest.mark.parametrize(
    "sources",
    [
        {"app/a.py": "import app.b", "app/b.py": "import app.a"},
        {"app/a.py": "from app import b", "app/b.py": "from app.c import x", "app/c.py": "from . import a"},
        {"app/a.py": "def late():\n    import app.b", "app/b.py": "import app.a"},
        {"app/a.py": "if TYPE_CHECKING:\n    import app.b", "app/b.py": "import app.a"},
        {"app/a/__init__.py": "from app.a.b import x", "app/a/b.py": "from app.a import x"},
        {"app/a.py": "import app.a"},
    ],
)
def test_a_circle_of_imports_is_found(sources: dict[str, str]) -> None:
    modules = cycle(sources)

    assert len(modules) > 1
    assert modules[0] == modules[-1]


def test_two_ways_to_the_same_module_are_no_circle() -> None:
    sources = {
        "app/a.py": "import app.b, app.c",
        "app/b.py": "import app.d",
        "app/c.py": "import app.d",
        "app/d.py": "",
    }

    assert cycle(sources) == []


def test_a_package_that_offers_what_its_modules_hold_is_no_circle() -> None:
    sources = {"app/a/__init__.py": "from app.a.b import x\nfrom . import c", "app/a/b.py": "", "app/a/c.py": ""}

    assert cycle(sources) == []


@pytest.mark.parametrize(("lines", "found"), [(400, []), (401, ["app/a.py: 401 lines"])])
def test_a_module_over_the_limit_is_found(lines: int, found: list[str]) -> None:
    assert too_long({"app/a.py": "pass\n" * lines}) == found


@pytest.mark.parametrize("head", ["def f():\n", "async def f():\n", "def f(\n    a,\n):\n"])
def test_a_function_over_the_limit_is_found(head: str) -> None:
    within = head + "    pass\n" * (70 - head.count("\n"))

    assert too_long({"app/a.py": within}) == []
    assert too_long({"app/a.py": within + "    pass\n"}) == ["app/a.py:1: f has 71 lines"]


def test_a_method_over_the_limit_is_found() -> None:
    text = "class C:\n    def f(self):\n" + "        pass\n" * 70

    assert too_long({"app/a.py": text}) == ["app/a.py:2: f has 71 lines"]


def test_a_requirement_is_read_down_to_the_name_that_is_imported() -> None:
    requirements = [
        "PyJWT>=2.15,<3",
        "databases[asyncpg]>=0.9",
        "uuid-utils >=1",
        "uvloop; sys_platform != 'win32'",
        "anyio",
    ]

    packages = distributions(requirements)

    assert list(packages.values()) == ["jwt", "databases", "uuid_utils", "uvloop", "anyio"]
