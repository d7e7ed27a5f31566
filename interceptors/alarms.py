"""Things to do at an instant, done by one thread that runs from the first of them on.

For calls that are served in threads, whose deadlines no event loop keeps. Most alarms are taken back before
their time, so they are kept by hundredths of a second, where taking one back costs next to nothing.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from heapq import heappop, heappush

_log = logging.getLogger(__name__)

TICK_S = 0.01
"""How late an alarm may be; it is never early."""

Act = Callable[[], None]


class Alarms:
    """`wake`, and `forget` what is no longer wanted; `close` when done."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._due: dict[int, set[Act]] = {}
        self._ticks: list[int] = []
        self._runs = False
        self._closed = False

    def wake(self, at: float, act: Act) -> int:
        """Do `act` at the instant `at` (monotonic seconds), which must be short and not raise.

        Returns what `forget` takes it back with.
        """
        tick = math.ceil(at / TICK_S)
        with self._changed:
            acts = self._due.get(tick)
            if acts is None:
                acts = self._due[tick] = set()
                heappush(self._ticks, tick)
                if self._ticks[0] == tick:
                    self._changed.notify()
            acts.add(act)
            if not self._runs and not self._closed:
                self._runs = True
                threading.Thread(target=self._run, name="hauberk-alarms", daemon=True).start()
        return tick

    def forget(self, tick: int, act: Act) -> None:
        """Do not do `act`, if it has not been done yet."""
        with self._changed:
            acts = self._due.get(tick)
            if acts is not None:
                acts.discard(act)

    def close(self) -> None:
        """End the thread. What is due later is not done."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while (acts := self._next()) is not None:
            for act in acts:
                try:
                    act()
                except Exception:
                    _log.exception("an alarm failed")
            del acts

    def _next(self) -> set[Act] | None:
        with self._changed:
            while not self._closed:
                if not self._ticks:
                    self._changed.wait()
                elif (left := self._ticks[0] * TICK_S - time.monotonic()) > 0:
                    self._changed.wait(left)
                else:
                    return self._due.pop(heappop(self._ticks))
        return None
