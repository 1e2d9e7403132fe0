"""Reverse proxies from Debian, started on the configuration that is shipped, in front of a real service."""

import asyncio
import os
import re
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from tests.e2e.home import Home, until
from tests.support.processes import ROOT, ServiceProcess, service

NGINX_FILE = ROOT / "deploy" / "nginx.conf"
CADDY_FILE = ROOT / "deploy" / "Caddyfile"
PROXY_ADDRESS = "127.0.0.1"
"""Where proxies listen, and where the service sees them come from."""

CALLER_ADDRESS = "127.0.0.2"
"""Where callers come from, so that they can be told from the proxy."""

START_SECONDS = 20

Change = tuple[str, str]
"""A piece of the shipped file that is there exactly once, and what stands in its place."""

_NGINX_MAIN = """
daemon off;
worker_processes 1;
{user}
pid {folder}/nginx.pid;
error_log stderr info;
events {{ worker_connections 512; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/cabinet.conf;
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A proxy that listens, and how callers reach it."""

    port: int
    folder: Path
    scheme: str = "https"
    authority: Path | None = None
    """The certificate that callers trust."""
    plain_port: int = 0
    """Where plain HTTP is answered with a redirect."""

    @property
    def tls(self) -> ssl.SSLContext | None:
        """What a caller needs to connect; None without TLS."""
        return None if self.authority is None else ssl.create_default_context(cafile=str(self.authority))

    def client(self, token: str | None = None, *, source: str = CALLER_ADDRESS, **named: Any) -> httpx2.AsyncClient:
        """Return a client that comes from an address."""
        transport = httpx2.AsyncHTTPTransport(local_address=source, verify=self.tls or False)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        base_url = f"{self.scheme}://localhost:{self.port}"
        return httpx2.AsyncClient(transport=transport, base_url=base_url, headers=headers, timeout=60, **named)

    @asynccontextmanager
    async def line(self) -> AsyncIterator["Line"]:
        """Open a connection that is written to by hand."""
        tls = self.tls
        async with open_line(self.port, ssl=tls, server_hostname="localhost" if tls else None) as line:
            yield line

    def logged(self) -> str:
        """Return everything that the proxy has logged."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))


@dataclass(frozen=True, slots=True)
class Line:
    """One connection, written to by hand."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, sent: bytes) -> None:
        """Send bytes; whoever has cut the connection does not get them."""
        with suppress(OSError):
            self.writer.write(sent)
            await self.writer.drain()

    async def rest(self, *, within_seconds: float = 20) -> bytes:
        """Return what comes until the connection is cut; TimeoutError if it is not."""
        received = b""
        async with asyncio.timeout(within_seconds):
            with suppress(OSError):
                while piece := await self.reader.read(65_536):
                    received += piece
        return received


@asynccontextmanager
async def open_line(port: int, **named: Any) -> AsyncIterator[Line]:
    """Open a connection from the callers' address, that is written to by hand."""
    reader, writer = await asyncio.open_connection(PROXY_ADDRESS, port, local_addr=(CALLER_ADDRESS, 0), **named)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()
        with suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


@asynccontextmanager
async def nginx(folder: Path, upstream: int, *changes: Change) -> AsyncIterator[Proxy]:
    """Run nginx in front of a port; `changes` are made to the shipped file besides."""
    place = folder / "nginx"
    place.mkdir()
    port, plain_port = free_port(), free_port()
    _make_certificate(place)
    text = replaced(
        NGINX_FILE.read_text(),
        ("server 127.0.0.1:8000;", f"server {PROXY_ADDRESS}:{upstream};"),
        ("    listen 80;\n    listen [::]:80;\n", f"    listen {PROXY_ADDRESS}:{plain_port};\n"),
        (
            "    listen 443 ssl http2;\n    listen [::]:443 ssl http2;\n",
            f"    listen {PROXY_ADDRESS}:{port} ssl http2;\n",
        ),
        ("/etc/ssl/certs/cabinet.example.com.pem", str(place / "certificate.pem")),
        ("/etc/ssl/private/cabinet.example.com.key", str(place / "key.pem")),
        *changes,
    )
    (place / "cabinet.conf").write_text(text)
    user = "user root;" if os.geteuid() == 0 else ""
    (place / "main.conf").write_text(_NGINX_MAIN.format(folder=place, user=user))
    proxy = Proxy(port=port, folder=place, authority=place / "certificate.pem", plain_port=plain_port)
    command = ("nginx", "-e", "stderr", "-p", str(place), "-c", str(place / "main.conf"))
    with _running(place, signal.SIGTERM, *command) as process:
        await _until_open(proxy, process)
        yield proxy


@asynccontextmanager
async def caddy(folder: Path, upstream: int, *changes: Change, scheme: str = "https") -> AsyncIterator[Proxy]:
    """Run Caddy in front of a port; its own authority certifies it. `changes` are made to the shipped file besides."""
    place = folder / "caddy"
    place.mkdir()
    port, plain_port = free_port(), free_port()
    mine = ("admin off\n", f"admin off\n\tdefault_bind {PROXY_ADDRESS}\n\thttp_port {plain_port}\n")
    (place / "Caddyfile").write_text(replaced(CADDY_FILE.read_text(), mine, *changes))
    authority = place / "caddy" / "pki" / "authorities" / "local" / "root.crt" if scheme == "https" else None
    proxy = Proxy(port=port, folder=place, scheme=scheme, authority=authority, plain_port=plain_port)
    names = {
        "CABINET_SITE": f"{scheme}://localhost:{port}",
        "CABINET_UPSTREAM": f"{PROXY_ADDRESS}:{upstream}",
        **dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(place)),
    }
    command = ("caddy", "run", "--adapter", "caddyfile", "--config", str(place / "Caddyfile"))
    with _running(place, signal.SIGKILL, *command, **names) as process:
        await _until_open(proxy, process)
        yield proxy


StartsProxy = Callable[..., AbstractAsyncContextManager[Proxy]]
PROXIES: tuple[StartsProxy, ...] = (nginx, caddy)


@asynccontextmanager
async def behind(
    proxy: StartsProxy, home: Home, *changes: Change, **settings: str
) -> AsyncIterator[tuple[Proxy, ServiceProcess]]:
    """Run a proxy with the service behind it, which believes the proxy's address."""
    async with (
        service(home.folder, FORWARDED_ALLOW_IPS=PROXY_ADDRESS, **settings) as running,
        proxy(home.folder, port_of(running), *changes) as opened,
    ):
        yield opened, running


@dataclass(slots=True)
class Upstream:
    """Something that is no service: it keeps what it is sent, and answers by hand."""

    port: int = 0
    received: list[bytearray] = field(default_factory=list)
    """What came, one for each connection."""


@asynccontextmanager
async def upstream(answer: bytes) -> AsyncIterator[Upstream]:
    """Listen in the place of a service; answer each first piece with these bytes, and close."""
    opened = Upstream()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.received.append(bytearray(await reader.read(65_536)))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, PROXY_ADDRESS)
    async with server:
        opened.port = server.sockets[0].getsockname()[1]
        yield opened


@asynccontextmanager
async def listening_in(running: ServiceProcess) -> AsyncIterator[Upstream]:
    """Stand between a proxy and the service, and keep what the proxy sends."""
    opened = Upstream()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = bytearray()
        opened.received.append(received)
        inner_reader, inner_writer = await asyncio.open_connection(PROXY_ADDRESS, port_of(running))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_hand_on(reader, inner_writer, received))
            tasks.create_task(_hand_on(inner_reader, writer, bytearray()))

    server = await asyncio.start_server(serve, PROXY_ADDRESS)
    async with server:
        opened.port = server.sockets[0].getsockname()[1]
        yield opened


async def request_line(running: ServiceProcess, request_id: str) -> dict[str, Any]:
    """Return the service's log line of a request, once it is there."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        found[:] = [line for line in running.events("request") if line["request_id"] == request_id]
        return bool(found)

    await until(is_there)
    [line] = found
    return line


def replaced(text: str, *changes: Change) -> str:
    """Make changes to a shipped file, each in its one place."""
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} is in the shipped file {text.count(old)} times"
        text = text.replace(old, new)
    return text


def seconds(text: str, name: str) -> float:
    """Return a time that a part of a shipped file sets, in seconds; the setting is there once."""
    [(number, unit)] = re.findall(rf"^\s*{name} (\d+)(ms|s|m)\b", text, re.MULTILINE)
    return int(number) * {"ms": 0.001, "s": 1, "m": 60}[unit]


def port_of(running: ServiceProcess) -> int:
    """Return the port on which the service listens."""
    port = urlsplit(running.url).port
    assert port is not None
    return port


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind((PROXY_ADDRESS, 0))
        port: int = taken.getsockname()[1]
        return port


async def _hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray) -> None:
    with suppress(OSError):
        while piece := await reader.read(65_536):
            kept += piece
            writer.write(piece)
            await writer.drain()
    writer.close()


def _make_certificate(place: Path) -> None:
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", "key.pem", "-out", "certificate.pem", "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
        ],
        cwd=place, check=True, capture_output=True,
    )  # fmt: skip


@contextmanager
def _running(place: Path, end: signal.Signals, *command: str, **names: str) -> Iterator[subprocess.Popen[bytes]]:
    with (place / "output.log").open("w") as output:
        process = subprocess.Popen(
            command, cwd=place, env={"PATH": os.environ["PATH"], **names}, stdout=output, stderr=output
        )
        try:
            yield process
        finally:
            process.send_signal(end)
            process.wait(timeout=START_SECONDS)


async def _until_open(proxy: Proxy, process: subprocess.Popen[bytes]) -> None:
    """Wait until a caller can connect; a proxy that does not start shows its log."""
    async with asyncio.timeout(START_SECONDS):
        while not await _is_open(proxy):
            assert process.poll() is None, proxy.logged()
            await asyncio.sleep(0.02)


async def _is_open(proxy: Proxy) -> bool:
    with suppress(OSError, ssl.SSLError):
        async with proxy.line():
            return True
    return False
