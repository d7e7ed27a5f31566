"""The channel of the mesh when it is dialled anew: nothing in flight is lost, what comes goes the new way."""

import asyncio
from typing import Any

import grpc
import pytest

from hauberk.certs.watch import Watch
from hauberk.channel import MeshChannel
from hauberk.options import CHANNEL
from tests.face.control import eventually
from tests.face.town import SERVICE, TRUST_DOMAIN, Town, policy


class Peers:
    """Says over which connection it was called; `Hold` does, and again after it was let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def echo(self, request: bytes, context: Any) -> bytes:
        return str(context.peer()).encode()

    async def hold(self, request: bytes, context: Any) -> None:
        await context.write(await self.echo(request, context))
        await self.go.wait()
        await context.write(b"end")


class Dialled:
    """Channels to the server of `town`, by nobody's routes."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.peers = Peers()
        self.address = ""
        self.made: list[grpc.aio.Channel] = []
        self.channel = MeshChannel(self._dial, drain_s=5, check=lambda: None)

    async def serve(self) -> None:
        server = self.town.server()
        handlers: dict[str, Any] = {
            "Echo": grpc.unary_unary_rpc_method_handler(self.peers.echo),
            "Hold": grpc.unary_stream_rpc_method_handler(self.peers.hold),
        }
        server.add(
            SERVICE, handlers, {"Echo": policy("Echo"), "Hold": policy("Hold", response_streaming=True)}
        )
        await server.start()
        self.address = server.address

    def _dial(self) -> grpc.aio.Channel:
        secure = self.town.credentials("gateway").channel_credentials()
        named = ("grpc.ssl_target_name_override", f"server.{TRUST_DOMAIN}")
        self.made.append(grpc.aio.secure_channel(self.address, secure, options=[*CHANNEL, named]))
        return self.made[-1]

    async def echo(self) -> bytes:
        reply: bytes = await self.channel.unary_unary(f"/{SERVICE}/Echo")(b"", timeout=5)
        return reply


async def test_calls_go_the_new_way_and_those_in_flight_end_well(town: Town) -> None:
    dialled = Dialled(town)
    await dialled.serve()
    before = await dialled.echo()
    stream = dialled.channel.unary_stream(f"/{SERVICE}/Hold")(b"")
    assert await stream.read() == before
    await dialled.channel.dial_anew()
    after = await dialled.echo()
    assert after != before
    dialled.peers.go.set()
    assert await stream.read() == b"end"
    assert await stream.code() is grpc.StatusCode.OK
    await eventually(lambda: dialled.made[0].get_state() is grpc.ChannelConnectivity.SHUTDOWN)
    assert await dialled.echo() == after
    await dialled.channel.end()


async def test_what_is_known_is_used_until_the_new_way_leads_somewhere(town: Town) -> None:
    dialled = Dialled(town)
    await dialled.serve()
    before = await dialled.echo()
    dialled.address = "127.0.0.1:1"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await dialled.channel.dial_anew()
    assert await dialled.echo() == before
    await dialled.channel.end()


async def test_who_has_called_nobody_dials_nobody(town: Town) -> None:
    dialled = Dialled(town)
    await dialled.channel.dial_anew()
    assert dialled.made == []
    await dialled.channel.end()


async def test_who_finds_control_again_twice_dials_twice(town: Town) -> None:
    """The first new way may have fallen silent before it led anywhere; core would notice in five minutes."""
    dialled, found_again = Dialled(town), Watch(None)
    await dialled.serve()
    before = await dialled.echo()
    served, dialled.address = dialled.address, "127.0.0.1:1"
    keeping = asyncio.create_task(dialled.channel.keep(found_again))
    await asyncio.sleep(0)
    found_again.set(None)
    await eventually(lambda: len(dialled.made) == 2)
    dialled.address = served
    found_again.set(None)
    await eventually(lambda: dialled.made[0].get_state() is grpc.ChannelConnectivity.SHUTDOWN)
    assert dialled.made[1].get_state() is grpc.ChannelConnectivity.SHUTDOWN
    assert await dialled.echo() != before
    keeping.cancel()
    await dialled.channel.end()
