"""What comes as a call's message, and what does not come: raw frames, since no gRPC library would send
them.
"""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc.aio import AioRpcError

from hauberk.interceptors.demands import DeadlineRule
from tests.interceptors.raw_http2 import Raw, RawConnection, Trailers, message, tls_of
from tests.interceptors.stage import SERVICE, Shape, Stage, begin, call, echo, info, only, path, policy

SERVED_BY = ("asyncio", "threaded")

ONE_REQUEST = [Shape.UNARY_UNARY, Shape.UNARY_STREAM]
ME = "spiffe://mesh.test/gateway"

INVALID_ARGUMENT, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL = b"3", b"4", b"12", b"13"


@pytest.fixture(params=ONE_REQUEST, ids=lambda shape: shape.name.lower())
def shape(request: pytest.FixtureRequest) -> Shape:
    assert isinstance(request.param, Shape)
    return request.param


async def serve(stage: Stage, shape: Shape, ran: list[Any] | None = None, **more: Any) -> None:
    rule = more.pop("deadline", None)
    said = policy("Echo", shape, "*", deadline=rule)
    await stage.serve({"Echo": (shape, echo(shape, ran), said)}, **more)


async def test_call_that_ends_without_a_message_is_answered_and_its_place_freed(
    stage: Stage, shape: Shape, raw: Raw
) -> None:
    """Core alone answers it never, and keeps its place until the connection dies."""
    ran: list[Any] = []
    await serve(stage, shape, ran, in_flight_per_peer=1)

    def three(connection: RawConnection) -> list[Trailers]:
        return [connection.trailers(connection.open(path("Echo"), ends=True)) for _ in range(3)]

    for trailers in await raw(three):
        assert trailers["grpc-status"] == UNIMPLEMENTED
        assert b"without a message" in trailers["grpc-message"]
    assert not ran
    assert await call(stage.channel(), shape) == [b"hello"]


async def test_call_whose_message_never_comes_is_ended_and_its_place_freed(
    stage: Stage, shape: Shape, raw: Raw
) -> None:
    ran: list[Any] = []
    await serve(stage, shape, ran, in_flight_per_peer=1, first_message_s=0.3)
    trailers = await raw(lambda connection: connection.trailers(connection.open(path("Echo"))))
    assert trailers["grpc-status"] == DEADLINE_EXCEEDED
    assert trailers["grpc-message"] == b"deadline passed: first message"
    assert not ran
    assert await call(stage.channel(), shape) == [b"hello"]


async def test_contracts_bound_holds_while_the_message_is_waited_for(
    stage: Stage, shape: Shape, raw: Raw
) -> None:
    await serve(stage, shape, deadline=DeadlineRule(max_s=0.05))
    trailers = await raw(lambda connection: connection.trailers(connection.open(path("Echo"))))
    assert trailers["grpc-status"] == DEADLINE_EXCEEDED
    assert trailers["grpc-message"] == b"deadline passed: contract max"


async def test_only_the_first_message_of_a_single_request_counts(
    stage: Stage, shape: Shape, raw: Raw
) -> None:
    ran: list[Any] = []
    await serve(stage, shape, ran)

    def two(connection: RawConnection) -> Trailers:
        stream = connection.open(path("Echo"))
        connection.send(stream, message(b"first") + message(b"second"))
        return connection.trailers(stream)

    assert (await raw(two))["grpc-status"] == b"0"
    assert ran == [b"first"]


async def test_message_cut_off_never_reaches_the_method(stage: Stage, shape: Shape, raw: Raw) -> None:
    ran: list[Any] = []
    await serve(stage, shape, ran)

    def cut(connection: RawConnection) -> Trailers:
        stream = connection.open(path("Echo"))
        connection.send(stream, message(b"hello")[:7])
        return connection.trailers(stream)

    assert (await raw(cut))["grpc-status"] != b"0"
    assert not ran


async def test_message_over_the_limit_is_resource_exhausted(stage: Stage, shape: Shape) -> None:
    ran: list[Any] = []
    await serve(stage, shape, ran, options=[("grpc.max_receive_message_length", 1024)])
    with pytest.raises(AioRpcError) as caught:
        await call(stage.channel(), shape, requests=[b"x" * 2000])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not ran
    await stage.records()
    await stage.none_in_flight(ME)


@pytest.mark.parametrize("shape", [Shape.UNARY_UNARY, Shape.STREAM_UNARY])
async def test_reply_that_cannot_be_written_is_an_internal_error(
    stage: Stage, shape: Shape, caplog: pytest.LogCaptureFixture
) -> None:
    async def wrong(request: Any, context: Any) -> str:
        return "a string, not a message"

    guard = stage.new_guard()
    handler = stage.method(wrong, shape, StringValue.FromString, StringValue.SerializeToString)
    guard.add(SERVICE, {"Echo": handler}, {"Echo": policy("Echo", shape, "*")})
    await stage.start(guard)
    with pytest.raises(AioRpcError) as caught:
        await call(stage.channel(), shape, requests=[b""])
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert info(caught.value).reason == "INTERNAL"
    assert "TypeError" in caplog.text


@pytest.mark.parametrize("raw_path", [b"/\xff\xfe/x", b"\xc3\x28", b"/lab.v1.Lab/Echo\xff"])
async def test_path_that_is_no_text_does_not_stop_the_server(
    stage: Stage, shape: Shape, raw: Raw, raw_path: bytes
) -> None:
    """grpc.aio's own main loop ends at it, for everybody."""
    await serve(stage, shape)
    channel = stage.channel()
    assert await call(channel, shape) == [b"hello"]

    def odd(connection: RawConnection) -> Trailers:
        return connection.trailers(connection.open("", raw_path=raw_path, ends=True))

    assert (await raw(odd))["grpc-status"] == UNIMPLEMENTED
    assert await call(channel, shape) == [b"hello"]
    assert await call(stage.channel("other"), shape) == [b"hello"]


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"x-odd", b"\xff\xfe"), (b"x-odd", b"a\r\nb"), (b"x-odd", b"a\0b"), (b"x-odd\xff", b"a")],
    ids=["no utf-8", "line break", "nul", "key"],
)
async def test_metadata_that_is_no_text_is_refused_and_the_server_lives(
    stage: Stage, shape: Shape, raw: Raw, key: bytes, value: bytes
) -> None:
    ran: list[Any] = []
    await serve(stage, shape, ran)

    trailers = await raw(lambda connection: connection.call(path("Echo"), more=[(key, value)]))
    assert trailers["grpc-status"] in (INVALID_ARGUMENT, INTERNAL)  # a key that is none, core itself refuses
    assert (await stage.records())[0]["error.reason"] == "METADATA_REFUSED"
    assert not ran
    assert await call(stage.channel(), shape) == [b"hello"]


@only("asyncio")
@pytest.mark.parametrize("writes", [True, False], ids=["writes", "yields"])
async def test_caller_that_does_not_read_gets_its_status_once_it_does(
    stage: Stage, tmp_path: Path, writes: bool
) -> None:
    """A deadline that passes within a write leaves the write begun: core would refuse the status for it."""
    payload, ended = b"x" * 20_000, asyncio.Event()

    async def writing(request: bytes, context: Any) -> None:
        try:
            while True:
                await context.write(payload)
        finally:
            ended.set()

    async def yielding(request: bytes, context: Any) -> Any:
        try:
            while True:
                yield payload
        finally:
            ended.set()

    shape, loop = Shape.UNARY_STREAM, asyncio.get_running_loop()
    said = policy("Endless", shape, "*", deadline=DeadlineRule(max_s=0.1))
    await stage.serve({"Endless": (shape, writing if writes else yielding, said)})
    context = tls_of(tmp_path, stage.credentials("gateway").svid, version=ssl.TLSVersion.TLSv1_3)

    def stalled() -> tuple[int, Trailers]:
        with RawConnection(stage.address, context, window=0) as connection:
            stream = connection.open(path("Endless"))
            connection.send(stream, message(b"go"))
            asyncio.run_coroutine_threadsafe(asyncio.wait_for(ended.wait(), 5), loop).result()
            held = stage.guard.in_flight.count(ME)
            connection.grant(stream, 100_000)
            return held, connection.trailers(stream)

    held, trailers = await asyncio.to_thread(stalled)
    assert held == 1
    assert trailers["grpc-status"] == DEADLINE_EXCEEDED
    assert trailers["grpc-message"] == b"deadline passed: contract max"
    await stage.records()
    await stage.none_in_flight(ME)


@pytest.mark.parametrize("shape", [Shape.STREAM_UNARY, Shape.STREAM_STREAM], ids=lambda one: one.name.lower())
@pytest.mark.parametrize("how", ["cancelled", "disconnected"])
async def test_requests_that_were_cut_off_do_not_look_whole(stage: Stage, shape: Shape, how: str) -> None:
    """Core ends them as if that were all, and cancels the call just after."""
    came, kept = asyncio.Semaphore(0), []

    async def one(requests: Any, context: Any) -> bytes:
        items = []
        async for request in requests:
            items.append(request)
            came.release()
        kept.append(items)
        return b""

    async def many(requests: Any, context: Any) -> Any:
        yield await one(requests, context)

    behaviour = many if shape.replies_stream else one
    await stage.serve({"Echo": (shape, behaviour, policy("Echo", shape, "*"))})
    for _ in range(3):
        channel = stage.channel()
        made = begin(channel, shape, requests=None)
        await made.write(b"one of two")
        await came.acquire()
        if how == "cancelled":
            made.cancel()
        else:
            await channel.close()
    assert {line["grpc.status"] for line in await stage.records(3)} == {"CANCELLED"}
    assert kept == []
    assert await call(stage.channel(), shape, requests=[b"1", b"2"]) == [b""]
    assert kept == [[b"1", b"2"]]
