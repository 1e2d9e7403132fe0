"""A compose stack for tests: podman-compose makes it, and it is started in the order that its file asks for.

Debian's podman-compose knows neither the conditions of `depends_on` nor subnets, so both are read from the file here.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploy.containers import Engine
from tests.support.compose_files import merged

START_SECONDS = 60
STOP_SECONDS = 45
"""As `stop_grace_period` in the files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The services of compose files that lie in one folder."""

    engine: Engine
    folder: Path
    files: tuple[str, ...]
    environ: Mapping[str, str]

    @property
    def project(self) -> str:
        """The name that containers, volumes and the network begin with."""
        return re.sub(r"[^a-z0-9_-]", "", self.folder.name.lower())

    @property
    def network(self) -> str:
        """The name of the network that all services share."""
        return f"{self.project}_default"

    def document(self) -> dict[str, Any]:
        """Return what the files say together, with the variables filled in."""
        return merged(*(self.folder / name for name in self.files), environ=self.environ)

    def services(self) -> dict[str, dict[str, Any]]:
        """Return the services, each after those that it depends on."""
        left: dict[str, dict[str, Any]] = dict(self.document()["services"])
        ordered: dict[str, dict[str, Any]] = {}
        while left:
            name = next(name for name, service in left.items() if set(service.get("depends_on", ())) <= ordered.keys())
            ordered[name] = left.pop(name)
        return ordered

    def container(self, service: str) -> str:
        """Return the name of a service's container."""
        return f"{self.project}_{service}_1"

    @property
    def origin(self) -> str:
        """Where the proxy answers in development."""
        return f"http://127.0.0.1:{self.environ['CABINET_PORT']}"

    @property
    def gateway(self) -> str:
        """The address from which this machine's requests come to the proxy."""
        return str(self.engine.inspect("network", self.network)["subnets"][0]["gateway"])

    def logs(self, service: str) -> str:
        """Return what a service has said."""
        return self.engine.logs(self.container(service))

    def state(self, service: str) -> dict[str, Any]:
        """Return whether a service runs, and how it ended."""
        state: dict[str, Any] = self.engine.inspect("container", self.container(service))["State"]
        return state

    def published(self, service: str) -> dict[str, str]:
        """Return address and port on this machine of each port of a service."""
        bindings = self.engine.inspect("container", self.container(service))["HostConfig"]["PortBindings"]
        return {port: f"{where[0]['HostIp']}:{where[0]['HostPort']}" for port, where in bindings.items() if where}

    def rights(self, service: str) -> dict[str, Any]:
        """Return what a service may do beyond its own volumes."""
        container = self.engine.inspect("container", self.container(service))
        return {
            "read_only": container["HostConfig"]["ReadonlyRootfs"],
            "capabilities": container["EffectiveCaps"] or container["BoundingCaps"] or [],
        }

    def execute(self, service: str, *command: str) -> str:
        """Run a command in a service's container and return what it printed."""
        return self.engine.podman("exec", self.container(service), *command).stdout

    def create(self) -> None:
        """Make the network, the volumes and the containers."""
        [pool] = self.document()["networks"]["default"]["ipam"]["config"]
        self.engine.podman("network", "create", f"--subnet={pool['subnet']}", self.network)
        self.compose("up", "--no-start")

    async def start(self) -> None:
        """Start every service as soon as what it depends on has come as far as the file asks."""
        for name, service in self.services().items():
            for other, wanted in service.get("depends_on", {}).items():
                await self._until(other, wanted["condition"])
            self.engine.podman("start", self.container(name))
        await self._until_listening(self.environ.get("CABINET_HTTPS_PORT") or self.environ["CABINET_PORT"])

    def stop(self) -> None:
        """Stop all services, the last first, as an operator does."""
        for name in reversed(self.services()):
            self.compose("stop", f"--timeout={STOP_SECONDS}", name)

    def compose(self, *arguments: str) -> str:
        """Run podman-compose and return what it printed."""
        files = [option for name in self.files for option in ("-f", str(self.folder / name))]
        return self.engine.run("podman-compose", *files, *arguments, changes=self.environ).stdout

    async def _until(self, service: str, condition: str) -> None:
        container = self.container(service)
        match condition:
            case "service_completed_successfully":
                code = self.engine.podman("wait", container).stdout.strip()
                assert code == "0", self.engine.logs(container)
            case "service_healthy":
                async with asyncio.timeout(START_SECONDS):
                    while self.engine.podman("healthcheck", "run", container, is_checked=False).returncode:
                        await asyncio.sleep(0.1)
            case other:
                raise AssertionError(f"{other} is no condition")

    async def _until_listening(self, port: str) -> None:
        """Wait until the proxy listens, which no container's state tells."""
        async with asyncio.timeout(START_SECONDS):
            while self.state("proxy")["Running"]:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", int(port))
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return
        raise AssertionError(self.logs("proxy"))
