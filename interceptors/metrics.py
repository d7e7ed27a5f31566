"""Metrics of the calls a process serves, added up from their records, never in a call's own time.

Names, units and bounds are those of gRFC A66 (OpenTelemetry metrics): `grpc.server.call.started`,
`grpc.server.call.duration`, `grpc.server.call.sent_total_compressed_message_size` and its `rcvd_` twin, by
`grpc.method` and `grpc.status`. Sizes are those of serialised messages, which is what is sent: nothing here
compresses. A method is named only if it is served; every other call is counted as one of "other", so that no
caller can add a series.
"""

import re
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import grpc

from hauberk.interceptors.records import Record

OTHER = "other"
DURATION_BOUNDS_S = (
    *(0.0, 0.00001, 0.00005, 0.0001, 0.0003, 0.0006, 0.0008, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008),
    *(0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4),
    *(0.5, 0.65, 0.8, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0),
)
SIZE_BOUNDS = tuple(sorted({0, 1024, 2048, 4096, *(4**exponent for exponent in range(7, 17))}))

_STATUSES = frozenset(code.name for code in grpc.StatusCode)
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
_MOST_REASONS = 200
"""Of one process: a reason is a method's to choose, and every one is a series."""


class Exemplar(NamedTuple):
    """One call of those counted together."""

    trace_id: str
    span_id: str
    value: float
    at: float
    """When it began, seconds since the epoch."""


class Histogram:
    """Values counted by the first of `bounds` that is not below them, the last count for those beyond all."""

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.exemplars: list[Exemplar | None] = [None] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> int:
        """Count `value`; which of the counts that was."""
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.total += value
        return bucket

    def copy(self) -> "Histogram":
        copy = Histogram(self.bounds)
        copy.counts, copy.exemplars, copy.total = self.counts[:], self.exemplars[:], self.total
        return copy


class Series(NamedTuple):
    """The calls of one method that ended with one status."""

    duration: Histogram
    received: Histogram
    sent: Histogram

    def copy(self) -> "Series":
        return Series(self.duration.copy(), self.received.copy(), self.sent.copy())


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Everything, at one moment."""

    calls: Mapping[tuple[str, str], Series]
    """By method and status."""
    started: Mapping[str, int]
    in_flight: Mapping[str, int]
    refused: Mapping[tuple[str, str], int]
    """By method and reason."""


class Metrics:
    """The sink that adds records up. `measured` may be asked in any thread."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str], Series] = {}
        self._ended: Counter[str] = Counter()
        self._refused: Counter[tuple[str, str]] = Counter()
        self._reasons: set[str] = set()
        self._started: dict[str, int] = {}
        self._lock = threading.Lock()

    def take(self, record: Record, began_at: float) -> None:
        method = method_of(record.policy.method)
        status = record.status if record.status in _STATUSES else "UNKNOWN"
        seconds = record.ended - record.began
        with self._lock:
            series = self._calls.get((method, status))
            if series is None:
                series = self._calls[method, status] = Series(
                    Histogram(DURATION_BOUNDS_S), Histogram(SIZE_BOUNDS), Histogram(SIZE_BOUNDS)
                )
            bucket = series.duration.add(seconds)
            if record.trace.sampled:
                trace = record.trace
                series.duration.exemplars[bucket] = Exemplar(trace.trace_id, trace.span_id, seconds, began_at)
            series.received.add(record.received)
            series.sent.add(record.sent)
            self._ended[method] += 1
            if record.reason is not None:
                self._refused[method, self._reason(record.reason)] += 1

    def settle(self) -> None:
        """Nothing is written."""

    def measured(self, running: Iterable[str]) -> Measured:
        """All so far; `running` are the methods (Policy.method) of the calls in flight, one for each.

        A call is between the two for an instant as it ends, so what has started is never told to be less
        than before.
        """
        in_flight = Counter(map(method_of, running))
        with self._lock:
            for method in {*self._ended, *in_flight}:
                started = self._ended[method] + in_flight[method]
                self._started[method] = max(started, self._started.get(method, 0))
            return Measured(
                calls={key: series.copy() for key, series in self._calls.items()},
                started=dict(self._started),
                in_flight=in_flight,
                refused=dict(self._refused),
            )

    def _reason(self, reason: str) -> str:
        if reason in self._reasons:
            return reason
        if len(self._reasons) >= _MOST_REASONS or not _REASON.fullmatch(str(reason)):
            return OTHER
        self._reasons.add(reason)
        return reason


def method_of(path: str) -> str:
    """The name of a method as A66 has it: without the slash before it."""
    return path[1:] or OTHER
