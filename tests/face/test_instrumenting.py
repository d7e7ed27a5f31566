"""Channels that are not the mesh's are instrumented, and those of the mesh are not seen twice."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.grpc import (
    GrpcAioInstrumentorClient,
    GrpcInstrumentorClient,
    GrpcInstrumentorServer,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hauberk.instrumenting import instrument_others
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tests.collector import Collector, collecting
from tests.face.control import Control, get_product

METHOD = "/foreign.v1.Foreign/Ask"
INSTRUMENTORS: dict[str, Any] = {
    "grpc_client": GrpcInstrumentorClient,
    "grpc_aio_client": GrpcAioInstrumentorClient,
}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture
def sdk(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What the SDK of this process, set up as a program would, exports."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


class Foreign:
    """A server of no mesh, which keeps the traceparent of each of its calls."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.address = ""

    def ask(self, request: bytes, context: Any) -> bytes:
        self.heard.append(dict(context.invocation_metadata()).get("traceparent", ""))
        return request


@pytest.fixture
async def foreign() -> AsyncIterator[Foreign]:
    made, server = Foreign(), grpc.server(ThreadPoolExecutor(2))
    handlers: Any = {"Ask": grpc.unary_unary_rpc_method_handler(made.ask)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("foreign.v1.Foreign", handlers),))
    made.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield made
    await asyncio.to_thread(server.stop(0).wait)


class Asking(catalog_pb2_grpc.CatalogServicer):
    """Asks the foreign server, over a channel of either kind that it makes with grpc alone."""

    def __init__(self, foreign: Foreign) -> None:
        self._foreign = foreign

    async def GetProduct(self, request: Any, context: Any) -> catalog_pb2.Product:  # noqa: N802
        async with grpc.aio.insecure_channel(self._foreign.address) as channel:
            ask: Any = channel.unary_unary(METHOD)
            await ask(b"", timeout=5)
        await asyncio.to_thread(self._ask)
        return catalog_pb2.Product(sku=request.sku)

    def _ask(self) -> None:
        with grpc.insecure_channel(self._foreign.address) as channel:
            cast(Any, channel.unary_unary(METHOD))(b"", timeout=5)


async def test_foreign_calls_of_a_method_are_children_of_its_span_and_mesh_calls_have_one_span(
    control: Control, collector: Collector, sdk: InMemorySpanExporter, foreign: Foreign
) -> None:
    async with (
        control.join("catalog", otlp_endpoint=collector.endpoint) as catalog,
        control.join("gateway", otlp_endpoint=collector.endpoint) as gateway,
    ):
        server = catalog.server()
        catalog_pb2_grpc.add_CatalogServicer_to_server(Asking(foreign), server)  # type: ignore[abstract]
        await server.start()
        await get_product(gateway)
        stub = catalog_pb2_grpc.CatalogStub(gateway.blocking_channel())
        await asyncio.to_thread(stub.GetProduct, catalog_pb2.GetProductRequest(sku="B-7"), timeout=10)
    served = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER and "Get" in span.name]
    made = [span for span in collector.spans if span.kind == Span.SPAN_KIND_CLIENT]
    assert [span.name for span in made] == ["/shop.catalog.v1.Catalog/GetProduct"] * 2
    theirs = sdk.get_finished_spans()
    assert [span.name for span in theirs] == [METHOD] * 4
    parents = [format(span.parent.span_id, "016x") for span in theirs if span.parent]
    assert parents == [span.span_id.hex() for span in served for _ in range(2)]
    assert [one.split("-")[2] for one in foreign.heard] == [
        format(span.context.span_id, "016x") for span in theirs if span.context
    ]


async def test_threaded_server_serves_in_a_process_whose_servers_are_instrumented(control: Control) -> None:
    """Their interceptor would stand between core and what it hands our calls to."""

    class Plain(catalog_pb2_grpc.CatalogServicer):
        def GetProduct(self, request: Any, context: Any) -> catalog_pb2.Product:  # noqa: N802
            return catalog_pb2.Product(sku=request.sku)

    instrumentor = GrpcInstrumentorServer()  # type: ignore[no-untyped-call]
    instrumentor.instrument()
    try:
        async with control.join("catalog") as catalog, control.join("gateway") as gateway:
            server = catalog.threaded_server()
            catalog_pb2_grpc.add_CatalogServicer_to_server(Plain(), server)  # type: ignore[abstract]
            await server.start()
            assert (await get_product(gateway, "B-7")).sku == "B-7"
    finally:
        instrumentor.uninstrument()


@pytest.mark.parametrize(
    ("disabled", "on"),
    [
        ("", {"grpc_client", "grpc_aio_client"}),
        ("redis, grpc_client", {"grpc_aio_client"}),
        ("grpc_aio_client,grpc_client", set()),
        ("*", set()),
    ],
)
def test_it_stays_off_where_the_environment_says_so(disabled: str, on: set[str]) -> None:
    environment = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": disabled}
    instrument_others(environment)
    instrument_others(environment)
    assert {name for name, kind in INSTRUMENTORS.items() if kind().is_instrumented_by_opentelemetry} == on
