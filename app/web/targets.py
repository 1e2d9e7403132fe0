"""Targets: what a request's target may be, so that no two readers can take one for different paths or hosts."""

import re
from urllib.parse import unquote_to_bytes

from app.errors import BadRequest

_PATH = re.compile(rb"/|(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]++|%[0-9A-Fa-f]{2})++)++/?")
"""A path of RFC 3986 §3.3 without empty segments; a slash may end it."""

_HIDDEN = re.compile(r"[/\\\x00-\x1f\x7f-\x9f]")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)/", re.IGNORECASE)


def check_form(target: bytes, host: bytes) -> None:
    """Take a path, or a URL of the very host that the Host header names (RFC 9112 §3.2); BadRequest for another."""
    if b"#" in target:
        raise BadRequest("A request's target has no fragment.")
    if target.startswith(b"/"):
        return
    found = _ABSOLUTE.match(target)
    if found is None or found[1].lower() != host.lower():
        raise BadRequest("The request's target is a path, or a URL with the host that the Host header names.")


def check_path(raw_path: bytes) -> None:
    """Raise BadRequest for a path, as it was sent, that somebody on the way could read as another one."""
    if not _PATH.fullmatch(raw_path):
        raise BadRequest("The path has an empty segment, a malformed escape, or a character that belongs escaped.")
    if b"%" in raw_path or b"/." in raw_path:
        for segment in raw_path.split(b"/"):
            _check_segment(segment)


def _check_segment(segment: bytes) -> None:
    try:
        text = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise BadRequest("The path's escapes are not UTF-8.") from None
    if text in (".", "..") or _HIDDEN.search(text):
        raise BadRequest("The path has a segment . or .., an escaped slash or backslash, or a control character.")
