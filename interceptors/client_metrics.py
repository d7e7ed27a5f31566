"""Metrics of the calls a process makes, added up as those it serves: see metrics.py.

`grpc.client.call.duration` by `grpc.method`, `grpc.target` and `grpc.status` is that of gRFC A66. Its
`grpc.client.attempt.*` are not told: core repeats a call by itself and says nothing of it. What was sent and
has come is known of each call, and told as `hauberk.client.call.sent_total_message_size` and its `rcvd_`
twin. As A66 has it, a method is named where generated code calls it, and "other" elsewhere.
"""

import threading
from collections.abc import Mapping

from hauberk.interceptors.calls_made import CallMade
from hauberk.interceptors.metrics import DURATION_BOUNDS_S, OTHER, SIZE_BOUNDS, Exemplar, Histogram, Series

Key = tuple[str, str, str]
"""Method, target and status."""


class ClientMetrics:
    """The sink that adds calls up. `measured` may be asked in any thread."""

    def __init__(self) -> None:
        self._calls: dict[Key, Series] = {}
        self._lock = threading.Lock()

    def take(self, made: CallMade, began_at: float) -> None:
        key = (made.method[1:] if made.named else OTHER, made.target, made.status)
        seconds = made.ended - made.began
        with self._lock:
            series = self._calls.get(key)
            if series is None:
                series = self._calls[key] = Series(
                    Histogram(DURATION_BOUNDS_S), Histogram(SIZE_BOUNDS), Histogram(SIZE_BOUNDS)
                )
            bucket = series.duration.add(seconds)
            trace = made.trace
            if trace is not None and trace.sampled:
                series.duration.exemplars[bucket] = Exemplar(trace.trace_id, trace.span_id, seconds, began_at)
            series.received.add(made.received)
            series.sent.add(made.sent)

    def settle(self) -> None:
        """Nothing is written."""

    def measured(self) -> Mapping[Key, Series]:
        """All so far."""
        with self._lock:
            return {key: series.copy() for key, series in self._calls.items()}
