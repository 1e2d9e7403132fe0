"""The compose files, brought up: development works at once; production serves a pipeline of one's own over HTTPS."""

import json
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import httpx2
import pytest

from tests.deploy.containers import ROOT, Engine, free_port
from tests.deploy.stacks import Stack

pytestmark = pytest.mark.timeout(600)

USER = 10001
BASE_FILE = "docker-compose.yml"
OVERLAY = "docker-compose.prod.yml"
DOCKERFILE = """
FROM cabinet
COPY shop.py ./
"""
SHOP = """
from app.pipelines import Context, Pipeline, Stage


def charge(context: Context) -> dict[str, int]:
    return {"charged_cents": context.payload["cents"]}


pipeline = Pipeline([Stage("charge", charge)])
"""


class Make(Protocol):
    """Lays compose files into a folder of their own, as a project."""

    def __call__(self, *files: str, environ: Mapping[str, str]) -> Stack:
        """Return the project."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the one-shot service printed at last: commands, which are indented there."""

    text: str

    @property
    def commands(self) -> list[str]:
        """The commands as they are pasted."""
        return [paragraph for paragraph in self.text.split("\n\n") if paragraph.startswith("   ")]

    @property
    def token(self) -> str:
        """The token in the first command."""
        return self.commands[0].split("=", 1)[1].strip()

    def paste(self) -> list[dict[str, Any]]:
        """Run them in bash; return the JSON bodies that they showed."""
        bash = subprocess.run(
            ["bash", "-c", "\n".join(self.commands)], capture_output=True, text=True, timeout=60, check=True
        )
        return [json.loads(line) for line in (bash.stderr + bash.stdout).splitlines()]


def greeting(stack: Stack) -> Greeting:
    """Return what the last run of the one-shot service printed."""
    said = stack.engine.logs(stack.container("setup"))
    return Greeting(said[said.rindex("Cabinet on the example pipeline") :])


@pytest.fixture
def make_stack(engine: Engine, tmp_path: Path) -> Iterator[Make]:
    """Return how projects are made; at the end all of them are removed."""

    def make(*files: str, environ: Mapping[str, str]) -> Stack:
        folder = tmp_path / f"cabinet{uuid4().hex[:8]}"
        (folder / "deploy").mkdir(parents=True)
        for name in (*files, "deploy/Caddyfile"):
            shutil.copy(ROOT / name, folder / name)
        return Stack(engine=engine, folder=folder, files=files, environ=environ)

    yield make
    engine.clean()


@pytest.fixture
def development(make_stack: Make) -> Stack:
    """The development stack, on a port that is free."""
    return make_stack(BASE_FILE, environ={"CABINET_PORT": str(free_port())})


@pytest.fixture
def production(make_stack: Make, engine: Engine) -> Stack:
    """The production stack with a pipeline of one's own and a secret in a file; Caddy signs for `localhost` itself."""
    stack = make_stack(
        *(BASE_FILE, OVERLAY),
        environ={
            "CABINET_PORT": str(free_port()),
            "CABINET_HTTP_PORT": str(free_port()),
            "CABINET_HTTPS_PORT": str(free_port()),
            "CABINET_SITE": "localhost",
            "PIPELINE": "shop:pipeline",
        },
    )
    (stack.folder / "pipeline").mkdir()
    (stack.folder / "pipeline" / "Dockerfile").write_text(DOCKERFILE)
    (stack.folder / "pipeline" / "shop.py").write_text(SHOP)
    engine.build(stack.document()["services"]["api"]["image"], stack.folder / "pipeline")
    secret = stack.folder / "secrets" / "token_secret"
    secret.parent.mkdir(mode=0o700)
    secret.write_text("test-secret-" + "x" * 32)
    secret.chmod(0o400)
    shutil.chown(secret, USER, USER)
    return stack


async def test_development_works_at_once_and_again_after_a_restart(development: Stack) -> None:
    development.create()
    await development.start()
    first = greeting(development)
    created, ended = first.paste()

    development.stop()
    codes = [development.state(name)["ExitCode"] for name in development.services()]
    await development.start()
    second = greeting(development)
    again, _ = second.paste()
    me = httpx2.get(f"{development.origin}/v1/me", headers={"Authorization": f"Bearer {first.token}"})

    assert (created["status"], created["stage"]) == ("open", "parse")
    assert (ended["id"], ended["status"]) == (created["id"], "succeeded")
    assert codes == [0, 0, 0]
    assert again == created
    assert second.token != first.token
    assert me.json()["subject"] == "developer@example.com"


async def test_only_the_proxy_is_published_and_callers_are_seen_behind_it(development: Stack) -> None:
    development.create()
    await development.start()

    httpx2.get(f"{development.origin}/v1/me", headers={"X-Forwarded-For": "203.0.113.9"})

    ports = {name: development.published(name) for name in development.services()}
    assert ports == {"setup": {}, "api": {}, "proxy": {"8080/tcp": f"127.0.0.1:{development.environ['CABINET_PORT']}"}}
    assert re.search(
        rf" client={re.escape(development.gateway)} scheme=http method=GET route=/v1/me ", development.logs("api")
    )


async def test_development_runs_with_next_to_no_rights_and_keeps_its_secret_to_itself(development: Stack) -> None:
    development.create()
    await development.start()

    status = development.execute("api", "cat", "/proc/self/status")
    secret = development.execute("api", "stat", "--format=%a %u", "/var/lib/cabinet/secrets/TOKEN_SECRET")
    rights = {name: development.rights(name) for name in development.services()}

    hardened = {"read_only": True, "capabilities": []}
    assert rights == {
        "setup": hardened,
        "api": hardened,
        "proxy": hardened | {"capabilities": ["CAP_NET_BIND_SERVICE"]},
    }
    assert re.search(r"^CapBnd:\s0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s1$", status, re.MULTILINE)
    assert secret.strip() == f"600 {USER}"


async def test_taken_down_with_its_volumes_nothing_is_left(development: Stack) -> None:
    development.create()
    await development.start()

    development.compose("down", "--volumes", "--timeout=45")

    assert development.engine.podman("ps", "--all", "--quiet").stdout == ""
    assert development.engine.podman("volume", "ls", "--quiet").stdout == ""


async def test_production_serves_ones_own_pipeline_over_https(production: Stack) -> None:
    production.create()
    await production.start()
    production.execute("api", "cabinet", "admin", "users", "add", "me@example.com")
    token = production.execute("api", "cabinet", "admin", "token", "me@example.com").strip()
    trusted = ssl.create_default_context(
        cadata=production.execute("proxy", "cat", "/data/caddy/pki/authorities/local/root.crt")
    )

    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "o-1"}
    url = f"https://localhost:{production.environ['CABINET_HTTPS_PORT']}/v1/tasks"
    with httpx2.Client(verify=trusted, headers=headers, timeout=60) as client:
        created = client.post(url, json={"payload": {"cents": 500}})
        ended = client.get(f"{url}/{created.json()['id']}", params={"wait": 30})
    plain = httpx2.get(f"http://localhost:{production.environ['CABINET_HTTP_PORT']}/v1/tasks")

    assert (created.status_code, ended.json()["status"]) == (201, "succeeded")
    assert plain.status_code == 308
    assert plain.headers["Location"].startswith("https://localhost/")
    [request] = production.engine.json_logs(production.container("api"), "request", method="POST")
    assert (request["scheme"], request["client"]) == ("https", production.gateway)
    assert "applied: " in production.logs("setup")


async def test_production_begins_again_where_it_was_stopped(production: Stack) -> None:
    production.create()
    await production.start()
    production.execute("api", "cabinet", "admin", "users", "add", "me@example.com")

    production.stop()
    await production.start()

    assert "nothing to apply" in production.logs("setup")
    assert "me@example.com" in production.execute("api", "cabinet", "admin", "users", "list")
