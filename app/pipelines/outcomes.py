"""What a handler may raise to say more than 'it failed'."""

import re

_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}")


class Fail(Exception):
    """This can never succeed: no further attempt, the task becomes a dead letter.

    `kind` is a lowercase word with underscores (at most 64 characters) that groups like failures; `message` says to a
    person what is wrong and what to do.
    """

    def __init__(self, kind: str, message: str) -> None:
        if not _KIND.fullmatch(kind):
            raise ValueError(f"an error kind is a lowercase word of at most 64 characters, not {kind!r}")
        self.kind = kind
        self.message = str(message)
        super().__init__(self.message)
