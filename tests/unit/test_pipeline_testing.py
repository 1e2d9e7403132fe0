"""Simulation: pipelines under a clock that is moved by hand, with the service's own rules and nothing left behind."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from app.errors import Conflict, Invalid, NotFound, SideEffectsUnconfirmed
from app.pipelines import Context, Fail, Pipeline, Retry, RetryPolicy, Snooze, Stage
from app.pipelines.stage import Handler
from app.pipelines.testing import HandClock, NotEnded, Simulation, Standing, Step

START = "2026-01-01T00:00:00.000000Z"


async def name_it(context: Context) -> dict[str, Any]:
    """Hand on which stage and attempt this is."""
    return {"stage": context.stage, "attempt": context.attempt}


def pipeline(*names: str, **handlers: Handler) -> Pipeline:
    """Make a pipeline of stages that hand on their name, and then of the handlers."""
    return Pipeline([Stage(name, handlers.get(name, name_it)) for name in dict.fromkeys([*names, *handlers])])


def turns(*answers: Any) -> Handler:
    """Return a handler that returns or raises one thing after the other, the last one again and again."""
    left = list(answers)

    async def handler(_context: Context) -> Any:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return handler


def told(steps: list[Step]) -> list[tuple[str, int, str]]:
    """Return stage, number and outcome of some attempts."""
    return [(step.stage, step.attempt, str(step.outcome)) for step in steps]


def ended(standing: Standing) -> tuple[str, str]:
    """Return status and stage."""
    return str(standing.status), standing.stage


# Steps ---------------------------------------------------------------------------------------------------------------


async def test_a_step_makes_one_attempt_and_tells_what_it_handed_on() -> None:
    async with Simulation(pipeline("parse", "publish")) as simulation:
        task = await simulation.create({"number": "A1"}, reference="o-1")
        [step] = await simulation.step()

    assert step == Step(
        task_id=task,
        stage="parse",
        attempt=1,
        outcome=step.outcome,
        outputs={"stage": "parse", "attempt": 1},
        error_kind=None,
        error_message=None,
        traceback=None,
        started_at=step.started_at,
        ended_at=step.ended_at,
        next_attempt_at=None,
    )
    assert (step.outcome, step.started_at, step.wait_seconds) == ("succeeded", START, None)


async def test_the_handler_sees_what_a_worker_would_show_it() -> None:
    seen: list[Context] = []

    async def look(context: Context) -> None:
        seen.append(context)

    async with Simulation(pipeline("parse", look=look)) as simulation:
        task = await simulation.create({"number": "A1"}, reference="o-1")
        await simulation.run(task)

    [context] = seen
    assert (context.task_id, context.reference, context.payload) == (task, "o-1", {"number": "A1"})
    assert context.outputs == {"parse": {"stage": "parse", "attempt": 1}}


async def test_without_due_work_nothing_happens() -> None:
    async with Simulation(pipeline("parse")) as simulation:
        assert await simulation.step() == []
        assert await simulation.crash() == []


async def test_all_that_is_due_gets_one_attempt_in_the_order_of_creation() -> None:
    begun = []

    def handler(context: Context) -> None:
        begun.append(context.task_id)

    async with Simulation(pipeline(parse=handler, publish=handler)) as simulation:
        created = [await simulation.create({"n": n}) for n in range(20)]
        first = await simulation.step()
        second = await simulation.step()

    assert [step.task_id for step in first] == [step.task_id for step in second] == created
    assert begun == created * 2
    assert {step.stage for step in first} == {"parse"}
    assert {step.stage for step in second} == {"publish"}


async def test_the_concurrency_of_a_stage_holds() -> None:
    one_at_a_time = Pipeline([Stage("parse", name_it, concurrency=1)])
    async with Simulation(one_at_a_time) as simulation:
        for n in range(3):
            await simulation.create({"n": n})
        counts = [len(await simulation.step()) for _ in range(4)]

    assert counts == [1, 1, 1, 0]


@pytest.mark.parametrize(("chance", "waits"), [(1.0, [1.0, 2.0, 4.0]), (0.5, [0.5, 1.0, 2.0]), (0.0, [0.0, 0.0, 0.0])])
async def test_a_failure_waits_as_the_policy_and_chance_say(chance: float, waits: list[float]) -> None:
    async with Simulation(pipeline(parse=turns(OSError("gone"))), chance=chance) as simulation:
        await simulation.create({})
        found = []
        for _ in waits:
            [step] = await simulation.step()
            found.append(step.wait_seconds)
            simulation.clock.move(step.wait_seconds or 0)

    assert found == waits
    assert (step.outcome, step.error_kind, step.error_message) == ("failed", "internal_error", "OSError: gone")
    assert step.traceback is not None
    assert "raise answer" in step.traceback


async def test_what_waits_is_not_due_before_its_time() -> None:
    async with Simulation(pipeline(parse=turns(Snooze(60), None))) as simulation:
        await simulation.create({})
        [step] = await simulation.step()
        simulation.clock.move(59.999)
        early = await simulation.step()
        simulation.clock.move(0.001)
        [late] = await simulation.step()

    assert (step.outcome, step.wait_seconds) == ("snoozed", 60)
    assert step.next_attempt_at == "2026-01-01T00:01:00.000000Z" == late.started_at
    assert early == []
    assert (late.outcome, late.attempt) == ("succeeded", 1)


async def test_what_a_stage_asks_to_wait_comes_before_the_jitter() -> None:
    async with Simulation(pipeline(parse=turns(Retry("busy", kind="busy", after_seconds=30)))) as simulation:
        await simulation.create({})
        [step] = await simulation.step()

    assert (step.error_kind, step.error_message, step.wait_seconds) == ("busy", "busy", 31)


async def test_a_handler_in_a_thread_runs_too() -> None:
    threads = []

    def handler(context: Context) -> None:
        threads.append(threading.current_thread())
        (context.folder / "file").write_text("here")

    async with Simulation(pipeline(parse=handler)) as simulation:
        end = await simulation.run(await simulation.create({}))
        text = (end.folder / "file").read_text()

    assert text == "here"
    assert threads[0] is not threading.main_thread()


async def test_time_that_passes_while_a_handler_runs_is_seen() -> None:
    async def slow(_context: Context) -> None:
        simulation.clock.move(90)

    async with Simulation(pipeline(parse=slow)) as simulation:
        end = await simulation.run(await simulation.create({}))

    [step] = end.history
    assert (step.started_at, step.ended_at) == (START, "2026-01-01T00:01:30.000000Z")
    assert end.status == "succeeded"


# Payloads ------------------------------------------------------------------------------------------------------------


class Order(BaseModel):
    """What is ordered."""

    number: str
    cents: int


async def test_a_payload_that_does_not_fit_is_refused_and_says_why() -> None:
    async with Simulation(Pipeline([Stage("parse", name_it)], payload=Order)) as simulation:
        with pytest.raises(Invalid) as refused:
            await simulation.create({"cents": "many"})

    assert [pointer for pointer, _ in refused.value.faults] == ["/payload/number", "/payload/cents"]
    assert refused.value.__notes__[0] == "/payload/number: Field required"


async def test_a_payload_arrives_as_json_does() -> None:
    seen: list[Any] = []

    async def look(context: Context) -> None:
        seen.append(context.payload)

    async with Simulation(pipeline(look=look)) as simulation:
        await simulation.run(await simulation.create({"list": (1, 2)}))

    assert seen == [{"list": [1, 2]}]


@pytest.mark.parametrize(("value", "error"), [(float("nan"), ValueError), (object(), TypeError)])
async def test_a_payload_that_json_cannot_carry_is_refused(value: object, error: type[Exception]) -> None:
    async with Simulation(pipeline("parse")) as simulation:
        with pytest.raises(error):
            await simulation.create({"value": value})


# To the end ----------------------------------------------------------------------------------------------------------


async def test_a_run_goes_through_all_waits_to_the_end() -> None:
    handlers = {"parse": turns(Snooze(3600), Retry("no"), {"ok": True}), "publish": turns(OSError("gone"), None)}
    async with Simulation(pipeline(**handlers)) as simulation:
        end = await simulation.run(await simulation.create({}))

    assert ended(end) == ("succeeded", "publish")
    assert end.outputs == {"parse": {"ok": True}, "publish": {}}
    assert told(list(end.history)) == [
        ("parse", 1, "snoozed"),
        ("parse", 1, "failed"),
        ("parse", 2, "succeeded"),
        ("publish", 1, "failed"),
        ("publish", 2, "succeeded"),
    ]
    assert (end.error_kind, end.error_message, end.next_attempt_at) == (None, None, None)
    assert simulation.clock.now() == "2026-01-01T01:00:02.000000Z"


async def test_a_run_ends_with_the_dead_letter() -> None:
    async with Simulation(pipeline("parse", publish=turns(Fail("no_such_shop", "There is no shop.")))) as simulation:
        end = await simulation.run(await simulation.create({}))

    assert ended(end) == ("failed", "publish")
    assert (end.error_kind, end.error_message) == ("no_such_shop", "There is no shop.")
    assert "dead letter" in end.explanation


async def test_a_run_carries_other_tasks_on_beside_it() -> None:
    async with Simulation(pipeline(parse=turns(Snooze(10), Snooze(60), None))) as simulation:
        one, two = [await simulation.create({}) for _ in range(2)]
        await simulation.run(two)
        first = await simulation.look(one)

    assert first.status == "succeeded"


async def test_a_run_that_does_not_end_says_where_the_task_stands() -> None:
    async with Simulation(pipeline(parse=turns(Retry("no"), Snooze(60)))) as simulation:
        task = await simulation.create({})
        with pytest.raises(NotEnded) as error:
            await simulation.run(task, steps=9)

    lines = str(error.value).splitlines()
    assert lines[0].startswith("The task has not ended after 9 steps; in the simulation it is 2026-01-01T00:0")
    assert "Stage parse asked to wait; it is due again at" in lines[0]
    assert lines[1] == "Its last attempts:"
    assert lines[-1].endswith("parse, attempt 2: snoozed")


async def test_an_error_shows_the_reasons_of_the_last_attempts() -> None:
    policy = RetryPolicy(max_attempts=100)
    stage = Stage("parse", turns(Retry("The shop is closed.", kind="closed")), retry=policy)
    async with Simulation(Pipeline([stage])) as simulation:
        task = await simulation.create({})
        with pytest.raises(NotEnded, match=r"parse, attempt 5: failed with closed: The shop is closed\.$"):
            await simulation.run(task, steps=10)
        with pytest.raises(NotEnded, match=r"No attempt was made\.$"):
            await simulation.run(await simulation.create({}), steps=0)


async def test_a_thread_that_overran_is_waited_for() -> None:
    release = threading.Event()

    def slow(context: Context) -> None:
        if context.attempt == 1:
            release.wait(30)

    stage = Stage("parse", slow, timeout_seconds=0.05, concurrency=1, retry=RetryPolicy(base_seconds=0.001))
    async with Simulation(Pipeline([stage])) as simulation:
        task = await simulation.create({})
        [step] = await simulation.step()
        simulation.clock.move(1)
        held = await simulation.step()
        asyncio.get_running_loop().call_later(0.03, release.set)
        end = await simulation.run(task)

    assert (step.outcome, step.error_kind) == ("failed", "timeout")
    assert held == []
    assert end.status == "succeeded"


# Looking -------------------------------------------------------------------------------------------------------------


async def test_a_task_that_has_not_begun_can_be_looked_at() -> None:
    async with Simulation(pipeline("parse")) as simulation:
        seen = await simulation.look(await simulation.create({}))

    assert ended(seen) == ("open", "parse")
    assert "a worker has room for it" in seen.explanation
    assert (seen.history, seen.next_attempt_at) == ((), START)


async def test_the_worker_of_a_simulation_is_alive_however_much_time_passes() -> None:
    async with Simulation(pipeline("parse")) as simulation:
        task = await simulation.create({})
        simulation.clock.move(1_000_000)
        seen = await simulation.look(task)

    assert "a worker has room for it" in seen.explanation


async def test_there_is_no_unknown_task() -> None:
    async with Simulation(pipeline("parse")) as simulation:
        with pytest.raises(NotFound):
            await simulation.look("nothing")
        with pytest.raises(NotFound):
            await simulation.run("nothing")


# Crashes -------------------------------------------------------------------------------------------------------------


async def test_a_crash_runs_the_handler_and_records_nothing() -> None:
    runs = []

    async def count(context: Context) -> dict[str, int]:
        runs.append(context.idempotency_key)
        return {"runs": len(runs)}

    async with Simulation(pipeline(count=count)) as simulation:
        task = await simulation.create({})
        [lost] = await simulation.crash()
        between = await simulation.look(task)
        end = await simulation.run(task)

    assert (lost.outcome, lost.error_kind, lost.outputs) == ("lease_expired", "lease_expired", {})
    assert (lost.wait_seconds, simulation.clock.now()) == (0, "2026-01-01T00:00:30.000000Z")
    assert between.outputs == {}
    assert end.outputs == {"count": {"runs": 2}}
    assert runs == [f"{task}:count"] * 2
    assert told(list(end.history)) == [("count", 1, "lease_expired"), ("count", 1, "succeeded")]


async def test_a_crash_takes_all_that_is_due_with_it() -> None:
    async with Simulation(pipeline("parse")) as simulation:
        created = [await simulation.create({}) for _ in range(3)]
        lost = await simulation.crash()
        again = await simulation.step()

    assert [step.task_id for step in lost] == [step.task_id for step in again] == created
    assert {str(step.outcome) for step in lost} == {"lease_expired"}
    assert {str(step.outcome) for step in again} == {"succeeded"}


async def test_too_many_crashes_are_a_dead_letter() -> None:
    stage = Stage("parse", name_it, retry=RetryPolicy(max_crashes=3, base_seconds=8))
    async with Simulation(Pipeline([stage])) as simulation:
        task = await simulation.create({})
        waits = []
        for _ in range(3):
            [step] = await simulation.crash()
            waits.append(step.wait_seconds)
            simulation.clock.move(step.wait_seconds or 0)
        end = await simulation.look(task)

    assert waits == [0, 8, None]
    assert (end.status, end.error_kind) == ("failed", "lease_expired")


# Rescue, cancel ------------------------------------------------------------------------------------------------------


async def test_a_dead_letter_is_rescued_where_it_died() -> None:
    async with Simulation(pipeline("parse", publish=turns(Fail("closed", "Closed."), None))) as simulation:
        task = await simulation.create({})
        await simulation.run(task)
        queued = await simulation.rescue(task)
        end = await simulation.run(task)

    assert ended(queued) == ("running", "publish")
    assert [step.stage for step in end.history] == ["parse", "publish", "publish"]
    assert end.status == "succeeded"


async def test_a_dead_letter_is_rescued_from_an_earlier_stage() -> None:
    async with Simulation(pipeline("parse", publish=turns(Fail("closed", "Closed."), None))) as simulation:
        task = await simulation.create({})
        await simulation.run(task)
        await simulation.rescue(task, from_stage="parse")
        end = await simulation.run(task)

    assert [step.stage for step in end.history] == ["parse", "publish", "parse", "publish"]


async def test_a_side_effect_is_repeated_only_by_who_confirms_it() -> None:
    stage = Stage("charge", turns(Fail("refused", "No."), None), side_effect=True)
    async with Simulation(Pipeline([stage])) as simulation:
        task = await simulation.create({})
        await simulation.run(task)
        with pytest.raises(SideEffectsUnconfirmed):
            await simulation.rescue(task)
        await simulation.rescue(task, confirm_side_effects=True)
        end = await simulation.run(task)

    assert end.status == "succeeded"


async def test_what_waits_for_its_next_attempt_is_due_now() -> None:
    async with Simulation(pipeline(parse=turns(Retry("no"), None))) as simulation:
        task = await simulation.create({})
        await simulation.step()
        await simulation.rescue(task)
        [step] = await simulation.step()

    assert (step.attempt, step.outcome, step.started_at) == (2, "succeeded", START)


async def test_what_has_succeeded_is_not_rescued() -> None:
    async with Simulation(pipeline("parse")) as simulation:
        task = await simulation.create({})
        await simulation.run(task)
        with pytest.raises(Conflict):
            await simulation.rescue(task)


async def test_a_task_that_waits_is_cancelled_at_once() -> None:
    async with Simulation(pipeline("parse")) as simulation:
        task = await simulation.create({})
        end = await simulation.cancel(task)

        assert await simulation.step() == []

    assert end.status == "cancelled"


async def test_a_handler_that_awaits_is_cancelled_while_it_runs() -> None:
    seen: list[bool] = []

    async def handler(context: Context) -> None:
        try:
            await simulation.cancel(context.task_id)
            await asyncio.Event().wait()
        finally:
            seen.append(context.is_cancelled)

    async with Simulation(pipeline(parse=handler)) as simulation:
        task = await simulation.create({})
        [step] = await simulation.step()
        end = await simulation.look(task)

    assert (step.outcome, end.status, seen) == ("cancelled", "cancelled", [True])


async def test_a_handler_in_a_thread_is_told_while_it_runs() -> None:
    begun = threading.Event()

    def handler(context: Context) -> None:
        begun.set()
        context.signals.is_cancelled.wait()
        context.raise_if_cancelled()

    async with Simulation(pipeline(parse=handler)) as simulation:
        task = await simulation.create({})
        stepping = asyncio.create_task(simulation.step())
        await asyncio.to_thread(begun.wait)
        await simulation.cancel(task)
        [step] = await stepping

    assert step.outcome == "cancelled"


# Deployments: what docs/pipelines.md says of changes while tasks are open --------------------------------------------


async def after_one_step(simulation: Simulation, changed: Pipeline) -> str:
    """Create a task, let its first stage run, and change the pipeline."""
    task = await simulation.create({})
    await simulation.step()
    simulation.deploy(changed)
    return task


@pytest.mark.parametrize(
    ("before", "after", "ran"),
    [
        (("a", "b", "c"), ("a", "b", "new", "c"), ["a", "b", "new", "c"]),
        (("a", "b", "c"), ("c", "b"), ["a", "b"]),
        (("a", "b", "c"), ("b", "c", "a"), ["a", "b", "c"]),
        (("a", "b", "c"), ("new", "a", "b", "c"), ["a", "b", "c"]),
        (("a", "b", "c"), ("a", "b"), ["a", "b"]),
    ],
    ids=["added behind", "new order", "what is done is passed over", "added in front", "a later one removed"],
)
async def test_a_task_goes_on_where_it_stands_in_the_new_order(
    before: tuple[str, ...], after: tuple[str, ...], ran: list[str]
) -> None:
    async with Simulation(pipeline(*before)) as simulation:
        end = await simulation.run(await after_one_step(simulation, pipeline(*after)))

    assert [step.stage for step in end.history] == ran
    assert end.status == "succeeded"


async def test_a_task_whose_stage_is_gone_waits_until_it_is_back() -> None:
    async with Simulation(pipeline("a", "b", "c")) as simulation:
        task = await after_one_step(simulation, pipeline("a", "c"))
        with pytest.raises(
            NotEnded, match=r"will not end by itself.* It stands at stage b, which the pipeline no long"
        ):
            await simulation.run(task)
        simulation.deploy(pipeline("a", "b", "c"))
        end = await simulation.run(task)

    assert end.status == "succeeded"


async def test_a_renamed_stage_is_run_once_for_every_task() -> None:
    runs = []

    async def new(context: Context) -> None:
        runs.append((context.task_id, "new"))

    async def old(context: Context) -> None:
        if "new" not in context.outputs:
            runs.append((context.task_id, "old"))

    async with Simulation(pipeline("a", old=old)) as simulation:
        early = await after_one_step(simulation, pipeline("a", new=new, old=old))
        late = await simulation.create({})
        for task in (early, late):
            await simulation.run(task)

    assert sorted(runs) == sorted([(early, "old"), (late, "new")])


async def test_a_payload_that_the_new_model_cannot_read_is_a_dead_letter() -> None:
    async with Simulation(pipeline("a", "b")) as simulation:
        changed = Pipeline([Stage("a", name_it), Stage("b", name_it)], payload=Order)
        end = await simulation.run(await after_one_step(simulation, changed))

    assert (end.stage, end.error_kind) == ("b", "payload_unreadable")


# Opening and closing -------------------------------------------------------------------------------------------------


@pytest.fixture
async def opened() -> AsyncIterator[Simulation]:
    """A simulation that a fixture holds open."""
    async with Simulation(pipeline("parse")) as simulation:
        yield simulation


async def test_a_fixture_may_hold_it_open(opened: Simulation) -> None:
    end = await opened.run(await opened.create({}))

    assert end.status == "succeeded"


def test_it_runs_without_pytest_and_leaves_nothing_behind() -> None:
    def plain(context: Context) -> None:
        (context.folder / "file").touch()

    async def main() -> Path:
        async with Simulation(pipeline("parse", plain=plain)) as simulation:
            end = await simulation.run(await simulation.create({}))
            assert (end.folder / "file").exists()
        return end.folder

    before = set(threading.enumerate())

    folder = asyncio.run(main(), debug=True)

    assert not folder.parent.exists()
    for thread in set(threading.enumerate()) - before:  # the test's time limit catches one that never ends
        thread.join()
    assert set(threading.enumerate()) <= before


async def test_two_simulations_know_nothing_of_each_other() -> None:
    async with Simulation(pipeline("parse")) as one, Simulation(pipeline("parse")) as two:
        task = await one.create({})

        assert await two.step() == []
        with pytest.raises(NotFound):
            await two.look(task)
        assert len(await one.step()) == 1


async def test_it_must_be_open() -> None:
    simulation = Simulation(pipeline("parse"))
    with pytest.raises(RuntimeError, match="async with"):
        await simulation.create({})
    async with simulation:
        await simulation.create({})
    with pytest.raises(RuntimeError, match="async with"):
        await simulation.step()


async def test_what_could_not_be_recorded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Simulation(pipeline("parse")) as simulation:
        await simulation.create({})

        def fail(*_arguments: object, **_more: object) -> None:
            raise OSError

        monkeypatch.setattr("app.worker.worker.queue.succeed", fail)
        with pytest.raises(Exception, match="could not be recorded; the log says why"):
            await simulation.step()


@pytest.mark.parametrize("chance", [-0.1, 1.1, float("nan")])
def test_chance_lies_between_0_and_1(chance: float) -> None:
    with pytest.raises(ValueError, match="between 0"):
        Simulation(pipeline("parse"), chance=chance)


# The clock -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [START, "2026-01-01T00:00:00Z", "2026-01-01T01:00+01:00"])
def test_the_clock_begins_at_a_moment_however_it_is_written(start: str) -> None:
    assert HandClock(start).now() == START


@pytest.mark.parametrize("start", ["2026-01-01T00:00:00", "soon"])
def test_the_clock_begins_at_no_other_text(start: str) -> None:
    with pytest.raises(ValueError, match=start):
        HandClock(start)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_time_does_not_go_back(seconds: float) -> None:
    clock = HandClock(START)

    with pytest.raises(ValueError, match="0 seconds or more"):
        clock.move(seconds)
    clock.move_to(HandClock("2025-01-01T00:00:00Z").now())

    assert clock.now() == START
