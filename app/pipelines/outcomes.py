"""What a handler may raise to say more than 'it failed'."""

import re
from typing import TypeGuard

_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")


def is_error_kind(kind: object) -> TypeGuard[str]:
    """Tell whether something can be an error's kind: a lowercase word with underscores, at most 64 characters."""
    return isinstance(kind, str) and _KIND.fullmatch(kind) is not None


class Fail(Exception):
    """This can never succeed: no further attempt, the task becomes a dead letter.

    `kind` is a lowercase word with underscores (at most 64 characters) that groups like failures; `message` says to a
    person what is wrong and what to do.
    """

    def __init__(self, kind: str, message: str) -> None:
        if not is_error_kind(kind):
            raise ValueError(f"an error kind is a lowercase word of at most 64 characters, not {kind!r}")
        self.kind = kind
        self.message = str(message)
        super().__init__(self.message)
