"""Sends spans to an OTLP collector over gRPC, in a thread of its own. Needs the extra `telemetry`.

What cannot be sent is dropped after a second try, counted and told; nobody waits for it. Of a collector's
answer only the status is logged. Source: OTLP 1.x, "OTLP/gRPC"; OpenTelemetry Environment Variables.
"""

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from urllib.parse import unquote, urlsplit

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from hauberk.errors import SettingsError
from hauberk.interceptors.spans import Spans
from hauberk.interceptors.uninstrumented import insecure_channel, secure_channel

EVERY_S = 1.0
MOST = 512
"""Spans in one request."""
CALL_S = 5.0
CLOSE_S = 5.0

SCOPE = InstrumentationScope(name="hauberk")

_TELL_S = 30.0
_log = logging.getLogger(__name__)


class Connection:
    """To a collector, for whatever is sent there: `channel`, and what goes with each request."""

    def __init__(self, endpoint: str, service_name: str, environment: Mapping[str, str] = os.environ) -> None:
        """`endpoint` is http://host:port or, with TLS, https://host:port. Raises SettingsError."""
        self.channel = _channel(endpoint, environment)
        self.headers = _headers(environment.get("OTEL_EXPORTER_OTLP_HEADERS", ""))
        self.resource = Resource(attributes=[_text("service.name", service_name)])


class OtlpExporter:
    """Sends what `spans` gathers. `close` sends the rest, within CLOSE_S."""

    def __init__(self, connection: Connection, spans: Spans, *, every_s: float = EVERY_S) -> None:
        self._spans = spans
        self._every_s = every_s
        self._connection = connection
        self._export = TraceServiceStub(connection.channel).Export  # type: ignore[no-untyped-call]
        self._closing = threading.Event()
        self._told_at = -_TELL_S
        self._thread = threading.Thread(target=self._keep, name="hauberk-otlp", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._spans.ready.set()
        self._thread.join(CLOSE_S)
        self._connection.channel.close()

    def _keep(self) -> None:
        while not self._closing.is_set():
            self._spans.ready.wait()
            self._closing.wait(self._every_s)
            try:
                self._send_all()
            except Exception as error:
                _log.error("spans could not be sent: %s", type(error).__name__)

    def _send_all(self) -> None:
        ends = time.monotonic() + CLOSE_S
        while batch := self._spans.next(MOST):
            if self._closing.is_set() and time.monotonic() > ends:
                self._spans.dropped += len(batch)
                return
            if not (self._send(batch) or self._send(batch)):
                self._spans.dropped += len(batch)

    def _send(self, batch: Sequence[Span]) -> bool:
        scope = ScopeSpans(scope=SCOPE, spans=batch)
        of_resource = ResourceSpans(resource=self._connection.resource, scope_spans=[scope])
        request = ExportTraceServiceRequest(resource_spans=[of_resource])
        try:
            self._export(request, timeout=CALL_S, metadata=self._connection.headers)
        except (grpc.RpcError, ValueError) as error:  # ValueError: closed meanwhile
            now = time.monotonic()
            if now - self._told_at >= _TELL_S:
                self._told_at = now
                code = error.code().name if isinstance(error, grpc.Call) else "closed"
                _log.warning(
                    "the collector takes no spans: %s; %d are lost so far", code, self._spans.dropped
                )
            return False
        return True


def _channel(endpoint: str, environment: Mapping[str, str]) -> grpc.Channel:
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.hostname or url.username or url.path not in ("", "/"):
        raise SettingsError("the OTLP endpoint is not http://host:port or https://host:port (OTLP over gRPC)")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    target = f"{host}:{url.port or 4317}"
    if url.scheme == "http":
        return insecure_channel(target)
    roots = None
    if named := environment.get("OTEL_EXPORTER_OTLP_CERTIFICATE"):
        try:
            with open(named, "rb") as file:  # noqa: PTH123 - a path of the environment's
                roots = file.read()
        except OSError as error:
            raise SettingsError(f"OTEL_EXPORTER_OTLP_CERTIFICATE: {named}: {error.strerror}") from error
    return secure_channel(target, grpc.ssl_channel_credentials(roots))


def _headers(text: str) -> tuple[tuple[str, str], ...]:
    """As W3C Baggage without properties: "key=value,key=value", percent-encoded."""
    pairs = (pair.partition("=") for pair in text.split(",") if pair.strip())
    return tuple((key.strip().lower(), unquote(value.strip())) for key, _, value in pairs)


def _text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))
