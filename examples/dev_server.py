"""`python -m examples.dev_server`: a server with its worker on the example pipeline, and what to paste next.

Database, files and a made-up secret stay in `.cabinet/dev`. PORT comes from the environment, else it is 8000.
"""

import argparse
import asyncio
import json
import os
import secrets
import shlex
import socket
import sys
from pathlib import Path

from examples.demo.service import ROOT, DemoFailed, run_cabinet, settings
from examples.listings.catalogue import payload_of

SUBJECT = "developer@example.com"
REFERENCE = "CHE-002"
LINE_WIDTH = 90
INTERRUPTED = 130

PASTE = """
Cabinet on the example pipeline: {url}, everything in {folder}. Paste into another terminal:

1. Who you are, for a day: {subject}, super_admin

   export TOKEN={token}

2. A task: a print for the gallery. Sent again with the same key, the answer stays the same

   ANSWER=$(curl -sS {url}/v1/tasks -H "Authorization: Bearer $TOKEN" \\
     -H 'Content-Type: application/json' -H 'Idempotency-Key: {reference}-1' \\
     -d {body})
   echo "$ANSWER"; TASK=$(echo "$ANSWER" | cut -d '"' -f 4)

3. The same task when it has ended

   curl -sSw '\\n' "{url}/v1/tasks/$TASK?wait=30" -H "Authorization: Bearer $TOKEN"

Then look at {gallery}. Ctrl-C stops the server.
"""


def main() -> None:
    """Prepare, print, and become the server."""
    parser = argparse.ArgumentParser(prog="python -m examples.dev_server", description="A server to try things on.")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cabinet" / "dev", help="where everything is kept")
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        environ = dict(os.environ) | settings(folder) | {"APP_ENV": "dev", "HOST": "127.0.0.1", "PORT": _port()}
        _keep_secret(folder / "secrets" / "TOKEN_SECRET")
        token = asyncio.run(_prepare(folder, environ))
    except DemoFailed as failure:
        sys.exit(str(failure))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    print(_what_to_paste(folder, environ["PORT"], token), flush=True)
    os.chdir(folder)
    os.execve(sys.executable, [sys.executable, "-m", "app", "serve"], environ)  # noqa: S606 no shell is wanted


async def _prepare(folder: Path, environ: dict[str, str]) -> str:
    """Migrate, let the first super_admin in unless that was done before, and return a token for them."""
    await run_cabinet(folder, environ, "migrate")
    if SUBJECT not in (await run_cabinet(folder, environ, "admin", "users", "list")).split():
        await run_cabinet(folder, environ, "admin", "users", "add", SUBJECT, "--role", "super_admin")
    return await run_cabinet(folder, environ, "admin", "token", SUBJECT)


def _keep_secret(path: Path) -> None:
    """Make up the secret that signs tokens, once; only this user may read it."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        return


def _port() -> str:
    """Return the port to print and to listen on; for 0 one that is free now."""
    port = os.environ.get("PORT") or "8000"
    if port != "0":
        return port
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def _what_to_paste(folder: Path, port: str, token: str) -> str:
    return PASTE.format(
        url=f"http://127.0.0.1:{port}",
        folder=os.path.relpath(folder),
        subject=SUBJECT,
        token=token,
        reference=REFERENCE,
        body=shlex.quote(_wrapped({"reference": REFERENCE, "payload": payload_of(REFERENCE)})),
        gallery=os.path.relpath(folder / "artifacts" / "index.html"),
    )


def _wrapped(body: object) -> str:
    """Write JSON on few lines, broken only where JSON may be."""
    lines = [""]
    for part in json.dumps(body, indent=0, ensure_ascii=False).splitlines():
        if len(lines[-1]) + len(part) > LINE_WIDTH:
            lines.append("")
        lines[-1] += part if not lines[-1] or lines[-1][-1] in "{[" or part[0] in "}]" else f" {part}"
    return "\n     ".join(lines)


if __name__ == "__main__":
    main()
