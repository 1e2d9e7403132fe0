"""`python -m examples.dev_server`: a server with its worker on the example pipeline, and what to paste next.

Database, files and a made-up secret stay in `.cabinet/dev`. PORT comes from the environment, else it is 8000.
"""

import argparse
import asyncio
import os
import socket
import sys
from pathlib import Path

from examples.demo.service import ROOT, DemoFailed, settings
from examples.first_start import prepare, what_to_paste

INTERRUPTED = 130

PASTE = """
Cabinet on the example pipeline: {url}, everything in {folder}. Paste into another terminal:
{steps}
Then look at {gallery}. Ctrl-C stops the server.
"""


def main() -> None:
    """Prepare, print, and become the server."""
    parser = argparse.ArgumentParser(prog="python -m examples.dev_server", description="A server to try things on.")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cabinet" / "dev", help="where everything is kept")
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        environ = dict(os.environ) | settings(folder) | _served_at(_port())
        token = asyncio.run(prepare(folder, environ))
    except DemoFailed as failure:
        sys.exit(str(failure))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    print(_what_to_paste(folder, environ["PORT"], token), flush=True)
    os.chdir(folder)
    os.execve(sys.executable, [sys.executable, "-m", "app", "serve"], environ)  # noqa: S606 no shell is wanted


def _served_at(port: str) -> dict[str, str]:
    origin = f"http://127.0.0.1:{port}"
    return {"APP_ENV": "dev", "HOST": "127.0.0.1", "PORT": port, "PUBLIC_ORIGIN": origin}


def _port() -> str:
    """Return the port to print and to listen on; for 0 one that is free now."""
    port = os.environ.get("PORT") or "8000"
    if port != "0":
        return port
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def _what_to_paste(folder: Path, port: str, token: str) -> str:
    url = f"http://127.0.0.1:{port}"
    return PASTE.format(
        url=url,
        folder=os.path.relpath(folder),
        steps=what_to_paste(url, token),
        gallery=os.path.relpath(folder / "artifacts" / "index.html"),
    )


if __name__ == "__main__":
    main()
