"""How many calls one server should have in flight: as many as it can until they wait for each other.

Nobody can say that number beforehand, but latency tells when it is passed. So the limit is a gradient one:
where calls take longer than is tolerable, it is what was in flight times what is tolerable over what they
took; where they do not, it grows, and where nobody had to wait it is soon lifted. Source: Netflix
concurrency-limits, Gradient2Limit. It differs in what latency is held against:

  each method's own usual one, as methods differ by far more than load does;
  learned only while nothing is limited, or overload would become the usual (theirs drifts so);
  or where half the places do as much less work: then nobody was in anybody's way, and all of it is undone;
  or where the limit is at its least, for what so few calls take they do not take from each other;
  and nothing is slow that is less than 25 ms slower than usual: nobody feels that.

It is the mean that is compared, of so many calls that one slow among them changes little.
"""

import math

LEAST = 8
"""Calls in flight, however slow they are."""
TOLERANCE = 2.0
"""Times the usual latency."""
SLACK_S = 0.025
"""Over the usual latency; what is longer, this or the tolerance, is slow."""

WINDOW_S = 0.02
"""Between two looks, at the least; once the limit is lowered, as long as calls take: each look is to see what
the one before did."""
WINDOW_CALLS = 10

UNKNOWN_S = 1.0
"""From when a call is overdue whose method has never answered."""

_LOWEST_GRADIENT = 0.5
_OUTLIER = 4
"""Times what is tolerable: no call counts for more. It is eight times the usual, or more: what comes in for
calls that are overdue is a quarter of what goes out, at the most: a queue in a method shrinks all the same.
"""

_USELESS = 0.65
"""Of the work done before, by half the places or fewer."""
_RATE_S = 1.0
"""What the work done before is the mean of."""

_USUAL_FALLS_S = 5.0
_USUAL_RISES_S = 60.0
_USUAL_RISES_AT_LEAST_S = 1.0


class Usual:
    """What the calls of one method take when they wait for nothing."""

    __slots__ = ("calls", "overdue_s", "seconds", "tolerable_s", "took_s")

    def __init__(self) -> None:
        self.seconds = math.nan
        """Not known before the first look."""
        self.tolerable_s = math.inf
        self.overdue_s = UNKNOWN_S
        """What no load explains: a call that takes longer waits for something else."""
        self.calls = 0
        self.took_s = 0.0
        """All of them together, since the last look."""

    def learn(self, rises_s: float, passed_s: float) -> None:
        """Follow what was seen in the `passed_s` since the last look, upwards in about `rises_s`."""
        mean = self.took_s / self.calls
        if math.isnan(self.seconds):
            self.seconds = mean
        else:
            follows_s = max(passed_s, _USUAL_FALLS_S if mean < self.seconds else rises_s)
            seen = min(1.0, self.calls / WINDOW_CALLS)
            self.seconds += (mean - self.seconds) * passed_s / follows_s * seen
        self.tolerable_s = max(self.seconds * TOLERANCE, self.seconds + SLACK_S)
        self.overdue_s = self.tolerable_s * _OUTLIER
        self.calls, self.took_s = 0, 0.0


class Limit:
    """The limit of one server. Instants are monotonic seconds."""

    __slots__ = (
        "_began",
        "_calls",
        "_exact",
        "_most",
        "_peak",
        "_rate",
        "_seen",
        "_slow",
        "_tolerable",
        "_took",
        "_tried",
        "_useless",
        "full",
        "places",
    )

    def __init__(self, most: int, now: float) -> None:
        self.places = most
        """Calls that may be in flight now."""
        self.full = False
        """Set it when a call finds no place."""
        self._most = most
        self._exact = float(most)
        self._rate = 0.0
        self._slow = self._useless = False
        self._tried: tuple[float, float] | None = None
        """Places and calls a second before the limit was lowered, if it was."""
        self._seen: list[Usual] = []
        self._began = now
        self._calls = self._peak = 0
        self._took = self._tolerable = 0.0

    @property
    def lifted(self) -> bool:
        """Whether nothing says that there are fewer places than there may be at the most."""
        return self.places >= self._most

    def ended(self, usual: Usual, took_s: float, in_flight: int, now: float) -> None:
        """A call is over; `in_flight` counts it too."""
        if not usual.calls:
            self._seen.append(usual)
        usual.calls += 1
        usual.took_s += took_s
        self._calls += 1
        self._took += min(took_s, usual.tolerable_s * _OUTLIER)
        self._tolerable += usual.tolerable_s
        if in_flight > self._peak:
            self._peak = in_flight
        passed_s = now - self._began
        if self._calls < WINDOW_CALLS or passed_s < WINDOW_S:
            return
        if not self._tried or passed_s >= self._took / self._calls:
            self._look(passed_s)
            self._begin(now)

    def _look(self, passed_s: float) -> None:
        rate = self._calls / passed_s
        slow = self._took > self._tolerable
        if self._tried is None:
            self._rate += (rate - self._rate) * min(1.0, passed_s / _RATE_S)
        elif slow and self.full and self._exact <= self._tried[0] / 2:
            places, before = self._tried
            if rate < before * _USELESS:
                if self._useless:
                    self._undo(places, passed_s)
                else:  # once may be a pause of the process
                    self._learn(math.inf, passed_s)
                    self._useless = True
                return
            self._tried = self._exact, rate
        self._useless = False
        self._learn(_USUAL_RISES_S if self.lifted else math.inf, passed_s)
        if slow and (self._tried or self._slow):  # once may be chance
            places = min(self._exact, self._peak)
            if self._tried is None:
                self._tried = places, max(rate, self._rate)
            gradient = max(_LOWEST_GRADIENT, self._tolerable / self._took)
            self._set(max(float(LEAST), places * gradient))
        elif not slow:
            self._set(self._exact * 1.05 + 1 if self.full else self._exact * 1.2)
        self._slow = slow

    def _learn(self, rises_s: float, passed_s: float) -> None:
        if self.places <= LEAST:
            rises_s = _USUAL_RISES_AT_LEAST_S
        for usual in self._seen:
            usual.learn(rises_s, passed_s)

    def _undo(self, places: float, passed_s: float) -> None:
        """Fewer places were no use: what calls take now is their own."""
        self._learn(0.0, passed_s)
        self._tried = None
        self._useless = False
        self._set(places)

    def _set(self, places: float) -> None:
        self._exact = min(places, float(self._most))
        self.places = int(self._exact)
        if self.lifted:
            self._tried = None

    def _begin(self, now: float) -> None:
        self._began = now
        self._calls = self._peak = 0
        self._took = self._tolerable = 0.0
        self._seen = []
        self.full = False
