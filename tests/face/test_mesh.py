"""What a member has: channels to the mesh, and hints where core says too little."""

import asyncio
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from hauberk.entry import join
from hauberk.errors import JoinedBeforeFork
from hauberk.interceptors.call import Call, enter_call
from hauberk.interceptors.deadline import Deadline
from hauberk.interceptors.policy import Policy
from hauberk.interceptors.tracing import TraceContext
from hauberk.mesh import Mesh
from hauberk.protos.hauberk.control.v1 import admin_pb2
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from hauberk.resuming import resume
from tests.face.control import Catalog, Control, admin, eventually, get_product

CHECK = "/grpc.health.v1.Health/Check"


async def test_channel_to_names_the_workload(control: Control) -> None:
    """Health is served by every workload: the contract alone would not say whose is meant."""
    await control.catalog()
    gateway = await control.member("gateway")
    assert await call(gateway.channel_to("catalog"), CHECK) == b"\x08\x01"
    with pytest.raises(grpc.aio.AioRpcError):
        await call(gateway.channel_to("payments"), CHECK)


async def test_a_caller_who_is_not_among_the_callers_is_told_where_to_look(control: Control) -> None:
    await control.catalog()
    stranger = await control.member("stranger")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get_product(stranger)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "no route: callers of this method do not include spiffe://shop.test/stranger" in str(
        caught.value.details()
    )
    assert "hauberk policy show" in str(caught.value.details())


async def test_a_control_plane_that_is_away_at_the_first_call(control: Control) -> None:
    async with control.join("gateway"):
        pass
    await control.stop()
    async with join(control.settings("gateway")) as gateway:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await get_product(gateway)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "the control plane does not answer, so no route is known yet" in str(caught.value.details())


async def test_a_stream_cut_by_the_age_of_its_connection(tmp_path: Path) -> None:
    async with Control(tmp_path, lifetime=timedelta(seconds=10)) as control:
        await control.catalog()
        stub: Any = catalog_pb2_grpc.CatalogStub((await control.member("gateway")).channel)
        stream = stub.WatchProducts(catalog_pb2.WatchProductsRequest(), timeout=20)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [product async for product in stream]
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "reopen the stream with hauberk.resume" in str(caught.value.details())


async def test_a_contract_whose_last_replica_left(control: Control) -> None:
    server = (await control.member("catalog")).server()
    catalog_pb2_grpc.add_CatalogServicer_to_server(Catalog(), server)  # type: ignore[abstract]
    await server.start()
    gateway = await control.member("gateway")
    await get_product(gateway)
    await server.stop()
    await eventually(lambda: not control.plane.roster.replicas())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get_product(gateway)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "nobody serves this contract at the moment; see `hauberk ps`" in str(caught.value.details())


async def test_a_direct_channel_reaches_who_is_named(control: Control) -> None:
    await control.catalog()
    (replica,) = control.plane.roster.replicas()
    gateway = await control.member("gateway")
    assert await call(gateway.direct_channel("catalog", replica.address), CHECK) == b"\x08\x01"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(gateway.direct_channel("orders", replica.address), CHECK)
    assert f"the server at {replica.address} is not spiffe://shop.test/orders" in str(caught.value.details())


async def test_a_stream_goes_on_over_another_replica(control: Control) -> None:
    await control.catalog()
    second = (await control.follower("catalog")).server()
    catalog_pb2_grpc.add_CatalogServicer_to_server(Catalog(), second)  # type: ignore[abstract]
    await second.start()
    gateway = await control.member("gateway")
    stub: Any = catalog_pb2_grpc.CatalogStub(gateway.channel)
    opened: list[str | None] = []

    def watch(last: str | None) -> Any:
        opened.append(last)
        return stub.WatchProducts(catalog_pb2.WatchProductsRequest(skus=[last] if last else []), timeout=30)

    reading = resume(watch, lambda product: product.sku)
    seen = [int((await anext(reading)).sku) for _ in range(3)]
    await second.stop(0)
    seen += [int((await anext(reading)).sku) for _ in range(7)]
    await reading.aclose()
    assert seen == list(range(1, 11))


async def test_a_mesh_joined_before_a_fork_says_so_in_the_child(control: Control) -> None:
    gateway = await control.member("gateway")
    made: Any = gateway.channel.unary_unary(CHECK)
    parent = gateway._pid
    gateway._pid = parent + 1  # as the child sees it: a fork here would take grpc's threads along
    for use in (
        lambda: gateway.channel_to("catalog"),
        lambda: gateway.direct_channel("catalog", "127.0.0.1:1"),
        lambda: gateway.server(),
        lambda: made(b""),
    ):
        with pytest.raises(JoinedBeforeFork, match=f"forked from {parent + 1}.*post-fork hook"):
            use()
    gateway._pid = parent


async def test_a_mesh_joined_in_a_call_is_not_bound_to_it(control: Control) -> None:
    """A service may join another mesh when it is first asked for something."""

    async def serve() -> Mesh:
        served = Call(
            method="/x/Y",
            policy=Policy(method="/x/Y"),
            metadata=(),
            trace=TraceContext.new(),
            started=time.monotonic(),
            time_left_s=None,
            auth_context={},
            address="ipv4:127.0.0.1:1",
        )
        served.deadline = Deadline(time.monotonic() - 1, "caller")
        enter_call(served)
        return await control.member("gateway")

    gateway = await asyncio.create_task(serve())
    operator = await admin(control)
    await control.member("catalog", ends=True)
    await operator.Revoke(admin_pb2.RevokeRequest(name="catalog", reason="test"), timeout=5)
    await eventually(lambda: gateway.trust.value.revoked, within=2)


async def test_who_loses_patience_with_a_drain_leaves_at_once(control: Control) -> None:
    """The second signal cancels; it comes to a block that had ended well."""
    catalog = Catalog()  # type: ignore[abstract]  # the methods left out are refused
    catalog.hold = asyncio.Event()
    started, leaves = asyncio.Event(), asyncio.Event()

    async def serve() -> None:
        async with control.join("catalog", drain_seconds=30) as mesh:
            server = mesh.server()
            catalog_pb2_grpc.add_CatalogServicer_to_server(catalog, server)
            await server.start()
            started.set()
            await leaves.wait()

    serving = asyncio.ensure_future(serve())
    gateway = await control.member("gateway")
    await started.wait()
    calling = asyncio.ensure_future(get_product(gateway, within=20))
    await catalog.entered.wait()
    leaves.set()
    await asyncio.sleep(0.2)
    serving.cancel()
    done, _ = await asyncio.wait((serving,), timeout=5)
    assert done
    assert serving.cancelled()
    with pytest.raises(grpc.aio.AioRpcError):
        await calling


async def call(channel: grpc.aio.Channel, method: str) -> bytes:
    made: Any = channel.unary_unary(method)
    reply: bytes = await made(b"", timeout=5)
    return reply
