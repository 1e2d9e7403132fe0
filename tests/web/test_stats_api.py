"""Stats over HTTP: how much there is, where it stands, who works, and how the last hour went."""

from unittest.mock import ANY

from tests.web.asking import check_problem, pointers
from tests.web.shop import NOW, Shop

NOBODY_AND_NOTHING = {"open": 0, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0}


async def test_stats_of_a_service_that_has_done_nothing_are_zeros(shop: Shop) -> None:
    answer = await shop.get("/v1/stats")

    assert answer.status_code == 200
    assert answer.json() == {
        "at": NOW,
        "tasks": NOBODY_AND_NOTHING,
        "stages": (await shop.seen("/v1/stages"))["items"],
        "paused": None,
        "oldest_waiting_since": None,
        "oldest_waiting_seconds": None,
        "workers": [],
        "minutes": [],
    }


async def test_stats_count_tasks_by_status(shop: Shop) -> None:
    await shop.make_dead("Order 7 has no card.")
    await shop.make({"charge": {"retry": 600}})
    await shop.make()
    await shop.work()
    cancelled, _ = await shop.make(), await shop.make()
    await shop.post(f"/v1/tasks/{cancelled}/cancel")

    shown = await shop.seen("/v1/stats")

    assert shown["tasks"] == {"open": 1, "running": 1, "succeeded": 1, "failed": 1, "cancelled": 1}
    assert shown["stages"] == (await shop.seen("/v1/stages"))["items"]


async def test_stats_tell_how_long_the_oldest_has_waited(shop: Shop) -> None:
    await shop.make({"charge": {"retry": 600}})  # it waits, but nobody could run it
    await shop.work()
    await shop.post("/v1/stages/charge/pause", {"reason": "The bank is closed."})
    shop.clock.move(1)
    await shop.make()
    await shop.work()
    shop.clock.move(2.5)
    await shop.make()

    shown = await shop.seen("/v1/stats")

    assert shown["at"] == "2026-11-22T20:19:03.500000Z"
    assert (shown["oldest_waiting_since"], shown["oldest_waiting_seconds"]) == ("2026-11-22T20:19:01.000000Z", 2.5)


async def test_stats_tell_the_pause_of_everything(shop: Shop) -> None:
    await shop.post("/v1/stages/pause", {"reason": "We move house."})

    shown = await shop.seen("/v1/stats")

    assert shown["paused"] == {"reason": "We move house.", "paused_by": ANY, "subject": "admin", "paused_at": NOW}


async def test_stats_tell_which_workers_are_alive_and_how_many_slots_are_taken(shop: Shop) -> None:
    await shop.worker.upkeep.keep_leases_once()
    task = await shop.make({"parse": {"hold": 0.5}})
    async with shop.working(task):
        shop.clock.move(5)
        await shop.worker.upkeep.keep_leases_once()
        alive = (await shop.seen("/v1/stats"))["workers"]
        shop.clock.move(31)
        dead = (await shop.seen("/v1/stats"))["workers"]

    assert alive == [
        {
            "name": ANY,
            "started_at": NOW,
            "seen_at": "2026-11-22T20:19:05.000000Z",
            "slots": 4,
            "slots_taken": 1,
            "stuck": 0,
            "lost_leases": 0,
        }
    ]
    [attempt] = (await shop.seen(f"/v1/tasks/{task}/history"))["items"]
    assert alive[0]["name"] == attempt["worker"]
    assert dead == []


async def test_stats_tell_how_the_attempts_of_the_last_hour_ended_minute_by_minute(shop: Shop) -> None:
    await shop.make_dead("Of an hour ago.", at="parse")
    shop.clock.move(3_601)
    tasks = [await shop.make({"parse": {"hold": 0.5}}) for _ in range(2)]
    async with shop.working(*tasks):
        shop.clock.move(1.25)
    shop.clock.move(60)
    await shop.work()

    shown = await shop.seen("/v1/stats")

    succeeded = {"outcome": "succeeded", "attempts": 2}
    assert shown["minutes"] == [
        {"minute": "2026-11-22T21:19:00Z", "stage": "parse", **succeeded, "mean_milliseconds": 1_250.0,
         "longest_milliseconds": 1_250},
        {"minute": "2026-11-22T21:20:00Z", "stage": "charge", **succeeded, "mean_milliseconds": 0.0,
         "longest_milliseconds": 0},
        {"minute": "2026-11-22T21:20:00Z", "stage": "export", **succeeded, "mean_milliseconds": 0.0,
         "longest_milliseconds": 0},
    ]  # fmt: skip


async def test_attempts_whose_worker_was_lost_have_no_duration(shop: Shop) -> None:
    task = await shop.make({"parse": {"hold": 0.5}})
    async with shop.working(task):
        shop.clock.move(31)
        await shop.worker.upkeep.take_back_once()

    [minute] = (await shop.seen("/v1/stats"))["minutes"]

    assert (minute["outcome"], minute["attempts"]) == ("lease_expired", 1)
    assert (minute["mean_milliseconds"], minute["longest_milliseconds"]) == (None, None)


async def test_stats_are_for_admins(shop: Shop) -> None:
    answer = await shop.get("/v1/stats", "alice")

    check_problem(answer, 403, "role_too_low")


async def test_stats_take_no_query_and_are_read_with_get_or_head(shop: Shop) -> None:
    got, headed = await shop.get("/v1/stats"), await shop.head("/v1/stats")
    asked = await shop.get("/v1/stats", minutes=5)

    assert (headed.status_code, headed.content) == (200, b"")
    assert headed.headers["content-length"] == got.headers["content-length"]
    assert pointers(asked) == ["/query/minutes"]
