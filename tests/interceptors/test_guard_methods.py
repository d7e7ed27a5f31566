"""What a method may do, and what the caller then sees: as without a guard, but never an exception's text."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError

from hauberk.interceptors.errors import Forbidden, Refused
from tests.interceptors.stage import Behaviour, Shape, Stage, begin, call, info, only, path, policy

SERVED_BY = ("asyncio", "threaded")

SECRET = "hunter2"


def acting(shape: Shape, act: Any) -> Behaviour:
    """A method of this shape that does `act(context)` and then replies once."""

    async def one(request: Any, context: Any) -> bytes:
        await act(context)
        return b"done"

    async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
        await act(context)
        yield b"done"

    return many if shape.replies_stream else one


async def serve(stage: Stage, shape: Shape, act: Any) -> grpc.aio.Channel:
    await stage.serve({"Echo": (shape, acting(shape, act), policy("Echo", shape, "*"))})
    return stage.guarded()


async def failure(channel: grpc.aio.Channel, shape: Shape, **how: Any) -> AioRpcError:
    with pytest.raises(AioRpcError) as caught:
        await call(channel, shape, **how)
    return caught.value


async def test_abort_reaches_the_caller_unchanged(stage: Stage, shape: Shape) -> None:
    async def act(context: Any) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing", (("left", "over"),))

    error = await failure(await serve(stage, shape, act), shape)
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing")
    assert dict(error.trailing_metadata() or ()) == {"left": "over"}
    assert (await stage.records())[0]["grpc.status"] == "NOT_FOUND"


async def test_abort_stands_though_the_method_caught_it_and_failed(
    stage: Stage, shape: Shape, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(context: Any) -> None:
        try:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        except Exception as error:
            raise ValueError(SECRET) from error

    error = await failure(await serve(stage, shape, act), shape)
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing")
    await stage.records()  # the caller hears before the method has failed
    assert "failed after its end" in caplog.text


async def test_abort_stands_though_the_method_caught_it_and_went_on(stage: Stage, shape: Shape) -> None:
    async def act(context: Any) -> None:
        with contextlib.suppress(Exception):
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")

    error = await failure(await serve(stage, shape, act), shape)
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing")


async def test_status_the_method_set_reaches_the_caller_unchanged(stage: Stage, shape: Shape) -> None:
    async def act(context: Any) -> None:
        context.set_code(grpc.StatusCode.ALREADY_EXISTS)
        context.set_details("twice")
        context.set_trailing_metadata((("left", "over"),))

    error = await failure(await serve(stage, shape, act), shape)
    assert (error.code(), error.details()) == (grpc.StatusCode.ALREADY_EXISTS, "twice")
    assert dict(error.trailing_metadata() or ()) == {"left": "over"}


async def test_status_the_method_set_before_it_failed_is_kept_without_the_exceptions_text(
    stage: Stage, shape: Shape, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(context: Any) -> None:
        context.set_code(grpc.StatusCode.OUT_OF_RANGE)
        context.set_details("too far")
        raise ValueError(SECRET)

    error = await failure(await serve(stage, shape, act), shape)
    assert (error.code(), error.details()) == (grpc.StatusCode.OUT_OF_RANGE, "too far")
    assert SECRET in caplog.text


async def test_metadata_of_the_method_reaches_the_caller(stage: Stage, shape: Shape) -> None:
    async def act(context: Any) -> None:
        await context.send_initial_metadata((("early", "word"),))
        context.set_trailing_metadata((("last", "word"),))

    made = begin(await serve(stage, shape, act), shape)
    assert dict(await made.initial_metadata()) == {"early": "word"}
    if shape.replies_stream:
        assert [reply async for reply in made] == [b"done"]
    assert dict(await made.trailing_metadata()) == {"last": "word"}
    assert await made.code() is grpc.StatusCode.OK


async def test_exception_is_scrubbed_and_logged_beside_the_trace_id(
    stage: Stage, shape: Shape, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(context: Any) -> None:
        context.set_trailing_metadata((("left", "over"),))
        raise ValueError(f"db password is {SECRET}")

    trace_id = "0af7651916cd43dd8448eb211c80319c"
    metadata = (("traceparent", f"00-{trace_id}-b7ad6b7169203331-01"),)
    with caplog.at_level(logging.ERROR):
        error = await failure(await serve(stage, shape, act), shape, metadata=metadata)
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, f"internal error {trace_id}")
    assert info(error).reason == "INTERNAL"
    assert SECRET not in repr(error)
    assert dict(error.trailing_metadata() or ())["left"] == "over"
    assert f"{path('Echo')} failed, trace {trace_id}" in caplog.text
    assert "ValueError: db password is [hidden]" in caplog.text
    assert SECRET not in caplog.text
    assert (await stage.records())[0]["error.reason"] == "INTERNAL"


async def test_refused_raised_by_a_method_keeps_status_reason_and_facts(stage: Stage, shape: Shape) -> None:
    async def act(context: Any) -> None:
        raise Refused("sold out", status=grpc.StatusCode.ABORTED, reason="SOLD_OUT", metadata={"sku": "b-7"})

    error = await failure(await serve(stage, shape, act), shape)
    assert (error.code(), error.details()) == (grpc.StatusCode.ABORTED, "sold out")
    assert (info(error).reason, info(error).metadata["sku"]) == ("SOLD_OUT", "b-7")


async def test_cancellation_of_something_the_method_waited_for_is_an_internal_error(
    stage: Stage, shape: Shape, caplog: pytest.LogCaptureFixture
) -> None:
    """Core takes it for the call's own, sends nothing, and lets the caller wait for ever."""

    async def act(context: Any) -> None:
        other = asyncio.ensure_future(asyncio.Event().wait())
        other.cancel()
        await other

    error = await failure(await serve(stage, shape, act), shape)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "CancelledError" in caplog.text


class Odd(BaseException):
    """None of those that asyncio knows."""


@pytest.mark.parametrize(
    "error",
    [BaseExceptionGroup(SECRET, [asyncio.CancelledError()]), Odd(SECRET)],
    ids=lambda error: type(error).__name__,
)
async def test_error_that_is_no_exception_is_answered_too(
    stage: Stage, shape: Shape, error: BaseException
) -> None:
    """Core answers none of them, and the caller would wait for ever."""

    async def act(context: Any) -> None:
        raise error

    seen = await failure(await serve(stage, shape, act), shape, within=2)
    assert seen.code() is grpc.StatusCode.INTERNAL
    assert SECRET not in str(seen.details())
    assert [record["grpc.status"] for record in await stage.records()] == ["INTERNAL"]


async def test_refused_raised_in_a_task_group_is_the_refusal_itself(stage: Stage, shape: Shape) -> None:
    async def refuse() -> None:
        raise Forbidden("not yours")

    async def act(context: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(refuse())

    error = await failure(await serve(stage, shape, act), shape)
    assert (error.code(), error.details()) == (grpc.StatusCode.PERMISSION_DENIED, "not yours")


@pytest.mark.parametrize("shape", [Shape.UNARY_UNARY, Shape.STREAM_UNARY])
async def test_method_that_returns_no_reply_is_an_internal_error(
    stage: Stage, shape: Shape, caplog: pytest.LogCaptureFixture
) -> None:
    async def silent(request: Any, context: Any) -> None:
        return None

    await stage.serve({"Echo": (shape, silent, policy("Echo", shape, "*"))})
    error = await failure(stage.channel(), shape)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "returned None" in caplog.text


@only("asyncio")
@pytest.mark.parametrize("shape", [Shape.UNARY_STREAM, Shape.STREAM_STREAM])
async def test_method_may_write_its_replies_itself(stage: Stage, shape: Shape) -> None:
    async def writing(request: Any, context: Any) -> None:
        for word in (b"one", b"two"):
            await context.write(word)

    await stage.serve({"Echo": (shape, writing, policy("Echo", shape, "*"))})
    assert await call(stage.channel(), shape) == [b"one", b"two"]


@only("asyncio")
@pytest.mark.parametrize("shape", [Shape.STREAM_UNARY, Shape.STREAM_STREAM])
async def test_method_may_read_its_requests_itself(stage: Stage, shape: Shape) -> None:
    async def reading(requests: Any, context: Any) -> bytes | None:
        read = []
        while (request := await context.read()) is not grpc.aio.EOF:
            read.append(request)
        joined = b",".join(read)
        if not shape.replies_stream:
            return joined
        await context.write(joined)
        return None

    await stage.serve({"Echo": (shape, reading, policy("Echo", shape, "*"))})
    assert await call(stage.channel(), shape, requests=[b"one", b"two"]) == [b"one,two"]


@pytest.mark.parametrize("shape", [Shape.UNARY_STREAM, Shape.STREAM_STREAM])
async def test_generator_is_closed_when_its_caller_leaves(stage: Stage, shape: Shape) -> None:
    closed = asyncio.Event()

    async def endless(request: Any, context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
                await asyncio.sleep(0)
        finally:
            closed.set()

    await stage.serve({"Echo": (shape, endless, policy("Echo", shape, "*"))})
    made = begin(stage.channel(), shape)
    assert await made.read() == b"x"
    made.cancel()
    async with asyncio.timeout(5):
        await closed.wait()


async def test_cancellation_by_the_caller_reaches_the_method_and_frees_its_place(
    stage: Stage, shape: Shape
) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def act(context: Any) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    made = begin(await serve(stage, shape, act), shape)
    async with asyncio.timeout(5):
        await started.wait()
        assert stage.guard.in_flight.count("spiffe://mesh.test/gateway") == 1
        made.cancel()
        await cancelled.wait()
    assert (await stage.records())[0]["grpc.status"] == "CANCELLED"
    await stage.none_in_flight("spiffe://mesh.test/gateway")
