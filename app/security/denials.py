"""Denials: what the gate refused, kept in the audit within bounds, so that nobody can fill the disk by being refused.

A refusal of somebody known is kept at once, up to a rate; those beyond it, and all of unknown callers, are counted in
memory and kept as sums. A process that is killed loses the sums of its last minute.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from app.domain.audit import Action, Author, Deed, TargetKind
from app.errors import CabinetError, Forbidden, TooManyRequests, Unavailable, UnknownSubject
from app.log import event
from app.security.gate import Caller
from app.security.rate_limits import RateLimiter
from app.unit import Store, UnitOfWork

KEPT_OF_ACTOR_LIMIT = 10
"""How many denials of one user a minute are kept each for itself."""
KEPT_LIMIT = 60
"""How many denials of all users a minute are kept each for itself."""
SUM_SECONDS = 60.0
"""How often the sums are written."""

_MINUTE = 60.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """A request that was refused; `path_id` is what its path named, if that could be an id."""

    error: CabinetError
    caller: Caller | None
    request_id: str | None
    route: str
    path_id: str | None


class Denials:
    """Keeps denials; `monotonic` tells seconds."""

    def __init__(self, store: Store, *, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._of_actor = RateLimiter("denials", count=KEPT_OF_ACTOR_LIMIT, seconds=_MINUTE, monotonic=monotonic)
        self._of_all = RateLimiter("all denials", count=KEPT_LIMIT, seconds=_MINUTE, monotonic=monotonic)
        self._sums: Counter[str] = Counter()
        self._writing: asyncio.Task[None] | None = None

    async def keep(self, denial: Denial) -> None:
        """Keep a denial, at once or in a sum; if the database cannot, it stays in the sum."""
        caller = denial.caller
        if caller is None or not self._is_kept_alone(denial.error, caller):
            self._sums[denial.error.code] += 1
            return
        try:
            is_kept = await self._store.write(lambda work: _keep(work, denial, caller))
        except Unavailable:
            is_kept = False
        self._sums[denial.error.code] += not is_kept

    async def write_sums(self) -> None:
        """Keep what was counted since the last time; what fails is told and stays counted."""
        if self._writing is not None:
            await self._writing
        self._writing = asyncio.create_task(self._write_sums(), name="sums of denials")
        await asyncio.shield(self._writing)

    async def write_sums_now_and_then(self) -> None:
        """Keep the sums every SUM_SECONDS, until cancelled; a sum that is being written is finished all the same."""
        while True:
            await asyncio.sleep(SUM_SECONDS)
            await self.write_sums()

    async def _write_sums(self) -> None:
        sums, self._sums = +self._sums, Counter()
        if not sums:
            return
        try:
            await self._store.write(lambda work: _keep_sums(work, sums))
        except Exception as error:
            self._sums.update(sums)
            level = logging.WARNING if isinstance(error, Unavailable) else logging.ERROR
            event(_log, level, "denials_not_kept", exc_info=error)

    def _is_kept_alone(self, error: CabinetError, caller: Caller) -> bool:
        if not isinstance(error, Forbidden) or isinstance(error, UnknownSubject):
            return False
        try:
            self._of_actor.take(caller.subject)
            self._of_all.take("")
        except TooManyRequests:
            return False
        return True


async def _keep(work: UnitOfWork, denial: Denial, caller: Caller) -> bool:
    user = await work.users.by_subject(caller.subject)
    if user is None:
        return False
    deed = Deed(
        author=Author(user_id=user.id, subject=user.subject, request_id=denial.request_id),
        action=Action.REQUEST_DENIED,
        target_kind=TargetKind.ROUTE,
        target_id=denial.route,
        after=None if denial.path_id is None else {"id": denial.path_id},
        code=denial.error.code,
    )
    await work.audit_events.add(deed, at=work.now())
    return True


async def _keep_sums(work: UnitOfWork, sums: Counter[str]) -> None:
    for code, occurrences in sorted(sums.items()):
        deed = Deed(
            author=Author(user_id=None, subject=None),
            action=Action.REQUEST_DENIED,
            target_kind=TargetKind.ROUTE,
            target_id="*",
            code=code,
            occurrences=occurrences,
        )
        await work.audit_events.add(deed, at=work.now())
