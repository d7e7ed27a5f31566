"""What a server does that is asked for more than it can: it takes what it can, and refuses the rest at once.

Calls in flight are limited by how long they take (concurrency.py). A call that finds no place waits for a
small share of the time it has; the highest priority goes first. Of equal ones that is who came first, until
that one has waited half of its share: then there is more than can be served, and who came last goes first,
for it has the most time left (Maurer, "Fail at Scale", ACM Queue 13(8), 2015, "adaptive LIFO"). Who
waits in vain is refused with UNAVAILABLE and told to stay away for a moment.

A place is taken once the message has arrived, so a caller that is slow to send takes none. A call that takes
far longer than load explains is overdue, and its place another's: one method that hangs keeps nobody from the
others. So is a stream after a second, and how long it lasts says nothing: some are meant to last for hours.
"""

import asyncio
import logging
import math
import random
import time
from collections import deque
from collections.abc import Callable

from hauberk.interceptors.call import Call, current_call
from hauberk.interceptors.concurrency import Limit, Usual
from hauberk.interceptors.demands import Priority
from hauberk.interceptors.errors import Overloaded
from hauberk.interceptors.policy import Policy

_log = logging.getLogger(__name__)

MOST = 1000
"""Calls in flight, while nothing is slow."""
MOST_WAITING = 1000
WAIT_S = 0.5
"""The longest that a call waits for a place."""
WAIT_SHARE = {Priority.LOW: 0.02, Priority.NORMAL: 0.04, Priority.HIGH: 0.5}
"""Of what is left until its deadline."""
STREAM_S = 1.0
"""How long a stream takes a place, where others wait for one."""
LOOK_S = 0.02
"""Between two looks for calls that are overdue, while others wait."""
HIGH_PLACES = 2
"""Times the limit, for calls of the highest priority. When overload has just begun, far more are in flight
than the limit has come to be; these calls need not wait until all of those have ended.
"""
STUCK_S = 10.0
"""For so long calls have found no place, and none was answered: then the server says that it serves nobody.
That ends with the first answer, or once nothing is in flight: who is asked nothing more could not give one.
"""

_FIRST_TO_LAST = sorted(Priority, reverse=True)
PUSHBACK_S = (0.25, 0.75)
"""For how long who is refused is told to stay away, at least and at most."""
_LOG_S = 10.0


class _Served:
    """A call that runs. It takes a place until it is over, or until it is overdue."""

    __slots__ = ("began", "overdue_at", "placed")

    def __init__(self, began: float, overdue_s: float) -> None:
        self.began = began
        self.overdue_at = began + overdue_s
        self.placed = True


class _Waiting:
    """A call that waits: `place` is whether it gets one."""

    __slots__ = ("allowed_s", "place", "since")

    def __init__(self, place: asyncio.Future[bool], since: float, allowed_s: float) -> None:
        self.place = place
        self.since = since
        self.allowed_s = allowed_s


class Overload:
    """The places of one server, and who waits for one. Lives in one event loop."""

    def __init__(self, most: int = MOST, *, clock: Callable[[], float] = time.monotonic) -> None:
        """At most `most` calls are served at once, streams not counted."""
        if most < 1:
            raise ValueError(f"calls in flight must be at least 1: {most}")
        self.limit = Limit(most, clock())
        self.taken = 0
        """Places."""
        self.running = 0
        """Calls, streams not counted."""
        self.waiting = 0
        self.refused = 0
        self.stuck = False
        """Whether for `STUCK_S` calls have found no place and none was answered."""
        self.on_stuck: Callable[[], None] = lambda: None
        """Called when that has changed."""
        self.most = most
        self.clock = clock
        self.served: set[_Served] = set()
        self._usual: dict[str, Usual] = {}
        """By method: an override of its policy is no reason to learn it anew."""
        self._queues: dict[Priority, deque[_Waiting]] = {each: deque() for each in Priority}
        self._looking: asyncio.TimerHandle | None = None
        self._unanswered_since: float | None = None
        """When a call first found no place since one was last answered."""
        self._told_at, self._told = -math.inf, 0

    def turns(self, policy: Policy) -> "Turns":
        """The calls of one method."""
        usual = self._usual.setdefault(policy.method, Usual())
        return Turns(self, usual, streams=policy.request_streaming or policy.response_streaming)

    async def wait(self) -> None:
        """Wait for a place and take it. Raises Overloaded."""
        call, now, loop = current_call(), self.clock(), asyncio.get_running_loop()
        assert call is not None  # noqa: S101 - this runs in one
        if (
            call.priority is Priority.HIGH
            and not self._queues[Priority.HIGH]
            and self._has_room(Priority.HIGH)
        ):
            self.taken += 1
            return
        self.limit.full = True
        if self._unanswered_since is None:
            self._unanswered_since = now
        if self.waiting >= MOST_WAITING and not self._make_room(call.priority):
            raise self._overloaded(now)
        waiting = _Waiting(loop.create_future(), now, _allowed_s(call, now))
        queue = self._queues[call.priority]
        queue.append(waiting)
        self.waiting += 1
        timer = loop.call_later(waiting.allowed_s, self._turn_away, waiting)
        if self._looking is None:
            self._looking = loop.call_later(LOOK_S, self._look)
        try:
            if not await waiting.place:
                raise self._overloaded(self.clock())
        except asyncio.CancelledError:
            if waiting.place.cancelled():
                self.waiting -= 1
            elif waiting.place.result():  # cancelled with the place in its hand
                self.taken -= 1
                self._hand_out(self.clock())
            raise
        finally:
            timer.cancel()
            _tidy(queue)

    def leave(self, this: _Served, now: float, *, answered: bool) -> None:
        self.served.discard(this)
        if this.placed:
            self.taken -= 1
        if self._unanswered_since is not None and (answered or not self.running):
            self._unanswered_since = None
            self._say_stuck(False)
        if self.waiting:
            self._hand_out(now)

    def _look(self) -> None:
        """Take back the places of calls that are overdue: what takes so long is no matter of load."""
        self._looking = None
        if not self.waiting:
            return
        now = self.clock()
        for each in self.served:
            if each.placed and now > each.overdue_at:
                each.placed = False
                self.taken -= 1
        self._hand_out(now)
        self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _has_room(self, priority: Priority) -> bool:
        places = self.limit.places * (HIGH_PLACES if priority is Priority.HIGH else 1)
        return self.taken < places and self.running < self.most

    def _hand_out(self, now: float) -> None:
        """Give what places there are to those who wait."""
        for priority in _FIRST_TO_LAST:
            queue = self._queues[priority]
            while self._has_room(priority) and (waiting := _next(queue, now)):
                waiting.place.set_result(True)
                self.waiting -= 1
                self.taken += 1

    def _make_room(self, priority: Priority) -> bool:
        """Turn away whoever has the least to hope for; False if all who wait go before `priority`."""
        for lower in reversed(_FIRST_TO_LAST):
            queue = self._queues[lower]
            _tidy(queue)
            if lower <= priority and queue:
                self._turn_away(queue.popleft())
                return True
        return False

    def _turn_away(self, waiting: _Waiting) -> None:
        if not waiting.place.done():
            waiting.place.set_result(False)
            self.waiting -= 1

    def _overloaded(self, now: float) -> Overloaded:
        self.refused += 1
        since = self._unanswered_since
        if since is not None and now - since >= STUCK_S:
            self._say_stuck(True)
        if now - self._told_at >= _LOG_S:
            _log.warning(
                "%d calls refused: this server has more to do than it can, %d at a time",
                self.refused - self._told,
                self.limit.places,
            )
            self._told_at, self._told = now, self.refused
        pushback_s = random.uniform(*PUSHBACK_S)  # noqa: S311 - spreads callers
        return Overloaded("this server has more to do than it can", retry_after_s=pushback_s)

    def _say_stuck(self, stuck: bool) -> None:
        if stuck is not self.stuck:
            self.stuck = stuck
            if stuck:
                _log.error("no call was answered for %g s, and none finds a place", STUCK_S)
            self.on_stuck()


class Turns:
    """The calls of one method: each takes its turn, and ends it."""

    __slots__ = ("_counts", "_overload", "_usual")

    def __init__(self, overload: Overload, usual: Usual, *, streams: bool) -> None:
        self._overload = overload
        self._counts = 0 if streams else 1
        self._usual = usual

    def begin(self) -> _Served | None:
        """A turn for the current call; None: it has to `wait` for one."""
        overload = self._overload
        if overload.waiting or overload.taken >= overload.limit.places or overload.running >= overload.most:
            return None
        overload.taken += 1
        return self._begun()

    async def wait(self) -> _Served:
        """Raises Overloaded."""
        await self._overload.wait()
        return self._begun()

    def end(self, turn: _Served, error: BaseException | None) -> None:
        """The method of a call has ended, by `error` or well."""
        overload, usual = self._overload, self._usual
        overload.running -= self._counts
        now = overload.clock()
        took_s = now - turn.began
        if self._counts and (error is None or took_s > usual.seconds):  # a quick failure says nothing
            overload.limit.ended(usual, took_s, overload.taken, now)
        overload.leave(turn, now, answered=not isinstance(error, asyncio.CancelledError))

    def _begun(self) -> _Served:
        overload = self._overload
        overload.running += self._counts
        turn = _Served(overload.clock(), self._usual.overdue_s if self._counts else STREAM_S)
        overload.served.add(turn)
        return turn


def _allowed_s(call: Call, now: float) -> float:
    """How long this one may wait."""
    if call.deadline is None:
        return WAIT_S
    return min(WAIT_S, call.deadline.left(now) * WAIT_SHARE[call.priority])


def _next(queue: deque[_Waiting], now: float) -> _Waiting | None:
    """Who goes next, of those who wait in this one."""
    _tidy(queue)
    while queue:
        oldest = queue[0]
        waiting = queue.pop() if now - oldest.since > oldest.allowed_s / 2 else queue.popleft()
        if not waiting.place.done():
            return waiting
    return None


def _tidy(queue: deque[_Waiting]) -> None:
    """Drop whoever waits no more, up to the first that does."""
    while queue and queue[0].place.done():
        queue.popleft()
