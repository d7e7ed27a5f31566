"""What core is asked to do for a call, in one go, and how its end is waited for."""

import asyncio
from collections.abc import Callable, Generator
from typing import Any, NoReturn

from grpc._cython import cygrpc  # type: ignore[attr-defined]

_execute = cygrpc.execute_batch


class Batch:
    """One of them. Whoever waits for it may stop waiting: it goes on.

    asyncio.shield promises the same, for a task and two futures more. This speaks what asyncio's tasks and
    futures speak with one another: see asyncio.isfuture, and Task.__step.
    """

    __slots__ = ("_asyncio_future_blocking", "_batch", "_loop", "_wake", "done")

    def __init__(self, state: Any, operations: tuple[Any, ...], loop: asyncio.AbstractEventLoop) -> None:
        """Raises ExecuteBatchError where core does not even begin."""
        self._batch = _execute(state, operations, loop)
        self._loop = loop
        self._wake: tuple[Callable[[Any], None], Any] | None = None
        self.done: asyncio.Future[None] = self._batch.send(None)
        self.done._asyncio_future_blocking = False

    def __await__(self) -> Generator[Any, None, None]:
        """Raises ExecuteBatchError where core could not do it."""
        if not self.done.done():
            self._asyncio_future_blocking = True
            yield self
        try:
            self._batch.send(None)
        except StopIteration:
            return

    def ended(self) -> bool:
        """Let the operations have what came of them, once it is done; whether core could do it."""
        try:
            self._batch.send(None)
        except StopIteration:
            return True
        except cygrpc.ExecuteBatchError:
            pass
        return False

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, wake: Callable[[Any], None], *, context: Any) -> None:
        """Called by the task that begins to wait."""
        self._wake = (wake, context)
        self.done.add_done_callback(wake, context=context)

    def cancel(self, msg: str | None = None) -> bool:
        """Wake the task, and the task alone; False if it is about to wake anyway."""
        if self.done.done() or self._wake is None:
            return False
        wake, context = self._wake
        self._wake = None
        self.done.remove_done_callback(wake)
        self._loop.call_soon(wake, self, context=context)
        return True

    def result(self) -> NoReturn:
        """What the woken task asks for: it was cancelled."""
        raise asyncio.CancelledError


def forgotten(done: "asyncio.Future[None]") -> None:
    """Take note of a batch that nobody waits for any more: it may fail, and asyncio would log that."""
    if not done.cancelled():
        done.exception()
