"""One guarded method, as asyncio core calls it: checks first, then the message, then the method until its
deadline.

Every method is given to core as one that takes a stream of requests. Core's own edge for single requests
waits for the message for ever, and so never answers a call that ends without one; and it parses the message
before anybody looks who sent it.
"""

import asyncio
import contextvars
import gc
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any, cast

import grpc

from hauberk.interceptors.call import Call, enter_call
from hauberk.interceptors.deadline import MARGIN_S, Deadline
from hauberk.interceptors.errors import (
    DETAILS_KEY,
    Draining,
    IdentityUnfit,
    MemoryShort,
    MessageMissing,
    MetadataTooLarge,
    Refused,
    is_deadline_exceeded,
    status_of,
)
from hauberk.interceptors.failures import told
from hauberk.interceptors.in_flight import InFlight
from hauberk.interceptors.metadata import sendable
from hauberk.interceptors.pipeline import Pipeline
from hauberk.interceptors.records import Records
from hauberk.interceptors.replies import Replies
from hauberk.interceptors.scrubbing import secrets_in
from hauberk.interceptors.servant import Context, Servant, has_failed
from hauberk.interceptors.standing import Standing
from hauberk.interceptors.tracing import TraceContext

_log = logging.getLogger(__name__)

CUT_OFF_S = 0.005
"""How long after the last request core may take to say that there would have been more."""

COLLECT_S = 0.5
"""Between collections of all garbage for the sake of headers that were too large."""

arrived: contextvars.ContextVar[grpc.HandlerCallDetails] = contextvars.ContextVar("hauberk_arrived")
"""What core told of the call when it asked for the method: in the context, metadata would be parsed once
more.
"""


class Door:
    """What the methods of one server share."""

    __slots__ = (
        "_collected_at",
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
        standing: Standing,
        records: Records | None,
        first_message_s: float,
    ) -> None:
        self.in_flight = in_flight
        self.standing = standing
        self.records = records
        self.first_message_s = first_message_s
        self.trace_ratio = 1.0
        """Of the calls that bring no trace: how many are sampled."""
        self.draining = False
        self.memory_short = False
        self._collected_at = 0.0
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

    def collect_headers(self) -> None:
        """Free what grpc.aio left in a circle of references a moment ago: up to 16 MiB of headers a call.

        Only a client that ignores our settings comes so far; 60 calls of 4 MiB were 190 MB otherwise. Young
        garbage takes 0.5 ms. What another collection found still in use in between has grown old by it: all
        garbage takes 40 ms, so only now and then.
        """
        now = time.monotonic()
        everything = now - self._collected_at >= COLLECT_S
        gc.collect(2 if everything else 1)
        if everything:
            self._collected_at = now

    def clear(self) -> None:
        """End every call being served, UNAVAILABLE, and let none begin."""
        self.draining = True
        self.standing.end(_leaving())


class Edge:
    """One guarded method."""

    __slots__ = ("_door", "_pipeline", "_servant")

    def __init__(self, door: Door, pipeline: Pipeline, servant: Servant) -> None:
        self._door = door
        self._pipeline = pipeline
        self._servant = servant

    async def reply_once(self, requests: Any, context: Context) -> bytes:
        """Serve a call with one reply, which core sends together with the status."""
        return await self._serve(requests, context, _nothing)

    async def reply_many(self, requests: Any, context: Context) -> None:
        """Serve a call whose replies go out through the context."""
        replies = Replies(context)
        await self._serve(requests, cast(Context, replies), replies.settle)

    async def _serve(self, requests: Any, context: Context, settle: Callable[[], Awaitable[None]]) -> bytes:
        call = _arrival(self._pipeline, context, self._door.trace_ratio)
        enter_call(call)
        reason = None
        try:
            reply = await self._run(call, requests, context)
            await settle()
            call.sent += len(reply)
            self._door.in_flight.send(call, len(reply))
            return reply
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | GeneratorExit):  # the end of the process, or of its loop
                raise
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            if context.done():
                return _already_ended(error, call)
            refusal = _refusal(error, call)
            reason = refusal.reason if isinstance(refusal, Refused) else "INTERNAL"
            try:
                await settle()
                await self._refuse(refusal, call, context)
            finally:
                del refusal  # or it and this frame would hold one another, and all that the call brought
            return b""
        finally:
            self._door.in_flight.leave(call)
            if self._door.records is not None:
                self._door.records.end(call, _status(context), reason)

    async def _refuse(self, refusal: BaseException, call: Call, context: Context) -> None:
        self._door.in_flight.leave(call)  # before the caller hears, whose next call may follow at once
        await _refuse(refusal, call, context)
        if isinstance(refusal, MetadataTooLarge):
            self._door.collect_headers()

    async def _run(self, call: Call, requests: Any, context: Context) -> bytes:
        """Admit the call and run the method for as long as its peer holds. Everything it raises ends the
        call.
        """
        if closed := self._door.closed:
            raise closed
        self._pipeline.admit(call)
        self._door.standing.enter(call)
        try:
            reply = await self._until_deadline(call, requests, context)
        except BaseException as error:
            running = self._door.standing.is_running(call)
            why = self._door.standing.leave(call)
            if why is not None and isinstance(error, Exception | asyncio.CancelledError):
                raise why from error
            if running and isinstance(error, GeneratorExit):  # the method's own: nobody has closed us
                raise RuntimeError("method raised GeneratorExit") from error
            raise
        if why := self._door.standing.leave(call):  # the method swallowed the cancellation
            raise why
        return reply

    async def _until_deadline(self, call: Call, requests: Any, context: Context) -> bytes:
        if call.deadline is None:
            return await self._answer(call, requests, context)
        limit = asyncio.timeout(call.deadline.left(time.monotonic()))
        try:
            async with limit:
                reply = await self._answer(call, requests, context)
        except Exception as error:
            if limit.expired() and not context.done():
                raise call.deadline.passed() from error
            raise
        if limit.expired() and not context.done():  # the method swallowed the cancellation
            raise call.deadline.passed()
        return reply

    async def _answer(self, call: Call, requests: Any, context: Context) -> bytes:
        if not self._pipeline.policy.request_streaming:
            requests = await self._only_message(call, context)
            if call.deadline is not None and call.deadline.left(time.monotonic()) <= 0:
                raise call.deadline.passed()
        else:
            requests = _whole(requests)
        return await self._servant.answer(requests, context)

    async def _only_message(self, call: Call, context: Context) -> Any:
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
        return message


def _leaving() -> Draining:
    return Draining("this process is leaving")


async def _nothing() -> None:
    """There is no write to wait for where core sends the reply."""


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


def _refusal(error: BaseException, call: Call) -> BaseException:
    """What `error` means for the caller: a lone error in a group is the error itself, and when a call made on
    this one's budget ran out of time, so has this one.
    """
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    deadline = call.deadline
    if deadline and is_deadline_exceeded(error) and deadline.left(time.monotonic()) <= 2 * MARGIN_S:
        return deadline.passed()
    return error


async def _refuse(refusal: BaseException, call: Call, context: Context) -> None:
    """End the call with the status of `refusal`, if it has not ended meanwhile."""
    trailers = sendable(context.trailing_metadata())
    if not isinstance(refusal, Refused):
        _log.error("%s failed, trace %s: %s", call.method, call.trace.trace_id, _told(refusal, call))
        if has_failed(context):  # a status the method set goes out unchanged; the exception's text never does
            await _abort(context, context.code(), context.details(), trailers)
            return
    status = status_of(refusal, call.trace.trace_id)
    others = tuple(pair for pair in trailers if pair[0] != DETAILS_KEY)
    await _abort(context, status.code, status.message, (*others, *status.trailers))


def _told(error: BaseException, call: Call) -> str:
    """For our log: without what the caller brought to prove itself."""
    return told(error, secrets_in(call.metadata))


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
        _log.error("%s failed after its end, trace %s: %s", call.method, trace_id, _told(error, call))
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
