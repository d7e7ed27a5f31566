"""A server of plain methods in threads: it takes, serves and ends as the asyncio one does."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hauberk.interceptors.call import current_call
from hauberk.interceptors.errors import PolicyError
from hauberk.protos.hauberk.control.v1 import admin_pb2
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from hauberk.protos.third_party.grpc.reflection.v1 import reflection_pb2
from hauberk.server import MeshServer
from hauberk.threaded import WATCHERS, ThreadedServer
from tests.face import control as asyncio_control
from tests.face.control import Control, admin, eventually, get_product
from tests.face.town import SERVICE, Town, echo, policy, refused

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Catalog(catalog_pb2_grpc.CatalogServicer):
    """As people write it who have a grpc.server."""

    def GetProduct(  # noqa: N802 - the contract's name
        self, request: catalog_pb2.GetProductRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.Product:
        if request.sku == "NONE":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such product")
        served = current_call()
        assert served is not None
        assert served.peer is not None
        return catalog_pb2.Product(sku=request.sku, name=f"for {served.peer.spiffe_id.name}")

    def WatchProducts(  # noqa: N802 - the contract's name
        self, request: catalog_pb2.WatchProductsRequest, context: grpc.ServicerContext
    ) -> Iterator[catalog_pb2.Product]:
        while context.is_active():
            yield catalog_pb2.Product(sku="B-7")
            time.sleep(0.01)


class Slow:
    """Methods that wait until they are let go."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()

    def once(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.entered.release()
        self.go.wait(20)
        return b"done"

    def add_to(self, server: MeshServer) -> None:
        handlers: dict[str, Any] = {"Echo": grpc.unary_unary_rpc_method_handler(self.once)}
        server.add(SERVICE, handlers, {"Echo": policy("Echo")})


@pytest.fixture
async def slow(town: Town) -> Any:
    made = Slow()
    yield made
    made.go.set()


async def test_a_whole_mesh_calls_plain_methods(control: Control) -> None:
    """Announced, found by its contract, and left again."""
    server = (await control.member("catalog")).threaded_server(workers=2)
    catalog_pb2_grpc.add_CatalogServicer_to_server(Catalog(), server)  # type: ignore[abstract]
    await server.start()
    gateway = await control.member("gateway")
    assert (await get_product(gateway)).name == "for gateway"
    stub: Any = catalog_pb2_grpc.CatalogStub(gateway.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetProduct(catalog_pb2.GetProductRequest(sku="NONE"), timeout=5)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "no such product")
    watching = aiter(stub.WatchProducts(catalog_pb2.WatchProductsRequest(), timeout=20))
    assert [(await anext(watching)).sku for _ in range(3)] == ["B-7"] * 3
    await server.stop(2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in watching:
            pass
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await eventually(lambda: not control.plane.roster.replicas())


async def test_a_peer_that_is_revoked_is_cut_off_from_plain_methods(control: Control) -> None:
    server = (await control.member("catalog")).threaded_server()
    catalog_pb2_grpc.add_CatalogServicer_to_server(Catalog(), server)  # type: ignore[abstract]
    await server.start()
    gateway = await control.member("gateway", ends=True)
    stub: Any = catalog_pb2_grpc.CatalogStub(gateway.channel)
    watching = aiter(stub.WatchProducts(catalog_pb2.WatchProductsRequest(), timeout=20))
    await anext(watching)
    operator = await admin(control)
    await operator.Revoke(admin_pb2.RevokeRequest(name="gateway", reason="test"), timeout=5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in watching:
            pass
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_health_is_told_and_watched(town: Town, slow: Slow) -> None:
    """Though every worker is busy."""
    server = town.server(kind=ThreadedServer, workers=1)
    slow.add_to(server)
    await server.start()
    channel = town.channel(server.address)
    busy = asyncio.ensure_future(echo(channel))
    await asyncio.to_thread(slow.entered.acquire)
    stub: Any = health_pb2_grpc.HealthStub(channel)
    assert (await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=5)).status == SERVING
    assert SERVICE in (await stub.List(health_pb2.HealthListRequest(), timeout=5)).statuses  # type: ignore[attr-defined]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="lab.v1.Unknown"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = aiter(stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=20))
    assert (await anext(watch)).status == SERVING
    server.set_serving(SERVICE, False)
    assert (await anext(watch)).status == NOT_SERVING
    server.set_serving(SERVICE, True)
    assert (await anext(watch)).status == SERVING
    slow.go.set()
    assert await busy == b"done"
    began = time.monotonic()
    await server.stop(10)
    assert time.monotonic() - began < 5
    assert [message.status async for message in watch] == [NOT_SERVING]


async def test_watchers_of_health_leave_threads_for_those_who_ask(town: Town) -> None:
    server = town.server(kind=ThreadedServer)
    await server.start()
    stub: Any = health_pb2_grpc.HealthStub(town.channel(server.address))
    watching = [aiter(stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)) for _ in range(WATCHERS)]
    for watch in watching:
        assert (await anext(watch)).status == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(aiter(stub.Watch(health_pb2.HealthCheckRequest(), timeout=5)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)).status == SERVING


async def test_reflection_lists_what_is_served(town: Town) -> None:
    server = town.server(kind=ThreadedServer)
    catalog_pb2_grpc.add_CatalogServicer_to_server(Catalog(), server)  # type: ignore[abstract]
    await server.start()
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    method: Any = town.channel(server.address, town.credentials("operators/me")).stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = [each async for each in method(iter([asked]), timeout=5)]
    names = [service.name for service in answer.list_services_response.service]
    assert "shop.catalog.v1.Catalog" in names


async def test_calls_are_refused_while_the_process_is_not_fit_for_them(town: Town) -> None:
    server = town.server(kind=ThreadedServer)
    server.add(
        SERVICE, {"Echo": grpc.unary_unary_rpc_method_handler(lambda r, _: r)}, {"Echo": policy("Echo")}
    )
    await server.start()
    channel = town.channel(server.address)
    server.refuse_all("the clock is wrong")
    assert (await refused(channel)).details() == "the clock is wrong"
    server.refuse_all("")
    server.refuse_for_memory(True)
    assert (await refused(channel)).code() is grpc.StatusCode.UNAVAILABLE
    server.refuse_for_memory(False)
    assert await echo(channel) == b"hello"


async def test_draining_finishes_the_calls_in_flight(town: Town, slow: Slow) -> None:
    server = town.server(kind=ThreadedServer)
    slow.add_to(server)
    await server.start()
    call = asyncio.ensure_future(echo(town.channel(server.address)))
    await asyncio.to_thread(slow.entered.acquire)
    stopping = asyncio.ensure_future(server.stop(5))
    await asyncio.sleep(0.1)
    assert not stopping.done()
    slow.go.set()
    assert await call == b"done"
    await stopping


async def test_draining_ends_what_does_not_end_by_itself(town: Town, slow: Slow) -> None:
    server = town.server(kind=ThreadedServer)
    slow.add_to(server)
    await server.start()
    call = asyncio.ensure_future(refused(town.channel(server.address)))
    await asyncio.to_thread(slow.entered.acquire)
    began = time.monotonic()
    await server.stop(0.5)
    assert time.monotonic() - began < 3
    error = await call
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "this process is leaving")


async def test_an_asyncio_servicer_is_not_added(town: Town) -> None:
    with pytest.raises(PolicyError, match="a threaded server needs a plain function"):
        catalog_pb2_grpc.add_CatalogServicer_to_server(
            asyncio_control.Catalog(),  # type: ignore[abstract]
            town.server(kind=ThreadedServer),
        )
