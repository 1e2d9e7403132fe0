"""Verifying: whatever is done to the file past the service is found, and the first broken seal is named."""

import asyncio
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.domain.audit import FIRST_HASH, Fault, Head, Seal
from app.services import audit_trail
from app.services.audit_trail import Verified, verify
from app.services.sealing import seal_next
from tests.db.records import open_database
from tests.support.clocks import HandClock
from tests.support.database import connect
from tests.support.trails import a_deed, keep, keep_sealed

SIZES = (3, 4, 2)
"""Events of each seal: seq 1 to 3, 4 to 7, 8 and 9."""

UNSEALED = 2
"""seq 10 and 11."""


@dataclass(frozen=True, slots=True)
class Trail:
    """A file with a trail in it, of which a copy is made for each test."""

    path: Path
    seals: Sequence[Seal]

    @property
    def heads(self) -> list[Head]:
        """The heads as the log keeps them."""
        return [Head(number=seal.number, hash=seal.hash) for seal in self.seals]

    def tamper(self, *statements: str) -> None:
        """Do something to the file on a connection of its own, without the triggers and the rules."""
        with closing(connect(self.path)) as connection:
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                connection.execute(f"DROP TRIGGER {name}")
            connection.execute("PRAGMA ignore_check_constraints = ON")
            for statement in statements:
                assert connection.execute(statement).rowcount != 0, statement

    async def verify(self, heads: Sequence[Head] = ()) -> Verified:
        """Verify the file."""
        async with open_database("file", self.path.parent) as database:
            return await verify(database.store, heads)

    async def broken(self, heads: Sequence[Head] = ()) -> tuple[int, int, Fault]:
        """Return how many seals and events are good, and what is wrong; that nothing is, is a failure."""
        verified = await self.verify(heads)
        assert verified.fault is not None
        return verified.seals, verified.events, verified.fault


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Trail:
    """Make the trail once."""
    return asyncio.run(make_trail(tmp_path_factory.mktemp("trail")))


async def make_trail(folder: Path) -> Trail:
    """Make a trail in a folder."""
    async with open_database("file", folder) as database:
        seals = await keep_sealed(database.store, *SIZES)
        await keep(database.store, *(a_deed(number) for number in range(10, 10 + UNSEALED)))
    return Trail(folder / "cabinet.db", seals)


@pytest.fixture
def trail(untouched: Trail, tmp_path: Path) -> Trail:
    """A copy of the trail."""
    return Trail(Path(shutil.copy(untouched.path, tmp_path / "cabinet.db")), untouched.seals)


# Good ----------------------------------------------------------------------------------------------------------------


async def test_an_untouched_trail_is_good_to_its_end(trail: Trail) -> None:
    verified = await trail.verify(trail.heads)

    assert (verified.seals, verified.events, verified.fault) == (3, 9, None)
    assert verified.head == trail.seals[-1]
    assert (verified.unsealed, verified.unsealed_since) == (UNSEALED, HandClock().now())


async def test_a_trail_that_has_not_begun_is_good(tmp_path: Path) -> None:
    async with open_database("file", tmp_path) as database:
        verified = await verify(database.store, [])

    assert (verified.seals, verified.events, verified.head, verified.fault) == (0, 0, None, None)
    assert (verified.unsealed, verified.unsealed_since) == (0, None)


@pytest.mark.parametrize(("events", "seals", "units"), [(1, 500, 4), (2_000, 1, 4), (4, 500, 2), (2_000, 500, 1)])
async def test_a_trail_is_read_in_pages(
    trail: Trail, monkeypatch: pytest.MonkeyPatch, events: int, seals: int, units: int
) -> None:
    monkeypatch.setattr(audit_trail, "PAGE_EVENTS", events)
    monkeypatch.setattr(audit_trail, "PAGE_SEALS", seals)
    async with open_database("file", trail.path.parent) as database:
        reader = CountedReads(database.store)

        verified = await verify(reader, trail.heads)

    assert (verified.seals, verified.events, verified.unsealed, verified.fault) == (3, 9, UNSEALED, None)
    assert reader.units == units


class CountedReads:
    """A reader that counts its units."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.units = 0

    async def read(self, body: Any) -> Any:
        """Run a unit that reads."""
        self.units += 1
        return await self._store.read(body)


# Events --------------------------------------------------------------------------------------------------------------

EVENT_CHANGES = {
    "xact": "xact = 1",
    "at": "at = '2026-11-22T20:19:00.000001Z'",
    "actor_id": "actor_id = NULL",
    "subject": "subject = 'mallory'",
    "action": "action = 'user.added'",
    "target_kind": "target_kind = 'task'",
    "target_id": "target_id = 'target-99'",
    "before_json": "before_json = NULL",
    "after_json": "after_json = '{}'",
    "reason": "reason = ''",
    "request_id": "request_id = 'another'",
    "outcome": "outcome = 'denied'",
    "code": "code = 'forbidden'",
    "occurrences": "occurrences = 2",
}


@pytest.mark.parametrize("column", EVENT_CHANGES)
@pytest.mark.parametrize("seq", [4, 6])
async def test_a_changed_column_of_an_event_is_found(trail: Trail, seq: int, column: str) -> None:
    trail.tamper(f"UPDATE audit_events SET {EVENT_CHANGES[column]} WHERE seq = {seq}")

    seals, events, fault = await trail.broken()

    assert (seals, events, fault.number) == (1, 3, 2)
    assert fault.says.startswith("Seal 2 covers events from seq 4 to 7, of which ")


async def test_a_changed_number_of_an_event_is_found(trail: Trail) -> None:
    trail.tamper("UPDATE audit_events SET seq = 99 WHERE seq = 6")

    assert await trail.broken() == (
        1, 3, Fault(number=2, says="Seal 2 lacks 1 of the 4 events that it covers from seq 4 to 7."),
    )  # fmt: skip


async def test_every_column_of_an_event_was_changed_by_a_test(trail: Trail) -> None:
    with closing(connect(trail.path)) as connection:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(audit_events)")}

    assert columns == set(EVENT_CHANGES) | {"seq"}


@pytest.mark.parametrize("seq", [4, 5, 7])
async def test_a_deleted_event_is_found(trail: Trail, seq: int) -> None:
    trail.tamper(f"DELETE FROM audit_events WHERE seq = {seq}")

    assert await trail.broken() == (
        1, 3, Fault(number=2, says="Seal 2 lacks 1 of the 4 events that it covers from seq 4 to 7."),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("condition", "number", "lacks"), [("seq <= 3", 1, "3 of the 3"), ("seq >= 8", 3, "2 of the 2"), ("1", 1, "3 of")]
)
async def test_events_that_vanished_altogether_are_found(trail: Trail, condition: str, number: int, lacks: str) -> None:
    trail.tamper(f"DELETE FROM audit_events WHERE {condition}")

    _, _, fault = await trail.broken()

    assert fault.number == number
    assert fault.says.startswith(f"Seal {number} lacks {lacks}")


COPY = "at, actor_id, subject, action, target_kind, target_id, outcome, occurrences"


@pytest.mark.parametrize(("seq", "number"), [(0, 1), (-7, 1), (-(2**63) + 1, 1)])
async def test_an_event_put_before_all_others_is_found(trail: Trail, seq: int, number: int) -> None:
    trail.tamper(f"INSERT INTO audit_events (seq, {COPY}) SELECT {seq}, {COPY} FROM audit_events WHERE seq = 5")

    assert await trail.broken() == (
        0, 0, Fault(number=number, says="Seal 1 covers 3 of the events from seq 1 to 3, and there are more now."),
    )  # fmt: skip


async def test_an_event_put_into_a_gap_is_found(trail: Trail) -> None:
    trail.tamper(f"INSERT INTO audit_events (seq, {COPY}) SELECT 15, {COPY} FROM audit_events WHERE seq = 5")
    async with open_database("file", trail.path.parent) as database:
        await seal_next(database.store)
    assert (await trail.verify()).events == 12

    trail.tamper(f"INSERT INTO audit_events (seq, {COPY}) SELECT 13, {COPY} FROM audit_events WHERE seq = 5")

    says = "Seal 4 covers 3 of the events from seq 10 to 15, and there are more now."
    assert await trail.broken() == (3, 9, Fault(number=4, says=says))


async def test_an_event_in_the_place_of_a_deleted_one_is_found(trail: Trail) -> None:
    trail.tamper(
        "DELETE FROM audit_events WHERE seq = 6",
        f"INSERT INTO audit_events (seq, {COPY}) SELECT 6, {COPY} FROM audit_events WHERE seq = 5",
    )

    says = "Seal 2 covers events from seq 4 to 7, of which at least one was changed."
    assert await trail.broken() == (1, 3, Fault(number=2, says=says))


@pytest.mark.parametrize(("one", "other"), [(4, 5), (5, 6), (6, 7), (5, 9)])
async def test_two_events_that_changed_places_are_found(trail: Trail, one: int, other: int) -> None:
    trail.tamper(
        f"UPDATE audit_events SET seq = 1000 WHERE seq = {one}",
        f"UPDATE audit_events SET seq = {one} WHERE seq = {other}",
        f"UPDATE audit_events SET seq = {other} WHERE seq = 1000",
    )

    assert (await trail.broken())[2] == Fault(
        number=2, says="Seal 2 covers events from seq 4 to 7, of which at least one was changed."
    )


@pytest.mark.parametrize("value", ["CAST(x'ff' AS TEXT)", "x'00'", "1.5", "'\ud7ff'"])
async def test_an_event_with_bytes_that_are_no_text_is_found(trail: Trail, value: str) -> None:
    trail.tamper(f"UPDATE audit_events SET reason = {value} WHERE seq = 5")

    seals, _, fault = await trail.broken()

    assert (seals, fault.number) == (1, 2)


# Seals ---------------------------------------------------------------------------------------------------------------

SEAL_CHANGES = {
    "first_xact": "first_xact = 1",
    "first_seq": "first_seq = 5",
    "last_xact": "last_xact = 1",
    "last_seq": "last_seq = 6",
    "events": "events = 3",
    "events_hash": f"events_hash = '{'0' * 64}'",
    "previous_hash": f"previous_hash = '{FIRST_HASH[::-1]}'",
    "hash": f"hash = '{'0' * 64}'",
    "sealed_at": "sealed_at = '2026-11-22T20:19:00.000001Z'",
}


@pytest.mark.parametrize("column", SEAL_CHANGES)
async def test_a_changed_column_of_a_seal_is_found(trail: Trail, column: str) -> None:
    trail.tamper(f"UPDATE audit_seals SET {SEAL_CHANGES[column]} WHERE number = 2")

    says = "Seal 2 was itself changed: its hash is not that of what it says."
    assert await trail.broken() == (1, 3, Fault(number=2, says=says))


@pytest.mark.parametrize(("number", "broken"), [(0, 1), (-5, 1), (4, 1)])
async def test_a_changed_number_of_the_first_seal_is_found(trail: Trail, number: int, broken: int) -> None:
    trail.tamper(f"UPDATE audit_seals SET number = {number} WHERE number = 1")

    _, _, fault = await trail.broken()

    assert fault.number == broken
    assert fault.says.startswith("Seal 1 is missing; the next one there is seal ")


async def test_every_column_of_a_seal_was_changed_by_a_test(trail: Trail) -> None:
    with closing(connect(trail.path)) as connection:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(audit_seals)")}

    assert columns == set(SEAL_CHANGES) | {"number"}


@pytest.mark.parametrize(("number", "following"), [(1, 2), (2, 3)])
async def test_a_deleted_seal_is_found_by_the_next(trail: Trail, number: int, following: int) -> None:
    trail.tamper(f"DELETE FROM audit_seals WHERE number = {number}")

    seals, _, fault = await trail.broken()

    says = f"Seal {number} is missing; the next one there is seal {following}."
    assert (seals, fault) == (number - 1, Fault(number=number, says=says))


async def test_a_seal_with_a_text_for_a_number_of_events_is_found(trail: Trail) -> None:
    trail.tamper("UPDATE audit_seals SET events = 'many', last_seq = 'far' WHERE number = 2")

    assert (await trail.broken())[2].number == 2


async def test_a_seal_that_cannot_be_read_is_found(trail: Trail) -> None:
    trail.tamper("UPDATE audit_seals SET hash = CAST(x'ff' AS TEXT) WHERE number = 2")

    assert await trail.broken() == (1, 3, Fault(number=2, says="Seal 2 or one of its events cannot be read."))


async def test_a_table_that_is_gone_is_found(trail: Trail) -> None:
    trail.tamper("DROP TABLE audit_events")

    assert await trail.broken() == (0, 0, Fault(number=1, says="Seal 1 or one of its events cannot be read."))


# What only a head shows ----------------------------------------------------------------------------------------------


async def test_a_deleted_last_seal_is_shown_by_its_head_alone(trail: Trail) -> None:
    trail.tamper("DELETE FROM audit_seals WHERE number = 3")

    assert (await trail.verify(trail.heads[:2])).fault is None
    seals, _, fault = await trail.broken(trail.heads)
    says = "Seal 3, whose head was kept, is missing and the last one there is seal 2: the end was cut off."
    assert (seals, fault) == (2, Fault(number=3, says=says))


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_an_end_that_was_cut_off_is_shown_by_any_head_of_it(trail: Trail, number: int) -> None:
    last = (0, *(sum(SIZES[:each]) for each in (1, 2)))[number - 1]
    trail.tamper(f"DELETE FROM audit_seals WHERE number >= {number}", f"DELETE FROM audit_events WHERE seq > {last}")

    without = await trail.verify()
    assert (without.fault, without.seals, without.unsealed) == (None, number - 1, 0)
    for head in trail.heads[number - 1 :]:
        _, _, fault = await trail.broken([head])
        assert fault.number == number
        assert fault.says.endswith("the end was cut off.")


async def test_a_cut_that_new_events_have_covered_up_is_shown_by_a_head(trail: Trail) -> None:
    trail.tamper("DELETE FROM audit_seals WHERE number = 3", "DELETE FROM audit_events WHERE seq > 7")
    async with open_database("file", trail.path.parent) as database:
        await keep_sealed(database.store, 2)

    assert (await trail.verify(trail.heads[:2])).fault is None
    says = "Seal 3 is not the one whose head was kept: the trail was made anew up to here."
    assert (await trail.broken(trail.heads))[2] == Fault(number=3, says=says)


@pytest.mark.parametrize("kept", [1, 2, 3])
async def test_a_trail_that_was_made_anew_is_shown_by_a_head_alone(trail: Trail, kept: int) -> None:
    trail.tamper("DELETE FROM audit_seals", "UPDATE audit_events SET subject = 'mallory' WHERE seq = 2")
    async with open_database("file", trail.path.parent) as database:
        while await seal_next(database.store) is not None:
            pass
        for _ in range(2):
            await keep_sealed(database.store, 1)

    assert (await trail.verify()).fault is None
    seals, _, fault = await trail.broken([trail.heads[kept - 1]])
    assert (seals, fault.number) == (kept - 1, kept)


async def test_one_wrong_head_among_right_ones_is_found(trail: Trail) -> None:
    wrong = Head(number=2, hash="0" * 64)

    assert (await trail.broken([*trail.heads, wrong]))[2].number == 2


async def test_the_first_of_several_faults_is_named(trail: Trail) -> None:
    trail.tamper(
        "DELETE FROM audit_events WHERE seq = 9",
        "UPDATE audit_seals SET hash = 'x' WHERE number = 3",
        "UPDATE audit_events SET reason = '' WHERE seq = 5",
    )

    assert (await trail.broken([Head(number=9, hash="0" * 64)]))[2].number == 2
