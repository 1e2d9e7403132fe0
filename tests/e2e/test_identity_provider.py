"""People behind a real OpenID Connect provider: they get in, its keys change, it goes away and comes back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx2
import pytest

from app.clock import SystemClock
from app.errors import IdentityProviderUnavailable, NotAuthenticated
from app.security.identity_provider import IdentityProvider
from app.security.key_cache import COOLDOWN_SECONDS
from tests.support.clocks import HandSeconds
from tests.support.identity_provider import ProviderProcess, provider
from tests.support.processes import ServiceProcess, run_cabinet, service

AUDIENCE = "cabinet"
PATIENCE_SECONDS = COOLDOWN_SECONDS + 20


@pytest.fixture(params=["oidc_provider_mock", "tests.support.identity_provider"])
async def running(request: pytest.FixtureRequest) -> AsyncIterator[ProviderProcess]:
    """Run each of the two providers; the first names no key in its tokens."""
    async with provider(request.param) as started:
        yield started


def identity_provider(
    issuer: str, seconds: HandSeconds, client: Callable[[], httpx2.AsyncClient] | None = None
) -> IdentityProvider:
    """Return what verifies a provider's tokens, with cool-downs on a clock of the test's own."""
    return IdentityProvider(
        issuer=issuer, audience=AUDIENCE, jwks_url=None, clock=SystemClock(), monotonic=seconds, client=client
    )


def let_in(folder: Path, subject: str) -> None:
    """Make a user of a subject of the provider."""
    for arguments in (("migrate",), ("admin", "users", "add", subject)):
        done = run_cabinet(folder, *arguments)
        assert done.returncode == 0, done.stderr


async def me(service_running: ServiceProcess, token: str) -> httpx2.Response:
    """Ask the service who one is."""
    async with service_running.client(token) as client:
        return await client.get("/v1/me")


async def test_whom_the_provider_names_gets_in_and_nobody_else(running: ProviderProcess, tmp_path: Path) -> None:
    subject = f"{running.issuer}#alice@example.com"
    let_in(tmp_path, subject)
    good = await running.token("alice@example.com", AUDIENCE)
    refused = {
        "other audience": (await running.token("alice@example.com", "other"), 401),
        "changed": (good[:-8] + "AAAAAAAA", 401),
        "unknown": (await running.token("bob@example.com", AUDIENCE), 403),
    }

    async with service(tmp_path, OIDC_ISSUER=running.issuer, OIDC_AUDIENCE=AUDIENCE) as cabinet:
        answer = await me(cabinet, good)
        statuses = {name: (await me(cabinet, token)).status_code for name, (token, _) in refused.items()}
        await running.stop()
        during_outage = await me(cabinet, good)

    assert (answer.status_code, answer.json()["subject"]) == (200, subject)
    assert statuses == {name: status for name, (_, status) in refused.items()}
    assert during_outage.status_code == 200
    assert [line["keys"] for line in cabinet.events("identity_provider_keys")] == [1]


async def test_a_service_goes_on_through_the_rotation_and_the_outage_of_its_provider(tmp_path: Path) -> None:
    async with provider() as running:
        let_in(tmp_path, f"{running.issuer}#alice")
        async with service(tmp_path, OIDC_ISSUER=running.issuer, OIDC_AUDIENCE=AUDIENCE) as cabinet:
            old = await running.token("alice", AUDIENCE)
            assert (await me(cabinet, old)).status_code == 200

            await running.rotate()
            new = await running.token("alice", AUDIENCE)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (await me(cabinet, new)).status_code != 200:
                    await asyncio.sleep(0.2)
            await running.stop()
            during_outage = [(await me(cabinet, token)).status_code for token in (old, new)]
            code = await cabinet.terminate()

    assert during_outage == [200, 200]
    assert [line["keys"] for line in cabinet.events("identity_provider_keys")] == [1, 2]
    assert code == 0


async def test_a_service_whose_provider_is_away_answers_503_and_serves_its_own_tokens(
    tmp_path: Path,
) -> None:
    async with provider() as running:
        let_in(tmp_path, f"{running.issuer}#alice")
        token = await running.token("alice", AUDIENCE)
        own = run_cabinet(tmp_path, "admin", "token", f"{running.issuer}#alice").stdout.strip()
        await running.stop()

        async with service(tmp_path, OIDC_ISSUER=running.issuer, OIDC_AUDIENCE=AUDIENCE) as cabinet:
            away = await me(cabinet, token)
            with_own = await me(cabinet, own)

    assert (away.status_code, away.json()["code"]) == (503, "identity_provider_unavailable")
    assert away.headers["retry-after"] == str(COOLDOWN_SECONDS)
    assert with_own.status_code == 200
    assert cabinet.events("identity_provider_failed")[0]["kind"] == "unreachable"


async def test_keys_that_a_real_provider_replaces_are_fetched_after_the_cool_down(running: ProviderProcess) -> None:
    seconds = HandSeconds()
    verifier = identity_provider(running.issuer, seconds)
    old = await running.token("alice", AUDIENCE)
    assert await verifier.verify(old) == f"{running.issuer}#alice"

    await running.stop()
    during_outage = await verifier.verify(old)
    await running.start()
    new = await running.token("bob", AUDIENCE)
    with pytest.raises(NotAuthenticated):
        await verifier.verify(new)
    seconds.move(COOLDOWN_SECONDS)

    assert during_outage == f"{running.issuer}#alice"
    assert await verifier.verify(new) == f"{running.issuer}#bob"
    with pytest.raises(NotAuthenticated):
        await verifier.verify(old)
    await verifier.close()


async def test_fifty_callers_at_once_ask_a_real_provider_once(running: ProviderProcess) -> None:
    asked = []

    async def ask(request: httpx2.Request) -> None:
        asked.append(request.url.path)

    verifier = identity_provider(
        running.issuer, HandSeconds(), lambda: httpx2.AsyncClient(event_hooks={"request": [ask]})
    )
    token = await running.token("alice", AUDIENCE)

    found = await asyncio.gather(*(verifier.verify(token) for _ in range(50)))

    assert set(found) == {f"{running.issuer}#alice"}
    assert asked == ["/.well-known/openid-configuration", "/jwks"]
    await verifier.close()


async def test_a_provider_that_was_away_at_first_is_found_when_it_is_back() -> None:
    seconds = HandSeconds()
    async with provider() as running:
        verifier = identity_provider(running.issuer, seconds)
        await running.stop()
        with pytest.raises(IdentityProviderUnavailable):
            await verifier.verify("e30.e30.AAAA")

        await running.start()
        token = await running.token("alice", AUDIENCE)
        seconds.move(COOLDOWN_SECONDS)

        assert await verifier.verify(token) == f"{running.issuer}#alice"
    await verifier.close()
