"""What a process keeps of the calls it serves and makes: logs, metrics, spans, put together as it is told."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hauberk.errors import SettingsError
from hauberk.interceptors.access_log import AccessLog
from hauberk.interceptors.audit import AuditLog
from hauberk.interceptors.call import Call
from hauberk.interceptors.calls_made import Telemetry
from hauberk.interceptors.client_metrics import ClientMetrics
from hauberk.interceptors.metrics import Metrics
from hauberk.interceptors.records import MadeSink, Records, Sink
from hauberk.interceptors.tracing import TraceContext
from hauberk.scrape import Scrape
from hauberk.settings import Settings, parse_address

if TYPE_CHECKING:
    from hauberk.otlp import OtlpExporter


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
        if metrics_listen is not None:
            sinks.append(metrics)
            made.append(client_metrics)
        self._otlp = None
        if otlp_endpoint is not None:
            self._otlp, spans, client_spans = _exporting(otlp_endpoint, service_name)
            sinks.append(spans)
            made.append(client_spans)
        around = None
        if self._otlp is not None or "opentelemetry.context" in sys.modules:
            around = _bridge()
        self.records = Records(sinks, made=made)
        self.records.names_agents = self._otlp is not None
        self.telemetry = Telemetry(
            keep=self.records.keep if made else None, spans=self._otlp is not None, around=around
        )
        """For channels."""
        self._scrape = None
        if metrics_listen is not None:
            listen = parse_address(metrics_listen)
            self._scrape = Scrape(listen, metrics, client_metrics, self.records, self.audit)

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
        if self._otlp is not None:
            self._otlp.close()


def _bridge() -> Callable[[Call | None], TraceContext | None]:
    """Of use only to a program that uses OpenTelemetry: then it can be imported."""
    from hauberk.interceptors.bridge import install, span_around

    install()
    return span_around


def _exporting(endpoint: str, service_name: str) -> "tuple[OtlpExporter, Sink, MadeSink]":
    try:
        from hauberk.interceptors.client_spans import ClientSpans
        from hauberk.interceptors.spans import Spans
        from hauberk.otlp import OtlpExporter
    except ImportError as error:
        raise SettingsError(
            "HAUBERK_OTLP_ENDPOINT needs opentelemetry-proto: install hauberk[telemetry]"
        ) from error
    spans = Spans()
    return OtlpExporter(endpoint, spans, service_name=service_name), spans, ClientSpans(spans)
