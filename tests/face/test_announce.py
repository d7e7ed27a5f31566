"""How a server gets its place in the mesh, keeps it and leaves it."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hauberk.announce import offer
from hauberk.errors import AnnounceRefused, SettingsError
from hauberk.mesh import Mesh
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from hauberk.resuming import resume
from hauberk.server import MeshServer
from hauberk.services.control.snapshot import Snapshot, Status
from tests.face.control import CATALOG, Catalog, Control, eventually, get_product, tasks_of_the_face


async def test_a_server_is_announced_once_it_listens(control: Control) -> None:
    await control.catalog(replica="b-2")
    (replica,) = control.plane.roster.replicas()
    assert str(replica.spiffe_id) == "spiffe://shop.test/catalog"
    assert replica.replica == "b-2"
    assert replica.contracts == (CATALOG,)
    assert replica.status is Status.SERVING
    host, port = replica.address.split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.close()


async def test_a_contract_that_is_not_bound_to_us_is_refused_and_nothing_listens(control: Control) -> None:
    server = catalog_server(await control.member("gateway"))
    with pytest.raises(AnnounceRefused, match=rf"announcing {CATALOG} was refused: .*gateway"):
        await server.start()
    assert control.plane.roster.replicas() == []
    await eventually(lambda: "RegistryAnnouncement.run" not in tasks_of_the_face())
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*server.address.split(":"))


async def test_a_server_without_contracts_is_not_announced(control: Control) -> None:
    server = (await control.member("gateway")).server()
    await server.start()
    assert control.plane.roster.replicas() == []


async def test_connections_age_and_callers_notice_nothing(tmp_path: Path) -> None:
    """Six seconds are three ages of a connection: the replica is never gone from what callers are sent."""
    async with Control(tmp_path, lifetime=timedelta(seconds=10)) as control:
        await control.catalog()
        gateway = await control.member("gateway")
        snapshots: list[Snapshot] = []
        unsubscribe = control.plane.publisher.snapshots.subscribe(snapshots.append)
        seen: list[int] = []
        opened: list[str | None] = []
        reading = asyncio.ensure_future(_count(gateway, seen, opened))
        for _ in range(120):
            await get_product(gateway)
            await asyncio.sleep(0.05)
        reading.cancel()
        unsubscribe()
        assert seen == list(range(1, len(seen) + 1))
        assert len(opened) > 2
        (now,) = control.plane.roster.replicas()
        for snapshot in snapshots:
            (then,) = snapshot.workloads["catalog"].replicas
            assert (then.address, then.status) == (now.address, Status.SERVING)


async def test_a_control_plane_that_comes_back_is_announced_to_again(control: Control) -> None:
    await control.catalog()
    await control.stop()
    await control.start()
    await eventually(lambda: control.plane.roster.replicas(), 20)
    gateway = await control.member("gateway")
    assert (await get_product(gateway)).sku == "A-1"


async def test_a_server_that_drains_is_left_by_callers_before_it_stops(control: Control) -> None:
    """Two replicas; one leaves under load and no call fails."""
    _, first = await control.catalog()
    leaving = catalog_server(await control.follower("catalog"))
    await leaving.start()
    gateway = await control.member("gateway")
    stop = asyncio.Event()
    calls = 0

    async def load() -> None:
        nonlocal calls
        while not stop.is_set():
            await get_product(gateway)
            calls += 1

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load())
        await eventually(lambda: calls > 20)
        await leaving.stop(5)
        gone = calls
        await eventually(lambda: calls > gone + 20)
        stop.set()
    assert [replica.replica for replica in control.plane.roster.replicas()] == ["1"]
    assert first.ran


async def test_a_caller_s_call_in_flight_is_finished_while_its_server_drains(control: Control) -> None:
    mesh = await control.member("catalog")
    servicer = Catalog()  # type: ignore[abstract]
    servicer.hold = asyncio.Event()
    server = mesh.server()
    catalog_pb2_grpc.add_CatalogServicer_to_server(servicer, server)
    await server.start()
    call = asyncio.ensure_future(get_product(await control.member("gateway")))
    await servicer.entered.wait()
    stopping = asyncio.ensure_future(server.stop(5))
    await eventually(lambda: [each.status for each in control.plane.roster.replicas()] == [Status.DRAINING])
    servicer.hold.set()
    assert (await call).name == "catalog"
    await stopping


async def test_a_binding_that_is_taken_away_is_told(
    control: Control, caplog: pytest.LogCaptureFixture
) -> None:
    await control.catalog()
    control.invite("catalog", serves=[])
    await eventually(lambda: "was refused" in caplog.text)
    assert control.plane.roster.replicas() == []


async def test_an_address_that_nobody_can_dial_is_not_announced(control: Control) -> None:
    server = catalog_server(await control.member("catalog"), listen="0.0.0.0:0")
    with pytest.raises(SettingsError, match="HAUBERK_ADVERTISE is missing"):
        await server.start()


@pytest.mark.parametrize(
    ("listen", "advertise", "announced"),
    [
        ("127.0.0.1:0", None, "127.0.0.1:{port}"),
        ("0.0.0.0:0", "127.0.0.1", "127.0.0.1:{port}"),
        ("0.0.0.0:0", "127.0.0.1:7", "127.0.0.1:7"),
        ("localhost:0", None, "127.0.0.1:{port}"),
        ("[::1]:0", None, "[::1]:{port}"),
    ],
)
async def test_what_is_advertised(
    control: Control, listen: str, advertise: str | None, announced: str
) -> None:
    server = catalog_server(await control.member("catalog", listen=listen, advertise=advertise))
    await server.start()
    (replica,) = control.plane.roster.replicas()
    assert replica.address == announced.format(port=server.address.rpartition(":")[2])


def test_an_offer_describes_its_contracts_whole() -> None:
    offered = offer("127.0.0.1:1", [CATALOG], "1")
    assert b"hauberk/policy/v1/policy.proto" in offered.descriptors
    assert b"google/protobuf/descriptor.proto" in offered.descriptors
    assert b"hauberk/control" not in offered.descriptors
    assert b"buf/validate/validate.proto" in offered.descriptors  # 55 KiB of it
    assert len(offered.descriptors) < 96 * 1024


async def _count(mesh: Mesh, seen: list[int], opened: list[str | None]) -> None:
    stub: Any = catalog_pb2_grpc.CatalogStub(mesh.channel)

    def watch(last: str | None) -> Any:
        opened.append(last)
        return stub.WatchProducts(catalog_pb2.WatchProductsRequest(skus=[last] if last else []))

    async for product in resume(watch, lambda product: product.sku):
        seen.append(int(product.sku))  # noqa: PERF401 - whoever cancels this reads it


def catalog_server(mesh: Mesh, **options: str) -> MeshServer:
    server = mesh.server(**options)
    catalog_pb2_grpc.add_CatalogServicer_to_server(Catalog(), server)  # type: ignore[abstract]
    return server
