"""An adapter for Cabinet in Python, standard library only: it does the work of an HttpStage, here counting words.

    SECRET=whsec_… PORT=8787 python adapter.py

PORT=0 takes a free port. The first line on standard output is the URL for the stage. Make a secret with
`echo "whsec_$(openssl rand -base64 32)"`; the stage is given the same.

What an adapter answers: 200 with a JSON object (the stage's outputs) or 204, when the work is done; 202 with
Retry-After to be asked again later; 503 or 429, with Retry-After if it can tell, when it cannot now; any other 4xx
when it never will. Of an error's body Cabinet shows `detail` to the operators.
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NoReturn

PATH = "/words"
BODY_BYTES_LIMIT = 1_048_576
TOLERANCE_SECONDS = 300
REMEMBERED_LIMIT = 1_000


def work(message: Any) -> dict[str, Any]:
    """Return the outputs of the stage: what is done with one message. Raises Refusal for one that cannot be done."""
    try:
        text = message["data"]["payload"]["text"] if message["type"] == "cabinet.stage" else None
    except (KeyError, TypeError, IndexError):
        text = None
    if not isinstance(text, str):
        raise Refusal(422, "This adapter counts the words of `payload.text`; there is no such text in this payload.")
    return {"words": len(re.findall(r"[^ \t\r\n]+", text))}


class Refusal(Exception):
    """An answer that is no result: a status, and what a person is told."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}


class Adapter(ThreadingHTTPServer):
    """The server, and what it remembers.

    `remembered` holds the outputs of work that is done, by webhook-id. Cabinet repeats a request whose answer it did
    not see, always with the same id, and the work must not be done twice. Here doing it twice would do no harm, and
    the memory is lost with the process; an adapter that moves money keeps the id in its database, in the transaction
    that does the work.
    """

    daemon_threads = True

    def __init__(self, port: int, key: bytes) -> None:
        super().__init__(("127.0.0.1", port), Request)
        self.key = key
        self.remembered: dict[str, dict[str, Any]] = {}
        self.lock = threading.Lock()

    def outputs(self, webhook_id: str, body: bytes) -> tuple[dict[str, Any], bool]:
        """Return the outputs for a body whose signature fits, and whether they were there before."""
        with self.lock:  # also while it works: the same id may come twice at once
            if webhook_id in self.remembered:
                return self.remembered[webhook_id], True
            outputs = self.remembered[webhook_id] = work(parse(body))
            if len(self.remembered) > REMEMBERED_LIMIT:
                del self.remembered[next(iter(self.remembered))]
            return outputs, False


class Request(BaseHTTPRequestHandler):
    """One connection."""

    server: Adapter
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True  # head and body are two writes; the second would wait 40 ms

    def do_POST(self) -> None:
        """Do the work, or say why not."""
        try:
            outputs, is_replay = self.answer()
            self.send(200, "application/json", outputs, {"Idempotent-Replayed": "true"} if is_replay else {})
        except Refusal as refusal:
            self.send_problem(refusal.status, refusal.detail, refusal.headers)
        except OSError:  # the other side is gone
            self.close_connection = True
        except Exception:
            traceback.print_exc()
            self.send_problem(500, "The adapter failed; its log says more.")  # 5xx: Cabinet tries again

    def do_GET(self) -> None:
        """Say where to post to."""
        if self.path.partition("?")[0] == PATH:
            return self.send_problem(405, f"Post to {PATH}.", {"Allow": "POST"})
        return self.send_problem(404, f"Post to {PATH}.")

    do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 the standard library's names

    def answer(self) -> tuple[dict[str, Any], bool]:
        """Return the outputs, and whether the work was done before."""
        body = self.read()
        if self.path.partition("?")[0] != PATH:
            raise Refusal(404, f"Post to {PATH}.")
        # Over the bytes as they came: JSON that was parsed and written anew has another signature.
        if not is_signed(self.server.key, self.headers, body):
            raise Refusal(
                401, "The signature is wrong, too old or missing; compare the secrets and the clocks of both sides."
            )
        return self.server.outputs(self.headers["webhook-id"], body)

    def read(self) -> bytes:
        """Return the body; what is too much is read and dropped: who is cut off while sending sees no answer."""
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,15}", length):
            self.close_connection = True
            raise Refusal(411, "The body must come with its Content-Length.")
        if int(length) <= BODY_BYTES_LIMIT:
            return self.rfile.read(int(length))
        remaining = int(length)
        while block := self.rfile.read(min(remaining, 65_536)):
            remaining -= len(block)
        raise Refusal(413, f"The body has more than {BODY_BYTES_LIMIT} bytes.")

    def send(self, status: int, kind: str, value: object, headers: Mapping[str, str]) -> None:
        """Send one answer as JSON."""
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def send_problem(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        """Send a refusal as problem+json (RFC 9457)."""
        self.send(status, "application/problem+json", {"status": status, "detail": detail}, headers or {})


def is_signed(key: bytes, headers: Any, body: bytes) -> bool:
    """Tell whether a body is signed with the key, no more than five minutes ago.

    Standard Webhooks 1.0: HMAC-SHA256 over `id.timestamp.body`. While the secret is being replaced there are two
    signatures, separated by a space; one that fits is enough.
    """
    webhook_id, sent_at, signatures = (headers.get(f"webhook-{part}", "") for part in ("id", "timestamp", "signature"))
    if (
        not webhook_id
        or not re.fullmatch("[0-9]{1,12}", sent_at)
        or abs(time.time() - int(sent_at)) > TOLERANCE_SECONDS
    ):
        return False
    digest = hmac.digest(key, f"{webhook_id}.{sent_at}.".encode() + body, hashlib.sha256)
    expected = b"v1," + base64.b64encode(digest)
    return any(hmac.compare_digest(expected, signature.encode()) for signature in signatures.split(" "))


def parse(body: bytes) -> Any:
    """Return what the JSON says."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal(422, "The body is no JSON.") from None


def read_key(secret: str) -> bytes:
    """Return the key in a secret; SystemExit for one that is not well formed."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith("whsec_") or not 24 <= len(key) <= 64:
        stop("SECRET must be `whsec_` and then 24 to 64 random bytes in base64.")
    return key


def read_port(text: str) -> int:
    """Return the port; SystemExit for what is none."""
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65_535:
        stop("PORT must be a number from 0 to 65535; 0 takes a free port.")
    return int(text)


def stop(sentence: str) -> NoReturn:
    """End the process with a sentence."""
    print(sentence, file=sys.stderr)
    sys.exit(2)


def main() -> None:
    """Serve until the process is stopped."""
    adapter = Adapter(read_port(os.environ.get("PORT", "8787")), read_key(os.environ.get("SECRET", "")))
    print(f"http://127.0.0.1:{adapter.server_port}{PATH}", flush=True)
    adapter.serve_forever()


if __name__ == "__main__":
    main()
