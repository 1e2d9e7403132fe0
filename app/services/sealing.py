"""Sealing: every second the audit's new events are put under a seal, whose head goes to the log (design §3a)."""

import asyncio
import logging
from collections.abc import Sequence

from app.clock import Timestamp
from app.domain.audit import BEFORE_ALL, AuditEvent, Seal, seal
from app.errors import CabinetError
from app.log import event
from app.unit import Store, UnitOfWork

SEAL_SECONDS = 1.0
"""How often it is looked for new events; younger ones are not sealed yet."""

SEAL_LIMIT = 1_000
"""So many events one seal covers at most. Verifying counts on it: it may grow, and never become less."""

_log = logging.getLogger(__name__)


async def seal_next(store: Store) -> Seal | None:
    """Seal the oldest events that are final and have no seal; None if there are none or another sealer was first.

    Nothing is locked while it reads and reckons; of several sealers at once one wins each number.
    """
    last, events, now = await store.read(_unsealed)
    if not events:
        return None
    made = await asyncio.to_thread(seal, last, events, at=now)
    is_mine = await store.write(lambda work: work.audit_seals.add(made))
    return made if is_mine else None


async def _unsealed(work: UnitOfWork) -> tuple[Seal | None, Sequence[AuditEvent], Timestamp]:
    last = await work.audit_seals.last()
    after = BEFORE_ALL if last is None else last.last
    return last, await work.audit_events.final_after(after, limit=SEAL_LIMIT), work.now()


class Sealer:
    """Seals now and then, and a last time when the service stops in order."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sealing: asyncio.Task[None] | None = None

    async def seal_now_and_then(self) -> None:
        """Seal again and again until cancelled; a seal that has begun is finished and told all the same."""
        while True:
            await asyncio.sleep(SEAL_SECONDS)
            self._sealing = asyncio.create_task(self._seal_all(), name="sealing")
            await asyncio.shield(self._sealing)

    async def seal_last(self) -> None:
        """Seal what is left, after the loop was cancelled and before the store closes."""
        if self._sealing is not None:
            await self._sealing
        await self._seal_all()

    async def _seal_all(self) -> None:
        """Seal until a seal has room left; what fails is told and left to the next time."""
        try:
            made: Seal | None = None
            while made is None or made.events == SEAL_LIMIT:
                made = await seal_next(self._store)
                if made is None:
                    return
                event(_log, logging.INFO, "audit_sealed", number=made.number, events=made.events, hash=made.hash)
        except CabinetError as error:
            event(_log, logging.WARNING, "sealing_failed", reason=error.message)
        except Exception as error:
            event(_log, logging.ERROR, "sealing_failed", exc_info=error)
