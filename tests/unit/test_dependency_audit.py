"""The dependency audit: what it names, what it lets pass, and that silence is never taken for an answer."""

import json
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner, Result

ROOT = Path(__file__).parents[2]
HASHED = " \\\n    --hash=sha256:" + "a" * 64 + " \\\n    --hash=sha256:" + "0" * 64

PLANTED = {
    "S105": 'PASSWORD = "hunter2"',
    "S301": "import pickle\npickle.loads(b'')",
    "S307": "eval(input())",
    "S324": "import hashlib\nhashlib.md5(b'')",
    "S602": "import subprocess\nsubprocess.run(input(), shell=True)",
    "S608": 'QUERY = f"SELECT id FROM users WHERE id = {input()}"',
}

Audit = Callable[..., Result]


@pytest.fixture(scope="module")
def command() -> Any:
    return runpy.run_path(str(ROOT / ".ci" / "dependency_audit.py"))["audit"]


@pytest.fixture
def audit(command: Any, tmp_path: Path) -> Audit:
    """Audit one lock file of these lines, against these advisories unless other options are given."""

    def run(*lines: str, advisories: tuple[dict[str, Any], ...] = (), options: tuple[str, ...] = ()) -> Result:
        (tmp_path / "requirements.lock").write_text("\n".join(lines) + "\n", encoding="utf-8")
        folder = tmp_path / "advisories"
        folder.mkdir(exist_ok=True)
        for number, record in enumerate(advisories or (advisory(package="unrelated"),)):
            (folder / f"{number}.json").write_text(json.dumps(record), encoding="utf-8")
        consulted = options or ("--advisories", str(folder))
        return CliRunner().invoke(command, ["--locks", str(tmp_path), *consulted])

    return run


def advisory(
    *events: dict[str, str], package: str = "parcel", versions: tuple[str, ...] = (), **fields: Any
) -> dict[str, Any]:
    """A record about everything below 2.0, unless events or versions say otherwise."""
    if not events and not versions:
        events = ({"introduced": "0"}, {"fixed": "2.0"})
    ranges = [{"type": "ECOSYSTEM", "events": list(events)}] if events else []
    affected = {"package": {"ecosystem": "PyPI", "name": package}, "ranges": ranges, "versions": list(versions)}
    return {"id": "TEST-1", "modified": "2020-05-01T00:00:00Z", "affected": [affected], **fields}


@contextmanager
def service(answers: Callable[[dict[str, Any]], Any]) -> Iterator[str]:
    """An advisory service on this machine; it answers each question with what is made of it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(answers(question)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_version_with_an_advisory_is_named_with_its_id_and_its_fix(audit: Audit) -> None:
    result = audit("parcel==1.9" + HASHED, advisories=(advisory(aliases=["CVE-1"]),))

    assert result.exit_code == 1
    assert "requirements.lock: parcel 1.9 has TEST-1, CVE-1; fixed in 2.0." in result.output


def test_a_fixed_version_passes(audit: Audit) -> None:
    result = audit("parcel==2.0" + HASHED, advisories=(advisory(),))

    assert result.exit_code == 0
    assert "without an advisory against them" in result.output


@pytest.mark.parametrize(
    ("version", "events", "affected"),
    [
        ("1.0", [{"introduced": "1.0"}, {"fixed": "1.5"}], True),
        ("0.9", [{"introduced": "1.0"}, {"fixed": "1.5"}], False),
        ("1.10", [{"introduced": "1.9"}, {"fixed": "1.11"}], True),
        ("1.5", [{"introduced": "1.0"}, {"last_affected": "1.5"}], True),
        ("1.5.1", [{"introduced": "1.0"}, {"last_affected": "1.5"}], False),
        ("99", [{"introduced": "1.0"}], True),
        ("2.5", [{"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "2.0"}, {"fixed": "3.0"}], True),
        ("1.5", [{"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "2.0"}, {"fixed": "3.0"}], False),
        ("2.5", [{"introduced": "2.0"}, {"fixed": "3.0"}, {"introduced": "0"}, {"fixed": "1.0"}], True),
        ("2.0rc1", [{"introduced": "0"}, {"fixed": "2.0"}], True),
        ("2.0", [{"introduced": "0"}, {"fixed": "2.0rc1"}], False),
        ("0.0.dev1", [{"introduced": "0"}, {"fixed": "2.0"}], True),
        ("2.0.post1", [{"introduced": "0"}, {"fixed": "2.0"}], False),
    ],
)
def test_a_range_is_walked_from_its_lowest_event_up(
    audit: Audit, version: str, events: list[dict[str, str]], affected: bool
) -> None:
    result = audit(f"parcel=={version}" + HASHED, advisories=(advisory(*events),))

    assert (result.exit_code == 1) is affected, result.output


def test_the_fix_that_is_named_is_the_next_one_above_the_version(audit: Audit) -> None:
    record = advisory()
    record["affected"][0]["ranges"] = [
        {"type": "GIT", "repo": "elsewhere", "events": [{"introduced": "0"}, {"fixed": "c0ffee"}]},
        {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.5"}]},
        {"type": "ECOSYSTEM", "events": [{"introduced": "2.0"}, {"fixed": "2.4"}]},
    ]

    result = audit("parcel==2.1" + HASHED, advisories=(record,))

    assert "fixed in 2.4." in result.output


def test_a_version_that_is_listed_is_named_however_it_is_spelled(audit: Audit) -> None:
    result = audit("parcel==1.0.0" + HASHED, advisories=(advisory(versions=("2004d", "1.0")),))

    assert result.exit_code == 1
    assert "no fixed version is named" in result.output


def test_a_withdrawn_advisory_is_none(audit: Audit) -> None:
    result = audit("parcel==1.0" + HASHED, advisories=(advisory(withdrawn="2021-01-01T00:00:00Z"),))

    assert result.exit_code == 0, result.output


def test_a_package_of_another_ecosystem_is_another_package(audit: Audit) -> None:
    record = advisory()
    record["affected"][0]["package"]["ecosystem"] = "npm"

    result = audit("parcel==1.0" + HASHED, advisories=(record, advisory(package="unrelated")))

    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    "requirement",
    ["Par.Cel==1.0", "par_cel[extra,more]==1.0", "par-cel==1.0 ; sys_platform == 'win32' and python_version < '3.9'"],
)
def test_spelling_extras_and_markers_hide_no_package(audit: Audit, requirement: str) -> None:
    result = audit(requirement + HASHED, advisories=(advisory(package="PAR__cel"),))

    assert "par-cel 1.0 has TEST-1" in result.output


def test_each_of_two_versions_for_different_platforms_is_judged(audit: Audit) -> None:
    lines = [f"parcel==2.1 ; sys_platform == 'linux'{HASHED}", f"parcel==1.0 ; sys_platform != 'linux'{HASHED}"]

    result = audit(*lines, advisories=(advisory(),))

    assert "parcel 1.0 has" in result.output
    assert "parcel 2.1 has" not in result.output


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("parcel==1.0", "needs its sha256 hashes"),
        ("parcel==1.0 --hash=md5:" + "a" * 32, "needs its sha256 hashes"),
        ("parcel==1.0 --hash=sha256:" + "a" * 63, "needs its sha256 hashes"),
        ("parcel" + HASHED, "is not pinned"),
        ("parcel>=1.0" + HASHED, "is not pinned"),
        ("parcel==1.*" + HASHED, "is not pinned"),
        ("parcel===1.0" + HASHED, "is not pinned"),
        ("parcel==1.0,<2" + HASHED, "is not pinned"),
        ("parcel @ https://example.com/parcel.whl" + HASHED, "names a host"),
        ("--index-url https://example.com/simple", "names a host"),
        ("# from https://example.com/simple", "names a host"),
        ("-r other.txt", "an option is not a requirement: -r"),
        ("--no-binary :all:", "an option is not a requirement: --no-binary"),
        ("parcel 1.0" + HASHED, "cannot be read"),
    ],
)
def test_a_lock_file_holds_nothing_but_pinned_and_hashed_requirements(audit: Audit, line: str, complaint: str) -> None:
    result = audit("other==1.0" + HASHED, line)

    assert result.exit_code == 1
    assert complaint in result.output


def test_every_lock_file_is_read(audit: Audit, tmp_path: Path) -> None:
    (tmp_path / "requirements-more.lock").write_text("parcel==1.0" + HASHED, encoding="utf-8")

    result = audit("other==1.0" + HASHED, advisories=(advisory(),))

    assert "requirements-more.lock: parcel 1.0 has" in result.output


def test_a_folder_without_lock_files_and_an_empty_lock_file_are_faults(
    audit: Audit, command: Any, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()

    missing = CliRunner().invoke(command, ["--locks", str(tmp_path / "elsewhere")])
    empty = audit("# nothing")

    assert (missing.exit_code, empty.exit_code) == (1, 1)
    assert "There is no requirements*.lock" in missing.output
    assert "holds no requirement" in empty.output


@pytest.mark.parametrize("content", [None, "{", "[]", '{"id": "TEST-2"}', json.dumps(advisory() | {"affected": []})])
def test_a_folder_that_is_empty_or_holds_a_broken_advisory_is_a_fault(
    audit: Audit, tmp_path: Path, content: str | None
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    if content is not None:
        (folder / "whole.json").write_text(json.dumps(advisory(package="unrelated")), encoding="utf-8")
        (folder / "broken.json").write_text(content, encoding="utf-8")

    result = audit("parcel==1.0" + HASHED, options=("--advisories", str(folder)))

    assert result.exit_code == 1
    assert str(folder) in result.output


@pytest.mark.parametrize(
    "events", [({"fixed": "2.0"},), ({"introduced": "0"}, {"limit": "2.0"}), ({"introduced": "0"}, {"fixed": "x"})]
)
def test_an_advisory_that_cannot_be_judged_is_a_fault(audit: Audit, events: tuple[dict[str, str], ...]) -> None:
    result = audit("parcel==3.0" + HASHED, advisories=(advisory(*events),))

    assert result.exit_code == 1
    assert "TEST-1 about parcel cannot be judged" in result.output


def test_an_advisory_in_yaml_keeps_its_versions_as_they_are_written(audit: Audit, tmp_path: Path) -> None:
    folder = tmp_path / "database" / "parcel"
    folder.mkdir(parents=True)
    (folder / "TEST-3.yaml").write_text(
        "id: TEST-3\nmodified: 2020-05-01T00:00:00Z\naffected:\n- package: {name: parcel, ecosystem: PyPI}\n"
        "  ranges:\n  - {type: ECOSYSTEM, events: [introduced: 1.10]}\n",
        encoding="utf-8",
    )

    result = audit("parcel==1.5" + HASHED, options=("--advisories", str(folder.parent)))

    assert result.exit_code == 0, result.output


def test_an_old_folder_is_warned_of_and_a_new_one_is_not(audit: Audit) -> None:
    old = audit("parcel==2.0" + HASHED, advisories=(advisory(),))
    new = audit("parcel==2.0" + HASHED, advisories=(advisory(modified=datetime.now(UTC).isoformat()),))

    assert "of 2020-05-01 (WARNING" in old.output
    assert (old.exit_code, new.exit_code) == (0, 0)
    assert "WARNING" not in new.output


def test_the_service_is_asked_page_by_page_about_every_package(audit: Audit) -> None:
    def answers(question: dict[str, Any]) -> dict[str, Any]:
        if question["package"] != {"name": "parcel", "ecosystem": "PyPI"}:
            return {}
        return {"vulns": [advisory()]} if "page_token" in question else {"vulns": [], "next_page_token": "2"}

    with service(answers) as url:
        result = audit("other==1.0" + HASHED, "Parcel==1.0" + HASHED, options=("--service", url))

    assert result.exit_code == 1
    assert "parcel 1.0 has TEST-1" in result.output


@pytest.mark.parametrize("answer", [{}, [], {"vulns": []}])
def test_a_service_that_knows_nothing_has_not_been_consulted(audit: Audit, answer: Any) -> None:
    with service(lambda _: answer) as url:
        result = audit("parcel==1.0" + HASHED, options=("--service", url))

    assert "WARNING: No advisory was consulted" in result.output
    assert "without an advisory" not in result.output


def test_an_unreachable_service_is_said_and_is_a_fault_where_advisories_are_required(audit: Audit) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"

    lenient = audit("parcel==1.0" + HASHED, options=("--service", url))
    strict = audit("parcel==1.0" + HASHED, options=("--service", url, "--require-advisories"))

    assert (lenient.exit_code, strict.exit_code) == (0, 1)
    assert "WARNING: No advisory was consulted" in lenient.output
    assert lenient.output.rstrip().endswith("1 lock files, 1 packages: pinned and hashed.")


def test_form_faults_are_told_even_if_no_advisory_could_be_consulted(audit: Audit) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"

    result = audit("parcel>=1.0" + HASHED, options=("--service", url))

    assert result.exit_code == 1
    assert "is not pinned" in result.output


@pytest.mark.parametrize("folder", ["app", "examples", "benchmarks", ".ci"])
def test_the_security_rules_of_ruff_are_on(folder: str) -> None:
    found = rules_found("\n".join(PLANTED.values()), f"{folder}/planted.py")

    assert set(PLANTED) <= found


def rules_found(source: str, name: str) -> set[str]:
    answer = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=json", "--stdin-filename", name, "-"],
        input=source,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return {finding["code"] for finding in json.loads(answer.stdout)}
