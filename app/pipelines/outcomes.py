"""What a handler may return or raise to say more than 'done' and 'it failed'."""

import math
import re
from typing import TypeGuard

SNOOZE_LEAST_SECONDS = 1.0
"""The shortest snooze: what asks again at once would do nothing else."""

SNOOZE_LIMIT_SECONDS = 2_592_000.0
"""The longest snooze: 30 days."""

_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")


def is_error_kind(kind: object) -> TypeGuard[str]:
    """Tell whether something can be an error's kind: a lowercase word with underscores, at most 64 characters."""
    return isinstance(kind, str) and _KIND.fullmatch(kind) is not None


class Snooze:
    """Returned: not yet, run this stage again after so many seconds. No attempt is counted and no outputs are kept.

    For waiting on something that takes its time, such as a payment that a customer has yet to make.
    """

    def __init__(self, delay_seconds: float) -> None:
        if not SNOOZE_LEAST_SECONDS <= delay_seconds <= SNOOZE_LIMIT_SECONDS:
            raise ValueError(f"a snooze lasts 1 to {SNOOZE_LIMIT_SECONDS:.0f} seconds, which is 30 days")
        self.delay_seconds = float(delay_seconds)


class Retry(Exception):
    """Raised: this attempt failed, another may succeed; the stage's retry policy decides whether one follows.

    `after_seconds` is the least to wait, where the other side has said so. `kind` groups like failures and chooses the
    policy's override of that kind; `message` says to a person what is wrong.
    """

    def __init__(self, message: str = "", *, kind: str = "retry", after_seconds: float | None = None) -> None:
        _check_kind(kind)
        if after_seconds is not None and not (math.isfinite(after_seconds) and after_seconds >= 0):
            raise ValueError("after_seconds must be a number of seconds from now, 0 or more")
        self.kind = kind
        self.message = str(message) or "The stage asked for another attempt."
        self.after_seconds = after_seconds
        super().__init__(self.message)


class Fail(Exception):
    """Raised: this can never succeed; no further attempt, the task becomes a dead letter.

    `kind` is a lowercase word with underscores (at most 64 characters) that groups like failures; `message` says to a
    person what is wrong and what to do.
    """

    def __init__(self, kind: str, message: str) -> None:
        _check_kind(kind)
        self.kind = kind
        self.message = str(message)
        super().__init__(self.message)


class Cancelled(Exception):
    """Raised by `context.raise_if_cancelled()` in a handler whose attempt is not wanted any more; let it pass."""


def _check_kind(kind: str) -> None:
    if not is_error_kind(kind):
        raise ValueError(f"an error kind is a lowercase word of at most 64 characters, not {kind!r}")
