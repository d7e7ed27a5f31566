"""All metrics of a process at one moment, whoever asks: Prometheus and a collector are told the same.

Names and units are OpenTelemetry's, those of gRFC A66 where it has one; whose are ours begin with `hauberk`.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from hauberk.interceptors.audit import AuditLog
from hauberk.interceptors.client_metrics import ClientMetrics
from hauberk.interceptors.metrics import Histogram, Metrics, Series
from hauberk.interceptors.records import Records

FLUSH_S = 1.0
"""How long one who asks waits for the calls that ended just now."""

Values = tuple[str, ...]


class Kind(StrEnum):
    COUNTER = "counter"
    """Adds up for as long as the process lives."""
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Figure(NamedTuple):
    """One metric. Each of `points` stands beside the values of the attributes that `by` names."""

    name: str
    unit: str
    says: str
    kind: Kind
    by: Values
    points: Sequence[tuple[Values, int | Histogram]]


class Figures:
    """What the sinks of a process have added up."""

    def __init__(
        self, metrics: Metrics, client_metrics: ClientMetrics, records: Records, audit: AuditLog
    ) -> None:
        self._metrics = metrics
        self._client_metrics = client_metrics
        self._records = records
        self._audit = audit

    def now(self) -> list[Figure]:
        """All of them; may be asked in any thread."""
        self._records.flush(within_s=FLUSH_S)
        measured = self._metrics.measured(self._records.running())
        started = [((method,), count) for method, count in measured.started.items()]
        in_flight = [((method,), measured.in_flight.get(method, 0)) for method in measured.started]
        lost = [
            (("no room",), self._records.dropped),
            (("not written",), self._records.failed),
            (("audit",), self._audit.lost),
        ]
        method = ("grpc.method",)
        made_by = ("grpc.method", "grpc.target", "grpc.status")
        return [
            Figure("grpc.server.call.started", "{call}", _STARTED, Kind.COUNTER, method, started),
            *_histograms(_SERVED, ("grpc.method", "grpc.status"), measured.calls.items()),
            *_histograms(_MADE, made_by, self._client_metrics.measured().items()),
            Figure("hauberk.server.calls_in_flight", "{call}", _RUNNING, Kind.GAUGE, method, in_flight),
            Figure(
                "hauberk.server.calls_refused",
                "{call}",
                "Calls that did not end well by our doing, or failed.",
                Kind.COUNTER,
                ("grpc.method", "reason"),
                list(measured.refused.items()),
            ),
            Figure("hauberk.records_lost", "{record}", _LOST, Kind.COUNTER, ("why",), lost),
        ]


_STARTED, _RUNNING = "Calls that have begun.", "Calls being served."
_LOST = "Records of calls that are lost."
_SERVED = (
    ("grpc.server.call.duration", "s", "How long calls took, from their arrival to their end."),
    (
        "grpc.server.call.rcvd_total_compressed_message_size",
        "By",
        "Bytes of the messages of a call that its caller sent.",
    ),
    (
        "grpc.server.call.sent_total_compressed_message_size",
        "By",
        "Bytes of the messages of a call that were replied.",
    ),
)
"""In the order of Series."""
_MADE = (
    (
        "grpc.client.call.duration",
        "s",
        "How long calls took that this process made, with all that core repeated of them.",
    ),
    (
        "hauberk.client.call.rcvd_total_message_size",
        "By",
        "Bytes of the messages that were received of a call that this process made.",
    ),
    (
        "hauberk.client.call.sent_total_message_size",
        "By",
        "Bytes of the messages of a call that this process made.",
    ),
)


def _histograms(
    names: Sequence[tuple[str, str, str]], by: Values, calls: Iterable[tuple[Values, Series]]
) -> list[Figure]:
    return [
        Figure(*name, Kind.HISTOGRAM, by, [(values, series[part]) for values, series in calls])
        for part, name in enumerate(names)
    ]
