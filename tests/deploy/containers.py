"""Containers for tests: images built with buildah on a base made with mmdebstrap, run with podman and runc.

Everything is kept in a storage of its own in the user's cache, so that neither the base nor layers that did not change
are made twice; containers, volumes and networks of an earlier run that died are removed at the start of the next one.
"""

import fcntl
import hashlib
import json
import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUILD_SECONDS = 300
COMMAND_SECONDS = 120

BASE = "localhost/cabinet-test-base"
BASE_ARGUMENT = f"--build-arg=BASE={BASE}"
PRODUCTION = "localhost/cabinet"
DEV = "localhost/cabinet-dev"
CADDY = "docker.io/library/caddy:2"

BASE_RECIPE = (
    "mmdebstrap",
    "--quiet",
    "--variant=minbase",
    "--include=python3,python3-venv,python3-pip,ca-certificates",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "bookworm",
)
"""A stand-in for Docker's python:slim, which also brings pip; the archive's path follows."""

CADDY_RECIPE = f"""
FROM {BASE}
COPY caddy /usr/bin/caddy
RUN mkdir -p /config/caddy /data/caddy /etc/caddy /srv \\
    && python3 -c "import os, struct; \\
os.setxattr('/usr/bin/caddy', 'security.capability', struct.pack('<5I', 0x02000001, 1 << 10, 0, 0, 0))"
ENV XDG_CONFIG_HOME=/config XDG_DATA_HOME=/data
WORKDIR /srv
CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]
"""
"""The official image from this machine's Caddy: same paths and command, and CAP_NET_BIND_SERVICE on the program."""

HARDENED = (
    "--read-only",
    "--read-only-tmpfs=false",
    "--tmpfs=/tmp",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
)
"""How the image promises to run."""

_STORAGE = """
[storage]
driver = "{driver}"
graphroot = "{folder}/graph"
runroot = "{run}/storage"
"""

_CONTAINERS = """
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
log_driver = "k8s-file"

[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{run}/libpod"

[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """buildah and podman on one storage."""

    folder: Path
    environ: Mapping[str, str]

    def podman(self, *arguments: str, is_checked: bool = True) -> subprocess.CompletedProcess[str]:
        """Run podman to its end; unless told otherwise a refusal fails the test with podman's words."""
        return self.run("podman", *arguments, is_checked=is_checked)

    def run(
        self, *command: str, is_checked: bool = True, changes: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on this storage to its end, with some of its environment changed."""
        seconds = BUILD_SECONDS if command[0] == "buildah" else COMMAND_SECONDS
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env={**self.environ, **(changes or {})},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if is_checked:
            assert ended.returncode == 0, f"{command}: {ended.stdout[-2000:]} {ended.stderr[-4000:]}"
        return ended

    def build(self, tag: str, context: Path, *options: str) -> None:
        """Build an image in Docker's format, which is the one that keeps a HEALTHCHECK."""
        self.run(
            *("buildah", "bud", "--quiet", "--layers", "--format=docker", "--network=host", "--pull-never"),
            *(f"--volume={path}:{path}:ro" for path in _index_files()),
            *(f"--tag={tag}", *options, str(context)),
        )

    def inspect(self, what: str, name: str) -> dict[str, Any]:
        """Return what podman knows of an image, a container, a volume or a network."""
        found: list[dict[str, Any]] = json.loads(self.podman(what, "inspect", name).stdout)
        return found[0]

    def logs(self, container: str) -> str:
        """Return what a container has said, both streams."""
        said = self.podman("logs", container)
        return said.stdout + said.stderr

    def json_logs(self, container: str, event: str, **fields: str) -> list[dict[str, Any]]:
        """Return the log lines of one event that have these fields."""
        lines = [json.loads(line) for line in self.logs(container).splitlines() if line.startswith("{")]
        return [line for line in lines if line.items() >= {"event": event, **fields}.items()]

    def clean(self) -> None:
        """Remove containers, volumes, networks, and images that no build will come back to."""
        self.podman("pod", "rm", "--all", "--force")
        self.podman("rm", "--all", "--force", "--volumes", "--time=0")
        self.podman("volume", "rm", "--all", "--force")
        self.podman("network", "prune", "--force")
        self.podman("image", "prune", "--force")


@contextmanager
def open_engine() -> Iterator[Engine]:
    """Make the storage ready and keep it for this run alone; another run waits for its end."""
    recipe = hashlib.sha256(" ".join(BASE_RECIPE).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cabinet"
    folder = cache / f"containers-{recipe}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        engine = Engine(folder=folder, environ=_environment(folder))
        engine.clean()
        _have_base(engine, cache / f"base-{recipe}.tar")
        try:
            yield engine
        finally:
            engine.clean()


def build_images(engine: Engine) -> None:
    """Build what the tests run: both targets of the Dockerfile, and Caddy's image."""
    # A name keeps the layers with what is locked.
    engine.build("localhost/cabinet-build-dev", ROOT, "--target=build-dev", BASE_ARGUMENT)
    engine.build(PRODUCTION, ROOT, BASE_ARGUMENT)
    engine.build(DEV, ROOT, "--target=dev", BASE_ARGUMENT)
    context = engine.folder / "caddy"
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(CADDY_RECIPE)
    shutil.copy2(shutil.which("caddy") or "caddy", context / "caddy")
    engine.build(CADDY, context)


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _have_base(engine: Engine, archive: Path) -> None:
    if engine.podman("image", "exists", BASE, is_checked=False).returncode == 0:
        return
    if not archive.exists():
        made = archive.with_suffix(".new.tar")
        engine.run(*BASE_RECIPE, str(made))
        made.rename(archive)
    engine.podman("import", "--quiet", str(archive), f"{BASE}:latest")


def _environment(folder: Path) -> dict[str, str]:
    """Write the configuration of the tools, and return the environment that leads them to it."""
    run = Path("/run") / f"cabinet-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    limits = {"files": resource.RLIMIT_NOFILE, "processes": resource.RLIMIT_NPROC}
    # No limit is -1.
    ulimits = {name: min(1024, resource.getrlimit(limit)[1] % (1 << 63)) for name, limit in limits.items()}
    (folder / "storage.conf").write_text(_STORAGE.format(driver=_driver(folder), folder=folder, run=run))
    (folder / "containers.conf").write_text(_CONTAINERS.format(folder=folder, run=run, **ulimits))
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(Path.home()),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "BUILDAH_ISOLATION": "chroot",
    }


def _driver(folder: Path) -> str:
    """Return the storage driver: overlay where the file system can, else vfs, which copies every layer."""
    if (folder / "graph").exists():
        return "overlay" if (folder / "graph" / "overlay").exists() else "vfs"
    trial = folder / "trial"
    for name in ("lower", "upper", "work", "merged"):
        (trial / name).mkdir(parents=True, exist_ok=True)
    places = f"lowerdir={trial}/lower,upperdir={trial}/upper,workdir={trial}/work"
    mounted = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", places, str(trial / "merged")], capture_output=True, check=False
    )
    if mounted.returncode == 0:
        subprocess.run(["umount", str(trial / "merged")], check=True)
    shutil.rmtree(trial)
    return "overlay" if mounted.returncode == 0 else "vfs"


def _index_files() -> list[Path]:
    """Return what pip needs of this machine to reach its package index: the certificates, and pip's configuration."""
    return [path for path in (Path("/etc/ssl/certs"), Path("/etc/pip.conf")) if path.exists()]
