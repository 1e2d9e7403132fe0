"""The log: one line a record, JSON or for reading, that shows no bound parameter and no message of a foreign exception.

`configure` is called once at start. A request's or task's id is bound with `bound` and stands in every record within.
"""

import errno
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from traceback import walk_tb
from typing import TextIO

from app.clock import to_timestamp
from app.errors import CabinetError

CHAIN_LIMIT = 8
"""So many exceptions of a chain or group are shown."""
FRAMES_LIMIT = 40
"""So many frames of a traceback are shown, the innermost ones."""
TRACEBACK_LIMIT = 8_000
"""So many characters of a traceback are shown."""
LINE_LIMIT = 16_000
"""A line with more characters is cut, value by value; Docker breaks lines of 16 KiB."""
VALUE_LIMIT = 1_000

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
task_id: ContextVar[str | None] = ContextVar("task_id", default=None)

# They log bound parameters at DEBUG (facts: 9) or every request at INFO.
PINNED = (
    "aiosqlite",
    "databases",
    "asyncpg",
    "sqlalchemy",
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "uvicorn",
    "PIL",
)

_ONE_OF_PINNED = re.compile(rf"(?:{'|'.join(map(re.escape, PINNED))})(?:\..*)?")
_BARE = re.compile(r"[\w./:@+-]+")
_COLOURS = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_FIRST_LINE_ONLY = frozenset({"asyncio", "uvicorn.error"})
_OWN_KEYS = frozenset({"time", "level", "logger", "event", "exception"})


def configure(level: str, *, json_lines: bool, stream: TextIO | None = None) -> None:
    """Send every record from `level` (debug, info, warning, error) on to `stream`, standard error unless given.

    Called again, it replaces what it set before. uvicorn must be started with `log_config=None`, or it undoes its part.
    """
    stream = stream or sys.stderr
    handler = _Handler(stream)
    handler.setFormatter(JsonFormatter() if json_lines else TextFormatter(colour=stream.isatty()))
    handler.addFilter(_may_show)
    root = logging.getLogger()
    root.handlers = [other for other in root.handlers if not isinstance(other, _Handler)] + [handler]
    root.setLevel(level.upper())
    for name in PINNED:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        _hand_over(logging.getLogger(name))


def event(
    logger: logging.Logger, level: int, name: str, /, *, exc_info: BaseException | None = None, **fields: object
) -> None:
    """Log that something happened: a name in snake_case and its fields; a secret or a payload is no field."""
    if logger.isEnabledFor(level):
        logger.log(level, name, exc_info=exc_info, extra={"fields": fields}, stacklevel=2)


@contextmanager
def bound(*, request: str | None = None, task: str | None = None) -> Iterator[None]:
    """Put the id of a request, of a task or of both into every record within; what is not given stays as it was."""
    given = [(variable, value) for variable, value in ((request_id, request), (task_id, task)) if value is not None]
    tokens = [(variable, variable.set(value)) for variable, value in given]
    try:
        yield
    finally:
        for variable, token in tokens:
            variable.reset(token)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII, so that nothing in a value ends the line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record; never raises."""
        return _json(entry_of(record))


class TextFormatter(logging.Formatter):
    """Aligned text for reading; control characters in values are escaped, only a traceback has lines of its own."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self.colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Write one record; never raises."""
        entry = entry_of(record)
        time, level, logger, happened = (str(entry.pop(key)) for key in ("time", "level", "logger", "event"))
        exception = entry.pop("exception", None)
        shown = f"{_COLOURS.get(level, '')}{level:<8}\x1b[0m" if self.colour else f"{level:<8}"
        values = "".join(f" {_escaped(key)}={_shown(value)}" for key, value in entry.items())
        return f"{time[11:23]} {shown} {_escaped(logger):<20} {_escaped(happened)}{values}{_indented(exception)}"


def entry_of(record: logging.LogRecord) -> dict[str, object]:
    """Return what a record says, by key; fields that have the name of a key of ours get a `_` at the end."""
    entry: dict[str, object] = {
        "time": to_timestamp(datetime.fromtimestamp(record.created, UTC)),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": _message(record),
    }
    entry |= {key: value for key, value in (("request_id", request_id.get()), ("task_id", task_id.get())) if value}
    fields = getattr(record, "fields", None)
    if isinstance(fields, Mapping):
        entry |= {f"{key}_" if key in _OWN_KEYS else _plain(key): value for key, value in fields.items()}
    if record.exc_info and record.exc_info[1]:
        entry["exception"] = exception_of(record.exc_info[1])
    return entry


def exception_of(error: BaseException) -> dict[str, str]:
    """Describe an exception without what may hold a value: its message is kept only where it is one of ours."""
    described = {"type": _type(error)}
    if isinstance(error, CabinetError):
        described["message"] = str(error)[:VALUE_LIMIT]
    return described | {"traceback": "\n".join(_lines(error))[:TRACEBACK_LIMIT]}


class _Handler(logging.StreamHandler[TextIO]):
    """The handler that `configure` sets, told from others by its type."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 the standard library's name
        """Drop a record that cannot be written: the standard answer is to print its values."""


def _may_show(record: logging.LogRecord) -> bool:
    """Hold pinned loggers down also when somebody has set their level, or that of one below them."""
    return record.levelno >= logging.WARNING or not _ONE_OF_PINNED.fullmatch(record.name)


def _hand_over(logger: logging.Logger) -> None:
    logger.handlers = []
    logger.propagate = True


def _message(record: logging.LogRecord) -> str:
    """Return the message; asyncio and uvicorn write exceptions with their messages into its further lines."""
    message = _plain(record.msg)
    if record.args:
        try:
            message %= _without_exceptions(record.args)
        except Exception:  # a wrong format or a failing __str__; the text alone still says what happened
            message += " (its values cannot be shown)"
    return message.partition("\n")[0] if record.name in _FIRST_LINE_ONLY else message


def _without_exceptions(args: tuple[object, ...] | Mapping[str, object]) -> tuple[object, ...] | dict[str, object]:
    if isinstance(args, Mapping):
        return {key: _harmless(value) for key, value in args.items()}
    return tuple(_harmless(value) for value in args)


def _harmless(value: object) -> object:
    return _plain(value) if isinstance(value, BaseException) else value


def _lines(error: BaseException, limit: int = CHAIN_LIMIT) -> Iterator[str]:
    """Yield the frames and types of an exception and of those that led to it, the newest first."""
    waiting, seen = [("", error)], set[int]()
    while waiting and len(seen) < limit:
        relation, each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        code = _code(each)
        yield f"{relation}{_type(each)}{f' {code}' if code else ''}"
        frames = [f"{f.f_code.co_filename}:{line} {f.f_code.co_qualname}" for f, line in walk_tb(each.__traceback__)]
        yield from (f"  {frame}" for frame in frames[-FRAMES_LIMIT:])
        waiting += _origins(each)


def _origins(error: BaseException) -> list[tuple[str, BaseException]]:
    members = [("in group: ", member) for member in error.exceptions] if isinstance(error, BaseExceptionGroup) else []
    if error.__cause__:
        return [*members, ("caused by: ", error.__cause__)]
    if error.__context__ and not error.__suppress_context__:
        return [*members, ("while handling: ", error.__context__)]
    return members


def _type(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")


def _code(error: BaseException) -> str:
    """Return the engine's or the system's name for what happened, which holds no value."""
    if isinstance(error, OSError):  # TLS errors have numbers of their own
        return errno.errorcode.get(error.errno or 0, "") if error.strerror == os.strerror(error.errno or 0) else ""
    code = getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None)
    return code if isinstance(code, str) else ""


def _json(entry: Mapping[str, object]) -> str:
    """Write one object; what JSON has no form for, or too much of, is written as text and cut."""
    try:
        line = json.dumps(entry, default=_plain, allow_nan=False)
    except Exception:  # a circle, a key that is no text, a number that is none, or a failing method
        line = ""
    if line and len(line) <= LINE_LIMIT:
        return line
    cut = {
        key[:VALUE_LIMIT]: value if key == "exception" else _text(value)[:VALUE_LIMIT] for key, value in entry.items()
    }
    return json.dumps(cut)


def _shown(value: object) -> str:
    """Write a value behind its key on a line for reading, quoted where its end could not be told."""
    return _escaped(value if isinstance(value, str) and _BARE.fullmatch(value) else _quoted(value))


def _quoted(value: object) -> str:
    try:
        return json.dumps(value, default=_plain, ensure_ascii=False)
    except Exception:  # a circle, a key that is no text, a number that is none, or a failing method
        return _unshowable(value)


def _text(value: object) -> str:
    return value if isinstance(value, str) else _quoted(value)


def _plain(value: object) -> str:
    """Turn into text what JSON has no form for; an exception's message may hold a value."""
    if isinstance(value, BaseException):
        return f"{_type(value)}: {value}" if isinstance(value, CabinetError) else _type(value)
    try:
        return str(value)
    except Exception:  # whatever a foreign __str__ raises
        return _unshowable(value)


def _unshowable(value: object) -> str:
    return f"<{type(value).__name__} that cannot be shown>"


def _escaped(text: str) -> str:
    """Escape what is not printable: line ends, a terminal's commands, marks that turn the direction of writing."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _indented(exception: object) -> str:
    if not isinstance(exception, dict):
        return ""
    message = f"\n    {_escaped(exception['message'])}" if "message" in exception else ""
    return message + "".join(f"\n    {_escaped(line)}" for line in exception["traceback"].split("\n"))
