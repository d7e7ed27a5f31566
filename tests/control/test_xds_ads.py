"""The service on the wire: streams spoken by hand over mutual TLS, behind the guard."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from hauberk.interceptors.errors import Draining
from hauberk.protos.third_party.envoy.config.core.v3.base_pb2 import Node
from hauberk.protos.third_party.envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest
from hauberk.services.control.ads import AT_ONCE, METHOD, SERVICE, Ads
from hauberk.services.control.clients import MAX_NAMES
from hauberk.services.control.snapshot import Status
from hauberk.services.control.xds.resource import NAME, ResourceType
from tests.control.xds_mesh import AdsStream, Mesh, becomes, contract, spiffe, workload

ORDERS = contract("shop.Orders", Place=["gateway"])
CATALOG = contract("shop.Catalog", List=["gateway"])
HIDDEN = contract("secret.Vault", Open=["banker"])
HERE, THERE = "127.0.0.1:1001", "127.0.0.1:1002"
QUIET_S = 0.15
"""How long nothing has to arrive before we believe that nothing will."""
SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
"""Options of a client that takes 64 KiB and no more until it reads."""
ENDPOINTS = ResourceType.ENDPOINTS


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    async with Mesh(tmp_path) as mesh:
        mesh.show(
            workload("orders", ORDERS, at=[HERE]),
            workload("catalog", CATALOG, at=[THERE]),
            workload("vault", HIDDEN, at=["10.9.8.7:1"]),
        )
        yield mesh


async def nothing_more(stream: AdsStream) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(QUIET_S):
            await stream.call.read()


async def end_of(stream: AdsStream) -> grpc.aio.AioRpcError:
    try:
        while True:
            await stream.next()
    except grpc.aio.AioRpcError as error:
        return error


async def no_stream_is_left(mesh: Mesh, of: str | None = None) -> None:
    await becomes(
        lambda: any(of is None or each.spiffe_id == str(spiffe(of)) for each in mesh.ads.clients()), False
    )


async def test_the_certificate_decides_what_is_sent_and_the_node_nothing(mesh: Mesh) -> None:
    async with mesh.stream("stranger", node=str(spiffe("gateway"))) as stream:
        for kind in ResourceType:
            response = await stream.fetch(kind, NAME, "orders", "catalog", "vault")
            said = response.SerializeToString()
            for secret in (b"shop.Orders", b"Catalog", b"secret", b"127.0.0.1", b"10.9.8.7"):
                assert secret not in said


async def test_publishing_the_same_again_sends_nothing(mesh: Mesh) -> None:
    async with mesh.stream("gateway") as stream:
        for kind in ResourceType:
            await stream.fetch(kind, NAME, "orders", "catalog")
        mesh.show(
            workload("orders", ORDERS, at=[HERE]),
            workload("catalog", CATALOG, at=[THERE]),
            workload("vault", HIDDEN, at=["10.9.8.7:1"]),
        )
        await nothing_more(stream)


async def test_a_change_of_endpoints_is_one_message_to_those_who_subscribe(mesh: Mesh) -> None:
    async with mesh.stream("gateway") as subscriber, mesh.stream("gateway") as other:
        for kind in (ResourceType.LISTENER, ResourceType.ROUTES, ResourceType.CLUSTER):
            await subscriber.fetch(kind, NAME, "orders", "catalog")
        await subscriber.fetch(ENDPOINTS, "orders", "catalog")
        await other.fetch(ENDPOINTS, "catalog")
        mesh.show(
            workload("orders", ORDERS, at=[HERE, "127.0.0.1:1003"]),
            workload("catalog", CATALOG, at=[THERE]),
            workload("vault", HIDDEN, at=["10.9.8.7:1"]),
        )
        response = await subscriber.next()
        assert len(response.resources) == 1
        assert b"orders" in response.resources[0].value
        await nothing_more(other)
        await nothing_more(subscriber)


async def test_a_change_of_what_is_hidden_sends_nothing(mesh: Mesh) -> None:
    async with mesh.stream("gateway") as stream:
        for kind in ResourceType:
            await stream.fetch(kind, NAME, "orders", "catalog", "vault")
        mesh.show(
            workload("orders", ORDERS, at=[HERE]),
            workload("catalog", CATALOG, at=[THERE]),
            workload("vault", contract("secret.Vault", Open=["banker"], Close=["banker"]), at=["10.9.8.7:2"]),
        )
        await nothing_more(stream)


async def test_a_status_that_changes_is_sent(mesh: Mesh) -> None:
    async with mesh.stream("gateway") as stream:
        first = await stream.fetch(ENDPOINTS, "orders")
        mesh.show(workload("orders", ORDERS, at=[HERE], status=Status.DRAINING))
        assert (await stream.next()).version_info != first.version_info


async def test_a_snapshot_set_in_another_thread_arrives(mesh: Mesh) -> None:
    async with mesh.stream("gateway") as stream:
        await stream.fetch(ENDPOINTS, "orders")
        await asyncio.to_thread(mesh.show, workload("orders", ORDERS, at=["127.0.0.1:4"]))
        assert len((await stream.next()).resources) == 1


async def test_a_snapshot_that_came_while_nobody_listened_is_served(mesh: Mesh) -> None:
    async with mesh.stream("gateway") as stream:
        first = await stream.fetch(ENDPOINTS, "orders")
    await no_stream_is_left(mesh)
    mesh.show(workload("orders", ORDERS, at=["127.0.0.1:4"]))
    async with mesh.stream("gateway") as stream:
        assert (await stream.fetch(ENDPOINTS, "orders")).version_info != first.version_info


async def test_the_same_content_has_the_same_version_on_a_new_stream(mesh: Mesh) -> None:
    versions = []
    for _ in range(2):
        async with mesh.stream("gateway") as stream:
            responses = [await stream.fetch(kind, NAME, "orders") for kind in ResourceType]
            versions.append([response.version_info for response in responses])
    assert versions[0] == versions[1]


async def test_more_streams_than_are_woken_at_once_all_hear_of_a_change(mesh: Mesh) -> None:
    async with mesh.control("gateway") as channel:
        streams = [AdsStream(channel) for _ in range(AT_ONCE + 10)]
        for stream in streams:
            await stream.fetch(ENDPOINTS, "orders")
        mesh.show(workload("orders", ORDERS, at=["127.0.0.1:4"]))
        assert len({(await stream.next()).version_info for stream in streams}) == 1


async def test_a_client_that_stops_asking_still_gets_its_answer(mesh: Mesh) -> None:
    async with mesh.stream("gateway") as stream:
        await stream.ask(ENDPOINTS, "orders")
        await stream.call.done_writing()
        assert len((await stream.next()).resources) == 1
        assert await stream.call.code() is grpc.StatusCode.OK


async def test_a_stream_that_ended_is_forgotten(mesh: Mesh) -> None:
    async with mesh.stream("gateway") as stream:
        await stream.fetch(ENDPOINTS, "orders")
        assert [each.spiffe_id for each in mesh.ads.clients()] == [str(spiffe("gateway"))]
    await no_stream_is_left(mesh)


async def test_clients_are_listed_with_what_they_rejected(mesh: Mesh) -> None:
    async with mesh.stream("gateway", node="gateway#1") as stream:
        await stream.ask(ENDPOINTS, "orders")
        response = await stream.next()
        await stream.nack(response, "endpoint 3 is odd")
        await becomes(lambda: mesh.ads.clients()[0].types[0].nack_detail, "endpoint 3 is odd")
        (client,) = mesh.ads.clients()
        assert client.node_id == "gateway#1"
        assert client.types[0].version_nacked == response.version_info


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (DiscoveryRequest(type_url=ENDPOINTS.value), "carries no node"),
        (DiscoveryRequest(node=Node(id="n"), type_url="type.googleapis.com/a.B"), "not served here"),
        (
            DiscoveryRequest(
                node=Node(id="n"), type_url=ENDPOINTS.value, resource_names=["x"] * (MAX_NAMES + 1)
            ),
            "resource names",
        ),
    ],
    ids=["no node", "unknown type", "too many names"],
)
async def test_a_malformed_request_ends_its_stream_and_no_other(
    mesh: Mesh, request_: DiscoveryRequest, said: str
) -> None:
    async with mesh.stream("gateway") as good, mesh.stream("gateway") as bad:
        await good.fetch(ENDPOINTS, "orders")
        await bad.send(request_)
        error = await end_of(bad)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert said in (error.details() or "")
        mesh.show(workload("orders", ORDERS, at=["127.0.0.1:4"]))
        assert len((await good.next()).resources) == 1


async def test_bytes_that_are_no_request_end_their_stream_and_no_other(mesh: Mesh) -> None:
    async with mesh.stream("gateway") as good, mesh.control("gateway") as channel:
        await good.fetch(ENDPOINTS, "orders")
        bad: Any = channel.stream_stream(f"/{SERVICE}/{METHOD}")()
        await bad.write(b"\xff\xff\xff")
        assert await bad.code() is grpc.StatusCode.INVALID_ARGUMENT
        mesh.show(workload("orders", ORDERS, at=["127.0.0.1:4"]))
        assert len((await good.next()).resources) == 1


async def test_more_streams_than_allowed_are_refused_to_that_identity_alone(tmp_path: Path) -> None:
    async with Mesh(tmp_path, ads=lambda *given: Ads(*given, streams_per_identity=2)) as mesh:
        async with mesh.control("gateway") as channel:
            for _ in range(2):
                await AdsStream(channel).fetch(ENDPOINTS)
            assert await AdsStream(channel).call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            async with mesh.stream("orders") as other:
                await other.fetch(ENDPOINTS)
        await no_stream_is_left(mesh)
        async with mesh.stream("gateway") as again:
            await again.fetch(ENDPOINTS)


async def test_a_revoked_identity_loses_its_streams_and_nobody_else_does(mesh: Mesh) -> None:
    async with mesh.stream("gateway") as revoked, mesh.stream("orders") as other:
        await revoked.fetch(ENDPOINTS, "orders")
        await other.fetch(ENDPOINTS)
        mesh.revoke("gateway")
        error = await end_of(revoked)
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "revoked" in (error.details() or "")
        await no_stream_is_left(mesh, of="gateway")
        await other.ask(ResourceType.LISTENER, NAME)
        assert len((await other.next()).resources) == 1


async def test_a_revoked_identity_that_is_still_connected_is_sent_an_empty_world(mesh: Mesh) -> None:
    async with mesh.stream("gateway") as stream:
        await stream.fetch(ResourceType.ROUTES, NAME)
        mesh.show(workload("orders", ORDERS, at=[HERE]), revoked=[str(spiffe("gateway"))])
        assert b"shop.Orders" not in (await stream.next()).SerializeToString()


async def test_a_control_plane_that_leaves_ends_every_stream_and_takes_no_more(mesh: Mesh) -> None:
    async with mesh.control("gateway") as channel:
        stream = AdsStream(channel)
        await stream.fetch(ENDPOINTS, "orders")
        mesh.guard.draining = True
        mesh.guard.standing.end(Draining("leaving"))
        assert (await end_of(stream)).code() is grpc.StatusCode.UNAVAILABLE
        assert await AdsStream(channel).call.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_client_that_does_not_read_is_ended_like_any_other(mesh: Mesh) -> None:
    def sent(name: str) -> list[str]:
        clients = [each for each in mesh.ads.clients() if each.spiffe_id == str(spiffe(name))]
        return [each.types[0].version_sent for each in clients]

    service = contract("shop.Orders", Place=["gateway", "orders"])
    crowd = [f"127.0.{n // 250}.{n % 250}:1" for n in range(2000)]
    async with mesh.stream("orders") as reader, mesh.control("gateway", SMALL_WINDOW) as channel:
        await reader.fetch(ENDPOINTS, "orders")
        await AdsStream(channel).ask(ENDPOINTS, "orders")
        for leaving in range(8):
            mesh.show(workload("orders", service, at=crowd[leaving:]))
            await reader.next()
        with pytest.raises(TimeoutError):
            await becomes(lambda: sent("gateway") == sent("orders"), True, within_s=QUIET_S)
        mesh.revoke("gateway")
        await no_stream_is_left(mesh, of="gateway")


async def test_clients_that_die_in_the_middle_of_a_push_leave_nothing_behind(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    for dying in range(3):
        async with mesh.control("gateway") as channel:
            streams = [AdsStream(channel) for _ in range(30)]
            for stream in streams:
                await stream.fetch(ENDPOINTS, "orders")
            mesh.show(workload("orders", ORDERS, at=[f"127.0.0.1:{dying + 1}"]))
            for stream in streams[: 10 * dying]:
                stream.call.cancel()
            await asyncio.sleep(0)
    await no_stream_is_left(mesh)
    assert mesh.ads._by_endpoints == {}
    assert [record.getMessage() for record in caplog.records if record.name.startswith("hauberk")] == []


async def test_without_a_certificate_there_is_no_stream(mesh: Mesh) -> None:
    roots = mesh.trust.value.bundle.pem()
    async with grpc.aio.secure_channel(mesh.address, grpc.ssl_channel_credentials(roots)) as channel:
        assert await AdsStream(channel).call.code() is grpc.StatusCode.UNAVAILABLE
    assert mesh.ads.clients() == []
