"""docs/pipelines.md: its examples run as they are printed, and it names all that there is."""

import dataclasses
import inspect
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from logging import getLogger
from pathlib import Path
from typing import Any

import pytest

from app.domain.jobs import AttemptOutcome
from app.pipelines import Context, HttpStage, RetryPolicy, Stage
from app.pipelines.testing import HandClock, Simulation, Standing, Step
from tests.support.processes import ROOT

GUIDE = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE))
PYTEST = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
EXAMPLE_SECONDS = 100


def public(thing: type) -> set[str]:
    """Return what somebody may use of a class."""
    return {name for name in dir(thing) if not name.startswith("_")}


def arguments(thing: Any) -> set[str]:
    """Return the arguments of a function or a class."""
    return {name for name in inspect.signature(thing).parameters if name != "self"}


def named(text: str) -> set[str]:
    """Return the words that a text prints as code."""
    return {word for code in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"[a-z_]+", code)}


def section(heading: str) -> str:
    """Return what stands under a heading."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", GUIDE, re.DOTALL | re.MULTILINE)
    assert found, heading
    return found[1]


# The examples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", [name for name in EXAMPLES if name.startswith("test_")])
def test_an_example_and_its_tests_run_as_they_are_printed(test: str, tmp_path: Path) -> None:
    for name, text in EXAMPLES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(PYTEST)

    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
        cwd=tmp_path, env={"PATH": "", "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True, text=True, timeout=EXAMPLE_SECONDS, check=False,
    )  # fmt: skip

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"^5 passed", ended.stdout, re.MULTILINE)


def test_there_are_two_examples() -> None:
    assert set(EXAMPLES) == {"prices.py", "test_prices.py", "warehouse.py", "shipping.py", "test_shipping.py"}


# The request ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[tuple[str, list[Any]]]:
    """The address of an adapter, and what it was sent last: first the headers, then the body."""
    heard: list[Any] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard[:] = [dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))]
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Be quiet."""

    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/reserve", heard
        server.shutdown()
        thread.join()


async def test_the_request_is_the_one_that_is_sent(listener: tuple[str, list[Any]], tmp_path: Path) -> None:
    url, heard = listener
    [printed] = re.findall(r"^```http\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
    head, body = printed.strip().split("\n\n")
    [secret] = re.findall(r"signed\s+with `(whsec_\w+)`", GUIDE)
    shown = json.loads(body)["data"]
    context = Context(
        task_id=shown["task_id"],
        reference=shown["reference"],
        stage=shown["stage"],
        attempt=shown["attempt"],
        payload=shown["payload"],
        outputs=shown["outputs"],
        folder=tmp_path,
        log=getLogger("test"),
    )
    stage = HttpStage("reserve", url, secret=secret, clock=HandClock("2026-01-01T00:00:00Z"))

    await stage.handler(context)  # type: ignore[misc]  # this one is async

    headers, sent = heard
    told = {tuple(line.lower().split(": ", 1)) for line in head.splitlines()[1:]}
    assert sent.decode() == body
    assert told <= {(name.lower(), value.lower()) for name, value in headers.items()}


# The names -----------------------------------------------------------------------------------------------------------


def test_every_argument_of_a_stage_is_explained() -> None:
    assert arguments(Stage) <= named(section("A stage"))


def test_all_of_the_context_is_explained() -> None:
    assert public(Context) - {"signals"} <= named(section("A stage"))


def test_every_field_of_a_retry_policy_is_explained_with_its_default() -> None:
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| ([^|]+) \|", section("When it is tried again"), re.MULTILINE)
    told = {
        name: default
        for names, defaults in rows
        for name, default in zip(re.findall(r"[a-z_]+", names), re.split(", *", defaults), strict=True)
    }

    defaults = dataclasses.asdict(RetryPolicy(by_kind={}))
    assert told == {name: f"{value:g}" if value else "none" for name, value in defaults.items()}


def test_every_outcome_of_an_attempt_is_explained() -> None:
    assert set(AttemptOutcome) <= named(section("What a handler may say"))


def test_every_argument_of_an_http_stage_is_named() -> None:
    told = named(section("HttpStage: the work is done elsewhere")) | arguments(Stage)

    assert arguments(HttpStage) - {"url", "secret", "clock"} <= told


def test_every_kind_of_error_of_an_http_stage_is_explained() -> None:
    source = (ROOT / "app" / "pipelines" / "http_stage.py").read_text(encoding="utf-8")

    kinds = set(re.findall(r"\"(http_[a-z_]+)\"", source))

    assert kinds <= named(section("HttpStage: the work is done elsewhere"))


def test_all_of_the_simulation_is_explained() -> None:
    told = named(section("Testing"))

    assert public(Simulation) <= told | {"pipeline"}
    assert {field.name for field in dataclasses.fields(Step)} - {"task_id", "started_at", "ended_at"} <= told
    assert {field.name for field in dataclasses.fields(Standing)} - {"task_id"} <= told
