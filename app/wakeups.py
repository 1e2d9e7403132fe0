"""Wake-ups inside one process: who waits is told after the commit; polling stays the truth."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Wakeups:
    """Signals that shorten waiting. None of them carries meaning: whoever wakes looks at the database."""

    def __init__(self) -> None:
        self._work = asyncio.Event()
        self._cancels = asyncio.Event()
        self._rescues = asyncio.Event()
        self._watchers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self.is_stopping = False

    def work_added(self) -> None:
        """Wake the worker of this process."""
        self._work.set()

    def cancel_asked(self) -> None:
        """Let the worker of this process look which of its tasks were cancelled."""
        self._cancels.set()

    def rescue_asked(self) -> None:
        """Let the worker of this process look which dead letters are to be rescued."""
        self._rescues.set()

    async def wait_for_work(self, timeout_seconds: float) -> None:
        """Return when work was added since the last call, or when the time is up."""
        await _set_within(self._work, timeout_seconds)

    async def wait_for_cancel(self, timeout_seconds: float) -> None:
        """Return when a running task was cancelled since the last call, or when the time is up."""
        await _set_within(self._cancels, timeout_seconds)

    async def wait_for_rescue(self, timeout_seconds: float) -> None:
        """Return when a rescue was asked for since the last call, or when the time is up."""
        await _set_within(self._rescues, timeout_seconds)

    @contextmanager
    def watch(self, task_id: str) -> Iterator[asyncio.Event]:
        """Hand out an event that is set when the task has ended; watch first, then read."""
        changed = asyncio.Event()
        self._watchers[task_id].add(changed)
        try:
            yield changed
        finally:
            self._watchers[task_id].discard(changed)
            if not self._watchers[task_id]:
                del self._watchers[task_id]

    def task_ended(self, task_id: str) -> None:
        """Wake those who wait for that task's end."""
        for changed in self._watchers.get(task_id, ()):
            changed.set()

    def stop(self) -> None:
        """The process is about to stop: wake everybody, nobody waits any more."""
        self.is_stopping = True
        self._work.set()
        for watchers in self._watchers.values():
            for changed in watchers:
                changed.set()


async def _set_within(signal: asyncio.Event, timeout_seconds: float) -> None:
    try:
        async with asyncio.timeout(timeout_seconds):
            await signal.wait()
    except TimeoutError:
        return
    finally:
        signal.clear()
