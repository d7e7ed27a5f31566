"""What is known of each call once it is over, gathered at once and written down by a thread a moment later.

What a call pays is one small object put at the end of a queue. A daemon thread, asleep while nothing ends,
empties the queue at most every EVERY_S seconds and hands each record to everything that writes (access log,
audit log, metrics, spans). The queue is bounded: what finds it full is counted and told, never waited for.
No record, however odd, ends the thread: it costs the one line it would have been.
"""

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import msgspec

from hauberk.certs.identity import SpiffeId
from hauberk.interceptors.call import Call
from hauberk.interceptors.calls_made import CallMade
from hauberk.interceptors.deadline import Deadline
from hauberk.interceptors.policy import Policy
from hauberk.interceptors.tracing import TraceContext

EVERY_S = 0.1
CAPACITY = 50_000
"""Records of about 400 bytes: what a blocked stream may cost in memory."""
CLOSE_S = 2.0
"""How long the end of a process waits for a stream that takes nothing."""

_REFUSED = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})
_TELL_S = 10.0
_AT_ONCE = 128
"""Records handed out before other threads may run: well under a millisecond."""

_log = logging.getLogger(__name__)


class Record(msgspec.Struct, frozen=True, gc=False):
    """One call that is over. It holds nothing of what the caller sent but the size of it.

    `began` and `ended` are monotonic seconds; `time_left_s` is what the caller's deadline left at arrival;
    `reason` says why we refused the call, None if we did not; sizes are bytes of messages, as serialised.
    """

    policy: Policy
    method: str
    trace: TraceContext
    client: SpiffeId | None
    """None if it could not be told."""
    address: str
    began: float
    ended: float
    time_left_s: float | None
    status: str
    reason: str | None
    received: int
    sent: int
    deadline: Deadline | None = None
    """Until when it could be served, the contract's bound too; None where it was refused before."""
    admitted_by: str | None = None
    """The entry of `callers` that let its caller in; None where none did, or it was not come to that."""
    user_agent: str | bytes | None = None
    """What the caller says it is."""
    tried: str | None = None
    """Why a demand that is only tried would have refused it; None: none would."""

    @property
    def authorization(self) -> str | None:
        """Whether the call was let in, "allowed" or "refused"; None where it was not come to that."""
        if self.reason is not None and self.status in _REFUSED:
            return "refused"
        return None if self.admitted_by is None else "allowed"


class Sink(Protocol):
    """Something that writes records. Called by one thread at a time; what it raises costs the record."""

    def take(self, record: Record, began_at: float) -> None:
        """Take note of `record`, whose call began at `began_at`, seconds since the epoch."""

    def settle(self) -> None:
        """Write what was taken: called when there is no more for now."""


class MadeSink(Protocol):
    """The same for calls that this process makes."""

    def take(self, made: CallMade, began_at: float) -> None: ...

    def settle(self) -> None: ...


class Records:
    """The queue and its thread, for all servers and channels of a process. `close` when they have stopped."""

    def __init__(
        self,
        sinks: Sequence[Sink],
        *,
        made: Sequence[MadeSink] = (),
        capacity: int = CAPACITY,
        every_s: float = EVERY_S,
    ) -> None:
        """`sinks` are for calls that are served, those of `made` for calls that are made."""
        self._sinks = tuple(sinks)
        self._made_sinks = tuple(made)
        self._capacity = capacity
        self._every_s = every_s
        self._waiting: deque[Record | CallMade] = deque()
        self._running: list[Callable[[], Iterable[Call]]] = []
        self._awake = False
        """Whether the thread is going to look at the queue again by itself."""
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._emptying = threading.Lock()
        self._counting = threading.Lock()
        self._told = (0, 0)
        self._told_at = -_TELL_S
        self.dropped = 0
        """Records that found the queue full."""
        self.failed = 0
        """Records that something which writes could make nothing of."""

    def end(self, call: Call, status: str, reason: str | None) -> None:
        """Take note that `call` is over. Never waits and never raises."""
        if len(self._waiting) >= self._capacity:
            with self._counting:
                self.dropped += 1
            return
        call.trace.let_go()
        peer, now, tried = call.peer, time.monotonic(), call.tried
        self._waiting.append(
            Record(
                call.policy,
                call.method,
                call.trace,
                None if peer is None else peer.spiffe_id,
                call.address,
                call.started,
                now,
                call.time_left_s,
                status,
                reason,
                call.received,
                call.sent,
                call.deadline,
                call.admitted_by,
                call.user_agent,
                None if tried is None else tried.outcome(now),
            )
        )
        if not self._awake:
            self._rouse()

    def keep(self, made: CallMade) -> None:
        """Take note of a call that this process made, which is over. Never waits and never raises."""
        if len(self._waiting) >= self._capacity:
            with self._counting:
                self.dropped += 1
            return
        self._waiting.append(made)
        if not self._awake:
            self._rouse()

    def serve(self, running: Callable[[], Iterable[Call]]) -> None:
        """Take note of a server, whose calls in flight are `running`; may be asked in any thread."""
        self._running.append(running)

    def running(self) -> Iterator[str]:
        """The methods (Policy.method) of all calls in flight, one for each."""
        for calls in self._running:
            yield from (call.policy.method for call in calls())

    def flush(self, within_s: float = -1) -> None:
        """Write everything that has ended until now, in this thread; give up after `within_s` seconds."""
        if self._emptying.acquire(timeout=within_s):
            try:
                self._empty()
            finally:
                self._emptying.release()

    def close(self) -> None:
        """Write what is left, and end the thread. What ends later is written at once, by whoever ends it."""
        with self._starting:
            thread, self._thread = self._thread, None
            self._closing.set()
            self._wake.set()
        atexit.unregister(self.close)
        self._awake = False
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_S)
        if self._emptying.acquire(timeout=CLOSE_S):
            try:
                self._empty()
            finally:
                self._emptying.release()
        else:
            _log.error("%d records of calls are lost: what they go to takes nothing", len(self._waiting))

    def _rouse(self) -> None:
        if self._closing.is_set():
            self.flush()
            return
        self._awake = True
        if self._thread is None:
            with self._starting:
                if self._thread is None and not self._closing.is_set():
                    self._thread = threading.Thread(target=self._keep, name="hauberk-records", daemon=True)
                    self._thread.start()
                    atexit.register(self.close)
        self._wake.set()

    def _keep(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._closing.wait(self._every_s)
            self._wake.clear()
            self._awake = False  # before the queue is looked at: who appends later rouses us again
            self.flush()

    def _empty(self) -> None:
        offset = time.time() - time.monotonic()
        for number in range(1, len(self._waiting) + 1):
            record = self._waiting.popleft()
            sinks: Iterable[Any] = self._made_sinks if type(record) is CallMade else self._sinks
            for sink in sinks:
                try:
                    sink.take(record, record.began + offset)
                except Exception as error:
                    self._fail(sink, error)
            if number % _AT_ONCE == 0:
                time.sleep(0)
        settling: Iterable[Sink | MadeSink] = (*self._sinks, *self._made_sinks)
        for each in settling:
            try:
                each.settle()
            except Exception as error:
                self._fail(each, error)
        self._tell()

    def _fail(self, sink: object, error: Exception) -> None:
        self.failed += 1
        if self.failed == 1:
            _log.error("a record of a call is lost to %s: %s", type(sink).__name__, type(error).__name__)

    def _tell(self) -> None:
        """Say what was lost since we last said so."""
        now = time.monotonic()
        if (self.dropped, self.failed) == self._told or now - self._told_at < _TELL_S:
            return
        dropped, failed = self.dropped - self._told[0], self.failed - self._told[1]
        self._told, self._told_at = (self.dropped, self.failed), now
        _log.warning("records of calls were lost: %d found no room, %d could not be written", dropped, failed)
