"""What a process keeps of the calls it serves and makes: logs, metrics, spans, put together as it is told."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hauberk.errors import SettingsError
from hauberk.instrumenting import instrument_others
from hauberk.interceptors.access_log import AccessLog
from hauberk.interceptors.audit import AuditLog
from hauberk.interceptors.call import Call
from hauberk.interceptors.calls_made import Telemetry
from hauberk.interceptors.client_metrics import ClientMetrics
from hauberk.interceptors.figures import Figures
from hauberk.interceptors.metrics import Metrics
from hauberk.interceptors.records import MadeSink, Records, Sink
from hauberk.interceptors.tracing import TraceContext
from hauberk.scrape import Scrape
from hauberk.settings import Settings, parse_address

if TYPE_CHECKING:
    from hauberk.otlp import OtlpExporter
    from hauberk.otlp_metrics import OtlpMetrics


class Recording:
    """`records` and `audit` are for servers, `telemetry` for channels; `close`, which may wait for files,
    when they have stopped.

    Raises SettingsError or ListenFailed where metrics cannot be told at `metrics_listen`, host:port.
    """

    def __init__(
        self,
        service_name: str,
        *,
        access_log: bool,
        audit_dir: Path,
        metrics_listen: str | None,
        otlp_endpoint: str | None = None,
    ) -> None:
        self.audit = AuditLog(audit_dir, service_name)
        sinks: list[Sink] = [self.audit]
        if access_log:
            sinks.append(AccessLog(sys.stderr, service_name))
        made: list[MadeSink] = []
        metrics, client_metrics = Metrics(), ClientMetrics()
        collector = None if otlp_endpoint is None else _Collector(otlp_endpoint, service_name)
        if metrics_listen is not None or (collector is not None and collector.every_s is not None):
            sinks.append(metrics)
            made.append(client_metrics)
        if collector is not None:
            sinks.append(collector.spans)
            made.append(collector.client_spans)
        around = None
        if collector is not None or "opentelemetry.context" in sys.modules:
            around = _bridge()
        self.records = Records(sinks, made=made)
        self.telemetry = Telemetry(
            keep=self.records.keep if made else None, spans=collector is not None, around=around
        )
        """For channels."""
        figures = Figures(metrics, client_metrics, self.records, self.audit)
        self._scrape = None
        if metrics_listen is not None:
            self._scrape = Scrape(parse_address(metrics_listen), figures)
        self._collector = collector
        if collector is not None:
            collector.begin(figures)

    @classmethod
    def of(cls, settings: Settings, service_name: str) -> Self:
        """As the settings of a workload say."""
        return cls(
            service_name,
            access_log=settings.access_log,
            audit_dir=settings.audit_dir or settings.state_dir / "audit",
            metrics_listen=settings.metrics_listen,
            otlp_endpoint=settings.otlp_endpoint,
        )

    @property
    def for_servers(self) -> dict[str, Any]:
        """What MeshServer takes of it."""
        return {"records": self.records, "audit": self.audit}

    def close(self) -> None:
        if self._scrape is not None:
            self._scrape.close()
        self.records.close()
        self.audit.close()
        if self._collector is not None:
            self._collector.close()


def _bridge() -> Callable[[Call | None], TraceContext | None]:
    """Of use only to a program that uses OpenTelemetry: then it can be imported."""
    from hauberk.interceptors.bridge import install, span_around

    install()
    instrument_others()
    return span_around


class _Collector:
    """Where spans and metrics are sent. Nothing is before `begin`. Raises SettingsError."""

    def __init__(self, endpoint: str, service_name: str) -> None:
        try:
            from hauberk import otlp, otlp_metrics
            from hauberk.interceptors.client_spans import ClientSpans
            from hauberk.interceptors.spans import Spans
        except ImportError as error:
            raise SettingsError(
                "HAUBERK_OTLP_ENDPOINT needs opentelemetry-proto: install hauberk[telemetry]"
            ) from error
        self.every_s = otlp_metrics.every_s()
        """Between metrics; None: they are not sent."""
        self.spans = Spans()
        self.client_spans = ClientSpans(self.spans)
        self._connection = otlp.Connection(endpoint, service_name)
        self._exporters: list[OtlpMetrics | OtlpExporter] = []

    def begin(self, figures: Figures) -> None:
        from hauberk import otlp, otlp_metrics

        if self.every_s is not None:
            self._exporters.append(otlp_metrics.OtlpMetrics(self._connection, figures, self.every_s))
        self._exporters.append(otlp.OtlpExporter(self._connection, self.spans))

    def close(self) -> None:
        for exporter in self._exporters:
            exporter.close()
