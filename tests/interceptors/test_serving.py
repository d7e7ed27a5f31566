"""The server around the guard: it starts, stops and drains as grpc.aio's own does."""

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]
from grpc.aio import AioRpcError

from hauberk.interceptors.call import Call
from hauberk.interceptors.demands import DeadlineRule
from hauberk.interceptors.serving import KEPT_S, guarded_server
from tests.interceptors.raw_http2 import Ended, Raw, RawConnection, Trailers, message
from tests.interceptors.stage import Shape, Stage, begin, call, echo, path, policy

UNARY = Shape.UNARY_UNARY


async def test_it_is_a_grpc_aio_server(stage: Stage) -> None:
    assert isinstance(guarded_server(stage.new_guard()), grpc.aio.Server)


async def test_methods_added_before_the_start_are_served(stage: Stage, shape: Shape) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "*"))})
    channel = stage.channel()
    replies = await asyncio.gather(*(call(channel, shape, requests=[b"%d" % n]) for n in range(50)))
    assert replies == [[b"%d" % n] for n in range(50)]


async def test_calls_in_flight_finish_within_the_grace_of_a_stop(stage: Stage) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def held(request: bytes, context: Any) -> bytes:
        begun.set()
        await release.wait()
        return request

    await stage.serve({"Echo": (UNARY, held, policy("Echo", UNARY, "*"))})
    waiting = asyncio.ensure_future(call(stage.channel(), UNARY))
    await begun.wait()
    stopping = asyncio.create_task(stage.server.stop(5))
    late = stage.channel()
    await asyncio.sleep(0)
    with pytest.raises(AioRpcError) as caught:
        await call(late, UNARY, within=0.2)
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert not stopping.done()
    release.set()
    assert await waiting == [b"hello"]
    await stopping


async def test_stop_without_grace_cancels_what_runs(stage: Stage, shape: Shape) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def one(request: Any, context: Any) -> bytes:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return b""

    async def many(request: Any, context: Any) -> Any:
        yield await one(request, context)

    behaviour = many if shape.replies_stream else one
    await stage.serve({"Echo": (shape, behaviour, policy("Echo", shape, "*"))})
    made = begin(stage.channel(), shape)
    await begun.wait()
    await stage.server.stop(None)
    await asyncio.wait_for(cancelled.wait(), 5)
    assert await made.code() is grpc.StatusCode.UNAVAILABLE
    assert await asyncio.wait_for(stage.server.wait_for_termination(), 5) is False


async def test_a_method_that_goes_on_after_the_end_of_its_server_reaches_nobody(stage: Stage) -> None:
    """It has swallowed its cancellation, and the call that it holds is core's."""
    begun = asyncio.Event()
    ended: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

    async def stubborn(request: bytes, context: Any) -> AsyncIterator[bytes]:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await stopped.wait()
        raised = []
        for attempt in (context.write(b"late"), context.read(), context.abort(grpc.StatusCode.ABORTED)):
            try:
                async with asyncio.timeout(1):
                    await attempt
            except Exception as error:
                raised.append(type(error).__name__)
        ended.set_result(raised)
        yield b""

    stopped = asyncio.Event()
    streams = Shape.UNARY_STREAM
    await stage.serve({"Echo": (streams, stubborn, policy("Echo", streams, "*"))})
    made = begin(stage.channel(), streams)
    await begun.wait()
    await stage.server.stop(None)
    stopped.set()
    async with asyncio.timeout(5):
        assert await ended == ["ExecuteBatchError", "AbortError"]  # to read finds the end of the requests
    assert await made.code() is grpc.StatusCode.UNAVAILABLE


async def test_stop_before_the_first_call_ends(stage: Stage) -> None:
    await stage.serve({"Echo": (UNARY, echo(UNARY), policy("Echo", UNARY, "*"))})
    await asyncio.wait_for(stage.server.stop(5), 5)


@pytest.mark.alone
async def test_stop_does_not_wait_for_a_caller_that_says_nothing_any_more(stage: Stage, raw: Raw) -> None:
    """Core would: for the answer to its farewell, as for a call that it neither handed on nor refused."""
    connected, stopped = threading.Event(), threading.Event()

    def fall_silent(connection: RawConnection) -> None:
        connection.call(path("Echo"))
        connected.set()
        stopped.wait(10)

    await stage.serve({"Echo": (UNARY, echo(UNARY), policy("Echo", UNARY, "*"))})
    silent = asyncio.ensure_future(raw(fall_silent))
    await asyncio.to_thread(connected.wait, 10)
    began = time.monotonic()
    await stage.server.stop(5)
    took = time.monotonic() - began
    stopped.set()
    await silent
    assert KEPT_S <= took < 3


async def test_stop_waits_for_a_caller_that_reads_its_reply_slowly(stage: Stage, raw: Raw) -> None:
    stopping, answered = threading.Event(), asyncio.Event()

    async def large(request: bytes, context: Any) -> bytes:
        answered.set()
        return b"x" * 200_000

    def read_late(connection: RawConnection) -> Trailers:
        stream = connection.open(path("Echo"))
        connection.send(stream, message(b"hello"))
        stopping.wait(10)
        time.sleep(3 * KEPT_S)
        connection.grant(stream, 2**20)
        connection.grant(0, 2**20)
        with pytest.raises(Ended, match="goaway: 0"):
            connection.next_trailers(within=5)
        return connection.next_trailers(within=5)

    await stage.serve({"Echo": (UNARY, large, policy("Echo", UNARY, "*"))})
    reading = asyncio.ensure_future(raw(read_late, window=0))
    await answered.wait()
    stop = asyncio.create_task(stage.server.stop(5))
    stopping.set()
    assert (await reading)["grpc-status"] == b"0"
    await stop


async def test_without_cores_inner_parts_no_server_is_made(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another grpcio may have them by other names."""
    with monkeypatch.context() as other:
        other.delattr(cygrpc, "_ServicerContext")
        with pytest.raises(RuntimeError, match=r"cannot serve as a guard needs it: .*_ServicerContext"):
            guarded_server(stage.new_guard())


async def test_a_call_leaves_nothing_for_the_garbage_collector(
    stage: Stage, shape: Shape, caplog: pytest.LogCaptureFixture
) -> None:
    """What it brought would stay until the collector comes by, up to 16 MiB of headers a call."""
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "gateway"))})
    channel = stage.channel("gateway")
    await call(channel, shape)
    gc.collect()
    of_other_tests = _what_calls_left()
    gc.disable()
    try:
        for _ in range(3):
            await call(channel, shape, metadata=(("x-left", "here"),))
            with pytest.raises(AioRpcError) as refused:
                await call(channel, shape, metadata=(("x-left", "here" * 2048),))
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            del refused
        await stage.records(4)
        await asyncio.sleep(0.1)
        assert [
            left for left in _what_calls_left() if all(left is not other for other in of_other_tests)
        ] == []
        assert caplog.text == ""
    finally:
        gc.enable()


async def test_a_call_that_was_cut_short_leaves_nothing_for_the_garbage_collector(
    stage: Stage, shape: Shape
) -> None:
    """Core holds its stream for as long as it is somewhere, and a connection has a hundred of them."""
    begun = asyncio.Event()

    async def one(request: Any, context: Any) -> bytes:
        begun.set()
        await asyncio.Event().wait()  # a timer, though cancelled, would keep the context it was made in
        return b""

    async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield await one(request, context)

    behaviour = many if shape.replies_stream else one
    rule = DeadlineRule(max_s=0.05)
    await stage.serve(
        {
            "Echo": (shape, behaviour, policy("Echo", shape, "*")),
            "Short": (shape, behaviour, policy("Short", shape, "*", deadline=rule)),
        }
    )
    channel = stage.channel()
    gc.collect()
    of_other_tests = _what_calls_left()
    gc.disable()
    try:
        for _ in range(3):
            begun.clear()
            made = begin(channel, shape)
            await begun.wait()
            made.cancel()
            with pytest.raises(AioRpcError) as caught:
                await call(channel, shape, "Short")
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            del caught, made
        await stage.records(6)
        await asyncio.sleep(0.1)
        assert [
            left for left in _what_calls_left() if all(left is not other for other in of_other_tests)
        ] == []
    finally:
        gc.enable()


def _what_calls_left() -> list[object]:
    """Calls, their contexts, and headers as core hands them to a server, that are still somewhere."""
    names = ("_Metadatum", "AioExchange")
    return [found for found in gc.get_objects() if isinstance(found, Call) or type(found).__name__ in names]
