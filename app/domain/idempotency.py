"""Idempotency: the caller's name for one intended task, and the fingerprint of what was meant by it (design §5)."""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from app.clock import Timestamp
from app.errors import MalformedKey

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_BARE = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?")
_QUOTED = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyKey:
    """What is kept of a key that was used: whose it is, which task it named, and what was meant."""

    actor_id: str
    idem_key: str
    task_id: str
    fingerprint: str
    created_at: Timestamp


def parse_key(header: str | None) -> str:
    """Read an Idempotency-Key header, bare or as a quoted string (RFC 8941 §3.3.3); both forms name the same key.

    Raises MalformedKey unless it holds 1 to 255 printable ASCII characters.
    """
    if header is None:
        raise MalformedKey
    text = header.strip(" \t")
    if quoted := _QUOTED.fullmatch(text):
        text = quoted[1].replace('\\"', '"').replace("\\\\", "\\") if "\\" in text else quoted[1]
        if not 1 <= len(text) <= 255:
            raise MalformedKey
        return text
    if text.startswith('"') or not _BARE.fullmatch(text):
        raise MalformedKey
    return text


def canonical_json(value: Any) -> str:
    """Write JSON with sorted keys and no spaces, so that equal values have equal text.

    Raises ValueError for NaN and infinities, which JSON does not have.
    """
    return _CANONICAL.encode(value)


def whole_numbers(value: Any) -> Any:
    """Return JSON with 100 in place of 100.0, which other serializers write for the same number (RFC 8785 §3.2.2.3)."""
    match value:
        case dict():
            return {key: whole_numbers(each) for key, each in value.items()}
        case list():
            return [whole_numbers(each) for each in value]
        case float() if value.is_integer() and abs(value) < 1e21:
            return int(value)
        case _:
            return value


def fingerprint(canonical: str) -> str:
    """Return the SHA-256 of a command in canonical JSON, in hexadecimal.

    Raises ValueError for half a surrogate pair, which no encoding can carry.
    """
    return hashlib.sha256(canonical.encode()).hexdigest()
