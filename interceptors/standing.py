"""Calls in flight whose peer holds no more, or whose deadline has passed: each is ended, and told why.

Core ends no call because its certificate has ended, was revoked or has lost its root. So the calls in flight
are looked through at each change of trust, and every second for certificates that have ended: one timer and
one subscription for all of them, and only while there are any. Nor does core know a contract's deadlines.
Another timer, for all of them too, rings at the first one: it is set anew when a call comes that has less
time, and when it has rung. What a call pays is its place in a dictionary: a timer of its own is dearer.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from contextvars import Context
from typing import Any

from hauberk.certs.watch import Watch
from hauberk.interceptors.call import Call
from hauberk.interceptors.errors import Refused
from hauberk.interceptors.peer import PeerCheck, Trust

SWEEP_S = 1.0
"""How late the end of a certificate may be noticed."""
AGAIN_S = 0.05
"""Between attempts to end a call that something else is cancelling."""


def every(call: Call) -> bool:
    """All of them."""
    return True


class Standing:
    """The calls of one server that run, each in its task. Lives in one event loop."""

    def __init__(self, trust: Watch[Trust], peer_check: PeerCheck) -> None:
        self._trust = trust
        self._peer_check = peer_check
        self._calls: dict[Call, asyncio.Task[Any]] = {}
        self._to_cancel: set[Call] = set()
        self._tick: asyncio.TimerHandle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._rings_at = math.inf
        self._unsubscribe: Callable[[], None] = lambda: None

    def enter(self, call: Call, task: "asyncio.Task[Any]") -> None:
        """Watch over `call`, which has just been admitted and runs in `task`."""
        self._calls[call] = task
        if self._tick is None:
            loop = asyncio.get_running_loop()
            self._unsubscribe = self._trust.subscribe(lambda _: _soon(loop, self._trust_changed))
            self._tick = loop.call_later(SWEEP_S, self._ticked, context=Context())
        if call.deadline is not None and call.deadline.at < self._rings_at:
            self._ring(call.deadline.at)

    def leave(self, call: Call) -> Refused | None:
        """Watch over it no more; why it was ended, if it was.

        Whatever its method made of being cancelled then, that is what its caller is to hear.
        """
        task = self._calls.pop(call)
        if call.ended is None:
            return None
        if call in self._to_cancel:
            self._to_cancel.discard(call)
            return None if task.cancelling() else call.ended  # who has left is to hear nothing
        task.uncancel()
        return call.ended

    def calls(self) -> list[Call]:
        """Those in flight now; may be asked in any thread."""
        return list(self._calls)

    def is_running(self, call: Call) -> bool:
        """Whether we are in the task that serves `call`: who closes its coroutine from outside is not."""
        try:
            return self._calls.get(call) is asyncio.current_task()
        except RuntimeError:  # no loop runs
            return False

    def end(self, why: Refused, which: Callable[[Call], bool] = every) -> None:
        """Cancel the methods of these calls; `why` is what their callers hear."""
        for call in [call for call in self._calls if which(call)]:
            self._end(call, why)

    def _trust_changed(self) -> None:
        for call in list(self._calls):
            self._check(call)

    def _ticked(self) -> None:
        if not self._calls:
            self._unsubscribe()
            self._tick = None
            return
        now = self._peer_check.now()
        for call in list(self._calls):
            if call.peer is not None and now > call.peer.not_after:
                self._check(call)
        self._tick = asyncio.get_running_loop().call_later(SWEEP_S, self._ticked)

    def _ring(self, at: float) -> None:
        """Look for deadlines that have passed at `at`, and not before: loops round to milliseconds.

        In no call's context, which would keep that call until then.
        """
        if self._alarm is not None:
            self._alarm.cancel()
        self._rings_at = at
        delay = max(0.0, at - time.monotonic()) + 0.001
        self._alarm = asyncio.get_running_loop().call_later(delay, self._rang, context=Context())

    def _rang(self) -> None:
        self._alarm, self._rings_at = None, math.inf
        now, first = time.monotonic(), math.inf
        for call in list(self._calls):
            if call.ended is not None or call.deadline is None:
                continue
            if call.deadline.at <= now:
                self._end(call, call.deadline.passed())
            else:
                first = min(first, call.deadline.at)
        for call in list(self._to_cancel):
            self._cancel(call)
        if self._to_cancel:
            first = min(first, now + AGAIN_S)
        if first < math.inf:
            self._ring(first)

    def _check(self, call: Call) -> None:
        """End the call if its peer would not be let in now."""
        if call.peer is None:
            return
        try:
            self._peer_check.identify(call.auth_context)
        except Refused as refusal:
            self._end(call, refusal)

    def _end(self, call: Call, why: Refused) -> None:
        if call.ended is None:
            call.ended = why
            self._to_cancel.add(call)
            self._cancel(call)
            again_at = time.monotonic() + AGAIN_S
            if self._to_cancel and again_at < self._rings_at:
                self._ring(again_at)

    def _cancel(self, call: Call) -> None:
        """Cancel the method, unless it is being cancelled: then in a moment, if it is still there.

        Mostly its caller has left. But it may be a time limit of the method's own, after which it goes on.
        """
        task = self._calls[call]
        if not task.cancelling():
            self._to_cancel.discard(call)
            task.cancel()


def _soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Trust may change in any thread, in the very call that is to be ended, and after this loop is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)
