"""`python -m examples.first_start`: what `docker compose up` does once before the service; shared with `make run`.

It makes the secret that signs tokens in SECRETS_DIR, migrates, lets the first super_admin in, and prints a token and
what to paste under PUBLIC_ORIGIN. Done again, it keeps everything and prints a new token.
"""

import asyncio
import json
import os
import secrets
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from examples.demo.service import DemoFailed, run_cabinet
from examples.listings.catalogue import payload_of

SUBJECT = "developer@example.com"
REFERENCE = "CHE-002"
LINE_WIDTH = 90

GREETING = "Cabinet on the example pipeline: {url}, behind its proxy. Paste into a terminal:"

STEPS = """
1. Who you are, for a day: {subject}, super_admin

   export TOKEN={token}

2. A task: a print for the gallery. Sent again with the same key, the answer stays the same

   ANSWER=$(curl -sS {url}/v1/tasks -H "Authorization: Bearer $TOKEN" \\
     -H 'Content-Type: application/json' -H 'Idempotency-Key: {reference}-1' \\
     -d {body})
   echo "$ANSWER"; TASK=$(echo "$ANSWER" | cut -d '"' -f 4)

3. The same task when it has ended

   curl -sSw '\\n' "{url}/v1/tasks/$TASK?wait=30" -H "Authorization: Bearer $TOKEN"
"""


NEEDED = ("ARTIFACTS_DIR", "DB_PATH", "PUBLIC_ORIGIN", "SECRETS_DIR")
FAREWELL = "Then copy the gallery out: docker compose cp api:{folder} gallery"


def main() -> None:
    """Prepare what the settings in the environment name, and print what to paste."""
    environ = dict(os.environ)
    if missing := [name for name in NEEDED if name not in environ]:
        sys.exit(f"{' and '.join(missing)} must be in the environment; docker-compose.yml shows it.")
    try:
        token = asyncio.run(prepare(Path.cwd(), environ))
    except DemoFailed as failure:
        sys.exit(str(failure))
    print(GREETING.format(url=environ["PUBLIC_ORIGIN"]))
    print(what_to_paste(environ["PUBLIC_ORIGIN"], token))
    print(FAREWELL.format(folder=environ["ARTIFACTS_DIR"]), flush=True)


async def prepare(folder: Path, environ: Mapping[str, str]) -> str:
    """Keep a secret, migrate, let the first super_admin in unless that was done before, and return a token for them.

    The commands run in `folder`. Raises DemoFailed if the secret cannot be kept, or with the words of a command that
    refuses.
    """
    _keep_secret(Path(environ["SECRETS_DIR"]) / "TOKEN_SECRET")
    await run_cabinet(folder, environ, "migrate")
    if SUBJECT not in (await run_cabinet(folder, environ, "admin", "users", "list")).split():
        await run_cabinet(folder, environ, "admin", "users", "add", SUBJECT, "--role", "super_admin")
    return await run_cabinet(folder, environ, "admin", "token", SUBJECT)


def what_to_paste(url: str, token: str) -> str:
    """Return numbered commands for a shell: the token, a create, and a look at its end."""
    body = {"reference": REFERENCE, "payload": payload_of(REFERENCE)}
    return STEPS.format(url=url, subject=SUBJECT, token=token, reference=REFERENCE, body=shlex.quote(_wrapped(body)))


def _keep_secret(path: Path) -> None:
    """Make up the secret that signs tokens, once; only this user may read it."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except OSError as error:
        if not path.is_file():
            reason = f"SECRETS_DIR {path.parent} cannot hold a secret ({error.strerror})"
            raise DemoFailed(f"{reason}; give a folder that this user may write.") from error


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
