"""The story: what the demo does, step by step, with a service that it treats as badly as a power cut would."""

import asyncio
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from examples.demo.caller import Caller, Created
from examples.demo.checker import (
    KILL_WINDOW,
    MENDED,
    STAGES,
    AtKill,
    Expected,
    at_kill,
    check,
    expected_of_catalogue,
)
from examples.demo.screen import Screen, Step
from examples.demo.service import DemoFailed, Server, environment, run_cabinet
from examples.listings.catalogue import read_catalogue
from examples.listings.pictures import PICTURES

OPERATOR = "operator@example.com"
SUBJECT = "integration:listings"
CLIENTS = 8
"""How many requests are on their way at once."""

KILL_FROM = 0.4
"""The share of recorded stages from which on the server is killed; polling sees it well before KILL_WINDOW ends."""

POLL_SECONDS = 0.1

DAMAGED_AT = 2_500
"""Which byte of the damaged picture is wrong: inverted."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What only the run itself knows; everything else lies on disk."""

    findings: list[str]
    same_answers: int
    creates_per_second: float
    kill_share: float


class Story:
    """One run of the demo in a new folder."""

    def __init__(self, folder: Path, screen: Screen) -> None:
        self._folder = folder
        self._screen = screen
        self._environ = environment(folder, secrets.token_hex(32))
        self._expected: Expected = expected_of_catalogue()
        self._bodies = {body["reference"]: body for body in read_catalogue()}
        self._token = ""

    async def tell(self) -> Told:
        """Run it from beginning to end; raises DemoFailed as soon as it cannot go on."""
        async with Server(self._folder, self._environ) as server:
            operator_token = await self._prepare()
            await self._start(server)
            await self._let_in(server, operator_token)
            first, seconds = await self._create(server)
            killed = await self._kill_in_the_middle(server)
            await self._start_again(server, killed)
            same_answers = await self._create_again(server, first)
            await self._finish(server, [created.task_id for created in first.values()])
            await self._explain_and_rescue(server, operator_token, {name: first[name].task_id for name in MENDED})
            await self._stop(server)
        return Told(
            findings=await self._check(),
            same_answers=same_answers,
            creates_per_second=len(first) / seconds,
            kill_share=killed.stages / self._expected.stages,
        )

    async def _prepare(self) -> str:
        with self._screen.step("Prepare", "cabinet migrate, cabinet admin users add, cabinet admin token") as step:
            await asyncio.to_thread(self._hang_up_pictures)
            await self._cabinet("migrate")
            await self._cabinet("admin", "users", "add", OPERATOR, "--role", "super_admin")
            token = await self._cabinet("admin", "token", OPERATOR)
            step.say(f"database migrated, {OPERATOR} is the first super_admin")
            return token

    async def _start(self, server: Server) -> None:
        with self._screen.step("Start", "python -m app serve, with its worker embedded") as step:
            await server.start()
            step.say(f"process {server.pid} serves at {server.url}, its worker embedded")

    async def _let_in(self, server: Server, operator_token: str) -> None:
        with self._screen.step("Let in", f"{SUBJECT} asks for access") as step:
            async with Caller(server.url) as nobody, Caller(server.url, operator_token) as operator:
                request_id = await nobody.ask_for_access(SUBJECT, "Prints for the shop")
                user_id = await operator.approve(request_id)
                self._token = await operator.hand_out_token(user_id)
            step.say(f"{SUBJECT} asked for access, was approved, and was handed a token")

    async def _create(self, server: Server) -> tuple[dict[str, Created], float]:
        with self._screen.step("Create", "tasks, an idempotency key each") as step:
            started = time.monotonic()
            first = await self._send_all(server, step)
            seconds = time.monotonic() - started
            if any(created.is_replay for created in first.values()):
                raise DemoFailed("A first create was answered as a replay.")
            step.say(f"{len(first)} tasks accepted under a key each, {CLIENTS} requests at a time")
            return first, seconds

    async def _kill_in_the_middle(self, server: Server) -> AtKill:
        """Kill the server while an attempt runs; then look at the copy of its database to see that one did."""
        with self._screen.step("Kill", "stages recorded, then SIGKILL") as step:
            async with Caller(server.url, self._token) as caller:
                await self._until_it_is_time(caller, step)
            await server.kill()
            killed = await asyncio.to_thread(self._keep_evidence)
            step.say(
                f"SIGKILL at {killed.stages / self._expected.stages:.0%}, {killed.stages} of {self._expected.stages}"
                f" stages recorded, {_counted(len(killed.running), 'attempt')} running:",
                " · ".join(f"{reference} {stage}" for reference, stage in killed.running),
            )
            return killed

    async def _start_again(self, server: Server, killed: AtKill) -> None:
        with self._screen.step("Restart", "the same file, a new process") as step:
            await server.start()
            taken_back = len(server.events("lease_taken_back"))
            if taken_back != len(killed.running):
                lost = _counted(len(killed.running), "attempt")
                raise DemoFailed(f"The kill lost {lost}, the next process took back {taken_back}.")
            step.say(f"process {server.pid} took back {_counted(taken_back, 'lost attempt')} before it served")

    async def _create_again(self, server: Server, first: dict[str, Created]) -> int:
        with self._screen.step("Repeat", "creates sent once more, with the same keys") as step:
            again = await self._send_all(server, step)
            for reference, created in again.items():
                if not created.is_replay or created.body != first[reference].body:
                    raise DemoFailed(f"The create of {reference} was sent again and not answered as before.")
            step.say(f"{len(again)} creates sent again: {len(again)} replays, each with the very bytes of the first")
            return len(again)

    async def _finish(self, server: Server, task_ids: list[str]) -> None:
        with self._screen.step("Finish", "stages recorded") as step:
            async with Caller(server.url, self._token) as caller:
                await self._until_ended(caller, task_ids, step)
                tasks = await caller.tasks()
            succeeded = sum(task["status"] == "succeeded" for task in tasks)
            step.say(f"{len(tasks)} tasks ended: {succeeded} succeeded, {len(tasks) - succeeded} are dead letters")

    async def _explain_and_rescue(self, server: Server, token: str, task_ids: dict[str, str]) -> None:
        """Ask why a task is not running, put right what it names, and let the task run again."""
        async with Caller(server.url, token) as operator:
            for reference, task_id in task_ids.items():
                with self._screen.step("Explain", f"why {reference} is not running") as step:
                    step.say(f"why is {reference} not running?", await operator.explain(task_id))
                with self._screen.step("Rescue", f"{reference}, its picture mended") as step:
                    await asyncio.to_thread(self._mend_picture)
                    await operator.rescue(task_id, "the damaged picture was mended")
                    if (status := await operator.until_ended(task_id)) != "succeeded":
                        raise DemoFailed(f"{reference} was mended and rescued, and is {status}.")
                    step.say(f"picture mended, {reference} rescued by {OPERATOR}: it has succeeded")

    async def _until_ended(self, caller: Caller, task_ids: list[str], step: Step) -> None:
        ended = asyncio.create_task(_all(task_ids, caller.until_ended))
        try:
            while not ended.done():
                self._seen(step, await caller.tasks())
                await asyncio.wait([ended], timeout=4 * POLL_SECONDS)
        finally:
            ended.cancel()
        await ended

    async def _stop(self, server: Server) -> None:
        with self._screen.step("Stop", "SIGTERM") as step:
            code = await server.stop()
            if code:
                raise DemoFailed(f"The server exited {code} after SIGTERM.")
            step.say("SIGTERM, exit code 0")

    async def _check(self) -> list[str]:
        with self._screen.step(
            "Check", "database and files, by a checker that shares no code with the service"
        ) as step:
            findings = await asyncio.to_thread(check, self._folder, self._expected)
            step.has_failed = bool(findings)
            step.say(f"{_counted(len(findings), 'finding')}, by a checker that shares no code with the service")
            return findings

    def _hang_up_pictures(self) -> None:
        """Copy the pictures, so that one can be mended while the ones of the repository stay as they are."""
        shutil.copytree(PICTURES, self._folder / "pictures")

    def _mend_picture(self) -> None:
        """Turn the one byte back that was turned (SOURCES.md)."""
        path = self._folder / "pictures" / "microaneurysms-damaged.png"
        content = bytearray(path.read_bytes())
        content[DAMAGED_AT] ^= 0xFF
        path.write_bytes(content)

    async def _cabinet(self, *arguments: str) -> str:
        return await run_cabinet(self._folder, self._environ, *arguments)

    async def _send_all(self, server: Server, step: Step) -> dict[str, Created]:
        """Create every listing; the idempotency key is the caller's name for it, here made of the stock number."""
        answers: dict[str, Created] = {}
        async with Caller(server.url, self._token) as caller:

            async def send(reference: str) -> None:
                answers[reference] = await caller.create(self._bodies[reference], f"listing-{reference}")
                step.reach(len(answers), len(self._bodies))

            await _all(self._bodies, send)
        return answers

    async def _until_it_is_time(self, caller: Caller, step: Step) -> None:
        while True:
            share, is_running = self._seen(step, await caller.tasks())
            if share > KILL_WINDOW[1]:
                raise DemoFailed(f"The moment for the kill was missed: {share:.0%} of the stages are recorded.")
            if share >= KILL_FROM and is_running:
                return
            await asyncio.sleep(POLL_SECONDS)

    def _seen(self, step: Step, tasks: list[dict[str, Any]]) -> tuple[float, bool]:
        """Show how far the tasks are; return the recorded share of the stages, and whether an attempt is running."""
        recorded = sum(len(STAGES) if task["status"] == "succeeded" else STAGES.index(task["stage"]) for task in tasks)
        step.reach(recorded, self._expected.stages)
        return recorded / self._expected.stages, any(task["stage_status"] == "running" for task in tasks)

    def _keep_evidence(self) -> AtKill:
        """Copy the database and its write-ahead log as the kill left them, before the next start repairs anything."""
        kept = self._folder / "after-kill"
        kept.mkdir()
        for name in ("cabinet.db", "cabinet.db-wal"):
            shutil.copy(self._folder / name, kept)
        killed = at_kill(self._folder)
        share = killed.stages / self._expected.stages
        if not killed.running or not KILL_WINDOW[0] <= share <= KILL_WINDOW[1]:
            raise DemoFailed(
                f"The moment for the kill was missed: {share:.0%} recorded, {len(killed.running)} running."
            )
        return killed


async def _all(items: Iterable[T], do: Callable[[T], Awaitable[object]]) -> None:
    """Do it for each, CLIENTS at a time; the first failure ends all and is raised as it is."""
    turns = asyncio.Semaphore(CLIENTS)

    async def in_turn(item: T) -> None:
        async with turns:
            await do(item)

    tasks = [asyncio.create_task(in_turn(item)) for item in items]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _counted(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
