"""A collector of spans and metrics over OTLP, as far as those who send to it can tell."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_grpc


class Collector(service_grpc.TraceServiceServicer):
    """Keeps what it is sent; fails the first `failures` times."""

    def __init__(self) -> None:
        self.requests: list[service_pb2.ExportTraceServiceRequest] = []
        self.headers: list[tuple[str, Any]] = []
        self.failures = 0
        self.endpoint = ""
        self.metrics = MetricsCollector()
        self._came = threading.Condition()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        if self.failures:
            self.failures -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "canary")
        with self._came:
            self.requests.append(request)
            self.headers += [(key, value) for key, value in context.invocation_metadata()]
            self._came.notify_all()
        return service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for of_resource in request.resource_spans
            for scope in of_resource.scope_spans
            for span in scope.spans
        ]

    @property
    def services(self) -> set[str]:
        """The names of those who sent."""
        return {
            each.value.string_value
            for request in self.requests
            for of_resource in request.resource_spans
            for each in of_resource.resource.attributes
            if each.key == "service.name"
        }


class MetricsCollector(metrics_service_pb2_grpc.MetricsServiceServicer):
    """Keeps what it is sent; fails the first `failures` times."""

    def __init__(self) -> None:
        self.requests: list[metrics_service_pb2.ExportMetricsServiceRequest] = []
        self.failures = 0

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        if self.failures:
            self.failures -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "canary")
        self.requests.append(request)
        return metrics_service_pb2.ExportMetricsServiceResponse()

    def last(self, service: str) -> dict[str, Any]:
        """The newest metrics of the workload of that name, by name."""
        found = {}
        for request in self.requests:
            for of_resource in request.resource_metrics:
                (named,) = of_resource.resource.attributes
                if named.value.string_value.endswith(f"/{service}"):
                    found = {each.name: each for scope in of_resource.scope_metrics for each in scope.metrics}
        return found


@contextmanager
def collecting(*, metrics: bool = True) -> Iterator[Collector]:
    """A collector that listens at its `endpoint` while the block runs; of spans alone without `metrics`."""
    made = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    service_grpc.add_TraceServiceServicer_to_server(made, server)  # type: ignore[no-untyped-call]
    if metrics:
        add_metrics: Any = metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server
        add_metrics(made.metrics, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    made.endpoint = f"http://127.0.0.1:{port}"
    yield made
    server.stop(0).wait()
