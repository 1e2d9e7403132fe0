"""The audit's trail of a real process: sealed while it serves, whole after any end, verified from outside."""

import asyncio
import sys
from contextlib import closing

import pytest

from tests.e2e.home import Home, until
from tests.support.processes import ServiceProcess, environment, service


async def verify(home: Home, *heads: str) -> tuple[int | None, list[str], str]:
    """Run `cabinet admin audit verify` beside whatever runs; return its code, lines and what went wrong."""
    options = [word for head in heads for word in ("--head", head)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app", "admin", "audit", "verify", *options, cwd=home.folder,
        env=environment(home.folder), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode, out.decode().splitlines(), err.decode()


def heads(running: ServiceProcess) -> list[str]:
    """Return the heads that the log holds, as docs/operations.md says to keep them."""
    return [f"{line['number']}:{line['hash']}" for line in running.events("audit_sealed")]


def unsealed(home: Home) -> int:
    """Return how many events have no seal."""
    [count] = home.one(
        "SELECT COUNT(*) FROM audit_events WHERE seq > (SELECT COALESCE(MAX(last_seq), 0) FROM audit_seals)"
    )
    return int(count)


async def create_some(home: Home, running: ServiceProcess, name: str, count: int = 5) -> None:
    """Create tasks, each of which is an event."""
    for number in range(count):
        assert (await home.create(running, f"{name}-{number}")).status_code == 201


def tamper(home: Home, statement: str) -> None:
    """Do something to the file past the service, without the triggers, and put them back."""
    with closing(home.connect()) as connection:
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        for each in (statement, *(text for _, text in triggers)):
            connection.execute(each)


async def test_what_happened_is_sealed_within_seconds_and_verified_beside_the_service(home: Home) -> None:
    async with service(home.folder) as running:
        await create_some(home, running, "first")
        await until(lambda: unsealed(home) == 0)
        first = await verify(home)
        await create_some(home, running, "second")
        await until(lambda: unsealed(home) == 0)
        await until(lambda: len(heads(running)) >= 2)
        second = await verify(home, *heads(running))

    events = home.one("SELECT COUNT(*) FROM audit_events")[0]
    assert (first[0], first[2], second[0], second[2]) == (0, "", 0, "")
    assert second[1][0].endswith(f"over {events} events")
    assert second[1][1] == f"head: {heads(running)[-1]}"
    assert events >= 10


async def test_a_stop_in_order_leaves_nothing_without_a_seal(home: Home) -> None:
    async with service(home.folder) as running:
        await create_some(home, running, "task")
        code = await running.terminate()

    verified = await verify(home, *heads(running))
    assert (code, verified[0], verified[2]) == (0, 0, "")
    assert [verified[1][1], verified[1][-1]] == [f"head: {heads(running)[-1]}", "not sealed yet: 0 events"]


async def test_after_a_kill_the_trail_is_whole_and_the_next_start_seals_the_rest(home: Home) -> None:
    async with service(home.folder, MEASURED="no") as killed:
        await create_some(home, killed, "task")
        await killed.kill()
    after_kill = await verify(home, *heads(killed))

    async with service(home.folder) as running:
        await until(lambda: unsealed(home) == 0)
        code = await running.terminate()

    assert (after_kill[0], after_kill[2]) == (0, "")
    assert code == 0
    assert (await verify(home, *heads(killed), *heads(running)))[0] == 0


async def test_verifying_beside_a_busy_service_never_sees_half_a_seal(home: Home) -> None:
    async with service(home.folder) as running, running.client(home.tokens["alice"]) as client:
        is_over = asyncio.Event()

        async def create(lane: int) -> int:
            number = 0
            while not is_over.is_set():
                headers = {"Idempotency-Key": f"{lane}-{number}"}
                assert (await client.post("/v1/tasks", json={"payload": {}}, headers=headers)).status_code == 201
                number += 1
            return number

        lanes = [asyncio.create_task(create(lane)) for lane in range(4)]
        looks = [await verify(home, *heads(running)) for _ in range(4)]
        is_over.set()
        created = sum(await asyncio.gather(*lanes))
        await running.terminate()

    assert [(code, err) for code, _, err in looks] == [(0, "")] * 4
    _, lines, _ = await verify(home, *heads(running))
    assert lines[-1] == "not sealed yet: 0 events"
    assert home.one("SELECT COUNT(*) FROM audit_events WHERE action = 'task.created'") == (created,)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("DELETE FROM audit_events WHERE seq = (SELECT first_seq FROM audit_seals WHERE number = 1)", "Seal 1 lacks 1"),
        ("UPDATE audit_events SET subject = 'mallory' WHERE action = 'task.created'", "was changed"),
        ("DELETE FROM audit_seals WHERE number = (SELECT MAX(number) FROM audit_seals)", "the end was cut off"),
    ],
)
async def test_what_was_done_to_the_file_of_a_stopped_service_is_found_by_the_heads_of_its_log(
    home: Home, statement: str, says: str
) -> None:
    async with service(home.folder) as running:
        await create_some(home, running, "task", 2)
        await running.terminate()
    tamper(home, statement)

    code, _, err = await verify(home, *heads(running))

    assert code == 1
    assert says in err
