"""One guarded method, as asyncio core calls it: checks first, then the message, then the method until its
deadline.

Every method is given to core as one that takes a stream of requests. Core's own edge for single requests
waits for the message for ever, and so never answers a call that ends without one; and it parses the message
before anybody looks who sent it.
"""

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Protocol, cast

import grpc

from hauberk.interceptors.call import Call, enter_call
from hauberk.interceptors.deadline import Deadline
from hauberk.interceptors.ending import last_word, refusal_of, told_of
from hauberk.interceptors.errors import Draining, IdentityUnfit, MemoryShort, MessageMissing, Refused
from hauberk.interceptors.in_flight import InFlight
from hauberk.interceptors.pipeline import Pipeline
from hauberk.interceptors.records import Records
from hauberk.interceptors.replies import Replies
from hauberk.interceptors.servant import Context, Servant, has_failed
from hauberk.interceptors.standing import Standing
from hauberk.interceptors.tracing import TraceContext

_log = logging.getLogger(__name__)

CUT_OFF_S = 0.005
"""How long after the last request core may take to say that there would have been more."""

arrived: contextvars.ContextVar[grpc.HandlerCallDetails] = contextvars.ContextVar("hauberk_arrived")
"""What core told of the call when it asked for the method: in the context, metadata would be parsed once
more.
"""


class Ends(Protocol):
    """The calls being served, which can be ended all at once."""

    def end(self, why: Refused) -> None: ...


class Door:
    """What the methods of one server share."""

    __slots__ = (
        "draining",
        "first_message_s",
        "in_flight",
        "memory_short",
        "records",
        "standing",
        "trace_ratio",
        "unfit",
    )

    def __init__(
        self,
        in_flight: InFlight,
        standing: Ends,
        records: Records | None,
        first_message_s: float,
        trace_ratio: float,
    ) -> None:
        """Of the calls that bring no trace, `trace_ratio` are sampled."""
        self.in_flight = in_flight
        self.standing = standing
        self.records = records
        self.first_message_s = first_message_s
        self.trace_ratio = trace_ratio
        self.draining = False
        self.memory_short = False
        self.unfit = ""
        """Why our identity is of no use at the moment; empty: it is good."""

    @property
    def closed(self) -> Refused | None:
        """Why no call may begin now; None: they may."""
        if self.unfit:
            return IdentityUnfit(self.unfit)
        if self.draining:
            return _leaving()
        if self.memory_short:
            return MemoryShort("this process is short of memory")
        return None

    def clear(self) -> None:
        """End every call being served, UNAVAILABLE, and let none begin."""
        self.draining = True
        self.standing.end(_leaving())


class Edge:
    """One guarded method."""

    __slots__ = ("_door", "_pipeline", "_servant", "_standing", "_takes_one")

    def __init__(self, door: Door, standing: Standing, pipeline: Pipeline, servant: Servant) -> None:
        self._door = door
        self._standing = standing
        self._pipeline = pipeline
        self._servant = servant
        self._takes_one = not pipeline.policy.request_streaming

    async def reply_many(self, requests: Any, context: Context) -> None:
        """Serve a call whose replies go out through the context."""
        replies = Replies(context)
        await self.reply_once(requests, cast(Context, replies), replies)

    async def reply_once(self, requests: Any, context: Context, replies: Replies | None = None) -> bytes:
        """Serve a call with one reply, which core sends together with the status; or with many `replies`.

        One coroutine around another costs each call a microsecond or two: there are as few as can be read.
        """
        call = _arrival(self._pipeline, context, self._door.trace_ratio)
        enter_call(call)
        reason = None
        try:
            reply = await self._run(call, requests, context)
            if replies is not None:
                await replies.settle()
            call.sent += len(reply)
            self._sends(call, reply)
            return reply
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | GeneratorExit):  # the end of the process, or of its loop
                raise
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            if context.done():
                return _already_ended(error, call)
            refusal = refusal_of(error, call)
            reason = refusal.logged if isinstance(refusal, Refused) else "INTERNAL"
            try:
                if replies is not None:
                    await replies.settle()
                # Before the caller hears, whose next call may follow at once.
                self._door.in_flight.leave(call)
                await _abort(context, *last_word(refusal, call, context))
            finally:
                del refusal  # or it and this frame would hold one another, and all that the call brought
            return b""
        finally:
            self._door.in_flight.leave(call)
            if self._door.records is not None:
                self._door.records.end(call, _status(context), reason)

    def _sends(self, call: Call, reply: bytes) -> None:
        """Core sends `reply` in this task, which ends when it has."""
        sent = self._door.in_flight.send(call, len(reply))
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - core runs each call in one
        task.add_done_callback(lambda _: sent())

    async def _run(self, call: Call, requests: Any, context: Context) -> bytes:
        """Admit the call and run the method for as long as its peer holds and its deadline lets it.

        Everything it raises ends the call.
        """
        if closed := self._door.closed:
            raise closed
        self._pipeline.admit(call)
        self._standing.enter(call)
        try:
            request = await self._request(call, context) if self._takes_one else _whole(requests)
            reply = await self._servant.answer(request, context)
        except BaseException as error:
            raised = isinstance(error, GeneratorExit) and self._standing.is_running(call)
            why = self._standing.leave(call)
            if why is not None and isinstance(error, Exception | asyncio.CancelledError):
                raise why from error
            if raised:  # by the method: nobody has closed us
                raise RuntimeError("method raised GeneratorExit") from error
            raise
        if why := self._standing.leave(call):  # the method swallowed the cancellation
            raise why
        return reply

    async def _request(self, call: Call, context: Context) -> Any:
        """The message of a call that brings one; its deadline, or else ours, is the longest we wait for
        it.
        """
        if call.deadline is not None:
            message = await context.read()
        else:
            limit = asyncio.timeout(self._door.first_message_s)
            try:
                async with limit:
                    message = await context.read()
            except TimeoutError:
                raise Deadline(0.0, "first message").passed() from None
        if message is grpc.aio.EOF:
            raise MessageMissing(f"call ended without a message: {call.method}")
        if call.deadline is not None and call.deadline.left(time.monotonic()) <= 0:
            raise call.deadline.passed()
        if self._pipeline.charge is not None:
            self._pipeline.charge(call, message)
        return message


def _leaving() -> Draining:
    return Draining("this process is leaving")


async def _whole(requests: AsyncIterable[Any]) -> AsyncIterator[Any]:
    """`requests`, ended only when nothing says that they were cut off.

    Where the caller cancels or its connection is lost, core first ends the requests, as if that were all,
    and cancels the call a moment later: too late for a method that by then has kept what came.
    """
    async for request in requests:
        yield request
    await asyncio.sleep(CUT_OFF_S)


def _arrival(pipeline: Pipeline, context: Context, trace_ratio: float) -> Call:
    details = arrived.get()
    metadata = tuple(details.invocation_metadata)
    return Call(
        method=details.method,
        policy=pipeline.policy,
        metadata=metadata,
        trace=TraceContext.arriving(metadata, trace_ratio),
        started=time.monotonic(),
        time_left_s=context.time_remaining(),
        auth_context=context.auth_context(),
        address=context.peer(),
    )


def _is_cancelled() -> bool:
    """Whether this task is being cancelled, as core does when the caller leaves: nobody waits for a
    status then.

    A CancelledError may as well come from another task the method waited for. Core would send no status
    for it either, and the caller would wait for ever.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _abort(context: Context, code: Any, message: str, trailers: tuple[Any, ...]) -> None:
    """Abort, and return: core remembers that it was asked to, and needs no exception to tell it."""
    try:
        await context.abort(code, message, trailers)
    except grpc.aio.AbortError as aborted:
        _forget(aborted)
    except grpc.aio.InternalError as error:  # the caller left: core refuses to send what nobody would get
        _log.debug("status was not sent: %s", error)


def _already_ended(error: BaseException, call: Call) -> bytes:
    """The method ended the call itself, as abort() does. Core remembers and needs nothing more."""
    if isinstance(error, grpc.aio.AbortError):
        _forget(error)
    elif error is not call.ended:
        trace_id = call.trace.trace_id
        _log.error("%s failed after its end, trace %s: %s", call.method, trace_id, told_of(error, call))
    return b""


def _forget(aborted: grpc.aio.AbortError) -> None:
    """Let go of what led to it: core keeps it with the call, which those frames hold. They and all the caller
    sent would stay until the collector comes by.
    """
    aborted.__context__ = aborted.__traceback__ = None


def _status(context: Context) -> str:
    """The name of the status the call ended with."""
    code = context.code()
    if not has_failed(context):
        return "CANCELLED" if _is_cancelled() else "OK"
    return code.name if isinstance(code, grpc.StatusCode) else str(code)
