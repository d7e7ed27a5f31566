"""Sends all metrics to an OTLP collector over gRPC, in a thread of its own. Needs the extra `telemetry`.

What adds up is told since the process began ("cumulative"), so what cannot be sent is made good by the next
request. Who takes spans alone answers UNIMPLEMENTED, and is not asked again. Source: OTLP 1.x, "OTLP/gRPC";
opentelemetry-proto, metrics.proto; OpenTelemetry Environment Variables, "Periodic exporting MetricReader".
"""

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2

from hauberk.errors import SettingsError
from hauberk.interceptors.figures import Figure, Figures, Kind, Values
from hauberk.interceptors.metrics import Exemplar, Histogram
from hauberk.interceptors.spans import attribute
from hauberk.otlp import CALL_S, CLOSE_S, SCOPE, Connection

_SINCE_START = metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE
_EVERY = "OTEL_METRIC_EXPORT_INTERVAL"
_TELL_S = 30.0

_log = logging.getLogger(__name__)


def every_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """Seconds between two requests as the environment says; None: none are sent. Raises SettingsError."""
    if environment.get("OTEL_METRICS_EXPORTER", "").strip().lower() == "none":
        return None
    text = environment.get(_EVERY, "60000")
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 10**9):
        raise SettingsError(f"{_EVERY} is no number of milliseconds: {text!r:.99}")
    return int(text) / 1000


class OtlpMetrics:
    """Sends `figures` every so many seconds over `connection`, which stays its owner's, and once more at the
    end: `close` does, within CLOSE_S.
    """

    def __init__(self, connection: Connection, figures: Figures, every_s: float) -> None:
        self._connection = connection
        self._figures = figures
        self._every_s = every_s
        self._began_ns = time.time_ns()
        self._export = MetricsServiceStub(connection.channel).Export  # type: ignore[no-untyped-call]
        self._closing = threading.Event()
        self._told_at = -_TELL_S
        self._thread = threading.Thread(target=self._keep, name="hauberk-otlp-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(CLOSE_S)

    def _keep(self) -> None:
        while True:
            closing = self._closing.wait(self._every_s)
            try:
                wanted = self._send()
            except Exception as error:
                _log.error("metrics could not be sent: %s", type(error).__name__)
                wanted = True
            if closing or not wanted:
                return

    def _send(self) -> bool:
        """Whether more is wanted there."""
        now_ns = time.time_ns()
        scope = metrics_pb2.ScopeMetrics(
            scope=SCOPE, metrics=[metric(figure, self._began_ns, now_ns) for figure in self._figures.now()]
        )
        of_resource = metrics_pb2.ResourceMetrics(resource=self._connection.resource, scope_metrics=[scope])
        request = ExportMetricsServiceRequest(resource_metrics=[of_resource])
        try:
            self._export(request, timeout=CALL_S, metadata=self._connection.headers)
        except (grpc.RpcError, ValueError) as error:  # ValueError: closed meanwhile
            code = error.code() if isinstance(error, grpc.Call) else None
            if code is grpc.StatusCode.UNIMPLEMENTED:
                _log.warning("the collector takes no metrics: it is sent none any more")
                return False
            now = time.monotonic()
            if now - self._told_at >= _TELL_S:
                self._told_at = now
                _log.warning("the collector takes no metrics now: %s", code.name if code else "closed")
        return True


def metric(figure: Figure, began_ns: int, now_ns: int) -> metrics_pb2.Metric:
    """`figure` as OTLP has it; what adds up began at `began_ns`, nanoseconds since the epoch."""
    made = metrics_pb2.Metric(name=figure.name, unit=figure.unit, description=figure.says)
    if figure.kind is Kind.HISTOGRAM:
        made.histogram.aggregation_temporality = _SINCE_START
    elif figure.kind is Kind.COUNTER:
        made.sum.aggregation_temporality, made.sum.is_monotonic = _SINCE_START, True
    else:
        made.gauge.SetInParent()
    for values, point in figure.points:
        by = list(_attributes(figure.by, values))
        if isinstance(point, Histogram):
            made.histogram.data_points.append(_histogram(point, by, began_ns, now_ns))
        elif figure.kind is Kind.COUNTER:
            made.sum.data_points.add(
                attributes=by, start_time_unix_nano=began_ns, time_unix_nano=now_ns, as_int=point
            )
        else:
            made.gauge.data_points.add(attributes=by, time_unix_nano=now_ns, as_int=point)
    return made


def _attributes(by: Values, values: Values) -> Iterable[KeyValue]:
    return map(attribute, by, values)


def _histogram(
    histogram: Histogram, by: list[KeyValue], began_ns: int, now_ns: int
) -> metrics_pb2.HistogramDataPoint:
    return metrics_pb2.HistogramDataPoint(
        attributes=by,
        start_time_unix_nano=began_ns,
        time_unix_nano=now_ns,
        count=sum(histogram.counts),
        sum=histogram.total,
        bucket_counts=histogram.counts,
        explicit_bounds=histogram.bounds,
        exemplars=[_exemplar(one) for one in histogram.exemplars if one is not None],
    )


def _exemplar(exemplar: Exemplar) -> metrics_pb2.Exemplar:
    return metrics_pb2.Exemplar(
        time_unix_nano=int(exemplar.at * 1e9),
        as_double=exemplar.value,
        trace_id=bytes.fromhex(exemplar.trace_id),
        span_id=bytes.fromhex(exemplar.span_id),
    )
