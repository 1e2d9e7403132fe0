"""Identity providers: keys that sign tokens, and two providers in real processes.

One is the package oidc-provider-mock, whose tokens name no key; the other is this module run as a program, whose tokens
do, and whose keys can be rotated. Both make new keys whenever they start.
"""

import asyncio
import base64
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from app.ids import new_id

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30
CALLBACK = "https://callback.test/"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | Ed25519PrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A key that signs, and what a provider publishes of it."""

    key_id: str | None
    algorithm: str
    private: PrivateKey

    def published(self, **changes: Any) -> dict[str, Any]:
        """Return the key as it stands in a key set; a change to None leaves the member out."""
        members = {**_public(self.private), "use": "sig", "alg": self.algorithm, "kid": self.key_id} | changes
        return {name: value for name, value in members.items() if value is not None}

    def sign(self, claims: Mapping[str, Any] | bytes, **header: Any) -> str:
        """Return a token with these claims, signed as the key does whatever the header says.

        A change of the header to None leaves the parameter out.
        """
        parameters = {"typ": "JWT", "alg": self.algorithm, "kid": self.key_id} | header
        head = encoded({name: value for name, value in parameters.items() if value is not None})
        signing_input = f"{head}.{encoded(claims)}"
        signature = jwt.get_algorithm_by_name(self.algorithm).sign(signing_input.encode(), self.private)
        return f"{signing_input}.{encoded(signature)}"


def encoded(value: Any) -> str:
    """Return a part of a token: bytes as they are, all else as JSON."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def pair(algorithm: str, key_id: str | None = None, *, number: int = 0, bits: int = 2_048) -> Pair:
    """Return a key for an algorithm; `number` tells several of a kind apart."""
    return Pair(key_id=key_id, algorithm=algorithm, private=_private(algorithm, number, bits))


@cache
def _private(algorithm: str, _number: int, bits: int) -> PrivateKey:
    """Make a key once in a process: those of RSA take their time."""
    if algorithm.startswith("ES"):
        return ec.generate_private_key(ec.SECP384R1() if algorithm == "ES384" else ec.SECP256R1())
    if algorithm == "EdDSA":
        return Ed25519PrivateKey.generate()
    return rsa.generate_private_key(public_exponent=65_537, key_size=bits)


def _public(private: PrivateKey) -> dict[str, Any]:
    if isinstance(private, rsa.RSAPrivateKey):
        members = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    elif isinstance(private, ec.EllipticCurvePrivateKey):
        members = ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
    else:
        members = OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)
    return {name: members[name] for name in ("kty", "crv", "n", "e", "x", "y") if name in members}


# Real processes ------------------------------------------------------------------------------------------------------


class ProviderProcess:
    """A provider in a process of its own; started again it has the same address and other keys."""

    def __init__(self, module: str) -> None:
        self.issuer = ""
        self._module = module
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it and wait until it listens."""
        port = str(urlsplit(self.issuer).port or 0)
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "ignore", "-m", self._module, "--port", port),
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        async with asyncio.timeout(START_SECONDS):
            told = ""
            while not (found := re.search(r"running on (http://127\.0\.0\.1:\d+)", told)):
                line = await process.stderr.readline()
                assert line, f"the provider did not start: {told}"
                told += line.decode()
        self.issuer = found[1]
        self._reader = asyncio.create_task(_drain(process.stderr))

    async def stop(self) -> None:
        """End it, if it runs."""
        if self._process is None or self._reader is None:
            return
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()
        await self._reader
        self._process = None

    async def rotate(self) -> None:
        """Let it sign with a new key from now on; it publishes the old one beside it."""
        async with httpx2.AsyncClient(base_url=self.issuer) as client:
            (await client.post("/rotate")).raise_for_status()

    async def token(self, subject: str, audience: str) -> str:
        """Return an ID token by the authorization code flow (OpenID Connect Core 1.0 §3.1)."""
        asked = {"client_id": audience, "redirect_uri": CALLBACK}
        async with httpx2.AsyncClient() as client:
            places = (await client.get(f"{self.issuer}/.well-known/openid-configuration")).json()
            query = asked | {"response_type": "code", "scope": "openid"}
            granted = await client.post(places["authorization_endpoint"], params=query, data={"sub": subject})
            [code] = parse_qs(urlsplit(granted.headers["location"]).query)["code"]
            form = asked | {"grant_type": "authorization_code", "code": code, "client_secret": "any"}
            answer = await client.post(places["token_endpoint"], data=form)
        token: str = answer.raise_for_status().json()["id_token"]
        return token


@asynccontextmanager
async def provider(module: str = "tests.support.identity_provider") -> AsyncIterator[ProviderProcess]:
    """Run a provider; `oidc_provider_mock` is the other one there is."""
    running = ProviderProcess(module)
    try:
        await running.start()
        yield running
    finally:
        await running.stop()


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.readline():
        pass


# The program: a provider whose tokens name their key -----------------------------------------------------------------


class _Provider(ThreadingHTTPServer):
    """What the program knows: its keys, the newest last, and the codes that wait to be exchanged."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.issuer = f"http://127.0.0.1:{self.server_port}"
        self.keys: list[Pair] = []
        self.codes: dict[str, dict[str, str]] = {}
        self.rotate()

    def rotate(self) -> None:
        """Sign with a new key from now on."""
        self.keys.append(pair("ES256", new_id(), number=len(self.keys)))

    def token(self, code: str, issued_at: int) -> str:
        """Return the token that a code stands for."""
        claims = self.codes.pop(code) | {"iss": self.issuer, "iat": issued_at, "exp": issued_at + 600}
        return self.keys[-1].sign(claims)


class _Handler(BaseHTTPRequestHandler):
    server: _Provider

    def do_GET(self) -> None:
        own = self.server
        match urlsplit(self.path).path:
            case "/.well-known/openid-configuration":
                ends = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "jwks"}
                self._answer({"issuer": own.issuer} | {name: f"{own.issuer}/{end}" for name, end in ends.items()})
            case "/jwks":
                self._answer({"keys": [key.published() for key in own.keys]})
            case _:
                self.send_error(404)

    def do_POST(self) -> None:
        own = self.server
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        form = {name: values[0] for name, values in parse_qs(f"{body}&{urlsplit(self.path).query}").items()}
        match urlsplit(self.path).path:
            case "/authorize":
                code = new_id()
                own.codes[code] = {"sub": form["sub"], "aud": form["client_id"]}
                self.send_response(302)
                self.send_header("location", f"{form['redirect_uri']}?code={code}")
                self.send_header("content-length", "0")
                self.end_headers()
            case "/token":
                self._answer({"id_token": own.token(form["code"], int(time.time()))})
            case "/rotate":
                own.rotate()
                self._answer({})
            case _:
                self.send_error(404)

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""

    def _answer(self, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def main() -> None:
    """Serve until the process is ended."""
    with _Provider(int(sys.argv[sys.argv.index("--port") + 1])) as serving:
        print(f"running on {serving.issuer}", file=sys.stderr, flush=True)  # noqa: T201 what who started it waits for
        serving.serve_forever()


if __name__ == "__main__":
    main()
