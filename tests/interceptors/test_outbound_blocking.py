"""Calls from threads: they inherit what the call being served has left, and fail as those of asyncio do."""

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest

from hauberk.interceptors.call import current_call
from hauberk.interceptors.deadline import Deadline
from hauberk.interceptors.outbound_blocking import BlockingChannel
from tests.interceptors.stage import Shape, Stage, echo, info, path, policy
from tests.interceptors.test_outbound import serving


@pytest.fixture
async def core(stage: Stage) -> AsyncIterator[Callable[[], grpc.Channel]]:
    """Makes bare blocking channels to the stage's server, as gateway."""
    made: list[grpc.Channel] = []

    def make() -> grpc.Channel:
        options = [("grpc.ssl_target_name_override", "server.mesh.test")]
        credentials = stage.credentials("gateway").channel_credentials()
        made.append(grpc.secure_channel(stage.address, credentials, options=options))
        return made[-1]

    yield make
    for channel in made:
        await asyncio.to_thread(channel.close)


def called(
    channel: grpc.Channel,
    shape: Shape,
    name: str = "Echo",
    *,
    requests: Any = (b"hello",),
    within: float | None = 10,
    **more: Any,
) -> list[bytes]:
    """The replies of one call."""
    method: Any = getattr(channel, shape.name.lower())(path(name))
    request = iter(requests) if shape.requests_stream else requests[0]
    made = method(request, timeout=within, **more)
    return list(made) if shape.replies_stream else [made]


async def failure(channel: grpc.Channel, shape: Shape, **how: Any) -> Any:
    def fails() -> Any:
        with pytest.raises(grpc.RpcError) as caught:
            called(channel, shape, **how)
        return caught.value

    return await asyncio.to_thread(fails)


async def test_all_shapes_are_answered(stage: Stage, shape: Shape, core: Any) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "gateway"))})
    made = core()
    channel = BlockingChannel(lambda: made)
    assert await asyncio.to_thread(called, channel, shape) == [b"hello"]


async def seen_headers(stage: Stage, shape: Shape) -> list[dict[str, Any]]:
    """A server of Echo, and the metadata of each of its calls."""
    seen: list[dict[str, Any]] = []

    def notes(behaviour: Any) -> Any:
        async def one(request: Any, context: Any) -> Any:
            seen.append(dict(current_call().metadata))  # type: ignore[union-attr]
            return await behaviour(request, context)

        async def many(request: Any, context: Any) -> Any:
            seen.append(dict(current_call().metadata))  # type: ignore[union-attr]
            async for reply in behaviour(request, context):
                yield reply

        return many if shape.replies_stream else one

    await stage.serve({"Echo": (shape, notes(echo(shape)), policy("Echo", shape, "*"))})
    return seen


async def test_budget_and_trace_of_the_call_being_served_go_along(
    stage: Stage, shape: Shape, core: Any
) -> None:
    seen = await seen_headers(stage, shape)
    serving(Deadline(time.monotonic() + 3, "caller"))
    made = core()
    channel = BlockingChannel(lambda: made, to="orders")
    await asyncio.to_thread(called, channel, shape, metadata=(("own", "1"),))
    (headers,) = seen
    served = current_call()
    assert served is not None
    assert headers["traceparent"].split("-")[1] == served.trace.trace_id
    assert 0 < int(headers["hauberk-budget"]) <= 2990
    assert (headers["hauberk-to"], headers["own"]) == ("orders", "1")


async def test_call_without_time_is_refused_before_it_is_sent(stage: Stage, shape: Shape, core: Any) -> None:
    seen = await seen_headers(stage, shape)
    serving(Deadline(time.monotonic() - 1, "caller"))
    made = core()
    error = await failure(BlockingChannel(lambda: made), shape)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert info(error).metadata["bound"] == "caller"
    assert isinstance(error, grpc.Call)
    assert not seen


async def test_refusal_is_read_as_of_any_stub(stage: Stage, shape: Shape, core: Any) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "orders"))})
    made = core()
    channel = BlockingChannel(lambda: made, lambda error: f"hint for {error.code().name}")
    error = await failure(channel, shape)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error.details().endswith("may not call /lab.v1.Lab/Echo (hint for PERMISSION_DENIED)")
    assert dict(error.trailing_metadata())["grpc-status-details-bin"]


@pytest.mark.parametrize("shape", [Shape.UNARY_UNARY, Shape.STREAM_UNARY])
async def test_future_and_with_call_are_there_too(stage: Stage, shape: Shape, core: Any) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "*"))})
    made = core()
    method: Any = getattr(BlockingChannel(lambda: made), shape.name.lower())(path("Echo"))

    def request() -> Any:
        return iter([b"hello"]) if shape.requests_stream else b"hello"

    def both() -> tuple[bytes, bytes, Any]:
        future = method.future(request(), timeout=5)
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        reply, call = method.with_call(request(), timeout=5)
        assert done.wait(5)
        assert isinstance(future, grpc.Future)
        return future.result(5), reply, call.code()

    assert await asyncio.to_thread(both) == (b"hello", b"hello", grpc.StatusCode.OK)


@pytest.mark.parametrize("shape", [Shape.STREAM_UNARY, Shape.STREAM_STREAM])
async def test_what_goes_wrong_in_making_the_requests_is_raised(
    stage: Stage, shape: Shape, core: Any
) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "*"))})
    made = core()

    def requests() -> Iterator[bytes]:
        yield b"one"
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        await asyncio.to_thread(called, BlockingChannel(lambda: made), shape, requests=requests())


@pytest.mark.parametrize("shape", [Shape.STREAM_UNARY, Shape.STREAM_STREAM])
async def test_requests_are_made_in_the_context_of_the_caller(stage: Stage, shape: Shape, core: Any) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "*"))})
    made, mark = core(), contextvars.ContextVar("mark", default=b"lost")

    def requests() -> Iterator[bytes]:
        yield mark.get()

    mark.set(b"kept")
    replies = await asyncio.to_thread(called, BlockingChannel(lambda: made), shape, requests=requests())
    assert replies == [b"kept"]


async def test_call_ended_by_closing_the_channel_is_unavailable_not_cancelled(
    stage: Stage, shape: Shape, core: Any
) -> None:
    running = asyncio.Event()

    async def one(request: Any, context: Any) -> bytes:
        running.set()
        await asyncio.sleep(20)
        return b""

    async def many(request: Any, context: Any) -> Any:
        yield await one(request, context)

    await stage.serve({"Echo": (shape, many if shape.replies_stream else one, policy("Echo", shape, "*"))})
    made = core()
    failing = asyncio.create_task(failure(BlockingChannel(lambda: made), shape))
    await running.wait()
    await asyncio.to_thread(made.close)
    error = await failing
    assert (error.code(), info(error).reason) == (grpc.StatusCode.UNAVAILABLE, "CHANNEL_CLOSED")


async def test_call_its_caller_cancelled_is_cancelled(stage: Stage, core: Any) -> None:
    async def endless(request: Any, context: Any) -> Any:
        while True:
            yield b"x"
            await asyncio.sleep(0.01)

    shape = Shape.UNARY_STREAM
    await stage.serve({"Endless": (shape, endless, policy("Endless", shape, "*"))})
    made = core()

    def cancels() -> Any:
        call = BlockingChannel(lambda: made).unary_stream(path("Endless"))(b"", timeout=5)
        assert next(call) == b"x"
        call.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        return caught.value

    assert (await asyncio.to_thread(cancels)).code() is grpc.StatusCode.CANCELLED


async def test_each_call_goes_over_the_channel_of_the_moment(stage: Stage, core: Any) -> None:
    shape = Shape.UNARY_UNARY
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "*"))})
    channels = [core(), core()]
    method = BlockingChannel(lambda: channels[0]).unary_unary(path("Echo"))
    assert await asyncio.to_thread(method, b"1", timeout=5) == b"1"
    await asyncio.to_thread(channels.pop(0).close)
    assert await asyncio.to_thread(method, b"2", timeout=5) == b"2"


async def test_streams_are_told_and_can_be_ended_from_outside(stage: Stage, shape: Shape, core: Any) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "*"))})
    made, told = core(), []
    channel = BlockingChannel(lambda: made, streaming=lambda name, call: told.append((name, call)))
    assert await asyncio.to_thread(called, channel, shape) == [b"hello"]
    assert [name for name, _ in told] == ([] if shape is Shape.UNARY_UNARY else [path("Echo")])
    assert all(hasattr(call, "cancel") and hasattr(call, "add_done_callback") for _, call in told)
