"""Real gRPC clients, `xds:///mesh`, against the real control plane and backends with real certificates."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from hauberk.interceptors.errors import Draining
from hauberk.protos.hauberk.control.v1.admin_pb2 import TypeState
from hauberk.protos.third_party.envoy.config.cluster.v3.cluster_pb2 import Cluster
from hauberk.services.control.snapshot import Status
from hauberk.services.control.xds.clusters import cluster
from hauberk.services.control.xds.resource import NAME, Resource, ResourceType
from hauberk.services.control.xds.routes import RETRIES
from hauberk.services.control.xds.view import View
from tests.control.xds_mesh import Mesh, becomes, call, contract, refusal, spiffe, workload

ORDERS = contract("shop.Orders", Place=["gateway"], Get=["gateway"], again=["Get"])
CATALOG = contract("shop.Catalog", List=["orders"])
HEALTH, REFLECTION = (
    "/grpc.health.v1.Health/Check",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
)
DENIED, UNAVAILABLE = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    async with Mesh(tmp_path) as mesh:
        yield mesh


async def answered_by(channel: grpc.aio.Channel, path: str, wanted: str) -> None:
    """Until a call is answered by `wanted`: what the control plane sent has arrived then."""
    async with asyncio.timeout(10):
        while True:
            try:
                if await call(channel, path) == wanted:
                    return
            except grpc.aio.AioRpcError:
                pass
            await asyncio.sleep(0.01)


async def refused_with(channel: grpc.aio.Channel, path: str, wanted: grpc.StatusCode) -> None:
    """Until a call is refused with `wanted`."""
    async with asyncio.timeout(10):
        while True:
            try:
                await call(channel, path)
            except grpc.aio.AioRpcError as error:
                if error.code() is wanted:
                    return
            await asyncio.sleep(0.01)


def state(mesh: Mesh, kind: str) -> TypeState:
    return next(each for client in mesh.ads.clients() for each in client.types if each.type == kind)


async def test_a_call_reaches_the_workload_whose_contract_it_is(mesh: Mesh) -> None:
    orders, catalog = await mesh.backend("orders"), await mesh.backend("catalog")
    mesh.show(
        workload("orders", ORDERS, at=[orders.address]), workload("catalog", CATALOG, at=[catalog.address])
    )
    async with mesh.channel("gateway") as gateway, mesh.channel("orders") as inner:
        assert await call(gateway, "/shop.Orders/Place") == "orders"
        assert await call(inner, "/shop.Catalog/List") == "catalog"
    assert (orders.asked, catalog.asked) == (["/shop.Orders/Place"], ["/shop.Catalog/List"])


async def test_hidden_and_unknown_are_refused_alike_and_reach_nobody(mesh: Mesh) -> None:
    catalog = await mesh.backend("catalog")
    mesh.show(workload("catalog", CATALOG, at=[catalog.address]))
    async with mesh.channel("gateway") as gateway:
        hidden = await refusal(gateway, "/shop.Catalog/List")
        unknown = await refusal(gateway, "/no.Such/Method")
        by_name = await refusal(gateway, "/shop.Catalog/List", to="catalog")
    for error in (hidden, unknown, by_name):
        assert error.code() is DENIED
        assert error.details() == unknown.details()
        assert error.trailing_metadata() == unknown.trailing_metadata()
    assert catalog.asked == []


async def test_who_may_call_nothing_is_refused_at_once(mesh: Mesh) -> None:
    mesh.show()
    async with mesh.channel("stranger") as stranger:
        assert (await refusal(stranger, "/shop.Orders/Get")).code() is DENIED


async def test_a_contract_without_living_endpoints_is_unavailable(mesh: Mesh) -> None:
    mesh.show(workload("orders", ORDERS))
    async with mesh.channel("gateway") as gateway:
        assert (await refusal(gateway, "/shop.Orders/Place")).code() is UNAVAILABLE
        assert (await refusal(gateway, "/shop.Orders/Get")).code() is UNAVAILABLE


async def test_hauberk_to_chooses_among_workloads(mesh: Mesh) -> None:
    backends = {name: await mesh.backend(name) for name in ("orders", "catalog")}
    mesh.show(
        workload("orders", ORDERS, at=[backends["orders"].address]),
        workload("catalog", CATALOG, at=[backends["catalog"].address]),
    )
    async with mesh.channel("gateway") as gateway, mesh.channel("operators/local") as operator:
        assert await call(gateway, HEALTH, to="orders") == "orders"
        assert await call(gateway, "/shop.Orders/Place", to="orders") == "orders"
        for name in backends:
            assert await call(operator, HEALTH, to=name) == name
            assert await call(operator, REFLECTION, to=name) == name
            assert await call(operator, REFLECTION.replace("v1", "v1alpha"), to=name) == name
        for channel, path, to in (
            (gateway, HEALTH, "catalog"),
            (gateway, HEALTH, None),
            (gateway, REFLECTION, "orders"),
            (gateway, "/shop.Orders/Place", "catalog"),
            (gateway, "/shop.Orders/Place", "orders2"),
            (operator, "/shop.Orders/Place", None),
            (operator, "/shop.Orders/Place", "orders"),
        ):
            assert (await refusal(channel, path, to=to)).code() is DENIED


async def test_a_contract_of_two_is_reached_by_name_only(mesh: Mesh) -> None:
    one, two = await mesh.backend("orders"), await mesh.backend("orders2")
    mesh.show(workload("orders", ORDERS, at=[one.address]), workload("orders2", ORDERS, at=[two.address]))
    async with mesh.channel("gateway") as gateway:
        assert (await refusal(gateway, "/shop.Orders/Place")).code() is DENIED
        assert await call(gateway, "/shop.Orders/Place", to="orders2") == "orders2"


async def test_a_change_of_endpoints_is_followed(mesh: Mesh) -> None:
    old, new = await mesh.backend("old", shows="orders"), await mesh.backend("new", shows="orders")
    mesh.show(workload("orders", ORDERS, at=[old.address]))
    async with mesh.channel("gateway") as gateway:
        assert await call(gateway, "/shop.Orders/Place") == "old"
        mesh.show(workload("orders", ORDERS, at=[new.address]))
        await answered_by(gateway, "/shop.Orders/Place", "new")
        assert {await call(gateway, "/shop.Orders/Place") for _ in range(10)} == {"new"}


async def test_replicas_share_the_calls(mesh: Mesh) -> None:
    names = ("one", "two", "three")
    backends = [await mesh.backend(name, shows="orders") for name in names]
    mesh.show(workload("orders", ORDERS, at=[each.address for each in backends]))
    async with mesh.channel("gateway") as gateway:
        async with asyncio.timeout(10):
            while {await call(gateway, "/shop.Orders/Place") for _ in range(6)} != set(names):
                pass


@pytest.mark.parametrize("status", [Status.DRAINING, Status.NOT_SERVING])
async def test_a_replica_that_does_not_serve_gets_no_new_calls(mesh: Mesh, status: Status) -> None:
    orders = await mesh.backend("orders")
    mesh.show(workload("orders", ORDERS, at=[orders.address]))
    async with mesh.channel("gateway") as gateway:
        assert await call(gateway, "/shop.Orders/Place") == "orders"
        mesh.show(workload("orders", ORDERS, at=[orders.address], status=status))
        await refused_with(gateway, "/shop.Orders/Place", UNAVAILABLE)
        asked = len(orders.asked)
        assert (await refusal(gateway, "/shop.Orders/Place")).code() is UNAVAILABLE
        assert len(orders.asked) == asked
        mesh.show(workload("orders", ORDERS, at=[orders.address]))
        await answered_by(gateway, "/shop.Orders/Place", "orders")


async def test_a_permission_given_and_taken_is_followed(mesh: Mesh) -> None:
    """gRPC keeps what was deleted (our bootstrap says so), hence the route itself has to change."""
    catalog = await mesh.backend("catalog")
    theirs = workload("catalog", CATALOG, at=[catalog.address])
    ours = workload("catalog", contract("shop.Catalog", List=["orders", "gateway"]), at=[catalog.address])
    mesh.show(theirs)
    async with mesh.channel("gateway") as gateway:
        assert (await refusal(gateway, "/shop.Catalog/List")).code() is DENIED
        mesh.show(ours)
        await answered_by(gateway, "/shop.Catalog/List", "catalog")
        mesh.show(theirs)
        await refused_with(gateway, "/shop.Catalog/List", DENIED)
        asked = len(catalog.asked)
        assert (await refusal(gateway, "/shop.Catalog/List")).code() is DENIED
        assert len(catalog.asked) == asked
        mesh.show(ours)
        await answered_by(gateway, "/shop.Catalog/List", "catalog")


async def test_a_workload_that_vanishes_or_is_revoked_is_called_no_more(mesh: Mesh) -> None:
    orders = await mesh.backend("orders")
    here = workload("orders", ORDERS, at=[orders.address])
    async with mesh.channel("gateway") as gateway:
        mesh.show(here)
        await answered_by(gateway, "/shop.Orders/Place", "orders")
        mesh.show()
        await refused_with(gateway, "/shop.Orders/Place", DENIED)
        mesh.show(here)
        await answered_by(gateway, "/shop.Orders/Place", "orders")
        mesh.show(here, revoked=[str(spiffe("orders"))])
        await refused_with(gateway, "/shop.Orders/Place", DENIED)


async def test_a_server_with_another_name_is_refused_in_the_handshake(mesh: Mesh) -> None:
    thief = await mesh.backend("thief")
    mesh.show(workload("orders", ORDERS, at=[thief.address]))
    async with mesh.channel("gateway") as gateway:
        error = await refusal(gateway, "/shop.Orders/Place")
    assert error.code() is UNAVAILABLE
    assert "SANs from certificate did not match" in (error.details() or "")
    assert thief.asked == []


async def test_a_call_that_may_be_repeated_is_and_no_other(mesh: Mesh) -> None:
    orders = await mesh.backend("orders")
    mesh.show(workload("orders", ORDERS, at=[orders.address]))
    async with mesh.channel("gateway") as gateway:
        orders.failing = RETRIES
        assert await call(gateway, "/shop.Orders/Get") == "orders"
        assert len(orders.asked) == RETRIES + 1
        orders.failing = RETRIES + 1
        assert (await refusal(gateway, "/shop.Orders/Get")).code() is UNAVAILABLE
        orders.asked.clear()
        orders.failing = 1
        assert (await refusal(gateway, "/shop.Orders/Place")).code() is UNAVAILABLE
        assert len(orders.asked) == 1


async def test_a_real_client_accepts_all_it_is_sent(mesh: Mesh) -> None:
    orders = await mesh.backend("orders")
    mesh.show(workload("orders", ORDERS, at=[orders.address, "[::1]:9"]), workload("empty", CATALOG))
    async with mesh.channel("operators/local") as operator:
        assert await call(operator, HEALTH, to="orders") == "orders"
        (client,) = mesh.ads.clients()
        assert client.spiffe_id == str(spiffe("operators/local"))
        assert client.node_id == "operators/local#1"
        assert client.user_agent.startswith("gRPC")
        assert client.user_agent_version
        await becomes(lambda: [each.version_acked != "" for each in mesh.ads.clients()[0].types], [True] * 4)
        assert [each.nack_detail for each in mesh.ads.clients()[0].types] == [""] * 4


async def test_what_a_real_client_rejects_is_on_record_and_the_rest_works_on(mesh: Mesh) -> None:
    orders = await mesh.backend("orders")
    here = workload("orders", ORDERS, at=[orders.address])
    mesh.show(here)
    bad = cluster("orders", spiffe("orders"))
    bad.lb_policy = Cluster.MAGLEV
    async with mesh.stream("other") as other, mesh.channel("gateway") as gateway:
        await other.fetch(ResourceType.LISTENER, NAME)
        resources = mesh.ads._resources
        view = resources.view(spiffe("gateway"))
        # A view that no builder of ours makes, for this caller only.
        resources._by_caller[spiffe("gateway")] = View(
            view.routes, {**view.clusters, "orders": Resource.of("orders", bad)}
        )
        error = await refusal(gateway, "/shop.Orders/Place")
        assert error.code() is UNAVAILABLE
        assert "LB policy is not supported" in (error.details() or "")
        await becomes(lambda: state(mesh, "Cluster").nack_detail != "", True)
        rejected = state(mesh, "Cluster")
        assert "LB policy is not supported" in rejected.nack_detail
        assert rejected.version_nacked == rejected.version_sent
        mesh.show(here, workload("other"))
        await answered_by(gateway, "/shop.Orders/Place", "orders")
        await becomes(lambda: state(mesh, "Cluster").nack_detail, "")


async def test_a_client_whose_stream_was_ended_comes_back_and_is_up_to_date(mesh: Mesh) -> None:
    old, new = await mesh.backend("old", shows="orders"), await mesh.backend("new", shows="orders")
    mesh.show(workload("orders", ORDERS, at=[old.address]))
    async with mesh.channel("gateway") as gateway:
        assert await call(gateway, "/shop.Orders/Place") == "old"
        mesh.guard.standing.end(Draining("come back"))
        await becomes(mesh.ads.clients, [])
        assert await call(gateway, "/shop.Orders/Place") == "old"
        mesh.show(workload("orders", ORDERS, at=[new.address]))
        await answered_by(gateway, "/shop.Orders/Place", "new")


async def test_publishing_the_same_again_makes_no_new_connection(mesh: Mesh) -> None:
    orders = await mesh.backend("orders")
    mesh.show(workload("orders", ORDERS, at=[orders.address]))
    async with mesh.channel("gateway") as gateway:
        await call(gateway, "/shop.Orders/Place")
        sent = [each.version_sent for each in mesh.ads.clients()[0].types]
        peers = set(orders.peers)
        mesh.show(workload("orders", ORDERS, at=[orders.address]))
        mesh.show(
            workload("orders", ORDERS, at=[orders.address]), workload("hidden", CATALOG, at=["127.0.0.1:9"])
        )
        for _ in range(20):
            await call(gateway, "/shop.Orders/Place")
        assert set(orders.peers) == peers
        assert [each.version_sent for each in mesh.ads.clients()[0].types] == sent
