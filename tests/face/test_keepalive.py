"""Who says nothing any more is noticed from both ends, and nobody is cut off for asking."""

import asyncio
import time
from typing import Any

import grpc
import pytest

from hauberk.absence import was_silence
from hauberk.certs.identity import SpiffeId
from hauberk.certs.watch import Watch
from hauberk.direct import DirectChannel
from hauberk.interceptors.in_flight import PER_PEER
from tests.face.town import SERVICE, TRUST_DOMAIN, Town, policy
from tests.relay import Relay

SERVER_LOST_S = 1.7
CALLER_LOST_S = 4.0
SLACK_S = 1.0
"""For a machine that is busy."""


class Holding:
    """Answers `Echo` at once, and `Hold` never."""

    def __init__(self) -> None:
        self.held = asyncio.Event()

    async def echo(self, request: bytes, context: Any) -> bytes:
        return request

    async def hold(self, request: bytes, context: Any) -> bytes:
        self.held.set()
        await asyncio.Event().wait()
        return b""


async def serve(town: Town, *, places: int = PER_PEER) -> tuple[str, Holding]:
    holding, server = Holding(), town.server(in_flight_per_peer=places)
    handlers: dict[str, Any] = {
        "Echo": grpc.unary_unary_rpc_method_handler(holding.echo),
        "Hold": grpc.unary_unary_rpc_method_handler(holding.hold),
    }
    server.add(SERVICE, handlers, {name: policy(name) for name in handlers})
    await server.start()
    return server.address, holding


def dial(town: Town, address: str) -> DirectChannel:
    server = SpiffeId.of(TRUST_DOMAIN, "server")
    return DirectChannel(address, server, Watch(town.credentials("caller")), drain_s=0)


async def error_of(channel: grpc.aio.Channel, method: str) -> grpc.aio.AioRpcError | None:
    """How the call failed; None if it did not."""
    call: Any = channel.unary_unary(f"/{SERVICE}/{method}")
    try:
        await call(b"", timeout=10)
    except grpc.aio.AioRpcError as error:
        return error
    return None


@pytest.mark.alone
async def test_a_server_that_falls_silent_is_noticed(town: Town) -> None:
    """Early enough for a read of two seconds to be repeated elsewhere."""
    address, holding = await serve(town)
    async with Relay(address).running() as relay:
        channel = dial(town, relay.address)
        calling = asyncio.create_task(error_of(channel, "Hold"))
        await holding.held.wait()
        relay.fall_silent()
        began = time.monotonic()
        error = await calling
        assert time.monotonic() - began < SERVER_LOST_S + SLACK_S
        assert error is not None
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert was_silence(error)
        await channel.close()


async def test_a_server_that_hangs_up_was_not_silent(town: Town) -> None:
    address, holding = await serve(town)
    async with Relay(address).running() as relay:
        channel = dial(town, relay.address)
        calling = asyncio.create_task(error_of(channel, "Hold"))
        await holding.held.wait()
        relay.hang_up()
        error = await calling
        assert error is not None
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert not was_silence(error)
        await channel.close()


@pytest.mark.alone
async def test_a_caller_that_falls_silent_gives_its_places_back(town: Town) -> None:
    address, holding = await serve(town, places=1)
    neighbour = dial(town, address)
    async with Relay(address).running() as relay:
        channel = dial(town, relay.address)
        calling = asyncio.create_task(error_of(channel, "Hold"))
        await holding.held.wait()
        relay.fall_silent()
        began = time.monotonic()
        while (error := await error_of(neighbour, "Echo")) is not None:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert time.monotonic() - began < CALLER_LOST_S + SLACK_S
            await asyncio.sleep(0.05)
        await calling
        await channel.close()
    await neighbour.close()


async def test_an_idle_connection_is_not_cut_off_for_its_pings(town: Town) -> None:
    """Two pings too many in a row are forgiven, so it takes more than three to see."""
    address, _ = await serve(town)
    channel = dial(town, address)
    await channel.channel_ready()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await channel.moved()
    await channel.close()
