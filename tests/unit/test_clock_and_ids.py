"""Time and ids: one width, one order, one form."""

import re
import time
import uuid
from datetime import UTC, datetime, timedelta, timezone
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.clock import SystemClock, Timestamp, later, seconds_between, to_datetime, to_timestamp
from app.ids import is_id, new_id

NOON = Timestamp("2026-11-22T12:00:00.000000Z")
MICROSECONDS_IN_200_YEARS = 200 * 365 * 86_400 * 1_000_000

moments = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999), timezones=st.just(UTC))  # noqa: DTZ001 - the zone is added
calm_moments = st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - the zone is added
microseconds = st.integers(min_value=-MICROSECONDS_IN_200_YEARS, max_value=MICROSECONDS_IN_200_YEARS)
offsets = st.integers(min_value=-14 * 60, max_value=14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
milliseconds = st.integers(min_value=0, max_value=2**48 - 1)


def id_made_at(milliseconds: int, random: Random) -> str:
    """Put together a UUIDv7 as RFC 9562 §5.7 lays it out: 48 bits of time, then chance."""
    version, variant = 7 << 76, 2 << 62
    return str(
        uuid.UUID(int=milliseconds << 80 | version | random.getrandbits(12) << 64 | variant | random.getrandbits(62))
    )


@settings(deadline=None)
@given(moments)
def test_a_timestamp_has_always_the_same_width(moment: datetime) -> None:
    text = to_timestamp(moment)

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text)
    assert len(text) == 27


@settings(deadline=None)
@given(moments, moments)
def test_timestamps_sort_as_text_in_the_order_of_time(one: datetime, other: datetime) -> None:
    as_text = to_timestamp(one) < to_timestamp(other)

    assert as_text is (one < other)


@settings(deadline=None)
@given(moments)
def test_a_moment_survives_being_written_and_read(moment: datetime) -> None:
    read = to_datetime(to_timestamp(moment))

    assert read == moment
    assert read.utcoffset() == timedelta(0)


@settings(deadline=None)
@given(calm_moments.filter(lambda moment: moment.year > 1970), offsets)
def test_the_same_moment_in_another_zone_is_the_same_timestamp(moment: datetime, zone: timezone) -> None:
    elsewhere = to_timestamp(moment.astimezone(zone))

    assert elsewhere == to_timestamp(moment)


@pytest.mark.parametrize(
    ("moment", "timestamp"),
    [
        (datetime(2026, 11, 22, 20, 19, tzinfo=UTC), "2026-11-22T20:19:00.000000Z"),
        (datetime(1970, 1, 1, tzinfo=UTC), "1970-01-01T00:00:00.000000Z"),
        (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "9999-12-31T23:59:59.999999Z"),
        (datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2))), "2025-12-31T23:00:00.000000Z"),
    ],
)
def test_a_timestamp_is_written_in_utc(moment: datetime, timestamp: str) -> None:
    assert to_timestamp(moment) == timestamp


@settings(deadline=None)
@given(calm_moments.filter(lambda moment: moment.year > 2200), microseconds)
def test_later_and_seconds_between_undo_each_other(moment: datetime, micros: int) -> None:
    start = to_timestamp(moment)
    seconds = micros / 1_000_000

    end = later(start, seconds)

    assert seconds_between(start, end) == seconds
    assert later(end, -seconds) == start


@settings(deadline=None)
@given(moments, moments)
def test_seconds_between_changes_its_sign_with_the_order(one: datetime, other: datetime) -> None:
    there, back = to_timestamp(one), to_timestamp(other)

    assert seconds_between(there, back) == -seconds_between(back, there)


@pytest.mark.parametrize(
    ("seconds", "timestamp"),
    [
        (0, "2026-11-22T12:00:00.000000Z"),
        (1, "2026-11-22T12:00:01.000000Z"),
        (0.000001, "2026-11-22T12:00:00.000001Z"),
        (-0.5, "2026-11-22T11:59:59.500000Z"),
        (86_400, "2026-11-23T12:00:00.000000Z"),
    ],
)
def test_later_moves_by_seconds_in_both_directions(seconds: float, timestamp: str) -> None:
    assert later(NOON, seconds) == timestamp


def test_the_system_clock_tells_the_machines_time() -> None:
    before = to_timestamp(datetime.now(UTC))

    now = SystemClock().now()

    assert before <= now <= to_timestamp(datetime.now(UTC))


def test_the_system_clock_stays_on_utc_wherever_the_machine_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XYZ+12")
    time.tzset()
    try:
        now = SystemClock().now()
    finally:
        monkeypatch.undo()
        time.tzset()

    assert abs(seconds_between(now, to_timestamp(datetime.now(UTC)))) < 3_600


def test_an_id_is_a_uuid_of_version_7() -> None:
    read = uuid.UUID(new_id())

    assert (read.version, read.variant) == (7, uuid.RFC_4122)


def test_an_id_carries_the_time_it_was_made() -> None:
    before_ms = time.time_ns() // 1_000_000

    made_ms = uuid.UUID(new_id()).int >> 80

    assert before_ms <= made_ms <= time.time_ns() // 1_000_000 + 1


def test_ids_sort_in_the_order_they_were_made() -> None:
    ids = [new_id() for _ in range(10_000)]

    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


@settings(deadline=None)
@given(milliseconds, milliseconds, st.randoms())
def test_ids_of_different_milliseconds_sort_as_text_in_the_order_of_time(one: int, other: int, random: Random) -> None:
    ids = [id_made_at(one, random), id_made_at(other, random)]

    assert all(map(is_id, ids))
    assert one == other or (ids[0] < ids[1]) is (one < other)


def test_a_new_id_has_the_form_of_ids() -> None:
    assert is_id(new_id())


@pytest.mark.parametrize("variant", "89ab")
def test_an_id_has_one_of_four_variants(variant: str) -> None:
    assert is_id(f"01930e5c-1d4e-7a3b-{variant}c2d-0123456789ab")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "01930e5c-1d4e-4a3b-8c2d-0123456789ab",
        "01930e5c-1d4e-7a3b-7c2d-0123456789ab",
        "01930e5c-1d4e-7a3b-cc2d-0123456789ab",
        "01930E5C-1D4E-7A3B-8C2D-0123456789AB",
        "01930e5c1d4e7a3b8c2d0123456789ab",
        "{01930e5c-1d4e-7a3b-8c2d-0123456789ab}",
        "urn:uuid:01930e5c-1d4e-7a3b-8c2d-0123456789ab",
        "01930e5c-1d4e-7a3b-8c2d-0123456789ab\n",
        " 01930e5c-1d4e-7a3b-8c2d-0123456789ab",
        "01930e5c-1d4e-7a3b-8c2d-0123456789a",
        "01930e5c-1d4e-7a3b-8c2d-0123456789abc",
        "01930e5g-1d4e-7a3b-8c2d-0123456789ab",
        "\N{ARABIC-INDIC DIGIT ZERO}1930e5c-1d4e-7a3b-8c2d-0123456789ab",
        "00000000-0000-0000-0000-000000000000",
    ],
)
def test_anything_but_a_lowercase_uuid_of_version_7_is_no_id(text: str) -> None:
    assert not is_id(text)
