"""One outgoing call as its caller holds it: core's call, whose errors say more.

Four things are added. A hint is appended to the details of a failed call, where there is one to give. What
goes wrong in making the requests reaches the caller. A call that ends because our own channel was closed
under it raises UNAVAILABLE: core raises CancelledError, which looks to the caller as if its own task were
being cancelled. And so does one that the server's core broke off, as a server does that leaves while the call
is on its way: core says CANCELLED, as if somebody had wished it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from typing import Any, NoReturn

import grpc
from grpc.aio import AioRpcError

from hauberk.interceptors.errors import ChannelClosed, Draining, rpc_error
from hauberk.interceptors.hops import hop

_NOT_BEGUN = "Failed grpc_call_start_batch"
"""How core's refusal to begin an operation starts, two writes at once for one."""

BROKEN_OFF = "CANCELLED"
"""The details core gives a stream that was reset; a method that ends its call so sets its own, or none."""

Explain = Callable[[AioRpcError], str | None]
"""What a failed call's error means here, if one can tell."""


class Requests:
    """The requests of a call as its caller makes them, and what the making raised: core would drop that."""

    def __init__(self, made: Any) -> None:
        self._made = made
        self.error: Exception | None = None

    async def __aiter__(self) -> AsyncGenerator[Any, None]:
        try:
            if hasattr(self._made, "__aiter__"):
                async for request in self._made:
                    yield request
            else:
                for request in self._made:
                    yield request
        except Exception as error:
            self.error = error
            raise


class TimedOut(AioRpcError):
    """A call that had no time left. `hop` says which it was, and what it had: see hops.py."""

    hop = ""


class Outgoing(grpc.aio.Call):
    """What calls of all four shapes have in common. Everything not said here is core's own."""

    def __init__(
        self, call: Any, explain: Explain | None, method: str = "", budget_s: float | None = None
    ) -> None:
        """`call` is of `method`, and has `budget_s` seconds, None without a deadline."""
        self.requests: Requests | None = None
        self._call = call
        self._explain = explain
        self._method = method
        self._budget_s = budget_s
        self._cancelled = False

    def cancelled(self) -> bool:
        return bool(self._call.cancelled())

    def done(self) -> bool:
        return bool(self._call.done())

    def cancel(self) -> bool:
        self._cancelled = True
        return bool(self._call.cancel())

    def time_remaining(self) -> float | None:
        return self._call.time_remaining()  # type: ignore[no-any-return]

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._call.add_done_callback(lambda _: callback(self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return await self._call.initial_metadata()  # type: ignore[no-any-return]

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return await self._call.trailing_metadata()  # type: ignore[no-any-return]

    async def code(self) -> grpc.StatusCode:
        return await self._call.code()  # type: ignore[no-any-return]

    async def details(self) -> str:
        return await self._call.details()  # type: ignore[no-any-return]

    async def debug_error_string(self) -> str:
        return await self._call.debug_error_string()  # type: ignore[no-any-return]

    async def wait_for_connection(self) -> None:
        try:
            await self._call.wait_for_connection()
        except (AioRpcError, asyncio.CancelledError) as error:
            self._failed(error)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._call!r}>"

    def _failed(self, error: AioRpcError | asyncio.CancelledError) -> NoReturn:
        """Raise what the caller should see for `error`."""
        if isinstance(error, AioRpcError):
            raise self._explained(error) from None
        if self.requests is not None and self.requests.error is not None:
            raise self.requests.error
        task = asyncio.current_task()
        if self._cancelled or (task is not None and task.cancelling()):
            error.hop = hop(self._method, self._budget_s)  # type: ignore[attr-defined]  # see hops.py
            raise error
        raise rpc_error(ChannelClosed("channel was closed while the call was in flight")) from error

    def _explained(self, error: AioRpcError) -> AioRpcError:
        """`error` with all that is known of it here."""
        if error.code() is grpc.StatusCode.CANCELLED and error.details() == BROKEN_OFF:
            broken_off = Draining("the server broke the call off: it is leaving", reason="BROKEN_OFF")
            return rpc_error(broken_off).with_traceback(error.__traceback__)
        hint = None if self._explain is None else self._explain(error)
        timed_out = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if not hint and not timed_out:
            return error
        explained = (TimedOut if timed_out else AioRpcError)(
            error.code(),
            error.initial_metadata(),
            error.trailing_metadata(),
            details=f"{error.details()} ({hint})" if hint else error.details(),
            debug_error_string=error.debug_error_string(),
        )
        if isinstance(explained, TimedOut):
            explained.hop = hop(self._method, self._budget_s)
        return explained.with_traceback(error.__traceback__)


class _OneReply(Outgoing):
    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from self._call.__await__())
        except (AioRpcError, asyncio.CancelledError) as error:
            self._failed(error)


class _ManyReplies(Outgoing):
    def __init__(self, *call: Any) -> None:
        super().__init__(*call)
        self._replies: AsyncIterator[Any] | None = None

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._replies is None:
            self._replies = aiter(self._call)
        return self

    async def __anext__(self) -> Any:
        assert self._replies is not None  # noqa: S101 - async for asks for the iterator first
        try:
            return await anext(self._replies)
        except (AioRpcError, asyncio.CancelledError) as error:
            self._failed(error)

    async def read(self) -> Any:
        try:
            return await self._call.read()
        except (AioRpcError, asyncio.CancelledError) as error:
            self._failed(error)


class _ManyRequests(Outgoing):
    def __init__(self, *call: Any) -> None:
        super().__init__(*call)
        if hasattr(self._call, "_cython_call"):
            self._call._cython_call = _Truthful(self._call._cython_call)

    async def write(self, request: Any) -> None:
        try:
            await self._call.write(request)
        except (AioRpcError, asyncio.CancelledError) as error:
            self._failed(error)

    async def done_writing(self) -> None:
        try:
            await self._call.done_writing()
        except (AioRpcError, asyncio.CancelledError) as error:
            self._failed(error)


class _Truthful:
    """Core's inner call, which ends with the server's status alone.

    A write that meets the end of its call fails in core, and grpc.aio then makes the status INTERNAL,
    "Internal error from Core": a caller refused at once saw that, not the refusal, one time in four.
    Left alone, it waits for the true status, which is on its way.
    """

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def set_internal_error(self, error: str) -> None:
        """Called by grpc.aio for a write that failed; one that core never began leaves the call alive."""
        if error.startswith(_NOT_BEGUN):
            self._call.set_internal_error(error)


class UnaryUnary(_OneReply, grpc.aio.UnaryUnaryCall[Any, Any]):
    """A call with one request and one reply: await it."""


class UnaryStream(_ManyReplies, grpc.aio.UnaryStreamCall[Any, Any]):
    """A call with one request and many replies: iterate over it, or read()."""


class StreamUnary(_OneReply, _ManyRequests, grpc.aio.StreamUnaryCall[Any, Any]):
    """A call with many requests and one reply."""


class StreamStream(_ManyReplies, _ManyRequests, grpc.aio.StreamStreamCall[Any, Any]):
    """A call with many requests and many replies."""
