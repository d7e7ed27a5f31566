"""Where Prometheus asks for the metrics of a process: a port of its own, which nothing else is served on.

There is no TLS and nobody is asked who they are, so it listens on loopback unless told otherwise. What is
told are numbers, methods that are served, and trace ids as exemplars (to who asks for OpenMetrics). Needs the
extra `telemetry`. Names: OpenTelemetry's Prometheus exporter, "Metric Metadata", of those in metrics.py.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from hauberk.errors import ListenFailed, SettingsError
from hauberk.interceptors.audit import AuditLog
from hauberk.interceptors.client_metrics import ClientMetrics
from hauberk.interceptors.metrics import Exemplar, Histogram, Metrics, Series
from hauberk.interceptors.records import Records

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

_log = logging.getLogger(__name__)


class Scrape:
    """The endpoint, from the moment it is made. Raises SettingsError or ListenFailed. `close` when done."""

    def __init__(
        self,
        listen: tuple[str, int],
        metrics: Metrics,
        client_metrics: ClientMetrics,
        records: Records,
        audit: AuditLog,
    ) -> None:
        try:
            import prometheus_client
        except ImportError as error:
            raise SettingsError(
                "HAUBERK_METRICS_LISTEN needs prometheus-client: install hauberk[telemetry]"
            ) from error
        self._metrics = metrics
        self._client_metrics = client_metrics
        self._records = records
        self._audit = audit
        registry = prometheus_client.CollectorRegistry()
        registry.register(self)
        host, port = listen
        try:
            self._server, self._thread = prometheus_client.start_http_server(
                port, addr=host.strip("[]"), registry=registry
            )
        except OSError as error:
            raise ListenFailed(
                f"cannot listen on {host}:{port} for metrics: {(error.strerror or '').lower()}; "
                "choose another (HAUBERK_METRICS_LISTEN)"
            ) from error
        self.address = f"{host}:{self._server.server_port}"
        _log.info("metrics are at http://%s/metrics", self.address)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def describe(self) -> list["Metric"]:
        """Nothing: what there will be is not asked before the first scrape."""
        return []

    def collect(self) -> Iterator["Metric"]:
        """Called by prometheus_client for each scrape, in a thread of its own."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        self._records.flush(within_s=1.0)
        measured = self._metrics.measured(self._records.running())
        started = CounterMetricFamily(
            "grpc_server_call_started", "Calls that have begun.", labels=["grpc_method"]
        )
        for method, count in measured.started.items():
            started.add_metric([method], count)
        yield started
        yield from _histograms(_SERVED, ("grpc_method", "grpc_status"), measured.calls)
        by = ("grpc_method", "grpc_target", "grpc_status")
        yield from _histograms(_MADE, by, self._client_metrics.measured())
        in_flight = GaugeMetricFamily(
            "hauberk_server_calls_in_flight", "Calls being served.", labels=["grpc_method"]
        )
        for method in measured.started:
            in_flight.add_metric([method], measured.in_flight.get(method, 0))
        yield in_flight
        refused = CounterMetricFamily(
            "hauberk_server_calls_refused",
            "Calls that did not end well by our doing, or failed.",
            labels=["grpc_method", "reason"],
        )
        for (method, reason), count in measured.refused.items():
            refused.add_metric([method, reason], count)
        yield refused
        lost = CounterMetricFamily("hauberk_records_lost", "Records of calls that are lost.", labels=["why"])
        lost.add_metric(["no room"], self._records.dropped)
        lost.add_metric(["not written"], self._records.failed)
        lost.add_metric(["audit"], self._audit.lost)
        yield lost


_SERVED = (
    (
        "grpc_server_call_duration_seconds",
        "How long calls took, from their arrival to their end.",
        "duration",
    ),
    (
        "grpc_server_call_rcvd_total_compressed_message_size_bytes",
        "Bytes of the messages of a call that its caller sent.",
        "received",
    ),
    (
        "grpc_server_call_sent_total_compressed_message_size_bytes",
        "Bytes of the messages of a call that were replied.",
        "sent",
    ),
)


_MADE = (
    (
        "grpc_client_call_duration_seconds",
        "How long calls took that this process made, with all that core repeated of them.",
        "duration",
    ),
    (
        "hauberk_client_call_rcvd_total_message_size_bytes",
        "Bytes of the messages that were received of a call that this process made.",
        "received",
    ),
    (
        "hauberk_client_call_sent_total_message_size_bytes",
        "Bytes of the messages of a call that this process made.",
        "sent",
    ),
)


def _histograms(
    kinds: Sequence[tuple[str, str, str]], by: Sequence[str], calls: Mapping[Any, Series]
) -> Iterator["Metric"]:
    from prometheus_client.core import HistogramMetricFamily

    for name, help_text, part in kinds:
        family = HistogramMetricFamily(name, help_text, labels=by)
        for labels, series in calls.items():
            histogram: Histogram = getattr(series, part)
            family.add_metric(labels, buckets=_buckets(histogram), sum_value=histogram.total)
        yield family


def _buckets(histogram: Histogram) -> Sequence[Any]:
    bounds = [*map(_bound, histogram.bounds), "+Inf"]
    found = zip(bounds, accumulate(histogram.counts), map(_exemplar, histogram.exemplars), strict=True)
    return [list(bucket) for bucket in found]


def _bound(bound: float) -> str:
    return repr(float(bound))


def _exemplar(exemplar: Exemplar | None) -> Any:
    from prometheus_client import core

    if exemplar is None:
        return None
    labels = {"trace_id": exemplar.trace_id, "span_id": exemplar.span_id}
    return core.Exemplar(labels, exemplar.value, exemplar.at)
