"""Tracebacks as the history keeps them: from the handler on, without Cabinet's own frames, and bounded."""

import traceback
from pathlib import Path

from app.domain.jobs import TRACEBACK_LIMIT
from app.pipelines.context import storable

_OURS = frozenset({str(Path(__file__).with_name("execution.py"))})
_FRAMES_LIMIT = 50


def traceback_of(error: BaseException) -> str | None:
    """Return where an error was raised, its causes included; None if it cannot be shown.

    At most TRACEBACK_LIMIT characters, the last ones: that is where the error was raised.
    """
    try:
        shown = traceback.TracebackException.from_exception(error, limit=-_FRAMES_LIMIT, compact=True)
        _leave_ours_out(shown)
        text = "".join(shown.format())
    except BaseException:  # its parts are the handler's own code
        return None
    text = storable(text).strip()
    return text if len(text) <= TRACEBACK_LIMIT else "…" + text[1 - TRACEBACK_LIMIT :]


def _leave_ours_out(shown: traceback.TracebackException) -> None:
    """Take the frames of the runtime out of an error, its causes, and the errors of a group."""
    waiting = [shown]
    while waiting:
        part = waiting.pop()
        part.stack[:] = [frame for frame in part.stack if frame.filename not in _OURS]
        waiting += [
            other for other in (part.__cause__, part.__context__, *(part.exceptions or ())) if other is not None
        ]
