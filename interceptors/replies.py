"""The context of a method that streams its replies: core's own, but a write is never left half done.

A write waits for as long as its caller does not read. Cancelled, by a deadline say, it stays begun in
core, and core takes no status for a call that has a write begun: the call would never end, and its caller
never hear. So a write goes on behind the back of whoever stopped waiting for it, and the status waits for
it.
"""

import asyncio
from typing import Any, NoReturn

import grpc

from hauberk.interceptors.servant import Context


class Replies:
    """Stands in for `context`; what is not said here is the context's own."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._writing: asyncio.Task[None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        await self.settle()
        self._writing = asyncio.ensure_future(self._context.write(message))
        self._writing.add_done_callback(_taken_note_of)
        await asyncio.shield(self._writing)
        self._writing = None

    async def abort(self, *status: Any, **more: Any) -> NoReturn:
        await self.settle()
        await self._context.abort(*status, **more)

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        await self.settle()
        await self._context.abort_with_status(status)

    async def settle(self) -> None:
        """Wait for the write that was left, if one was."""
        if self._writing is not None:
            await asyncio.wait((self._writing,))
            self._writing = None


def _taken_note_of(write: asyncio.Task[None]) -> None:
    """A write nobody waits for any more may fail as its caller goes; asyncio would log that as forgotten."""
    if not write.cancelled():
        write.exception()
