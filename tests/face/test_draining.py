"""What callers of a server that leaves see at the end of its drain, in all four shapes of calls."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest

from hauberk.cli.dial import error_infos
from hauberk.server import CLEARED_S, LINGER_S
from tests.face.control import eventually
from tests.face.town import SERVICE, Town, echo, policy

SHAPES = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
DRAIN_S = 1.0


class Endless:
    """Methods that never end by themselves; `last` is what one does as it is ended."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.left = asyncio.Event()
        self.deaf = False
        self.hears = asyncio.Event()

    async def once(self, request: Any, context: Any) -> bytes:
        await self._stay()
        return b""

    async def many(self, request: Any, context: Any) -> None:
        await context.write(b"begun")
        await self._stay()

    async def reads(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        async for _ in requests:
            self.entered.set()
        return b""

    async def talks(self, requests: AsyncIterator[bytes], context: Any) -> None:
        async for request in requests:
            await context.write(request)
            self.entered.set()

    async def _stay(self) -> None:
        self.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()
            if self.deaf:
                await self.hears.wait()

    def add_to(self, server: Any) -> None:
        server.add(
            SERVICE,
            {
                "unary_unary": grpc.unary_unary_rpc_method_handler(self.once),
                "unary_stream": grpc.unary_stream_rpc_method_handler(self.many),
                "stream_unary": grpc.stream_unary_rpc_method_handler(self.reads),
                "stream_stream": grpc.stream_stream_rpc_method_handler(self.talks),
            },
            {
                shape: policy(
                    shape,
                    request_streaming=shape.startswith("stream"),
                    response_streaming=shape.endswith("stream"),
                )
                for shape in SHAPES
            },
        )


async def _call(channel: grpc.aio.Channel, shape: str) -> grpc.aio.AioRpcError:
    """The error that a call ends with whose caller goes on for ever."""

    async def requests() -> AsyncIterator[bytes]:
        yield b"more"
        await asyncio.Event().wait()

    made: Any = getattr(channel, shape)(f"/{SERVICE}/{shape}")
    call = made(requests() if shape.startswith("stream") else b"", timeout=30)
    try:
        if shape.endswith("stream"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("it ended well")


@pytest.mark.alone
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_call_that_does_not_end_is_told_to_come_back_before_the_drain_ends(
    town: Town, shape: str
) -> None:
    endless, server = Endless(), town.server()
    endless.add_to(server)
    await server.start()
    calling = asyncio.ensure_future(_call(town.channel(server.address), shape))
    await endless.entered.wait()
    began = time.monotonic()
    await server.stop(DRAIN_S)
    assert time.monotonic() - began < DRAIN_S
    error = await calling
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert [(info.reason, info.domain) for info in error_infos(error)] == [("DRAINING", "hauberk")]


@pytest.mark.alone
async def test_a_method_that_does_not_heed_its_end_holds_up_nobody(town: Town) -> None:
    endless, server = Endless(), town.server()
    endless.add_to(server)
    endless.deaf = True
    await server.start()
    calling = asyncio.ensure_future(_call(town.channel(server.address), "unary_unary"))
    await endless.entered.wait()
    began = time.monotonic()
    await server.stop(DRAIN_S)
    assert endless.left.is_set()
    assert time.monotonic() - began < DRAIN_S + 1
    assert (await calling).code() is grpc.StatusCode.UNAVAILABLE
    endless.hears.set()


async def test_many_streams_of_one_caller_are_all_told(town: Town) -> None:
    endless, server = Endless(), town.server()
    endless.add_to(server)
    await server.start()
    channel = town.channel(server.address)
    calling = [asyncio.ensure_future(_call(channel, "unary_stream")) for _ in range(50)]
    await eventually(lambda: server._guard.in_flight.count("spiffe://mesh.test/gateway") == 50)
    await server.stop(2 * CLEARED_S)
    told = [info.reason for error in await asyncio.gather(*calling) for info in error_infos(error)]
    assert told == ["DRAINING"] * 50


@pytest.mark.alone
@pytest.mark.parametrize("told", [True, False])
async def test_a_server_lingers_only_where_callers_were_told(town: Town, told: bool) -> None:
    class Announced:
        async def withdraw(self) -> bool:
            return told

        async def end(self) -> None:
            pass

    async def announce(address: str, contracts: Sequence[str]) -> Announced:
        return Announced()

    server = town.server(announce=announce)
    Endless().add_to(server)
    await server.start()
    began = time.monotonic()
    await server.stop(10)
    assert (time.monotonic() - began >= LINGER_S) is told


async def test_a_call_that_comes_as_its_server_stops_is_unavailable_and_not_cancelled(town: Town) -> None:
    """Core resets what comes between its stop and the caller's hearing of it; nobody wished that."""
    server, codes, stopped = town.server(), Counter[str](), asyncio.Event()
    server.add(SERVICE, town.lab.handlers(), {"Echo": policy("Echo")})
    await server.start()
    channel = town.channel(server.address)

    async def ask_on() -> None:
        while not stopped.is_set():
            try:
                await echo(channel)
                codes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                infos = [info.reason for info in error_infos(error)]
                codes[" ".join([error.code().name, *infos])] += 1
                await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as asking:
        for _ in range(40):
            asking.create_task(ask_on())
        await eventually(lambda: codes["OK"] >= 200)
        await server.stop(5)
        stopped.set()
    assert codes["UNAVAILABLE BROKEN_OFF"] > 0, codes
    assert set(codes) <= {"OK", "UNAVAILABLE BROKEN_OFF", "UNAVAILABLE"}, codes
