"""The log: one line a record, and nothing in it that somebody else has given."""

import asyncio
import errno
import io
import json
import logging
import math
import os
import sqlite3
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NoReturn

import aiosqlite
import pytest
from pydantic import BaseModel, ValidationError

from app import log
from app.clock import to_datetime
from app.errors import Conflict, Defect

SECRET = "marked-5ecre7-value"
LOGGER = logging.getLogger("app.test")


class Stream(io.StringIO):
    """A stream that can say that it is a terminal."""

    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def lines(self) -> list[str]:
        return self.getvalue().splitlines()

    def entry(self) -> dict[str, Any]:
        (line,) = self.getvalue().split("\n")[:-1]
        entry: dict[str, Any] = json.loads(line)
        return entry


class Hostile:
    """Something that cannot be turned into text."""

    def __str__(self) -> NoReturn:
        raise RuntimeError(SECRET)


class Payload(BaseModel):
    """A model that refuses what it is given."""

    amount: int


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    names = (None, *log.PINNED, "uvicorn", "uvicorn.error")
    loggers = [logging.getLogger(name) for name in names]
    before = [(each.level, list(each.handlers), each.propagate) for each in loggers]
    yield
    for each, (level, handlers, propagate) in zip(loggers, before, strict=True):
        each.setLevel(level)
        each.handlers, each.propagate = handlers, propagate


@pytest.fixture
def stream() -> Stream:
    """Return what is logged as JSON lines from debug on."""
    return configured()


@pytest.fixture
def text() -> Stream:
    """Return what is logged as text from debug on."""
    stream = Stream()
    log.configure("debug", json_lines=False, stream=stream)
    return stream


def configured() -> Stream:
    """Return what is logged from now on: in a coroutine, without what the event loop says of itself before."""
    stream = Stream()
    log.configure("debug", json_lines=True, stream=stream)
    return stream


def raised(raises: Callable[[], object]) -> Exception:
    """Return what a function raises, with its traceback."""
    try:
        raises()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def fail_with(error: Exception, cause: Exception | None = None) -> Exception:
    """Raise and catch an error, so that it has a traceback."""

    def fail() -> NoReturn:
        raise error from cause

    return raised(fail)


# JSON lines ----------------------------------------------------------------------------------------------------------


def test_a_record_is_one_object_that_says_when_how_grave_where_and_what(stream: Stream) -> None:
    log.event(LOGGER, logging.INFO, "task_accepted", stage="parse", attempt=1)

    entry = stream.entry()
    assert list(entry) == ["time", "level", "logger", "event", "stage", "attempt"]
    assert entry | {"time": ""} == {
        "time": "",
        "level": "info",
        "logger": "app.test",
        "event": "task_accepted",
        "stage": "parse",
        "attempt": 1,
    }


def test_the_time_is_that_of_the_record_in_utc(stream: Stream) -> None:
    before = datetime.now(UTC)

    log.event(LOGGER, logging.INFO, "tick")

    time = stream.entry()["time"]
    assert len(time) == len("2026-11-22T20:19:00.000000Z")
    assert abs((to_datetime(time) - before).total_seconds()) < 60


def test_a_message_of_others_is_the_event(stream: Stream) -> None:
    LOGGER.warning("%s of %d", "disk", 7)

    assert stream.entry()["event"] == "disk of 7"


def test_a_message_with_named_values_is_formatted(stream: Stream) -> None:
    LOGGER.warning("%(what)s is full", {"what": "disk"})

    assert stream.entry()["event"] == "disk is full"


def test_a_percent_sign_in_an_event_is_no_format(stream: Stream) -> None:
    log.event(LOGGER, logging.INFO, "100%d")

    assert stream.entry()["event"] == "100%d"


def test_a_field_does_not_take_the_place_of_a_key_of_ours(stream: Stream) -> None:
    log.event(LOGGER, logging.INFO, "real", level="fake", event="fake", logger="fake", name="free")

    entry = stream.entry()
    assert (entry["level"], entry["event"], entry["logger"]) == ("info", "real", "app.test")
    assert (entry["level_"], entry["event_"], entry["logger_"], entry["name"]) == ("fake", "fake", "fake", "free")


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_records_from_the_chosen_level_on_are_shown(level: str) -> None:
    stream = Stream()
    log.configure(level, json_lines=True, stream=stream)

    for each in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        log.event(LOGGER, each, "happened")

    shown = [json.loads(line)["level"] for line in stream.lines()]
    levels = ["debug", "info", "warning", "error"]
    assert shown == levels[levels.index(level) :]


def test_an_event_below_the_level_makes_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    log.configure("warning", json_lines=True, stream=Stream())
    monkeypatch.setattr(LOGGER, "makeRecord", None)

    log.event(LOGGER, logging.INFO, "never", field=Hostile())


def test_configuring_again_replaces_what_was_set_and_leaves_the_handlers_of_others() -> None:
    first, second = Stream(), Stream()
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    log.configure("info", json_lines=True, stream=first)

    log.configure("info", json_lines=True, stream=second)
    log.event(LOGGER, logging.INFO, "once")

    assert first.getvalue() == ""
    assert len(second.lines()) == 1
    assert other in logging.getLogger().handlers


def test_standard_error_is_the_stream_unless_another_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", json_lines=True)

    log.event(LOGGER, logging.INFO, "here")

    assert json.loads(capsys.readouterr().err)["event"] == "here"


# Ids -----------------------------------------------------------------------------------------------------------------


def test_the_ids_that_are_bound_stand_in_every_record_within(stream: Stream) -> None:
    with log.bound(request="r-1"), log.bound(task="t-1"):
        LOGGER.info("inside")

    entry = stream.entry()
    assert (entry["request_id"], entry["task_id"]) == ("r-1", "t-1")


def test_an_id_is_unbound_again_also_when_the_body_raises(stream: Stream) -> None:
    with log.bound(request="outer"):
        with pytest.raises(ValueError, match="body"), log.bound(request="inner", task="t-1"):
            raise ValueError("body")
        LOGGER.info("after")

    entry = stream.entry()
    assert entry["request_id"] == "outer"
    assert "task_id" not in entry


async def test_tasks_that_run_at_once_have_their_own_ids() -> None:
    stream = configured()

    async def work(name: str) -> None:
        with log.bound(task=name):
            await asyncio.sleep(0)
            LOGGER.info(name)

    await asyncio.gather(work("one"), work("two"))

    assert {(entry["event"], entry["task_id"]) for entry in map(json.loads, stream.lines())} == {
        ("one", "one"),
        ("two", "two"),
    }


def test_an_id_given_as_a_field_counts_for_its_record(stream: Stream) -> None:
    with log.bound(task="bound"):
        log.event(LOGGER, logging.INFO, "other_task", task_id="given")

    assert stream.entry()["task_id"] == "given"


def test_records_of_many_threads_stay_whole(stream: Stream) -> None:
    def work() -> None:
        for number in range(50):
            log.event(LOGGER, logging.INFO, "step", number=number, filling="x" * 500)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [json.loads(line)["event"] for line in stream.lines()] == ["step"] * 400


# Hostile values ------------------------------------------------------------------------------------------------------

BREAKERS = "a\nb\rc\x00\x1b[31m\x85\u2028\u2029\u202e\x7f\udcff é"


@pytest.mark.parametrize("where", ["field", "key", "logger", "message", "id"])
@pytest.mark.parametrize("json_lines", [True, False])
def test_nothing_in_a_value_breaks_the_line(json_lines: bool, where: str) -> None:
    stream = Stream()
    log.configure("info", json_lines=json_lines, stream=stream)

    with log.bound(request=BREAKERS if where == "id" else None):
        logger = logging.getLogger(f"app.{BREAKERS}") if where == "logger" else LOGGER
        fields = {BREAKERS if where == "key" else "key": BREAKERS if where == "field" else "value"}
        logger.info("happened %s", BREAKERS if where == "message" else "", extra={"fields": fields})

    written = stream.getvalue()
    assert written.endswith("\n")
    assert len(written.splitlines()) == 1
    assert not {"\r", "\x00", "\x1b", "\x85", "\u2028", "\u202e", "\udcff"} & set(written)


def test_a_hostile_value_arrives_unchanged_in_json(stream: Stream) -> None:
    log.event(LOGGER, logging.INFO, "happened", value=BREAKERS)

    assert stream.entry()["value"] == BREAKERS


@pytest.mark.parametrize("json_lines", [True, False])
@pytest.mark.parametrize("value", [Hostile(), {"nested": Hostile()}, [Hostile()]])
def test_a_value_that_cannot_be_shown_does_not_lose_the_record(json_lines: bool, value: object) -> None:
    stream = Stream()
    log.configure("info", json_lines=json_lines, stream=stream)

    log.event(LOGGER, logging.INFO, "happened", value=value, other=1)

    assert "<Hostile that cannot be shown>" in stream.getvalue()
    assert "happened" in stream.getvalue()
    assert SECRET not in stream.getvalue()


def circle() -> list[object]:
    """Return a list that holds itself."""
    members: list[object] = []
    members.append(members)
    return members


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (math.nan, "NaN"),
        (circle(), "<list that cannot be shown>"),
        ({(1, 2): 3}, "<dict that cannot be shown>"),
        ("plain", "plain"),
    ],
)
def test_what_json_has_no_form_for_is_written_as_text(stream: Stream, value: object, written: str) -> None:
    log.event(LOGGER, logging.INFO, "happened", value=value, beside=math.inf)

    assert (stream.entry()["value"], stream.entry()["beside"]) == (written, "Infinity")


def test_a_value_of_another_type_is_written_as_its_text(stream: Stream) -> None:
    log.event(LOGGER, logging.INFO, "happened", value=datetime(2026, 11, 22, tzinfo=UTC))

    assert stream.entry()["value"] == "2026-11-22 00:00:00+00:00"


def test_a_line_that_would_be_too_long_is_cut_value_by_value(stream: Stream) -> None:
    log.event(
        LOGGER, logging.INFO, "happened", long="x" * 1_000_000, short="whole", exc_info=fail_with(Conflict("ours"))
    )

    entry = stream.entry()
    assert entry["long"] == "x" * log.VALUE_LIMIT
    assert entry["short"] == "whole"
    assert entry["exception"]["message"] == "ours"


def test_fields_that_are_no_mapping_are_left_out(stream: Stream) -> None:
    LOGGER.info("happened", extra={"fields": "no mapping"})

    assert stream.entry()["event"] == "happened"


def test_a_field_whose_name_is_no_text_is_shown(stream: Stream) -> None:
    LOGGER.info("happened", extra={"fields": {7: "seven"}})

    assert stream.entry()["7"] == "seven"


@pytest.mark.parametrize("args", [("too", "many"), (Hostile(),)])
def test_a_message_that_cannot_be_formatted_is_shown_without_its_values(
    monkeypatch: pytest.MonkeyPatch, args: tuple[object, ...]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own handlers raise
    stream = configured()

    LOGGER.info("happened %s", *args)

    assert stream.entry()["event"] == "happened %s (its values cannot be shown)"


def test_a_message_without_values_is_no_format(stream: Stream) -> None:
    LOGGER.info("happened %s")

    assert stream.entry()["event"] == "happened %s"


def test_a_stream_that_fails_loses_the_record_and_shows_it_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Stream()
    log.configure("info", json_lines=True, stream=stream)
    stream.close()

    LOGGER.info("happened %s", SECRET)

    assert capsys.readouterr() == ("", "")


# Exceptions ----------------------------------------------------------------------------------------------------------


def constraint_broken() -> None:
    """Break a rule of the database with a bound parameter, which some of its messages repeat."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE TABLE t (a TEXT NOT NULL UNIQUE)")
        connection.execute("INSERT INTO t VALUES (:a)", {"a": SECRET})
        connection.execute("INSERT INTO t VALUES (:a)", {"a": SECRET})
    except sqlite3.Error as error:
        raise sqlite3.IntegrityError(f"{error}: {SECRET}") from error
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (raised(lambda: Payload.model_validate({"amount": SECRET})), "pydantic_core._pydantic_core.ValidationError"),
        (raised(constraint_broken), "sqlite3.IntegrityError"),
        (fail_with(ValueError(SECRET)), "ValueError"),
        (fail_with(Defect("ours"), KeyError(SECRET)), "app.errors.Defect"),
        (fail_with(ExceptionGroup(SECRET, [fail_with(ValueError(SECRET))])), "ExceptionGroup"),
    ],
)
@pytest.mark.parametrize("json_lines", [True, False])
def test_an_exception_shows_its_type_and_its_frames_and_no_value(
    json_lines: bool, error: BaseException, kind: str
) -> None:
    stream = Stream()
    log.configure("info", json_lines=json_lines, stream=stream)

    log.event(LOGGER, logging.ERROR, "failed", exc_info=error, cause=error, nested=[error])
    LOGGER.error("failed: %s %r", error, error)
    LOGGER.error("failed: %(error)s", {"error": error})
    LOGGER.error(error, exc_info=error)

    assert SECRET not in stream.getvalue()
    assert kind in stream.getvalue()
    assert "test_log.py:" in stream.getvalue()


def test_the_error_of_validation_would_have_shown_the_value() -> None:
    with pytest.raises(ValidationError, match=SECRET):
        Payload.model_validate({"amount": SECRET})


def test_an_exception_of_ours_shows_its_message(stream: Stream) -> None:
    LOGGER.error("failed: %s", Conflict("Already decided."), exc_info=fail_with(Conflict("Already decided.")))

    entry = stream.entry()
    assert entry["event"] == "failed: app.errors.Conflict: Already decided."
    assert entry["exception"]["type"] == "app.errors.Conflict"
    assert entry["exception"]["message"] == "Already decided."


def test_a_traceback_names_file_line_and_function(stream: Stream) -> None:
    LOGGER.error("failed", exc_info=fail_with(ValueError(SECRET)))

    first, *frames = stream.entry()["exception"]["traceback"].split("\n")
    assert first == "ValueError"
    assert frames[-1].startswith(f"  {__file__}:")
    assert frames[-1].endswith(" fail_with.<locals>.fail")


def test_what_led_to_an_exception_is_shown_with_it(stream: Stream) -> None:
    def while_handling() -> None:
        try:
            dict[str, str]()[SECRET]
        except KeyError:
            raise TypeError(SECRET)  # noqa: B904 the case under test

    cause = raised(while_handling)
    group = fail_with(ExceptionGroup("both", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), cause]), cause)

    LOGGER.error("failed", exc_info=group)

    lines = stream.entry()["exception"]["traceback"].split("\n")
    assert [line for line in lines if not line.startswith("  ")] == [
        "ExceptionGroup",
        "in group: OSError ENOSPC",
        "in group: TypeError",
        "while handling: KeyError",
    ]


def test_a_circle_of_causes_ends(stream: Stream) -> None:
    one, other = ValueError(), TypeError()
    one.__cause__, other.__cause__ = other, one

    LOGGER.error("failed", exc_info=one)

    assert stream.entry()["exception"]["traceback"] == "ValueError\ncaused by: TypeError"


def test_a_chain_and_a_traceback_are_bounded(stream: Stream) -> None:
    def descend(depth: int) -> None:
        if depth == 0:
            raise ValueError(SECRET)
        descend(depth - 1)

    error = raised(lambda: descend(200))
    group = ExceptionGroup("many", [fail_with(ValueError(number)) for number in range(1_000)])

    LOGGER.error("deep", exc_info=error)
    LOGGER.error("wide", exc_info=group)

    deep, wide = (json.loads(line)["exception"]["traceback"] for line in stream.lines())
    assert deep.count("\n") <= log.FRAMES_LIMIT
    assert wide.count("in group") < log.CHAIN_LIMIT
    assert max(map(len, stream.lines())) <= log.LINE_LIMIT


def with_code(name: str, code: object) -> Exception:
    """Return an error as a driver makes it."""
    error = Exception(SECRET)
    setattr(error, name, code)
    return error


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), SECRET), "PermissionError EACCES"),
        (OSError(SECRET), "OSError"),
        (ssl.SSLError(1, SECRET), "ssl.SSLError"),
        (with_code("sqlite_errorname", "SQLITE_BUSY"), "Exception SQLITE_BUSY"),
        (with_code("sqlstate", "40001"), "Exception 40001"),
        (with_code("sqlstate", 40001), "Exception"),
    ],
)
def test_the_code_of_an_error_is_shown_because_its_message_is_not(stream: Stream, error: Exception, shown: str) -> None:
    LOGGER.error("failed", exc_info=error)

    assert stream.entry()["exception"]["traceback"] == shown


def test_a_record_made_outside_of_a_handler_has_no_exception(stream: Stream) -> None:
    LOGGER.error("failed", exc_info=(None, None, None))

    assert "exception" not in stream.entry()


async def test_an_exception_that_asyncio_reports_shows_no_value() -> None:
    stream = configured()
    error = fail_with(ValueError(SECRET))
    future = asyncio.get_running_loop().create_future()
    future.set_exception(error)

    asyncio.get_running_loop().call_exception_handler(
        {"message": "Task exception was never retrieved", "exception": error, "future": future}
    )
    future.exception()

    entry = stream.entry()
    assert entry["event"] == "Task exception was never retrieved"
    assert entry["exception"]["type"] == "ValueError"
    assert SECRET not in stream.getvalue()


# Loggers of others ---------------------------------------------------------------------------------------------------


async def test_a_bound_parameter_never_shows_whatever_the_level() -> None:
    stream = configured()
    logging.getLogger("aiosqlite").setLevel(logging.DEBUG)

    async with aiosqlite.connect(":memory:") as connection:
        await connection.execute("SELECT :secret", {"secret": SECRET})
        with pytest.raises(sqlite3.Error):
            await connection.execute("INSERT INTO missing VALUES (:secret)", {"secret": SECRET})
    LOGGER.debug("done")

    assert SECRET not in stream.getvalue()
    assert stream.entry()["event"] == "done"


async def test_the_parameter_would_show_if_the_logger_were_not_held_down(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="aiosqlite")

    async with aiosqlite.connect(":memory:") as connection:
        await connection.execute("SELECT :secret", {"secret": SECRET})

    assert SECRET in caplog.text


@pytest.mark.parametrize("name", [*log.PINNED, "httpcore2.connection", "PIL.PngImagePlugin"])
@pytest.mark.parametrize("level_set_later", [logging.NOTSET, logging.DEBUG])
def test_loggers_that_show_values_are_held_down(stream: Stream, name: str, level_set_later: int) -> None:
    logger = logging.getLogger(name)
    before = logger.level
    if level_set_later:
        logger.setLevel(level_set_later)

    logger.debug(SECRET)
    logger.info(SECRET)
    logger.warning("shown")
    logger.setLevel(before)

    assert stream.entry()["event"] == "shown"


@pytest.mark.parametrize("name", ["PILOT", "aiosqlites"])
def test_a_logger_whose_name_only_begins_alike_is_not_held_down(stream: Stream, name: str) -> None:
    logging.getLogger(name).debug("shown")

    assert stream.entry()["event"] == "shown"


def test_the_server_logs_through_our_handler_only() -> None:
    own = Stream()
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers = [logging.StreamHandler(own)]
        logging.getLogger(name).propagate = False
    stream = Stream()
    log.configure("info", json_lines=True, stream=stream)

    logging.getLogger("uvicorn.error").error(f"Traceback\nValueError: {SECRET}")

    assert own.getvalue() == ""
    assert stream.entry()["event"] == "Traceback"


# Text for reading ----------------------------------------------------------------------------------------------------


def test_text_is_aligned_and_quotes_values_whose_end_could_not_be_told(text: Stream) -> None:
    with log.bound(request="r-1"):
        log.event(LOGGER, logging.WARNING, "slow", path="/v1/tasks", seconds=1.5, forged="x level=error", empty="")

    (line,) = text.lines()
    time, rest = line.split(" ", 1)
    assert len(time) == len("20:19:00.000")
    assert rest == (
        'warning  app.test             slow request_id=r-1 path=/v1/tasks seconds=1.5 forged="x level=error" empty=""'
    )


def test_text_shows_an_exception_on_lines_of_its_own(text: Stream) -> None:
    log.event(LOGGER, logging.ERROR, "failed", exc_info=fail_with(Conflict("One.\nTwo."), ValueError(SECRET)))

    first, message, kind, *frames = text.lines()
    assert first.endswith("failed")
    assert message == "    One.\\nTwo."
    assert kind == "    app.errors.Conflict"
    assert frames[-1] == "    caused by: ValueError"


@pytest.mark.parametrize("terminal", [True, False])
def test_text_has_colour_on_a_terminal_only(terminal: bool) -> None:
    stream = Stream(terminal=terminal)
    log.configure("info", json_lines=False, stream=stream)

    LOGGER.error("failed")

    assert ("\x1b[31m" in stream.getvalue()) == terminal


def test_json_has_no_colour_on_a_terminal() -> None:
    stream = Stream(terminal=True)
    log.configure("info", json_lines=True, stream=stream)

    LOGGER.error("failed")

    assert stream.entry()["level"] == "error"


def test_a_level_of_others_has_its_name_and_no_colour() -> None:
    stream = Stream(terminal=True)
    log.configure("debug", json_lines=False, stream=stream)

    LOGGER.log(25, "notice")

    assert "level 25" in stream.getvalue()
