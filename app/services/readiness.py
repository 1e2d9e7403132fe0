"""Readiness: whether this process can do its work now, and what is missing if not (design §7)."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from app.domain.users import Role
from app.errors import CabinetError
from app.log import event
from app.security.actor import Actor
from app.unit import Store, UnitOfWork

PROBE_SECONDS = 5.0
"""How often a row is written, to see that writing works."""

STALE_SECONDS = 20.0
"""How old the last probe, and the worker's last sign of life, may be."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ready:
    """Whether the process is ready; what was looked at, and tasks waiting in stages nobody has, are for admins."""

    is_ready: bool
    checks: dict[str, str] = field(default_factory=dict)
    waiting_in_unknown_stages: dict[str, int] | None = None


async def write_probe(work: UnitOfWork) -> None:
    """Write the present down."""
    await work.probes.write("write", now=work.now())


class Readiness:
    """Keeps what the process knows about itself. `monotonic` tells seconds."""

    def __init__(self, store: Store, *, monotonic: Callable[[], float]) -> None:
        self._store = store
        self._monotonic = monotonic
        self._probed_at: float | None = None
        self.is_draining = False
        self.worker_seen_at: Callable[[], float | None] | None = None
        """When the embedded worker last showed life; None if there is no worker in this process."""
        self.stages: Sequence[str] = ()
        """The stages that the pipeline has."""

    async def probe(self) -> None:
        """Write once, in a unit of its own; raises what the store raises."""
        await self._store.write(write_probe)
        self._probed_at = self._monotonic()

    async def probe_now_and_then(self) -> None:
        """Write again and again until cancelled; a failure shows in the age of the last success."""
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            try:
                await self.probe()
            except CabinetError as error:
                event(_log, logging.WARNING, "probe_failed", reason=error.message)

    def look(self) -> Ready:
        """Tell whether the process is ready, without touching the database."""
        checks = {
            "database": self._age(self._probed_at, "last write"),
            "migrations": "no schema yet" if self._probed_at is None else "ok: looked at when the process started",
        }
        if self.worker_seen_at is not None:
            checks["worker"] = self._age(self.worker_seen_at(), "last sign of life")
        checks["draining"] = "yes: the process is stopping" if self.is_draining else "ok"
        return Ready(all(check.startswith("ok") for check in checks.values()), checks)

    def _age(self, moment: float | None, what: str) -> str:
        if moment is None:
            return f"no {what} yet"
        age = self._monotonic() - moment
        return f"ok: {what} {age:.1f} s ago" if age <= STALE_SECONDS else f"{what} {age:.1f} s ago"


async def detail(work: UnitOfWork, actor: Actor | None, stages: Sequence[str]) -> dict[str, int] | None:
    """Return the tasks that wait in stages which the pipeline does not have, by stage; only to admins."""
    if actor is None or actor.role.level < Role.ADMIN.level:
        return None
    return await work.jobs.unknown_stages(stages)
