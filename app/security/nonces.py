"""Nonces: forgetting those of signed requests that nobody could send again."""

import asyncio
import logging

from app.clock import later
from app.errors import Unavailable
from app.log import event
from app.security.signatures import WINDOW_SECONDS
from app.unit import Store, UnitOfWork

PRUNE_SECONDS = 10.0
"""How often what has run out is looked for."""
PRUNE_LIMIT = 1_000
"""How many nonces one unit forgets; there are further units while so many were found."""

_log = logging.getLogger(__name__)


async def prune_nonces(store: Store) -> int:
    """Forget all nonces that ran out a window ago, in case the clocks of several processes differ; return how many."""
    pruned = last = await store.write(_prune)
    while last == PRUNE_LIMIT:
        last = await store.write(_prune)
        pruned += last
    return pruned


async def prune_nonces_now_and_then(store: Store) -> None:
    """Forget nonces every PRUNE_SECONDS, until cancelled."""
    while True:
        await asyncio.sleep(PRUNE_SECONDS)
        try:
            await prune_nonces(store)
        except Unavailable as error:
            event(_log, logging.WARNING, "nonces_not_pruned", reason=error.message)
        except Exception as error:  # a fault is told, and the loop goes on
            event(_log, logging.ERROR, "nonces_not_pruned", exc_info=error)


async def _prune(work: UnitOfWork) -> int:
    return await work.nonces.prune(until=later(work.now(), -WINDOW_SECONDS), limit=PRUNE_LIMIT)
