"""One call as core's asyncio server holds it: the context of its method; how it is read, answered, ended.

grpc.aio spends two tasks and a batch of its own on each call before its method runs, to hear whether the
caller leaves. Here that is asked together with the status, or once the method waits for something: what
answers at once is over before anybody could leave. Nor does a call leave anything for the garbage collector.

A write waits for as long as its caller does not read. Cancelled, by a deadline say, it stays begun in core,
and core takes no status for a call that has a write begun: the call would never end, and its caller never
hear. So a write goes on behind the back of whoever stopped waiting for it, and the status waits for it.

This reaches below grpc.aio's public face. Where grpcio has changed so much that it cannot, `check_reach` says
so, and no server is made.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, NoReturn

import grpc
import grpc._compression
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from hauberk.interceptors.batch import Batch, forgotten

_log = logging.getLogger(__name__)

Loop = asyncio.AbstractEventLoop

CUT_OFF_S = 0.005
"""How long after the last request core may take to say that there would have been more."""
UNDER_WAY_S = 0.005
"""What brings a stream of requests is refused no sooner than this after it has come: grpc.aio's client
makes INTERNAL of a status that arrives before its first request has left.
"""

_NO_FLAGS = 0
_PARTS = (
    "AbortError",
    "EOF",
    "ExecuteBatchError",
    "ReceiveCloseOnServerOperation",
    "ReceiveMessageOperation",
    "SendInitialMetadataOperation",
    "SendMessageOperation",
    "SendStatusFromServerOperation",
    "UsageError",
    "WriteFlag",
    "_ServicerContext",
    "execute_batch",
    "install_context_from_request_call_event_aio",
)

_execute = cygrpc.execute_batch
_ReceiveClose = cygrpc.ReceiveCloseOnServerOperation
_ReceiveMessage = cygrpc.ReceiveMessageOperation
_SendInitialMetadata = cygrpc.SendInitialMetadataOperation
_SendMessage = cygrpc.SendMessageOperation
_SendStatus = cygrpc.SendStatusFromServerOperation
_LAST_STATUS = 16
_UNKNOWN = 2


def check_reach() -> None:
    """Raise AttributeError if this grpcio is not built as we need it; nothing of it is made before."""
    for part in _PARTS:
        getattr(cygrpc, part)
    for part in ("_request_call", "_request_registered_call", "_make_request_call_future"):
        getattr(cygrpc.AioServer, part)


class AioExchange(cygrpc._ServicerContext):  # type: ignore[misc]  # cygrpc is compiled and has no stubs
    """The context that the method is given. Everything not said here is core's own."""

    __slots__ = (
        "_aborted",
        "_callbacks",
        "_compression",
        "_loop_of_call",
        "_metadata_sent",
        "_read",
        "_state",
        "_uncompressed",
        "_under_way_at",
        "_watched",
        "_write",
        "_writing",
        "finished",
        "left",
        "task",
    )

    def __init__(
        self, state: Any, read: Callable[[bytes], Any], write: Callable[[Any], bytes], loop: Loop
    ) -> None:
        self._state = state
        self._read = read
        self._write = write
        self._loop_of_call = loop
        self.task: asyncio.Task[Any]
        """What serves the call."""
        self._aborted = False
        self._callbacks: list[Callable[[], None]] | None = None
        self._compression: Any = None
        self._uncompressed = False
        self._writing: Batch | None = None
        """The last write, which may go on though nobody waits for it any more."""
        self._metadata_sent = False
        self._under_way_at = 0.0
        """Monotonic seconds; only from then on may it be refused."""
        self._watched = False
        self.finished = False
        """Whether the call has its status."""
        self.left = False
        """Whether its caller has left."""

    # What the method calls.

    async def read(self) -> Any:
        """The next message, or `grpc.aio.EOF`."""
        if self.finished:
            self._check_goes_on()
        received = _ReceiveMessage(_NO_FLAGS)
        try:
            await _execute(self._state, (received,), self._loop_of_call)
        except cygrpc.ExecuteBatchError:
            _log.debug("nothing was received")
        if self.finished:
            self._check_goes_on()
        message = received.message()
        return cygrpc.EOF if message is None else self._read(message)

    async def write(self, message: Any) -> None:
        if self._writing is not None:
            await self.settle()
        if self.finished:
            self._check_goes_on()
        operation = _SendMessage(self._write(message), self._flags())
        operations = (operation,) if self._metadata_sent else (self._initial_metadata(), operation)
        self._writing = batch = Batch(self._state, operations, self._loop_of_call)
        self._metadata_sent = True
        try:
            await batch
        except asyncio.CancelledError:
            batch.done.add_done_callback(forgotten)
            raise

    async def send_initial_metadata(self, metadata: Any) -> None:
        self._check_goes_on()
        if self._metadata_sent:
            raise cygrpc.UsageError("Send initial metadata failed: already sent")
        self._metadata_sent = True
        operation = _SendInitialMetadata(
            grpc._compression.augment_metadata(tuple(metadata), self._compression) or (), _NO_FLAGS
        )
        await _execute(self._state, (operation,), self._loop_of_call)

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        if self._aborted:
            raise cygrpc.UsageError("Abort already called!")
        if code in (grpc.StatusCode.OK, 0):
            raise ValueError("abort() needs a status other than OK")
        if trailing_metadata or not self.trailing_metadata():
            self.set_trailing_metadata(trailing_metadata)
        if details or not self.details():
            self.set_details(details)
        self.set_code(code)
        self._aborted = True
        await self.finish()
        raise cygrpc.AbortError("Locally aborted.")

    async def abort_with_status(self, status: Any) -> NoReturn:
        await self.abort(status.code, status.details, status.trailing_metadata)

    def set_compression(self, compression: Any) -> None:
        if self._metadata_sent:
            raise RuntimeError("Compression setting must be specified before sending initial metadata")
        self._compression = compression

    def disable_next_message_compression(self) -> None:
        self._uncompressed = True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(partial(callback, self))

    def done(self) -> bool:
        return self.finished

    # What the edge calls.

    def is_under_way(self) -> None:
        """It brings a stream of requests, and has just arrived."""
        self._under_way_at = time.monotonic() + UNDER_WAY_S

    def watch(self) -> None:
        """Cancel the task that runs this when the caller leaves, unless the call has its status by then."""
        if self._watched or self.finished:
            return
        self._watched = True
        closed = _ReceiveClose(_NO_FLAGS)
        batch = Batch(self._state, (closed,), self._loop_of_call)
        batch.done.add_done_callback(partial(self._closed, batch, closed))

    def watch_soon(self) -> None:
        """Do so if the method waits for something."""
        self._loop_of_call.call_soon(self.watch)

    def has_left(self) -> None:
        """Its caller has: nobody is to hear anything any more."""
        self.left = self.finished = True

    async def may_have_left(self) -> None:
        """Give core the time to say that the caller has left."""
        self.watch()
        await asyncio.sleep(CUT_OFF_S)

    def begin(self) -> None:
        """Make the context of core that of the task which serves the call, and which runs this."""
        cygrpc.install_context_from_request_call_event_aio(self._state)

    def ends(self, code: Any, details: str, trailers: Any) -> None:
        """Set the status that `finish` is to give the call."""
        self.set_code(code)
        self.set_details(details)
        self.set_trailing_metadata(trailers)

    async def messages(self) -> AsyncIterator[Any]:
        """The messages as they come, ended only when nothing says that they were cut off.

        Where the caller cancels or its connection is lost, core first ends the requests, as if that were all,
        and says so a moment later: too late for a method that by then has kept what came.
        """
        while (message := await self.read()) is not cygrpc.EOF:
            yield message
        await asyncio.sleep(CUT_OFF_S)

    async def settle(self) -> None:
        """Wait for the write that was left, if one was."""
        while self._writing is not None and not self._writing.done.done():
            await asyncio.wait((self._writing.done,))

    async def finish(self, reply: bytes | None = None) -> None:
        """Give the call the status that was set, and its one reply together with it.

        Raises whatever core does where the method set what cannot be sent; nothing is then. Who has left
        hears nothing, which is no error.
        """
        self.finished = True
        if self._writing is not None:
            await self.settle()
        number = _number(self.code())
        if number and self._under_way_at:
            await asyncio.sleep(self._under_way_at - time.monotonic())
        status = _SendStatus(self.trailing_metadata(), number, self.details(), _NO_FLAGS)
        operations: tuple[Any, ...] = (status,) if self._watched else (status, _ReceiveClose(_NO_FLAGS))
        if reply is not None:
            operations = (_SendMessage(reply, self._flags()), *operations)
        if not self._metadata_sent:
            operations = (self._initial_metadata(), *operations)
        try:
            await _execute(self._state, operations, self._loop_of_call)
        except cygrpc.ExecuteBatchError:
            self.left = True

    def over(self) -> None:
        """Do what the method wished to be done when its call has ended."""
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            try:
                callback()
            except Exception:
                _log.exception("a done callback failed")

    def _closed(self, batch: "Batch", closed: Any, _: Any) -> None:
        if batch.ended() and closed.cancelled() and not self.finished:
            self.left = True
            self.task.cancel()

    def _initial_metadata(self) -> Any:
        return _SendInitialMetadata(
            self._compression and grpc._compression.augment_metadata((), self._compression), _NO_FLAGS
        )

    def _flags(self) -> int:
        if not self._uncompressed:
            return _NO_FLAGS
        self._uncompressed = False
        return int(cygrpc.WriteFlag.no_compress)

    def _check_goes_on(self) -> None:
        if self._aborted:
            raise cygrpc.AbortError("Locally aborted.")
        if self.finished:
            raise cygrpc.UsageError("RPC already finished.")


def _number(code: Any) -> int:
    """What core calls a status that was set."""
    if code is None:
        return 0
    number = code if isinstance(code, int) else getattr(code, "value", (_UNKNOWN,))[0]
    return int(number) if 0 <= number <= _LAST_STATUS else _UNKNOWN
