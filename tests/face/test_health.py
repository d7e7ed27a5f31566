"""What a server of the mesh says of its health, and to whom."""

import asyncio
import time
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hauberk.interceptors import overload
from tests.face.town import SERVICE, Town, echo, policy, refused

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def test_a_server_that_refuses_all_says_so(town: Town) -> None:
    server = town.server()
    server.add(SERVICE, town.lab.handlers(), {"Echo": policy("Echo")})
    await server.start()
    channel = town.channel(server.address)
    server.refuse_all("the clock is wrong")
    assert (await refused(channel)).code() is grpc.StatusCode.UNAVAILABLE
    server.refuse_all("")
    assert await echo(channel) == b"hello"
    assert town.lab.ran == 1


async def test_health_is_told_by_service(town: Town) -> None:
    server = town.server()
    server.add(SERVICE, town.lab.handlers(), {"Echo": policy("Echo")})
    await server.start()
    stub: Any = health_pb2_grpc.HealthStub(town.channel(server.address))
    assert (await _check(stub, "")).status == SERVING
    assert (await _check(stub, SERVICE)).status == SERVING
    server.set_serving(SERVICE, False)
    assert (await _check(stub, SERVICE)).status == NOT_SERVING
    assert (await _check(stub, "")).status == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _check(stub, "lab.v1.Unknown")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(KeyError):
        server.set_serving("lab.v1.Unknown", True)


async def test_health_is_watched_until_the_server_leaves(town: Town) -> None:
    server = town.server()
    server.add(SERVICE, town.lab.handlers(), {"Echo": policy("Echo")})
    await server.start()
    stub: Any = health_pb2_grpc.HealthStub(town.channel(server.address))
    watch = aiter(stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=20))
    assert (await anext(watch)).status == SERVING
    server.set_serving(SERVICE, False)
    assert (await anext(watch)).status == NOT_SERVING
    server.set_serving(SERVICE, True)
    assert (await anext(watch)).status == SERVING
    began = time.monotonic()
    await server.stop(10)
    assert time.monotonic() - began < 5
    assert [message.status async for message in watch] == [NOT_SERVING]


async def test_a_server_that_leaves_serves_no_more_whatever_gets_better_meanwhile(town: Town) -> None:
    server = town.server()
    await server.start()
    server.refuse_for_memory(True)
    await server.stop(5)
    server.refuse_for_memory(False)
    assert not server._health.serving()


async def test_health_of_an_unknown_service_can_be_watched(town: Town) -> None:
    server = town.server()
    await server.start()
    stub: Any = health_pb2_grpc.HealthStub(town.channel(server.address))
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="lab.v1.Unknown"), timeout=20)
    assert (await watch.read()).status == UNKNOWN
    watch.cancel()


async def test_health_lists_every_service(town: Town) -> None:
    server = town.server()
    server.add(SERVICE, town.lab.handlers(), {"Echo": policy("Echo")})
    await server.start()
    listing: Any = town.channel(server.address).unary_unary("/grpc.health.v1.Health/List")
    reply = await listing(b"", timeout=5)
    listed: Any = health_pb2
    statuses = listed.HealthListResponse.FromString(reply).statuses
    assert {name: status.status for name, status in statuses.items() if not name.startswith("grpc.")} == {
        "": SERVING,
        SERVICE: SERVING,
    }


async def test_server_that_answers_nobody_says_so_until_it_answers_again(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "STUCK_S", 0.05)
    begun, let, server = asyncio.Event(), asyncio.Event(), town.server(in_flight_most=1)

    async def slow(request: bytes, context: Any) -> bytes:
        begun.set()
        await let.wait()
        return request

    server.add(SERVICE, {"Echo": grpc.unary_unary_rpc_method_handler(slow)}, {"Echo": policy("Echo")})
    await server.start()
    channel = town.channel(server.address)
    stub: Any = health_pb2_grpc.HealthStub(channel)
    watch = aiter(stub.Watch(health_pb2.HealthCheckRequest(), timeout=20))
    assert (await anext(watch)).status == SERVING
    taken = asyncio.create_task(echo(channel, within=30))
    await begun.wait()
    for _ in range(3):
        error = await refused(channel, within=1)
        assert error.details() == "this server has more to do than it can"
    assert (await anext(watch)).status == NOT_SERVING
    let.set()
    assert await taken == b"hello"
    assert (await anext(watch)).status == SERVING
    assert await echo(channel) == b"hello"


async def _check(stub: Any, service: str) -> Any:
    return await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
