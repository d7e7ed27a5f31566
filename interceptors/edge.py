"""One guarded method, as core's asyncio server begins it: checks first, then the message, then the method
until its deadline.

Every method is given to core as one that takes a stream of requests. Core's own edge for single requests
waits for the message for ever, and so never answers a call that ends without one; and it parses the message
before anybody looks who sent it.
"""

import asyncio
import logging
import time
from typing import Any, Protocol

import grpc

from hauberk.interceptors.aio_exchange import AioExchange
from hauberk.interceptors.call import Call, enter_call
from hauberk.interceptors.deadline import Deadline
from hauberk.interceptors.ending import last_word, refusal_of, told_of, unsendable
from hauberk.interceptors.errors import (
    Draining,
    IdentityUnfit,
    MemoryShort,
    MessageMissing,
    Refused,
)
from hauberk.interceptors.in_flight import InFlight
from hauberk.interceptors.overload import Turns
from hauberk.interceptors.pipeline import Pipeline
from hauberk.interceptors.records import Records
from hauberk.interceptors.servant import Servant, has_failed
from hauberk.interceptors.standing import Standing
from hauberk.interceptors.tracing import ArrivingTrace

_log = logging.getLogger(__name__)


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

    __slots__ = (
        "_door",
        "_may_stream",
        "_path",
        "_pipeline",
        "_replies_once",
        "_servant",
        "_standing",
        "_takes_one",
        "_turns",
    )

    def __init__(
        self,
        door: Door,
        standing: Standing,
        path: str,
        pipeline: Pipeline,
        servant: Servant,
        turns: Turns | None = None,
    ) -> None:
        """`path` is what the log calls the method. Without `turns` its calls wait for no place."""
        self._door = door
        self._standing = standing
        self._path = path
        self._pipeline = pipeline
        self._servant = servant
        self._turns = turns
        # Not known of what is no method of ours.
        self._may_stream = pipeline.policy.request_streaming or not pipeline.policy.method
        self._takes_one = not pipeline.policy.request_streaming
        self._replies_once = not pipeline.policy.response_streaming

    def begin(self, state: Any, loop: asyncio.AbstractEventLoop) -> "asyncio.Task[None]":
        """Serve the call that core calls `state`, in a task of its own."""
        exchange = AioExchange(state, self._servant.read_message, self._servant.write_message, loop)
        if self._may_stream:
            exchange.is_under_way()
        exchange.task = task = loop.create_task(self._serve(exchange))
        return task

    async def _serve(self, exchange: AioExchange) -> None:
        """Serve a call from its arrival to its end.

        One coroutine around another costs each call microseconds: there are as few as can be read.
        """
        exchange.begin()
        call = self._arrival(exchange)
        enter_call(call)
        reply, reason, sent = b"", None, _nothing
        try:
            reply = await self._run(call, exchange)
            if not self._replies_once:
                await exchange.settle()
            call.sent += len(reply)
            sent = self._door.in_flight.send(call, len(reply))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | GeneratorExit):  # the end of the process, or of its loop
                raise
            if isinstance(error, asyncio.CancelledError) and exchange.task.cancelling():
                exchange.has_left()  # and nobody waits for a status
            else:
                reason = _refusal(error, call, exchange)
                call.ended = None  # whose frames hold the call
                try:
                    await exchange.settle()
                except asyncio.CancelledError:
                    exchange.has_left()
        finally:
            # Before the caller hears, whose next call may follow at once.
            self._door.in_flight.leave(call)
            if self._door.records is not None:
                self._door.records.end(call, _status(exchange), reason)
        try:
            if not exchange.finished:  # by the method
                await exchange.finish(reply if self._replies_once and not has_failed(exchange) else None)
        except Exception as error:  # of an end that cannot be sent: the caller would wait for ever
            status = unsendable(error, call)
            exchange.ends(status.code, status.message, status.trailers)
            await exchange.finish()
        finally:
            sent()
            exchange.over()

    async def _run(self, call: Call, exchange: AioExchange) -> bytes:
        """Admit the call and run the method for as long as its peer holds and its deadline lets it.

        Everything it raises ends the call.
        """
        if closed := self._door.closed:
            raise closed
        self._pipeline.admit(call)
        self._standing.enter(call, exchange.task)
        turns, turn = self._turns, None
        try:
            if self._takes_one:
                request = await exchange.read() if call.deadline else await self._first(exchange)
                if request is grpc.aio.EOF:
                    await exchange.may_have_left()
                    raise MessageMissing(f"call ended without a message: {call.method}")
                if call.deadline is not None and call.deadline.left(time.monotonic()) <= 0:
                    raise call.deadline.passed()
                if self._pipeline.charge is not None:
                    self._pipeline.charge(call, request)
                exchange.watch_soon()
            else:
                exchange.watch()
                request = exchange.messages()
            if turns is not None:
                turn = turns.begin() or await turns.wait()
            returned = await self._servant.answer(request, exchange)
            reply = self._servant.reply(returned, exchange)
        except BaseException as error:
            if turns is not None and turn is not None:
                turns.end(turn, error)
            raised = isinstance(error, GeneratorExit) and self._standing.is_running(call)
            why = self._standing.leave(call)
            if why is not None and isinstance(error, Exception | asyncio.CancelledError):
                try:
                    raise why from error
                finally:
                    del why  # or it and this frame would hold one another, and the call
            if raised:  # by the method: nobody has closed us
                raise RuntimeError("method raised GeneratorExit") from error
            raise
        if turns is not None and turn is not None:
            turns.end(turn, None)
        if why := self._standing.leave(call):  # the method swallowed the cancellation
            try:
                raise why
            finally:
                del why
        return reply

    async def _first(self, exchange: AioExchange) -> Any:
        """The message of a call that has no deadline to bring it by: we set it one."""
        try:
            async with asyncio.timeout(self._door.first_message_s):
                return await exchange.read()
        except TimeoutError:
            raise Deadline(0.0, "first message").passed() from None

    def _arrival(self, exchange: AioExchange) -> Call:
        metadata = exchange.invocation_metadata()
        return Call(
            method=self._path,
            policy=self._pipeline.policy,
            metadata=metadata,
            trace=ArrivingTrace(metadata, self._door.trace_ratio),
            started=time.monotonic(),
            time_left_s=exchange.time_remaining(),
            auth_context=exchange.auth_context(),
            address=exchange.peer(),
        )


def _leaving() -> Draining:
    return Draining("this process is leaving")


def _refusal(error: BaseException, call: Call, exchange: AioExchange) -> str | None:
    """Let the call end with what `error` means for its caller; why, for the record.

    A CancelledError may come from another task that the method waited for: only where our own task is
    cancelled, which is asked before this, has the caller left.
    """
    if exchange.finished:  # by the method, as abort() does
        if not isinstance(error, grpc.aio.AbortError) and error is not call.ended:
            trace_id = call.trace.trace_id
            _log.error("%s failed after its end, trace %s: %s", call.method, trace_id, told_of(error, call))
        return None
    refusal = refusal_of(error, call)
    exchange.ends(*last_word(refusal, call, exchange))
    return refusal.logged if isinstance(refusal, Refused) else "INTERNAL"


def _status(exchange: AioExchange) -> str:
    """The name of the status the call ends with."""
    if exchange.left:
        return "CANCELLED"
    if not has_failed(exchange):
        return "OK"
    code = exchange.code()
    return code.name if isinstance(code, grpc.StatusCode) else str(code)


def _nothing() -> None:
    """Nothing is to be sent."""
