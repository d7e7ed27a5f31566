"""Where Prometheus asks for the metrics of a process: a port of its own, which nothing else is served on.

There is no TLS and nobody is asked who they are, so it listens on loopback unless told otherwise. What is
told are numbers, methods that are served, and trace ids as exemplars (to who asks for OpenMetrics). Needs the
extra `telemetry`. Names: OpenTelemetry's Prometheus exporter, "Metric Metadata", of those in figures.py.
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from hauberk.errors import ListenFailed, SettingsError
from hauberk.interceptors.figures import Figure, Figures, Kind
from hauberk.interceptors.metrics import Exemplar, Histogram

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

_log = logging.getLogger(__name__)


class Scrape:
    """The endpoint, from the moment it is made. Raises SettingsError or ListenFailed. `close` when done."""

    def __init__(self, listen: tuple[str, int], figures: Figures) -> None:
        try:
            import prometheus_client
        except ImportError as error:
            raise SettingsError(
                "HAUBERK_METRICS_LISTEN needs prometheus-client: install hauberk[telemetry]"
            ) from error
        self._figures = figures
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
        return map(_family, self._figures.now())


_UNITS = {"s": "_seconds", "By": "_bytes"}


def _family(figure: Figure) -> "Metric":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    name = figure.name.replace(".", "_") + _UNITS.get(figure.unit, "")
    labels = [each.replace(".", "_") for each in figure.by]
    if figure.kind is Kind.HISTOGRAM:
        histograms = HistogramMetricFamily(name, figure.says, labels=labels)
        for values, point in figure.points:
            assert isinstance(point, Histogram)  # noqa: S101 - as its kind says
            histograms.add_metric(values, buckets=_buckets(point), sum_value=point.total)
        return histograms
    kind = CounterMetricFamily if figure.kind is Kind.COUNTER else GaugeMetricFamily
    family = kind(name, figure.says, labels=labels)
    for values, point in figure.points:
        assert not isinstance(point, Histogram)  # noqa: S101 - as its kind says
        family.add_metric(values, point)
    return family


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
