"""A value that changes, and a way to wait for the next.

Values are replaced whole and never mutated, so a reader needs no lock: it takes `.value` and keeps it.
Writers may sit in any thread; waiters are woken in their own event loop. A slow waiter sees the latest
value, not each one.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Generic, TypeVar

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Watch(Generic[T]):
    """One shared value with a version that grows by one at each `set`."""

    def __init__(self, value: T) -> None:
        self._state = (1, value)
        self._lock = threading.Lock()
        self._waiters: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}
        self._callbacks: dict[object, Callable[[T], None]] = {}

    @property
    def value(self) -> T:
        return self._state[1]

    @property
    def version(self) -> int:
        return self._state[0]

    @property
    def versioned(self) -> tuple[int, T]:
        """Version and value of one instant."""
        return self._state

    def set(self, value: T) -> None:
        """Replace the value, wake every waiter, call every subscriber in this thread.

        A subscriber that raises is logged and does not stop the others.
        """
        with self._lock:
            self._state = (self._state[0] + 1, value)
            waiters, self._waiters = self._waiters, {}
            callbacks = list(self._callbacks.values())
        for future, loop in waiters.items():
            _wake(future, loop)
        for callback in callbacks:
            try:
                callback(value)
            except Exception:
                _log.exception("a subscriber of a watch failed")

    async def next(self, seen_version: int) -> int:
        """Wait until the version is later than `seen_version`, and return it."""
        while True:
            loop = asyncio.get_running_loop()
            with self._lock:
                if self._state[0] > seen_version:
                    return self._state[0]
                future: asyncio.Future[None] = loop.create_future()
                self._waiters[future] = loop
            try:
                await future
            finally:
                with self._lock:
                    self._waiters.pop(future, None)

    async def changes(self) -> AsyncGenerator[T, None]:
        """The present value at once, then each later one; those a busy reader missed are skipped."""
        while True:
            version, value = self._state
            yield value
            await self.next(version)

    def subscribe(self, callback: Callable[[T], None]) -> Callable[[], None]:
        """Call `callback(value)` at each `set`, in the thread that sets. Returns what undoes it."""
        key = object()
        with self._lock:
            self._callbacks[key] = callback

        def unsubscribe() -> None:
            with self._lock:
                self._callbacks.pop(key, None)

        return unsubscribe


def _wake(future: asyncio.Future[None], loop: asyncio.AbstractEventLoop) -> None:
    def resolve() -> None:
        if not future.done():
            future.set_result(None)

    with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits there any more
        loop.call_soon_threadsafe(resolve)
