"""What one peer may hold of a server, and what a refused call leaves behind."""

import asyncio
import gc
from typing import Any

import pytest
from grpc.aio import AioRpcError

from hauberk.interceptors.call import Call
from hauberk.interceptors.in_flight import SENDING_BYTES, UNREAD_BYTES
from tests.interceptors.raw_http2 import Raw, RawConnection, Trailers, message
from tests.interceptors.stage import Shape, Stage, call, echo, path, policy

SERVED_BY = ("asyncio", "threaded")

ME = "spiffe://mesh.test/gateway"


async def test_peer_that_reads_nothing_is_sent_no_more_than_its_share(stage: Stage, raw: Raw) -> None:
    """Core keeps a reply until it may be sent, long after its method has ended."""

    async def large(request: bytes, context: Any) -> bytes:
        return b"x" * 2**20

    said = policy("Echo", Shape.UNARY_UNARY, "*")
    await stage.serve({"Echo": (Shape.UNARY_UNARY, large, said)})

    def unread(connection: RawConnection) -> tuple[list[Trailers], int]:
        for _ in range(80):
            connection.send(connection.open(path("Echo")), message(b"hello"))
        refused = [connection.next_trailers(within=10) for _ in range(20)]
        return refused, stage.guard.in_flight.unread(ME)

    refused, held = await raw(unread, window=0)
    assert {trailers["grpc-status"] for trailers in refused} == {b"8"}
    assert all(b"wait to be read by one peer" in trailers["grpc-message"] for trailers in refused)
    assert UNREAD_BYTES // 2 - 2**20 < held <= UNREAD_BYTES + SENDING_BYTES
    async with asyncio.timeout(5):
        while stage.guard.in_flight.unread(ME):  # noqa: ASYNC110 - the guard has no event for it
            await asyncio.sleep(0.01)
    assert await call(stage.channel(), Shape.UNARY_UNARY) == [b"x" * 2**20]


async def test_call_that_neither_ends_nor_sends_a_message_takes_a_place(
    stage: Stage, shape: Shape, raw: Raw
) -> None:
    await stage.serve(
        {"Echo": (shape, echo(shape), policy("Echo", shape, "*"))},
        in_flight_per_peer=5,
    )

    def idle(connection: RawConnection) -> list[Trailers]:
        for _ in range(8):
            connection.open(path("Echo"))
        return [connection.next_trailers(within=10) for _ in range(3)]

    refused = await raw(idle)
    assert {trailers["grpc-status"] for trailers in refused} == {b"8"}


async def test_refused_call_holds_nothing_that_a_collector_would_have_to_find(stage: Stage) -> None:
    said = policy("Echo", Shape.UNARY_UNARY, "*")
    await stage.serve({"Echo": (Shape.UNARY_UNARY, echo(Shape.UNARY_UNARY), said)})
    channel = stage.channel("gateway")
    gc.collect()
    of_others = _calls()
    gc.disable()
    try:
        for _ in range(3):
            with pytest.raises(AioRpcError):
                await call(channel, Shape.UNARY_UNARY, metadata=[("hauberk-unknown", "x")])
        await stage.records(3)
        await asyncio.sleep(0.05)
        assert [each for each in _calls() if each not in of_others] == []
    finally:
        gc.enable()


async def test_call_that_has_ended_keeps_no_stream_of_its_connection(stage: Stage) -> None:
    """Where one would until the garbage collector comes by, a connection is of no use after 100 calls."""
    said = policy("Echo", Shape.UNARY_UNARY, "*")
    few = [("grpc.max_concurrent_streams", 10)]
    await stage.serve({"Echo": (Shape.UNARY_UNARY, echo(Shape.UNARY_UNARY), said)}, options=few)
    channel = stage.channel("gateway")
    gc.disable()
    try:
        for _ in range(30):
            assert await call(channel, Shape.UNARY_UNARY) == [b"hello"]
    finally:
        gc.enable()


def _calls() -> list[Call]:
    """Those that anything holds; tests before this one may have left some."""
    return [each for each in gc.get_objects() if isinstance(each, Call)]
