"""How many calls a server is let have at once, by a clock that is set by hand and services of many kinds."""

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import pytest

from hauberk.interceptors.concurrency import LEAST, Limit, Usual

MOST = 1000
WAIT_S = 0.1
UNBOUNDED = 10**9

Rate = Callable[[float], float]
Service = Callable[[random.Random, float], float]


@dataclass
class Seen:
    """What became of the calls; `ms` are those of the answered ones, their wait for a place included."""

    offered: int
    refused: int
    ms: list[float]
    places: list[int]
    """After each call."""
    usual_s: float

    def slower_than(self, ms: float) -> float:
        return sum(each > ms for each in self.ms) / len(self.ms)


class Simulated:
    """A server of `slots` that each serve one call at a time, behind a limit; arrivals are random."""

    def __init__(self, service: Service, slots: int) -> None:
        self._service, self._slots = service, slots
        self._random, self._order = random.Random(7), count()
        self._limit, self._usual = Limit(MOST, 0.0), Usual()
        self._events: list[tuple[float, int, float | None, float]] = []
        self._in_flight = self._busy = 0
        self._waiting: deque[float] = deque()
        self._queued: deque[tuple[float, float]] = deque()

    def run(self, rate: Rate, seconds: float) -> Seen:
        seen, now = Seen(0, 0, [], [], 0.0), 0.0
        arrivals = self._arrivals(rate)
        arrival = next(arrivals)
        while now < seconds:
            if not self._events or arrival < self._events[0][0]:
                now, arrival = arrival, next(arrivals)
                seen.offered += 1
                if self._waiting or self._in_flight >= self._limit.places:
                    self._limit.full = True
                    self._waiting.append(now)
                else:
                    self._enter(now, now)
                continue
            now, _, arrived, entered = heapq.heappop(self._events)
            assert arrived is not None
            seen.ms.append((now - arrived) * 1000)
            self._end(entered, now)
            while self._waiting and now - self._waiting[0] > WAIT_S:
                self._waiting.popleft()
                seen.refused += 1
            while self._waiting and self._in_flight < self._limit.places:
                late = now - self._waiting[0] > WAIT_S / 2
                self._enter(self._waiting.pop() if late else self._waiting.popleft(), now)
            seen.places.append(self._limit.places)
        seen.usual_s = self._usual.seconds
        return seen

    def _arrivals(self, rate: Rate) -> Iterator[float]:
        now = 0.0
        while True:
            now += self._random.expovariate(rate(now))
            yield now

    def _enter(self, arrived: float, now: float) -> None:
        self._in_flight += 1
        if self._busy < self._slots:
            self._busy += 1
            self._serve(arrived, now, now)
        else:
            self._queued.append((arrived, now))

    def _serve(self, arrived: float, entered: float, now: float) -> None:
        ends = now + self._service(self._random, now)
        heapq.heappush(self._events, (ends, next(self._order), arrived, entered))

    def _end(self, entered: float, now: float) -> None:
        self._limit.ended(self._usual, now - entered, self._in_flight, now)
        self._in_flight -= 1
        if self._queued:
            arrived, began = self._queued.popleft()
            self._serve(arrived, began, now)
        else:
            self._busy -= 1


def takes(seconds: float) -> Service:
    return lambda chance, now: seconds


def spread(mean_s: float, sigma: float) -> Service:
    """Lognormal: a sigma of 1.5 has a 99th percentile of ten times the mean."""
    return lambda chance, now: mean_s * chance.lognormvariate(-sigma * sigma / 2, sigma)


def steady(per_s: float) -> Rate:
    return lambda now: per_s


@pytest.mark.parametrize("per_s", [4, 40, 200, 300])
def test_server_below_its_capacity_refuses_nobody(per_s: float) -> None:
    assert Simulated(takes(0.02), slots=8).run(steady(per_s), 60).refused == 0


def test_server_asked_for_three_times_its_capacity_does_what_it_can_about_as_fast_as_ever() -> None:
    seen = Simulated(takes(0.02), slots=8).run(lambda now: 40 if now < 5 else 1200, 35)
    assert len(seen.ms) >= 0.97 * (5 * 40 + 30 * 400)
    assert seen.slower_than(150) < 0.01
    assert min(seen.places) >= LEAST
    assert max(seen.places[-5000:]) < 40


def test_server_that_never_knew_quiet_times_finds_its_limit_all_the_same() -> None:
    seen = Simulated(takes(0.02), slots=8).run(steady(1200), 30)
    assert len(seen.ms) >= 0.97 * 30 * 400
    assert seen.slower_than(400) < 0.01


def test_overload_that_creeps_up_is_noticed() -> None:
    seen = Simulated(takes(0.02), slots=8).run(lambda now: min(440.0, 300 + now), 200)
    assert seen.slower_than(200) < 0.01
    assert seen.usual_s < 0.03


@pytest.mark.parametrize("per_s", [20, 400, 2000])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.5])
def test_calls_that_take_very_different_times_are_no_overload(sigma: float, per_s: float) -> None:
    seen = Simulated(spread(0.1, sigma), UNBOUNDED).run(steady(per_s), 60)
    assert seen.refused < 0.02 * seen.offered
    assert seen.places[-1] > 2 * per_s * 0.1


@pytest.mark.parametrize("slower", [2.5, 10])
def test_dependency_that_got_slower_is_no_overload(slower: float) -> None:
    """The limit is lowered, but half the places do half the work: what is slow then is not the load."""

    def service(chance: random.Random, now: float) -> float:
        return 0.02 * (slower if 20 <= now < 60 else 1)

    seen = Simulated(service, UNBOUNDED).run(steady(400), 100)
    assert seen.refused < 0.015 * seen.offered
    assert seen.places[-1] == MOST


def test_bursts_to_a_server_that_can_take_them_change_nothing() -> None:
    seen = Simulated(takes(0.02), UNBOUNDED).run(lambda now: 50 if int(now) % 10 else 1500, 100)
    assert seen.refused == 0
    assert min(seen.places) == MOST


def test_limit_is_lifted_when_the_load_is_gone() -> None:
    seen = Simulated(takes(0.02), slots=8).run(lambda now: 1200 if 5 <= now < 10 else 100, 20)
    assert min(seen.places) < 20
    assert seen.places[-1] == MOST
