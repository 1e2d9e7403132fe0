"""Pages: lists that are walked by key, newest first, without totals (design §7)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

FIRST = "ffffffff-ffff-7fff-bfff-ffffffffffff"
"""The largest id there can be: everything lies before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageCommand:
    """Which page: at most `limit` things whose id lies before the given one."""

    before: str = FIRST
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some things, and the cursor of the next page; None on the last."""

    items: Sequence[T]
    next: str | None


def to_page(found: Sequence[T], command: PageCommand, key: Callable[[T], str]) -> Page[T]:
    """Make a page of what was found when one more than the limit was asked for."""
    items = found[: command.limit]
    return Page(items, key(items[-1]) if len(found) > command.limit else None)
