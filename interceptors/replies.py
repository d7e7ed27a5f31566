"""The context of a method that streams its replies: core's own, but a write is never left half done.

A write waits for as long as its caller does not read. Cancelled, by a deadline say, it stays begun in
core, and core takes no status for a call that has a write begun: the call would never end, and its caller
never hear. So a write goes on behind the back of whoever stopped waiting for it, and the status waits for
it.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, NoReturn

import grpc

from hauberk.interceptors.servant import Context


class Replies:
    """Stands in for `context`; what is not said here is the context's own."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._left: asyncio.Task[None] | None = None
        """The rest of a write that nobody waits for any more."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        if self._left is not None:
            await self.settle()
        write = _Write(self._context.write(message))
        try:
            await write
        except asyncio.CancelledError:
            if write.waits_for is not None:
                self._left = asyncio.ensure_future(write.rest())
                self._left.add_done_callback(_taken_note_of)
            raise

    async def abort(self, *status: Any, **more: Any) -> NoReturn:
        await self.settle()
        await self._context.abort(*status, **more)

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        await self.settle()
        await self._context.abort_with_status(status)

    async def settle(self) -> None:
        """Wait for the write that was left, if one was."""
        if self._left is not None:
            await asyncio.wait((self._left,))
            self._left = None


class _Write:
    """A write, run in the task that awaits it; cancelling that task leaves it where it is.

    asyncio.shield promises the same, for a task and two futures more.
    """

    __slots__ = ("_write", "waits_for")

    def __init__(self, write: Coroutine[Any, Any, None]) -> None:
        self._write = write
        self.waits_for: asyncio.Future[Any] | None = None

    def __await__(self) -> Generator[Any, None, None]:
        while True:
            try:
                self.waits_for = self._write.send(None)
            except StopIteration:
                return
            yield _Shielded(self.waits_for)
            self.waits_for = None

    async def rest(self) -> None:
        """What is still to do of a write whose task was cancelled."""
        assert self.waits_for is not None  # noqa: S101 - asked for by `Replies` alone, which looks first
        await asyncio.wait((self.waits_for,))
        await self


class _Shielded:
    """What a task waits for in place of a future: woken by it, but cancelled alone.

    It speaks what asyncio's tasks and futures speak with one another: see asyncio.isfuture, and Task.__step.
    """

    __slots__ = ("_asyncio_future_blocking", "_future", "_wake")

    def __init__(self, future: "asyncio.Future[Any]") -> None:
        self._asyncio_future_blocking = True
        self._future = future
        self._wake: tuple[Callable[[Any], None], Any] | None = None

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._future.get_loop()

    def add_done_callback(self, wake: Callable[[Any], None], *, context: Any) -> None:
        """Called by the task that begins to wait."""
        self._wake = (wake, context)
        self._future.add_done_callback(wake, context=context)

    def cancel(self, msg: str | None = None) -> bool:
        """Wake the task, and the task alone; False if it is about to wake anyway."""
        if self._future.done() or self._wake is None:
            return False
        wake, context = self._wake
        self._wake = None
        self._future.remove_done_callback(wake)
        self.get_loop().call_soon(wake, self, context=context)
        return True

    def result(self) -> NoReturn:
        """What the woken task asks for: it was cancelled."""
        raise asyncio.CancelledError


def _taken_note_of(write: asyncio.Task[None]) -> None:
    """A write nobody waits for any more may fail as its caller goes; asyncio would log that as forgotten."""
    if not write.cancelled():
        write.exception()
