"""An event loop in a thread of its own, for tests that have none."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from hauberk.running import loop_factory

T = TypeVar("T")


class LoopThread:
    """Starts with the first thing to run; `close` when nothing runs any more."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._over: asyncio.Event

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns, or raises."""
        if self._thread is None:
            begun: Future[None] = Future()
            self._thread = threading.Thread(
                target=self._live, args=(begun,), name="hauberk-test", daemon=True
            )
            self._thread.start()
            begun.result()
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join()
            self._thread = None

    def _live(self, begun: "Future[None]") -> None:
        async def live() -> None:
            self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
            begun.set_result(None)
            await self._over.wait()

        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(live())
