"""The port where Prometheus asks for the metrics of a process that has joined."""

import asyncio
import socket
import urllib.request
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain

import hauberk
from hauberk.errors import ListenFailed
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tests.face.control import Control

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
CANARY = "CANARY-5E1F"


class Catalog(catalog_pb2_grpc.CatalogServicer):
    async def GetProduct(self, request: Any, context: Any) -> catalog_pb2.Product:  # noqa: N802
        return catalog_pb2.Product(sku=request.sku)


async def scraped(address: str, accept: str) -> str:
    request = urllib.request.Request(f"http://{address}/metrics", headers={"Accept": accept})

    def ask() -> str:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bytes(answer.read()).decode()

    return await asyncio.to_thread(ask)


async def test_real_calls_are_told_in_both_formats_and_the_port_closes(control: Control) -> None:
    async with (
        control.join("catalog", metrics_listen="127.0.0.1:0") as catalog,
        control.join("gateway", metrics_listen="127.0.0.1:0") as gateway,
    ):
        server = catalog.server()
        catalog_pb2_grpc.add_CatalogServicer_to_server(Catalog(), server)  # type: ignore[abstract]
        await server.start()
        stub = catalog_pb2_grpc.CatalogStub(gateway.channel)
        for _ in range(3):
            await stub.GetProduct(catalog_pb2.GetProductRequest(sku=CANARY), timeout=10)
        assert catalog._recording._scrape is not None
        address = catalog._recording._scrape.address
        for accept, parse in ((OPEN_METRICS, open_metrics), ("text/plain", plain)):
            text = await scraped(address, accept)
            assert CANARY not in text
            samples = {
                (sample.name, *sorted(sample.labels.items())): sample
                for family in parse(text)
                for sample in family.samples
            }
            method = ("grpc_method", "shop.catalog.v1.Catalog/GetProduct")
            ok = ("grpc_status", "OK")
            assert samples["grpc_server_call_started_total", method].value == 3
            assert samples["grpc_server_call_duration_seconds_count", method, ok].value == 3
            assert samples["hauberk_server_calls_in_flight", method].value == 0
            assert samples["hauberk_records_lost_total", ("why", "no room")].value == 0
            received = "grpc_server_call_rcvd_total_compressed_message_size_bytes_sum"
            assert samples[received, method, ok].value == 3 * (len(CANARY) + 2)
            exemplars = [sample.exemplar for sample in samples.values() if sample.exemplar]
            assert bool(exemplars) == (accept == OPEN_METRICS)
            assert all(len(one.labels["trace_id"]) == 32 for one in exemplars)
        await _made_are_told(gateway, method, ok)
    with pytest.raises(OSError, match="refused"):
        await scraped(address, "text/plain")


async def _made_are_told(gateway: Any, method: tuple[str, str], ok: tuple[str, str]) -> None:
    text = await scraped(gateway._recording._scrape.address, OPEN_METRICS)
    assert CANARY not in text
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample
        for family in open_metrics(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
    }
    key = (method, ok, ("grpc_target", "xds:///mesh"))
    assert samples["grpc_client_call_duration_seconds_count", *key].value == 3
    for size in ("rcvd", "sent"):
        name = f"hauberk_client_call_{size}_total_message_size_bytes_sum"
        assert samples[name, *key].value == 3 * (len(CANARY) + 2)
    assert any(sample.exemplar for sample in samples.values())


async def test_port_that_is_taken_is_named_and_the_identity_let_go(control: Control) -> None:
    settings = control.settings("catalog", join_token_file=control.invite("catalog"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenFailed, match=f"127.0.0.1:{port} for metrics: address already in use"):
            async with hauberk.join(settings, metrics_listen=port):
                pass
    async with hauberk.join(settings) as mesh:
        assert mesh.id.name == "catalog"
