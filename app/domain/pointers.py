"""JSON Pointers (RFC 6901): how an answer names the field that is wrong."""


def json_pointer(*steps: str | int) -> str:
    """Join steps to a pointer, with `~` and `/` escaped; no steps point to the whole document."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)
