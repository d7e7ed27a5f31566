"""Calls in flight whose peer holds no more, on a threaded server; see standing.py, whose promises these are.

The caller is told at once. The method cannot be cancelled: it learns from its context, and its own calls and
waits go on until it looks.
"""

import threading
import time
from collections.abc import Callable

from hauberk.certs.watch import Watch
from hauberk.interceptors.alarms import Alarms
from hauberk.interceptors.call import Call
from hauberk.interceptors.errors import Refused
from hauberk.interceptors.peer import PeerCheck, Trust
from hauberk.interceptors.standing import SWEEP_S, every

End = Callable[[Refused], None]


class ThreadedStanding:
    """The calls of one server that run, each with what ends it. Used from any thread."""

    def __init__(self, trust: Watch[Trust], peer_check: PeerCheck, alarms: Alarms) -> None:
        self._trust = trust
        self._peer_check = peer_check
        self._alarms = alarms
        self._calls: dict[Call, End] = {}
        self._lock = threading.Lock()
        self._sweeps = False
        self._unsubscribe: Callable[[], None] = lambda: None

    def enter(self, call: Call, end: End) -> None:
        """Watch over `call`, which has just been admitted. `end` may be called in any thread."""
        with self._lock:
            self._calls[call] = end
            if self._sweeps:
                return
            self._sweeps = True
        self._unsubscribe = self._trust.subscribe(self._trust_set)
        self._alarms.wake(time.monotonic() + SWEEP_S, self._sweep)

    def leave(self, call: Call) -> None:
        """Watch over it no more, if it was watched over."""
        with self._lock:
            self._calls.pop(call, None)

    def calls(self) -> list[Call]:
        """Those in flight now."""
        return [call for call, _ in self._present()]

    def end(self, why: Refused, which: Callable[[Call], bool] = every) -> None:
        """End these calls; `why` is what their callers hear."""
        for call, end in self._present():
            if which(call):
                end(why)

    def _trust_set(self, _: Trust) -> None:
        """In whatever thread, perhaps that of a call to be ended: the alarms' thread looks."""
        self._alarms.wake(time.monotonic(), self._trust_changed)

    def _trust_changed(self) -> None:
        for call, end in self._present():
            self._check(call, end)

    def _sweep(self) -> None:
        with self._lock:
            if not self._calls:
                self._sweeps = False
                self._unsubscribe()
                return
        now = self._peer_check.now()
        for call, end in self._present():
            if call.peer is not None and now > call.peer.not_after:
                self._check(call, end)
        self._alarms.wake(time.monotonic() + SWEEP_S, self._sweep)

    def _check(self, call: Call, end: End) -> None:
        """End the call if its peer would not be let in now."""
        if call.peer is None:
            return
        try:
            self._peer_check.identify(call.auth_context)
        except Refused as refusal:
            end(refusal)

    def _present(self) -> list[tuple[Call, End]]:
        with self._lock:
            return list(self._calls.items())
