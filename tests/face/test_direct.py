"""A direct channel follows our credentials; the calls in flight on the old connection end well."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from hauberk.certs.identity import SpiffeId
from hauberk.certs.watch import Watch
from hauberk.direct import DirectChannel
from hauberk.interceptors.call import current_call
from hauberk.interceptors.outbound import guarded
from tests.face.control import eventually
from tests.face.town import SERVICE, TRUST_DOMAIN, Town, policy


class Who:
    """Says by which certificate it was called; `Hold` does after it was let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.entered = asyncio.Event()

    async def echo(self, request: bytes, context: Any) -> bytes:
        call = current_call()
        assert call is not None
        assert call.peer is not None
        return str(call.peer.serial).encode()

    async def hold(self, request: bytes, context: Any) -> None:
        await context.write(await self.echo(request, context))
        self.entered.set()
        await self.go.wait()
        await context.write(b"end")


@asynccontextmanager
async def kept(channel: DirectChannel) -> AsyncIterator[grpc.aio.Channel]:
    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(channel.keep())
        yield guarded(channel)
        keeping.cancel()
    await channel.close()


async def serve(town: Town) -> tuple[str, Who]:
    who, server = Who(), town.server()
    server.add(
        SERVICE,
        {
            "Echo": grpc.unary_unary_rpc_method_handler(who.echo),
            "Hold": grpc.unary_stream_rpc_method_handler(who.hold),
        },
        {"Echo": policy("Echo"), "Hold": policy("Hold", response_streaming=True)},
    )
    await server.start()
    return server.address, who


async def test_calls_use_the_new_certificate_and_old_streams_end_by_themselves(town: Town) -> None:
    address, who = await serve(town)
    credentials = Watch(town.credentials("gateway"))
    first = str(credentials.value.svid.leaf.serial_number).encode()
    direct = DirectChannel(address, SpiffeId.of(TRUST_DOMAIN, "server"), credentials, drain_s=20)
    async with kept(direct) as channel:
        echo: Any = channel.unary_unary(f"/{SERVICE}/Echo")
        hold: Any = channel.unary_stream(f"/{SERVICE}/Hold")
        stream = aiter(hold(b"", timeout=20))
        assert await anext(stream) == first
        assert await echo(b"", timeout=5) == first
        old = direct._connection.value
        credentials.set(town.credentials("gateway"))
        await eventually(lambda: direct._connection.value is not old)
        second = str(credentials.value.svid.leaf.serial_number).encode()
        assert await echo(b"", timeout=5) == second
        who.go.set()
        assert [message async for message in stream] == [b"end"]


async def test_a_stream_that_does_not_end_is_ended_as_unavailable(town: Town) -> None:
    """Core alone would raise CancelledError, as if the caller's own task were cancelled."""
    address, _ = await serve(town)
    credentials = Watch(town.credentials("gateway"))
    direct = DirectChannel(address, SpiffeId.of(TRUST_DOMAIN, "server"), credentials, drain_s=0.2)
    async with kept(direct) as channel:
        hold: Any = channel.unary_stream(f"/{SERVICE}/Hold")
        stream = aiter(hold(b"", timeout=20))
        await anext(stream)
        credentials.set(town.credentials("gateway"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(stream)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_server_that_is_away_does_not_keep_the_old_certificate_in_use(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hauberk.direct.READY_S", 0.1)
    credentials = Watch(town.credentials("gateway"))
    direct = DirectChannel("127.0.0.1:1", SpiffeId.of(TRUST_DOMAIN, "server"), credentials, drain_s=0)
    async with kept(direct):
        old = direct._connection.value
        credentials.set(town.credentials("gateway"))
        await eventually(lambda: direct._connection.value is not old)


async def test_moved_tells_of_a_server_that_leaves(town: Town) -> None:
    server = town.server()
    await server.start()
    credentials = Watch(town.credentials("gateway"))
    direct = DirectChannel(server.address, SpiffeId.of(TRUST_DOMAIN, "server"), credentials, drain_s=0)
    async with kept(direct) as channel:
        await channel.channel_ready()
        moved = asyncio.ensure_future(direct.moved())
        await asyncio.sleep(0.1)
        assert not moved.done()
        await server.stop(0)
        async with asyncio.timeout(5):
            await moved


async def test_moved_tells_of_a_new_connection(town: Town) -> None:
    address, _ = await serve(town)
    credentials = Watch(town.credentials("gateway"))
    direct = DirectChannel(address, SpiffeId.of(TRUST_DOMAIN, "server"), credentials, drain_s=0)
    async with kept(direct) as channel:
        await channel.channel_ready()
        moved = asyncio.ensure_future(direct.moved())
        await asyncio.sleep(0.1)
        credentials.set(town.credentials("gateway"))
        async with asyncio.timeout(5):
            await moved


async def test_a_check_is_made_before_each_call(town: Town) -> None:
    def forked() -> None:
        raise RuntimeError("another process")

    credentials = Watch(town.credentials("gateway"))
    direct = DirectChannel(
        "127.0.0.1:1", SpiffeId.of(TRUST_DOMAIN, "server"), credentials, drain_s=0, check=forked
    )
    echo: Any = direct.unary_unary(f"/{SERVICE}/Echo")
    with pytest.raises(RuntimeError, match="another process"):
        echo(b"")
    await direct.close()
