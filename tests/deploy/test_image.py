"""The container image: what is in it, how it runs with next to no rights, and that nothing is lost with a container."""

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.deploy.containers import BASE, DEV, HARDENED, PRODUCTION, ROOT, Engine, free_port

pytestmark = pytest.mark.timeout(600)

SECONDS = 60
USER = 10001
PIPELINE_IMAGE = "localhost/shop"
SHOP = """
import os

import tomlkit

from app.pipelines import Context, Pipeline, Stage


def wait(context: Context) -> dict[str, str]:
    gate = context.folder.parent / "gate"
    if not gate.exists():
        os.mkfifo(gate)
    (context.folder.parent / "running").touch()
    gate.read_bytes()  # until somebody writes
    return {"toml": tomlkit.dumps({"waited": True})}


pipeline = Pipeline([Stage("wait", wait)])
"""
DOCKERFILE = """
FROM cabinet
USER root
COPY requirements.txt ./
RUN pip --python /opt/cabinet/bin/python install --no-cache-dir --require-hashes -r requirements.txt
USER cabinet
COPY shop.py ./
ENV PIPELINE=shop:pipeline
"""
SHOW_CONTENT = r"""
import importlib.util, json, os, pathlib, shutil
tops = [pathlib.Path(top) for top in ("/opt/cabinet", "/srv/cabinet")]
files = [path for top in tops for path in top.rglob("*") if not path.is_symlink()]
print(json.dumps({
    "user": [os.getuid(), os.getgid()],
    "packages": sorted({path.name.split("-")[0].lower() for path in files if path.name.endswith(".dist-info")}),
    "not_roots": [str(path) for path in files if path.lstat().st_uid != 0 or path.lstat().st_mode & 0o022],
    "workdir": os.listdir("/srv/cabinet"),
    "volume": oct(os.stat("/var/lib/cabinet").st_mode),
    "tools": [tool for tool in ("cc", "gcc", "make", "git", "curl", "hatchling") if shutil.which(tool)],
    "importable": [name for name in ("pip", "hatchling", "tests", "examples") if importlib.util.find_spec(name)],
}))
"""

SHOW_SPECIAL = r"""
import json, pathlib, stat
everything = [path for top in ("/usr", "/opt", "/srv", "/var/lib") for path in pathlib.Path(top).rglob("*")]
print(json.dumps(sorted(str(path) for path in everything if not path.is_symlink()
                        and path.lstat().st_mode & (stat.S_ISUID | stat.S_ISGID))))
"""
PAYLOAD = """
import json
from examples.listings.catalogue import payload_of
print(json.dumps(payload_of("CHE-002")))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a service keeps what outlives its container: a volume, and a secret in a file."""

    engine: Engine
    volume: str
    secret: Path
    url: str

    def options(self, *more: str) -> list[str]:
        """Return how every container runs here."""
        return [
            *HARDENED,
            f"--volume={self.volume}:/var/lib/cabinet",
            f"--volume={self.secret}:/run/secrets/token_secret:ro",
            *more,
        ]

    def once(self, *command: str, image: str = PIPELINE_IMAGE) -> str:
        """Run a command in a container of its own and return what it printed."""
        return self.engine.podman("run", "--rm", *self.options(), image, *command).stdout.strip()

    def refused(self, *options: str, image: str = PIPELINE_IMAGE) -> tuple[int, str]:
        """Run a service that is expected to end by itself; return its exit code and words."""
        ended = self.engine.podman("run", "--rm", *self.options(*options), image, is_checked=False)
        return ended.returncode, ended.stderr

    def start(self, image: str = PIPELINE_IMAGE) -> str:
        """Start a service in a new container and return its name."""
        name = f"cabinet-{uuid4().hex[:8]}"
        published = f"--publish={self.url.removeprefix('http://')}:8000"
        self.engine.podman("run", "--detach", f"--name={name}", *self.options(published), image)
        return name

    async def until_ready(self) -> None:
        """Wait until the service says that it is ready."""
        async with asyncio.timeout(SECONDS), httpx2.AsyncClient(base_url=self.url) as client:
            while True:
                try:
                    if (await client.get("/ready")).is_success:
                        return
                except httpx2.TransportError:
                    await asyncio.sleep(0.05)

    async def until_healthy(self, container: str) -> None:
        """Wait until the image's own health check says so."""
        async with asyncio.timeout(SECONDS):
            while self.is_unhealthy(container):
                await asyncio.sleep(0.1)

    def is_unhealthy(self, container: str) -> bool:
        """Run the image's health check once."""
        return self.engine.podman("healthcheck", "run", container, is_checked=False).returncode != 0

    def client(self, token: str) -> httpx2.AsyncClient:
        """Return a client of the service."""
        return httpx2.AsyncClient(base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=SECONDS)


async def create(client: httpx2.AsyncClient, payload: dict[str, Any]) -> httpx2.Response:
    """Create the one task of a test, or ask for it again."""
    return await client.post("/v1/tasks", json={"payload": payload}, headers={"Idempotency-Key": "k-1"})


@pytest.fixture
def place(engine: Engine, tmp_path: Path) -> Iterator[Place]:
    volume = f"cabinet-{uuid4().hex[:8]}"
    secret = tmp_path / "token_secret"
    secret.write_text("test-secret-" + "x" * 32)
    secret.chmod(0o400)
    shutil.chown(secret, USER, USER)
    yield Place(engine=engine, volume=volume, secret=secret, url=f"http://127.0.0.1:{free_port()}")
    engine.podman("rm", "--all", "--force", "--time=0")
    engine.podman("volume", "rm", "--force", volume)


@pytest.fixture(scope="module")
def shop(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Build an image with a pipeline of one's own that has a dependency of its own."""
    context = tmp_path_factory.mktemp("shop")
    (context / "shop.py").write_text(SHOP)
    (context / "Dockerfile").write_text(DOCKERFILE)
    locked = re.search(r"^tomlkit==(?:.*\\\n)+.*\n", (ROOT / "requirements-build.lock").read_text(), re.MULTILINE)
    assert locked
    (context / "requirements.txt").write_text(locked[0])
    engine.build(PIPELINE_IMAGE, context)


def test_the_production_image_holds_only_what_serves(place: Place) -> None:
    locked = re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)

    held = json.loads(place.once("python", "-I", "-c", SHOW_CONTENT, image=PRODUCTION))

    assert {"starlette", "aiosqlite", "cabinet"} <= set(held["packages"])
    assert set(held["packages"]) <= {"cabinet", *(name.replace("-", "_") for name in locked)}
    assert held["tools"] == held["importable"] == held["workdir"] == held["not_roots"] == []
    assert held["user"] == [USER, USER]
    assert held["volume"] == "0o40700"


def test_the_image_adds_no_program_that_gives_rights(engine: Engine) -> None:
    show = ("--user=root", "--entrypoint=python3")

    base, built = (
        json.loads(engine.podman("run", "--rm", *show, image, "-I", "-c", SHOW_SPECIAL).stdout)
        for image in (BASE, PRODUCTION)
    )

    assert built == base


def test_the_image_says_how_it_is_to_be_run(engine: Engine) -> None:
    image = engine.inspect("image", PRODUCTION)

    config = image["Config"]
    assert config["User"] == f"{USER}:{USER}"
    assert config["Cmd"] == ["cabinet", "serve"]
    assert image["Healthcheck"]["Test"][:2] == ["CMD", "python"]
    assert set(config["ExposedPorts"]) == {"8000/tcp", "9464/tcp"}
    assert set(config["Volumes"]) == {"/var/lib/cabinet"}
    assert {
        "APP_ENV=prod",
        "HOST=0.0.0.0",
        "PORT=8000",
        "METRICS_HOST=0.0.0.0",
        "METRICS_PORT=9464",
        "DB_PATH=/var/lib/cabinet/cabinet.db",
        "ARTIFACTS_DIR=/var/lib/cabinet/artifacts",
    } <= set(config["Env"])


async def test_a_task_survives_the_kill_of_its_container_and_finishes_in_the_next(place: Place, shop: None) -> None:
    applied = place.once("cabinet", "migrate")
    place.once("cabinet", "admin", "users", "add", "me@example.com", "--role", "super_admin")
    token = place.once("cabinet", "admin", "token", "me@example.com")
    first = place.start()
    await place.until_ready()
    async with place.client(token) as client, asyncio.timeout(SECONDS):
        created = await create(client, {})
        while place.engine.podman(
            "exec", first, "ls", "/var/lib/cabinet/artifacts/running", is_checked=False
        ).returncode:
            await asyncio.sleep(0.05)

    place.engine.podman("kill", "--signal=KILL", first)
    code = place.engine.podman("wait", first).stdout.strip()
    second = place.start()
    await place.until_ready()
    place.engine.podman("exec", second, "sh", "-c", "echo open > /var/lib/cabinet/artifacts/gate")
    async with place.client(token) as client:
        again = await create(client, {})
        ended = await client.get(f"/v1/tasks/{created.json()['id']}", params={"wait": 30})
        outputs = await client.get(f"/v1/tasks/{created.json()['id']}/outputs")

    assert applied.startswith("applied: ")
    assert (created.status_code, again.status_code) == (201, 201)
    assert code == "137"
    assert (again.content, again.headers["Idempotent-Replayed"]) == (created.content, "true")
    assert ended.json()["status"] == "succeeded"
    assert "waited = true" in outputs.text


async def test_the_health_check_knows_a_service_from_a_process_that_does_not_serve(place: Place, shop: None) -> None:
    place.once("cabinet", "migrate")
    idle = place.engine.podman(
        *("run", "--detach", *place.options(), PIPELINE_IMAGE, "python", "-c", "import time; time.sleep(600)")
    ).stdout.strip()
    serving = place.start()
    await place.until_ready()

    await place.until_healthy(serving)

    assert place.is_unhealthy(idle)


@pytest.mark.parametrize("address", ["127.0.0.1", "::"])
async def test_the_health_check_asks_where_the_service_listens(place: Place, shop: None, address: str) -> None:
    place.once("cabinet", "migrate")
    options = place.options(f"--env=HOST={address}", "--env=PORT=8123")

    container = place.engine.podman("run", "--detach", *options, PIPELINE_IMAGE).stdout.strip()

    await place.until_healthy(container)


async def test_a_stopped_container_exits_0_and_has_ended_cleanly(place: Place, shop: None) -> None:
    place.once("cabinet", "migrate")
    container = place.start()
    await place.until_ready()

    place.engine.podman("stop", "--time=45", container)

    assert place.engine.podman("wait", container).stdout.strip() == "0"
    assert place.engine.json_logs(container, "stopped") != []


def test_in_production_a_volume_that_was_not_migrated_stops_the_start(place: Place, shop: None) -> None:
    code, words = place.refused()

    assert code == 4
    assert "cabinet migrate" in words


def test_the_production_image_alone_asks_for_a_pipeline(place: Place) -> None:
    code, words = place.refused(image=PRODUCTION)

    assert code == 3
    assert "PIPELINE is missing" in words


async def test_the_dev_target_runs_the_example(place: Place) -> None:
    container = place.start(DEV)
    await place.until_ready()

    place.engine.podman("exec", container, "cabinet", "admin", "users", "add", "me@example.com")
    token = place.engine.podman("exec", container, "cabinet", "admin", "token", "me@example.com").stdout.strip()
    payload = json.loads(place.engine.podman("exec", container, "python", "-c", PAYLOAD).stdout)
    async with place.client(token) as client:
        created = await create(client, payload)
        ended = await client.get(f"/v1/tasks/{created.json()['id']}", params={"wait": 30})

    assert ended.json()["status"] == "succeeded"
    assert place.engine.podman("exec", container, "ls", "/var/lib/cabinet/artifacts/index.html").returncode == 0
