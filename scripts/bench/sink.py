"""Where spans and metrics are sent: `python -m scripts.bench.sink FOLDER`, OTLP over HTTP and over gRPC.

It ends with its stdin. How many spans came from each service it says in FOLDER/spans.json. What it costs
counts as nobody's.
"""

import asyncio
import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import uvloop
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

COUNTS = "spans.json"
OVER_HTTP, OVER_GRPC = "sink.address", "sink-grpc.address"
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"


def counted(folder: Path, *services: str) -> int:
    """Spans of these services that have arrived so far."""
    try:
        counts = json.loads((folder / COUNTS).read_text("ascii"))
    except FileNotFoundError:
        return 0
    return sum(counts.get(service, 0) for service in services)


class _Counts:
    """Spans by service, as they are told to who asks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counts: Counter[str] = Counter()

    def add(self, request: trace_service_pb2.ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            named = {each.key: each.value.string_value for each in resource.resource.attributes}
            spans = sum(len(scope.spans) for scope in resource.scope_spans)
            self._counts[named.get("service.name", "")] += spans
        written = self._folder / f"{COUNTS}.new"
        written.write_text(json.dumps(self._counts), encoding="ascii")
        written.rename(self._folder / COUNTS)


class _Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, counts: _Counts) -> None:
        self._counts = counts

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        self._counts.add(request)
        return trace_service_pb2.ExportTraceServiceResponse()


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    """Takes them, as a collector does, and does nothing with them."""

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the contract's name
        return metrics_service_pb2.ExportMetricsServiceResponse()


async def serve(folder: Path) -> None:
    counts = _Counts(folder)

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            body = await reader.readexactly(int(head.get("content-length", "0")))
            raw = gzip.decompress(body) if head.get("content-encoding") else body
            counts.add(trace_service_pb2.ExportTraceServiceRequest.FromString(raw))
            writer.write(_ANSWER)
        writer.close()

    over_grpc = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Collector(counts), over_grpc)  # type: ignore[no-untyped-call, unused-ignore]
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Metrics(), over_grpc)  # type: ignore[no-untyped-call, unused-ignore]
    port = over_grpc.add_insecure_port("127.0.0.1:0")
    await over_grpc.start()
    (folder / OVER_GRPC).write_text(f"127.0.0.1:{port}", "ascii")
    server = await asyncio.start_server(receive, "127.0.0.1", 0)
    (folder / OVER_HTTP).write_text("127.0.0.1:{1}".format(*server.sockets[0].getsockname()), "ascii")
    async with server:
        await asyncio.to_thread(sys.stdin.read)
    await over_grpc.stop(0)


async def _head(reader: asyncio.StreamReader) -> dict[str, str]:
    """The header of the next request; nothing once the other side has closed."""
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[1:-2]
    except asyncio.IncompleteReadError:
        return {}
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
