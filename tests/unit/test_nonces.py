"""Forgetting nonces goes on whatever happens to it."""

import asyncio
from typing import Any, cast

import pytest

from app.errors import StorageBusy, TransactionLost
from app.security import nonces
from app.security.nonces import PRUNE_LIMIT, prune_nonces, prune_nonces_now_and_then


class Store:
    """A store whose units end as they are told to, one after the other."""

    def __init__(self, *ends: int | Exception) -> None:
        self.ends = list(ends)
        self.is_done = asyncio.Event()

    async def write(self, _body: Any) -> int:
        """End as told; at the last one say so."""
        end = self.ends.pop(0)
        if not self.ends:
            self.is_done.set()
        if isinstance(end, Exception):
            raise end
        return end

    async def read(self, _body: Any) -> int:
        """Nobody reads."""
        raise AssertionError


async def test_it_goes_on_at_once_while_there_is_as_much_as_a_unit_takes() -> None:
    store = Store(PRUNE_LIMIT, PRUNE_LIMIT, 7)

    pruned = await prune_nonces(cast("Any", store))

    assert (pruned, store.ends) == (2 * PRUNE_LIMIT + 7, [])


async def test_what_fails_is_told_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nonces, "PRUNE_SECONDS", 0)
    store = Store(StorageBusy(), TransactionLost(), 3)

    loop = asyncio.create_task(prune_nonces_now_and_then(cast("Any", store)))
    async with asyncio.timeout(5):
        await store.is_done.wait()
    loop.cancel()

    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "nonces_not_pruned"),
        ("ERROR", "nonces_not_pruned"),
    ]
