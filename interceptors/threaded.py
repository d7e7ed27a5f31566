"""One guarded method, as grpc.server's core calls it: the sibling of edge.py for plain functions.

A call is admitted, and its one message waited for, before it takes a thread: who is refused, and who sends
nothing, takes none. A thread cannot be cancelled: at its deadline, or when its peer holds no more, the caller
is told so at once, and the method goes on until it looks (`context.is_active()`), reads or writes. Until then
it is in flight.
"""

import enum
import logging
import random
import time
from collections.abc import Callable
from typing import Any

import grpc

from hauberk.interceptors.alarms import Alarms
from hauberk.interceptors.call import Call, within_call
from hauberk.interceptors.deadline import Deadline
from hauberk.interceptors.edge import Door
from hauberk.interceptors.ending import last_word, refusal_of, told_of, unsendable
from hauberk.interceptors.errors import MessageMissing, Overloaded, Refused
from hauberk.interceptors.exchange import Aborted, Exchange
from hauberk.interceptors.overload import PUSHBACK_S
from hauberk.interceptors.pipeline import Pipeline
from hauberk.interceptors.servant import PlainServant, has_failed
from hauberk.interceptors.threaded_standing import ThreadedStanding
from hauberk.interceptors.tracing import ArrivingTrace
from hauberk.interceptors.workers import Workers

_log = logging.getLogger(__name__)


class ThreadedEdge:
    """One guarded method. It stands where core expects a behaviour, and is never called as one."""

    __slots__ = ("alarms", "door", "method", "pipeline", "servant", "standing", "workers")

    def __init__(
        self,
        door: Door,
        standing: ThreadedStanding,
        method: str,
        pipeline: Pipeline,
        servant: PlainServant,
        *,
        workers: Workers,
        alarms: Alarms,
    ) -> None:
        """`method` is what the log calls it."""
        self.door = door
        self.standing = standing
        self.method = method
        self.pipeline = pipeline
        self.servant = servant
        self.workers = workers
        self.alarms = alarms

    def begin(self, exchange: Exchange) -> None:
        """Serve a call that has just arrived. Returns at once; in core's thread."""
        Served(self, exchange).begin()


class _Stage(enum.IntEnum):
    """How far a call has come with its method."""

    BEFORE = 0
    """No thread is meant for it."""
    QUEUED = 1
    RUNS = 2
    AFTER = 3


class Served(Call):
    """A call from its arrival to its end, in the hands of several threads."""

    __slots__ = ("_alarm", "_edge", "_exchange", "_left_behind", "_message", "_outcome", "_stage")

    def __init__(self, edge: ThreadedEdge, exchange: Exchange) -> None:
        metadata: Any = exchange.invocation_metadata() or ()
        super().__init__(
            method=edge.method,
            policy=edge.pipeline.policy,
            metadata=metadata,
            trace=ArrivingTrace(metadata, edge.door.trace_ratio),
            started=time.monotonic(),
            time_left_s=exchange.time_left_s(),
            auth_context=exchange.auth_context(),
            address=exchange.peer()
            if edge.pipeline.policy.anonymous
            else "",  # it takes 1 us, and who is named needs none
        )
        self._edge = edge
        self._exchange = exchange
        self._message = b""
        self._alarm: tuple[int, Callable[[], None]] | None = None
        self._outcome: str | None = None
        """The name of the status it has ended with."""
        self._stage = _Stage.BEFORE
        self._left_behind = False
        """Whether its method goes on though it has ended."""

    def begin(self) -> None:
        """Admit it, and see that it comes to its method."""
        edge = self._edge
        try:
            if closed := edge.door.closed:
                raise closed
            edge.pipeline.admit(self)
        except Exception as error:
            self._refuse(error)
            return
        self._exchange.when_over(self._gone)
        edge.standing.enter(self, self._refuse)
        if self.deadline is not None:
            self._exchange.deadline = self.deadline
            self._wake(self.deadline.at, self._out_of_time)
        if self.policy.request_streaming:
            self._take_thread()
            return
        if self.deadline is None:
            self._wake(self.started + edge.door.first_message_s, self._nothing_came)
        self._exchange.receive(self._came)

    def _came(self, message: bytes | None) -> None:
        """The one message, or that there is none."""
        if self._exchange.over:
            return
        if self.deadline is None:
            self._sleep()
        if message is None:
            self._refuse(MessageMissing(f"call ended without a message: {self.method}"))
            return
        self._message = message
        self._take_thread()

    def _take_thread(self) -> None:
        self._stage = _Stage.QUEUED
        if shed := self._edge.workers.run(self._work, self.priority, self._shed):
            shed()

    def _shed(self) -> None:
        stay_away_s = random.uniform(*PUSHBACK_S)  # noqa: S311 - spreads callers
        self._refuse(Overloaded("this server has more to do than it can", retry_after_s=stay_away_s))

    def _work(self) -> None:
        with self._exchange.lock:
            if self._exchange.over:
                return
            self._stage = _Stage.RUNS
        try:
            self._exchange.run(self._serve)
        finally:
            self._exchange.forget()

    def _serve(self) -> None:
        """Run the method. Nothing that it does after the end of the call reaches anybody.

        Core keeps the context it runs in with the call: a call that stayed in there would hold itself, and
        with it a stream of its connection, until the garbage collector comes by.
        """
        try:
            with within_call(self):
                reply = self._answer()
        except BaseException as error:  # whatever ends a method ends its call, and no more than that
            self._ran()
            self._failed(error)
        else:
            self._ran()
            self._succeeded(reply)

    def _answer(self) -> bytes:
        servant = self._edge.servant
        if self.deadline is not None and self.deadline.left(time.monotonic()) <= 0:
            raise self.deadline.passed()
        if self.policy.request_streaming:
            return servant.answer(map(servant.read_message, self._exchange.messages()), self._exchange)
        message, self._message = self._message, b""
        request = servant.read_message(message)
        if self._edge.pipeline.charge is not None:
            self._edge.pipeline.charge(self, request)
        return servant.answer(request, self._exchange)

    def _ran(self) -> None:
        """The method has ended."""
        with self._exchange.lock:
            self._stage = _Stage.AFTER
            left_behind = self._left_behind
        if left_behind:
            self._edge.workers.catch_up()
            self._edge.door.in_flight.leave(self)

    def _succeeded(self, reply: bytes) -> None:
        exchange = self._exchange
        self.sent += len(reply)
        if exchange.aborted or has_failed(exchange):
            self._finish(exchange.code(), exchange.details(), exchange.trailing_metadata())
            return
        try:
            with exchange.lock:
                if not exchange.over:
                    exchange.when_over(self._edge.door.in_flight.send(self, len(reply)))
        except Refused as refusal:
            self._refuse(refusal)
            return
        sent_before = self.policy.response_streaming
        trailers = exchange.trailing_metadata()
        self._finish(exchange.code(), exchange.details(), trailers, None if sent_before else reply)

    def _failed(self, error: BaseException) -> None:
        exchange = self._exchange
        if not exchange.over and not exchange.aborted:
            self._refuse(refusal_of(error, self))
            return
        if not isinstance(error, Aborted) and not exchange.own(error):
            trace_id = self.trace.trace_id
            _log.error("%s failed after its end, trace %s: %s", self.method, trace_id, told_of(error, self))
        if exchange.aborted:
            self._finish(exchange.code(), exchange.details(), exchange.trailing_metadata())

    def _out_of_time(self) -> None:
        assert self.deadline is not None  # noqa: S101 - it has just passed
        self._refuse(self.deadline.passed())

    def _nothing_came(self) -> None:
        self._refuse(Deadline(0.0, "first message").passed())

    def _refuse(self, refusal: BaseException) -> None:
        """End the call with the status of `refusal`, whatever its method is doing, unless it is over."""
        if self._exchange.over:
            return
        code, details, trailers = last_word(refusal, self, self._exchange)
        reason = refusal.logged if isinstance(refusal, Refused) else "INTERNAL"
        self._finish(code, details, trailers, reason=reason)

    def _finish(
        self, code: Any, details: Any, trailers: Any, reply: bytes | None = None, reason: str | None = None
    ) -> None:
        """Give the call its status, unless it is over: the first who has one to give is heard."""
        exchange = self._exchange
        with exchange.lock:
            if exchange.over:
                return
            self._give_back()
            try:
                exchange.finish(code, details, trailers, reply)
                self._outcome = _name(code)
            except Exception as error:  # of an end that cannot be sent: the caller would wait for ever
                status = unsendable(error, self)
                exchange.finish(status.code, status.message, status.trailers, None)
                self._outcome, reason = _name(status.code), "INTERNAL"
        self._settle(reason)

    def _gone(self) -> None:
        """The call is over in core. Where it has no status of ours, its caller has left."""
        with self._exchange.lock:
            if self._outcome is not None:
                return
            self._outcome = "CANCELLED"
            self._give_back()
        self._settle(None)

    def _give_back(self) -> None:
        """The place in flight, before the caller hears and calls again; not while the method runs."""
        if self._stage is _Stage.RUNS:
            self._left_behind = True
            self._edge.workers.leave_behind()
        else:
            self._edge.door.in_flight.leave(self)

    def _settle(self, reason: str | None) -> None:
        """All that is done once a call has ended."""
        edge = self._edge
        edge.standing.leave(self)
        self._sleep()
        assert self._outcome is not None  # noqa: S101 - who calls has set it
        if edge.door.records is not None:
            edge.door.records.end(self, self._outcome, reason)

    def _wake(self, at: float, act: Callable[[], None]) -> None:
        self._alarm = (self._edge.alarms.wake(at, act), act)

    def _sleep(self) -> None:
        if self._alarm is not None:
            self._edge.alarms.forget(*self._alarm)
            self._alarm = None


def _name(code: Any) -> str:
    if code is None or code == 0:
        return "OK"
    return code.name if isinstance(code, grpc.StatusCode) else str(code)
