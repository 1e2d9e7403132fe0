"""Identifiers: UUIDv7 (RFC 9562 §5.7) as text, so that ids sort by the time they were made."""

import re

import uuid_utils

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def new_id() -> str:
    """Make an id that no one else has."""
    return str(uuid_utils.uuid7())


def is_id(text: str) -> bool:
    """Tell whether a text has the one form that ids have here: lower case, version 7."""
    return _ID.fullmatch(text) is not None
