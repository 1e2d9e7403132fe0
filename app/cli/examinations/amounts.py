"""Amounts: sizes, spans of time and counts in words that are read at a glance."""

KILOBYTE, MEGABYTE, GIGABYTE = 1 << 10, 1 << 20, 1 << 30


def size(count: float) -> str:
    """Write bytes in the largest unit that fits: `512 bytes`, `70 MB`, `2.1 GB`."""
    for unit, bytes_each in (("GB", GIGABYTE), ("MB", MEGABYTE), ("kB", KILOBYTE)):
        if count >= bytes_each:
            return f"{count / bytes_each:.1f} {unit}" if count < 10 * bytes_each else f"{count / bytes_each:.0f} {unit}"
    return f"{count:.0f} bytes"


def span(seconds: float) -> str:
    """Write how long something takes in the largest unit that fits: `42 s`, `5 min`, `3 h`, `2 days`."""
    for unit, seconds_each in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * seconds_each:
            return f"{seconds / seconds_each:.0f} {unit}"
    return f"{seconds:.0f} s"


def count(number: int, noun: str) -> str:
    """Write a number and what it counts: `1 task`, `3 tasks`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
