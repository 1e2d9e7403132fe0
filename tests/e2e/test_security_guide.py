"""docs/security.md does what it says: its worked example is recomputed, its client is run, its tests are there."""

import asyncio
import base64
import re
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.security.signatures import SignedRequest, check_digest, parse_input, parse_signature, signature_base
from tests.e2e.home import Home
from tests.support.processes import ROOT, environment, run_cabinet, service

GUIDE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
RFC_8032_TEST_1 = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
ORIGIN = "http://cabinet.test:8080"


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)\n```$", GUIDE, re.MULTILINE | re.DOTALL)


def test_the_worked_example_is_what_the_service_takes() -> None:
    base, signature = blocks("text")
    lines = dict(line.split(": ", 1) for line in base.split("\n"))
    given = parse_input("sig=" + lines.pop('"@signature-params"'))
    headers = [(name.strip('"').encode(), value.encode()) for name, value in lines.items() if "@" not in name]
    body = b'{"payload":{"order":7}}'
    request = SignedRequest(method="POST", path=b"/v1/tasks", query=b"", headers=headers, body=body)
    private_key = Ed25519PrivateKey.from_private_bytes(RFC_8032_TEST_1)

    made = signature_base(given, request, authority="cabinet.example.com")

    assert made.decode() == base
    assert parse_signature(f"sig=:{signature}:", label="sig") == private_key.sign(made)
    assert base64.b64encode(private_key.public_key().public_bytes_raw()).decode() in GUIDE
    assert body.decode() in GUIDE
    check_digest(lines['"content-digest"'], body)


async def test_a_program_gets_in_with_its_key_and_the_client_of_the_guide(home: Home) -> None:
    [client] = blocks("python")
    (home.folder / "sign.py").write_text(client, encoding="utf-8")
    generated = run_cabinet(home.folder, "admin", "keys", "generate", "orders.pem")
    public_key = generated.stdout.strip()

    async with service(home.folder, PUBLIC_ORIGIN=ORIGIN) as running, running.client(home.tokens["root"]) as root:
        asking = {"requested_by": "integration:orders", "public_key": public_key}
        asked = (await root.post("/v1/access-requests", json=asking)).json()["id"]
        approved = await root.post(f"/v1/access-requests/{asked}/approve")
        # The service is not at its origin here: the client signs for the one and sends to the other.
        script = client.replace('f"{origin}/v1/tasks", body', f'"{running.url}/v1/tasks", body')
        (home.folder / "sign.py").write_text(script, encoding="utf-8")
        outcomes = [await run_client(home.folder, key_id=asked) for _ in range(2)]

    assert approved.json()["access_request"]["fingerprint"] == generated.stderr.split()[1]
    assert [code for code, _ in outcomes] == [0, 0]
    assert outcomes[0][1] == outcomes[1][1]  # the same key of idempotency, each time signed anew
    assert b'"status":"open"' in outcomes[0][1]


async def run_client(folder: Path, *, key_id: str) -> tuple[int | None, bytes]:
    """Run the client of the guide and return its exit code and what it prints."""
    command = (sys.executable, "sign.py", ORIGIN, "orders.pem", key_id)
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment(folder), stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    return process.returncode, printed


def test_every_threat_has_an_answer_and_tests_that_are_there() -> None:
    threats = GUIDE.partition("## Threats")[2]
    rows = [line.strip("|").split("|") for line in threats.splitlines() if line.startswith("| ")][1:]
    named = [re.findall(r"`(tests/[a-z0-9_/]+\.py)`", tests) for _, _, tests in rows]

    assert len(rows) >= 15
    assert [row[0] for row, tests in zip(rows, named, strict=True) if not tests or not row[1].strip()] == []
    assert [name for names in named for name in names if not (ROOT / name).exists()] == []
