"""Metrics on their way to a collector: the same figures as Prometheus is told."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from hauberk.errors import SettingsError
from hauberk.interceptors.audit import AuditLog
from hauberk.interceptors.client_metrics import ClientMetrics
from hauberk.interceptors.figures import Figures
from hauberk.interceptors.metrics import Metrics
from hauberk.interceptors.records import Records
from hauberk.otlp import Connection
from hauberk.otlp_metrics import OtlpMetrics, every_s
from hauberk.protos.shop.catalog.v1 import catalog_pb2_grpc
from tests.collector import Collector, collecting
from tests.face.control import Catalog, Control, get_product
from tests.face.test_scrape import OPEN_METRICS, scraped
from tests.interceptors.test_access_log import record

METHOD = "shop.catalog.v1.Catalog/GetProduct"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture
def figures(tmp_path: Path) -> Figures:
    metrics = Metrics()
    metrics.take(record(), 1000.0)
    return Figures(metrics, ClientMetrics(), Records([]), AuditLog(tmp_path / "audit", "me"))


def points_of(metric: Any) -> dict[tuple[str, ...], Any]:
    """The points of a metric, by the values of their attributes in the order of the attributes' names."""
    points = getattr(metric, metric.WhichOneof("data")).data_points
    return {
        tuple(each.value.string_value for each in sorted(point.attributes, key=lambda each: each.key)): point
        for point in points
    }


def is_the_same(sample: Any, point: Any) -> bool:
    """Whether a sample of Prometheus and a point of OTLP say the same."""
    if sample.name.endswith("_count"):
        return bool(point.count == sample.value)
    if sample.name.endswith("_sum"):
        return bool(point.sum == pytest.approx(sample.value))
    if sample.name.endswith("_bucket"):
        bounds = [*point.explicit_bounds, float("inf")]
        below = bounds.index(float(sample.labels["le"])) + 1
        return bool(sum(point.bucket_counts[:below]) == sample.value)
    return bool(point.as_int == sample.value)


def compared(text: str, sent: dict[str, Any]) -> int:
    """How many samples of the one method both were told of, each of them alike."""
    named = {name.replace(".", "_"): metric for name, metric in sent.items()}
    families: Any = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    count = 0
    for family in families:
        points = points_of(named[family.name.removesuffix("_seconds").removesuffix("_bytes")])
        for sample in family.samples:
            values = tuple(value for key, value in sorted(sample.labels.items()) if key != "le")
            if METHOD in values:
                assert is_the_same(sample, points[values]), sample
                count += 1
    return count


async def test_collector_and_prometheus_are_told_the_same(control: Control, collector: Collector) -> None:
    how = {"otlp_endpoint": collector.endpoint, "metrics_listen": "127.0.0.1:0"}
    texts = {}
    async with control.join("catalog", **how) as catalog, control.join("gateway", **how) as gateway:
        server = catalog.server()
        catalog_pb2_grpc.add_CatalogServicer_to_server(Catalog(), server)  # type: ignore[abstract]
        await server.start()
        for _ in range(3):
            await get_product(gateway)
        for mesh in (catalog, gateway):
            assert mesh._recording._scrape is not None
            texts[mesh.id.name] = await scraped(mesh._recording._scrape.address, OPEN_METRICS)
    for name, text in texts.items():
        assert compared(text, collector.metrics.last(name)) > 50
    duration = "{}.call.duration".format
    served = points_of(collector.metrics.last("catalog")[duration("grpc.server")])[METHOD, "OK"]
    made = points_of(collector.metrics.last("gateway")[duration("grpc.client")])[METHOD, "OK", "xds:///mesh"]
    spans = {span.span_id: span for span in collector.spans}
    for point in (served, made):
        assert point.count == 3
        assert 0 < point.start_time_unix_nano < point.time_unix_nano
        assert point.exemplars
        assert all(one.trace_id == spans[one.span_id].trace_id for one in point.exemplars)


def test_counters_add_up_histograms_are_cumulative_and_calls_in_flight_are_neither(
    collector: Collector, figures: Figures
) -> None:
    OtlpMetrics(Connection(collector.endpoint, "spiffe://a.test/b"), figures, 60).close()
    sent = collector.metrics.last("b")
    assert sent["grpc.server.call.started"].sum.is_monotonic
    assert sent["grpc.server.call.started"].unit == "{call}"
    assert sent["grpc.server.call.duration"].unit == "s"
    for kind in (sent["grpc.server.call.started"].sum, sent["grpc.server.call.duration"].histogram):
        assert kind.aggregation_temporality == 2
    assert sent["hauberk.server.calls_in_flight"].WhichOneof("data") == "gauge"


async def test_they_are_sent_again_and_again_and_a_failure_is_made_good_and_told(
    collector: Collector, figures: Figures, caplog: pytest.LogCaptureFixture
) -> None:
    collector.metrics.failures = 2
    sending = OtlpMetrics(Connection(collector.endpoint, "me"), figures, 0.01)
    async with asyncio.timeout(10):
        while len(collector.metrics.requests) < 3:  # noqa: ASYNC110 - a thread sends
            await asyncio.sleep(0.01)
    await asyncio.to_thread(sending.close)
    assert caplog.text.count("takes no metrics now: UNAVAILABLE") == 1
    assert "canary" not in caplog.text


def test_who_takes_spans_alone_is_asked_once(figures: Figures, caplog: pytest.LogCaptureFixture) -> None:
    with collecting(metrics=False) as collector:
        sending = OtlpMetrics(Connection(collector.endpoint, "me"), figures, 0.01)
        sending._thread.join(10)
        assert not sending._thread.is_alive()
        sending.close()
    assert caplog.text.count("the collector takes no metrics: it is sent none any more") == 1


@pytest.mark.parametrize(
    ("env", "seconds"),
    [
        ({}, 60.0),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "500"}, 0.5),
        ({"OTEL_METRICS_EXPORTER": "none", "OTEL_METRIC_EXPORT_INTERVAL": "x"}, None),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, 60.0),
    ],
)
def test_how_often_is_as_the_environment_says(env: dict[str, str], seconds: float | None) -> None:
    assert every_s(env) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "abc", "9" * 10])
def test_interval_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="OTEL_METRIC_EXPORT_INTERVAL is no number of milliseconds"):
        every_s({"OTEL_METRIC_EXPORT_INTERVAL": text})
