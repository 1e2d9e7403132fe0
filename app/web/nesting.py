"""Nesting: how deep JSON may be nested, judged before it is parsed and at the speed of searching bytes."""

from app.errors import BadRequest

JSON_DEPTH_LIMIT = 32
"""How many objects and arrays of a body may lie one within the other; the outermost counts."""

_BRACKETS = b"[]{}"
_OTHERS = bytes(byte for byte in range(256) if byte not in _BRACKETS)
_ONE_KIND = bytes.maketrans(b"{}", b"[]")


def check_depth(body: bytes) -> None:
    """Raise BadRequest if JSON is nested too deep. What is not JSON may pass or not: the parser refuses it anyway."""
    if body.count(b"[") + body.count(b"{") <= JSON_DEPTH_LIMIT:
        return
    brackets = _outside_strings(body).translate(_ONE_KIND, _OTHERS)
    for _ in range(JSON_DEPTH_LIMIT):  # each round takes the innermost level away
        brackets = brackets.replace(b"[]", b"")
        if b"[]" not in brackets:
            break
    if brackets:
        raise BadRequest(f"The body is nested more than {JSON_DEPTH_LIMIT} levels deep, or its brackets do not match.")


def _outside_strings(body: bytes) -> bytes:
    """Return what lies outside of strings; escapes go first, so that every quote that is left begins or ends one."""
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(unescaped.split(b'"')[::2])
