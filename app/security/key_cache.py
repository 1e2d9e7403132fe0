"""The cache of a provider's keys: one refresh at a time, cool-downs, and a bound on how old keys may grow."""

import asyncio
import contextvars
import logging
import math
from collections.abc import Awaitable, Callable

from app.errors import IdentityProviderUnavailable
from app.log import event
from app.security.jwks import KeysNotHad, ProviderKey

REFRESH_SECONDS = 300
"""Younger keys are used as they are; older ones still are while they are fetched anew."""

COOLDOWN_SECONDS = 10
"""How long after the beginning of an attempt the next one may begin; it bounds what forged tokens can cause."""

STALE_SECONDS = 3_600
"""Keys that were fetched longer ago are not trusted: the provider may have withdrawn them."""

_log = logging.getLogger(__name__)


class KeyCache:
    """The keys of one provider, fetched when they are first asked for; `monotonic` counts seconds."""

    def __init__(
        self, fetch: Callable[[], Awaitable[tuple[ProviderKey, ...]]], *, monotonic: Callable[[], float]
    ) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._keys: tuple[ProviderKey, ...] = ()
        self._fetched_at = -math.inf
        self._attempted_at = -math.inf
        self._has_failed = False
        self._is_closed = False
        self._running: asyncio.Task[None] | None = None

    async def find(self, key_id: str | None) -> ProviderKey | None:
        """Return the key of that name, or, without a name, the only one there is; None if there is no such key.

        Raises IdentityProviderUnavailable if that cannot be known now. Of two keys with the same name the first counts.
        """
        if self._age > STALE_SECONDS:
            await self._refreshed()
        elif self._age >= REFRESH_SECONDS:
            self._refresh()
        if self._age > STALE_SECONDS:
            raise IdentityProviderUnavailable
        if key_id is None:
            return self._keys[0] if len(self._keys) == 1 else None
        return self._named(key_id) or await self._named_anew(key_id)

    async def successor(self, key: ProviderKey) -> ProviderKey | None:
        """Return the only key there is if it has taken the place of another meanwhile; else None."""
        await self._refreshed()
        return self._keys[0] if len(self._keys) == 1 and self._keys[0] != key else None

    async def close(self) -> None:
        """End a refresh that runs; whoever waits for it is answered, and no other begins."""
        self._is_closed = True
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})

    @property
    def _age(self) -> float:
        return self._monotonic() - self._fetched_at

    def _named(self, key_id: str) -> ProviderKey | None:
        return next((key for key in self._keys if key.key_id == key_id), None)

    async def _named_anew(self, key_id: str) -> ProviderKey | None:
        """Look for a key that is not known yet; whether it exists is unknown while the provider cannot be reached."""
        await self._refreshed()
        found = self._named(key_id)
        if found is None and self._has_failed:
            raise IdentityProviderUnavailable
        return found

    async def _refreshed(self) -> None:
        """Wait for the refresh that runs or may begin now; who is cancelled meanwhile takes it from nobody."""
        running = self._refresh()
        if running is not None:
            await asyncio.wait({running})

    def _refresh(self) -> asyncio.Task[None] | None:
        """Return the refresh that runs, or begin one unless it is too early."""
        if self._running is not None or self._is_closed:
            return self._running
        now = self._monotonic()
        if now - self._attempted_at < COOLDOWN_SECONDS:
            return None
        self._attempted_at = now
        # In a context of its own: it serves many requests, and its log lines bear the id of none.
        self._running = asyncio.create_task(self._attempt(), name="identity_provider", context=contextvars.Context())
        self._running.add_done_callback(self._ended)
        return self._running

    def _ended(self, _running: asyncio.Task[None]) -> None:
        self._running = None

    async def _attempt(self) -> None:
        self._has_failed = True
        try:
            keys = await self._fetch()
        except KeysNotHad as error:
            event(_log, logging.WARNING, "identity_provider_failed", kind=error.kind, address=error.url,
                  detail=error.detail)  # fmt: skip
        except Exception as error:  # a fault of our own must not end as an unread exception of a task
            event(_log, logging.ERROR, "identity_provider_failed", kind="fault", exc_info=error)
        else:
            self._take(keys)

    def _take(self, keys: tuple[ProviderKey, ...]) -> None:
        has_changed = set(keys) != set(self._keys)
        self._keys, self._fetched_at, self._has_failed = keys, self._attempted_at, False
        if has_changed:
            event(_log, logging.INFO, "identity_provider_keys", keys=len(keys))
