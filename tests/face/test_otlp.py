"""Spans on their way to a collector: a real one's interface, served here over gRPC."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from hauberk.errors import SettingsError
from hauberk.interceptors.spans import Spans
from hauberk.otlp import Connection, OtlpExporter
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from hauberk.settings import Settings
from tests.collector import Collector, collecting
from tests.face.control import Catalog, Control, get_product
from tests.interceptors.test_access_log import record


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


def gathered(count: int) -> Spans:
    spans = Spans()
    for _ in range(count):
        spans.take(record(), 0.0)
    spans.settle()
    return spans


def test_all_spans_arrive_with_resource_and_headers(collector: Collector) -> None:
    environment = {"OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20x, tenant=shop"}
    exporter = OtlpExporter(Connection(collector.endpoint, "spiffe://a.test/b", environment), gathered(1300))
    exporter.close()
    assert len(collector.spans) == 1300
    assert [len(each.resource_spans[0].scope_spans[0].spans) for each in collector.requests] == [
        512,
        512,
        276,
    ]
    (name,) = collector.requests[0].resource_spans[0].resource.attributes
    assert (name.key, name.value.string_value) == ("service.name", "spiffe://a.test/b")
    assert {("authorization", "Bearer x"), ("tenant", "shop")} <= set(collector.headers)


def test_one_failure_loses_nothing_and_two_are_counted_and_told(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.failures = 1
    spans = gathered(3)
    OtlpExporter(Connection(collector.endpoint, "me"), spans).close()
    assert (len(collector.spans), spans.dropped) == (3, 0)
    collector.failures = 2
    spans = gathered(3)
    OtlpExporter(Connection(collector.endpoint, "me"), spans).close()
    assert (len(collector.spans), spans.dropped) == (3, 3)
    assert "takes no spans: UNAVAILABLE" in caplog.text
    assert "canary" not in caplog.text


@pytest.mark.parametrize(
    "endpoint", ["localhost:4317", "ftp://a:1", "http://", "http://me:canary@a:1", "http://a/v1"]
)
def test_endpoint_that_is_none_is_refused_without_its_secrets(endpoint: str) -> None:
    with pytest.raises(SettingsError, match="is not http://host:port") as caught:
        Connection(endpoint, "me")
    assert "canary" not in str(caught.value)


async def test_calls_of_a_joined_process_arrive_as_one_trace(control: Control, collector: Collector) -> None:
    async with (
        control.join("catalog", otlp_endpoint=collector.endpoint) as catalog,
        control.join("gateway", otlp_endpoint=collector.endpoint) as gateway,
    ):
        server = catalog.server()
        catalog_pb2_grpc.add_CatalogServicer_to_server(Catalog(), server)  # type: ignore[abstract]
        await server.start()
        for _ in range(3):
            await get_product(gateway)
        stub = catalog_pb2_grpc.CatalogStub(gateway.blocking_channel())
        for _ in range(2):
            await asyncio.to_thread(stub.GetProduct, catalog_pb2.GetProductRequest(sku="B-7"), timeout=10)
    mine = [span for span in collector.spans if span.name == "/shop.catalog.v1.Catalog/GetProduct"]
    served = [span for span in mine if span.kind == Span.SPAN_KIND_SERVER]
    made = {span.span_id: span for span in mine if span.kind == Span.SPAN_KIND_CLIENT}
    assert len(served) == len(made) == 5
    for span in served:
        assert made[span.parent_span_id].trace_id == span.trace_id
        assert made[span.parent_span_id].parent_span_id == b""
    assert {name.rpartition("/")[2] for name in collector.services} == {"catalog", "gateway"}


@pytest.mark.parametrize(
    ("env", "endpoint", "ratio"),
    [
        ({}, None, 1.0),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1"}, "http://a:1", 1.0),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1", "HAUBERK_OTLP_ENDPOINT": "http://b:1"},
            "http://b:1",
            1.0,
        ),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}, None, 0.1),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, None, 0.0),
        ({"OTEL_TRACES_SAMPLER": "always_off", "HAUBERK_TRACE_RATIO": "0.5"}, None, 0.5),
    ],
)
def test_settings_heed_the_names_of_opentelemetry(
    env: dict[str, str], endpoint: str | None, ratio: float
) -> None:
    settings = Settings.load(
        env, name="a", state_dir=Path("x"), enrolment="127.0.0.1:1", roots=Path("roots.pem")
    )
    assert (settings.otlp_endpoint, settings.trace_ratio) == (endpoint, ratio)
