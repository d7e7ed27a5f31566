"""A process of threads joins the mesh, calls it, and leaves."""

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import hauberk.blocking
from hauberk.errors import JoinedBeforeFork, JoinFailed, MembershipEnded
from hauberk.protos.hauberk.control.v1 import admin_pb2
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tests.face.control import Control, admin, eventually


def product(mesh: hauberk.blocking.BlockingMesh) -> catalog_pb2.Product:
    stub = catalog_pb2_grpc.CatalogStub(mesh.channel)
    return stub.GetProduct(catalog_pb2.GetProductRequest(sku="A-1"), timeout=5)


async def in_thread(act: Callable[[], Any]) -> Any:
    """What `act` returns, in a thread where no event loop runs."""
    return await asyncio.to_thread(act)


def joining(control: Control, name: str = "gateway") -> hauberk.blocking.join:
    return hauberk.blocking.join(control.settings(name, join_token_file=control.invite(name)))


async def test_threads_call_the_mesh(control: Control) -> None:
    await control.catalog()
    joined = joining(control)

    def act() -> tuple[str, list[str], int]:
        with joined as mesh:
            names: list[str] = []
            threads = [threading.Thread(target=lambda: names.append(product(mesh).name)) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            stub: Any = health_pb2_grpc.HealthStub(mesh.channel_to("catalog"))
            return str(mesh.id), names, stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status

    assert await in_thread(act) == ("spiffe://shop.test/gateway", ["catalog"] * 8, 1)
    assert "hauberk-mesh" not in [thread.name for thread in threading.enumerate()]


async def test_a_stream_is_read_as_any_iterator(control: Control) -> None:
    await control.catalog()
    joined = joining(control)

    def act() -> list[str]:
        with joined as mesh:
            watching = catalog_pb2_grpc.CatalogStub(mesh.channel).WatchProducts(
                catalog_pb2.WatchProductsRequest(), timeout=10
            )
            read = [next(watching).sku for _ in range(3)]
            watching.cancel()
            return read

    assert await in_thread(act) == ["1", "2", "3"]


async def test_who_may_not_call_is_told_where_to_look(control: Control) -> None:
    await control.catalog()
    joined = joining(control, "stranger")

    def act() -> Any:
        with joined as mesh, pytest.raises(grpc.RpcError) as caught:
            product(mesh)
        return caught.value

    error = await in_thread(act)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "hauberk policy show" in error.details()


async def test_what_keeps_it_out_is_raised_where_it_joins(control: Control) -> None:
    joined = hauberk.blocking.join(control.settings("gateway"))

    def act() -> None:
        with joined:
            raise AssertionError("joined")

    with pytest.raises(JoinFailed, match="no join token was given"):
        await in_thread(act)


async def test_membership_that_ended_is_raised_where_it_is_left(control: Control) -> None:
    joined, operator = joining(control), await admin(control)
    await in_thread(joined.start)
    await operator.Revoke(admin_pb2.RevokeRequest(name="gateway", reason="test"), timeout=5)
    await eventually(lambda: joined.ended)
    with pytest.raises(MembershipEnded, match="was revoked"):
        await in_thread(joined.stop)


async def test_control_that_is_found_again_is_asked_again_and_calls_go_on(control: Control) -> None:
    """Core would look after its connection to the control plane only every five minutes."""
    await control.catalog()
    joined = joining(control)
    mesh = await in_thread(joined.start)
    try:
        assert (await in_thread(lambda: product(mesh))).name == "catalog"
        first = mesh._mesh._blocking.current()
        mesh._mesh._tenure.found_again.set(None)
        await eventually(lambda: mesh._mesh._blocking.current() is not first)
        assert (await in_thread(lambda: product(mesh))).name == "catalog"
    finally:
        await in_thread(joined.stop)


async def test_nobody_is_called_after_it_was_left(control: Control) -> None:
    await control.catalog()
    joined = joining(control)

    def act() -> Any:
        with joined as mesh:
            product(mesh)
        with pytest.raises(grpc.RpcError) as caught:
            product(mesh)
        return caught.value

    error = await in_thread(act)
    assert (error.code(), error.details()) == (
        grpc.StatusCode.UNAVAILABLE,
        "the mesh was left: nobody is called any more",
    )


async def test_an_asyncio_process_has_a_channel_for_its_threads_too(control: Control) -> None:
    """The methods of its threaded server have no other."""
    await control.catalog()
    gateway = await control.member("gateway")
    stub: Any = health_pb2_grpc.HealthStub(gateway.blocking_channel("catalog"))
    assert (await in_thread(lambda: stub.Check(health_pb2.HealthCheckRequest(), timeout=5))).status == 1


async def test_a_channel_from_before_a_fork_says_so_in_the_child(control: Control) -> None:
    joined = joining(control)
    mesh = await in_thread(joined.start)
    try:
        mesh.channel.pick.__self__._check = _as_if_forked(mesh)
        with pytest.raises(JoinedBeforeFork, match="join after the fork"):
            await in_thread(lambda: product(mesh))
    finally:
        await in_thread(joined.stop)


def _as_if_forked(mesh: Any) -> Callable[[], None]:
    """The check of a process that has another id than the one that joined."""
    mesh._mesh._pid = os.getpid() + 1
    return mesh._mesh._check_pid  # type: ignore[no-any-return]
