"""Outgoing calls: refused before they are sent, with budget and trace, and with errors that say more."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError

from hauberk.interceptors.call import Call, current_call, enter_call
from hauberk.interceptors.deadline import Deadline
from hauberk.interceptors.policy import Policy, policies_of
from hauberk.interceptors.tracing import TraceContext
from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tests.interceptors.stage import Metadata, Shape, Stage, begin, call, echo, generated, info, policy

TRACE = TraceContext(trace_id="0af7651916cd43dd8448eb211c80319c", span_id="b7ad6b7169203331")


def serving(deadline: Deadline | None) -> None:
    """From here on this task serves a call with this deadline."""
    served = Call(
        method="/x/Y",
        policy=Policy(method="/x/Y"),
        metadata=(),
        trace=TRACE,
        started=time.monotonic(),
        time_left_s=None,
        auth_context={},
        address="ipv4:127.0.0.1:1",
    )
    served.deadline = deadline
    enter_call(served)


async def listening(stage: Stage, shape: Shape) -> list[dict[str, Any]]:
    """A server whose method keeps the metadata of each call."""
    heard: list[dict[str, Any]] = []

    async def one(request: Any, context: Any) -> bytes:
        served = current_call()
        assert served is not None
        heard.append(dict(served.metadata))
        return b"heard"

    async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield await one(request, context)

    await stage.serve({"Echo": (shape, many if shape.replies_stream else one, policy("Echo", shape, "*"))})
    return heard


@pytest.mark.parametrize("own_s", [0, -1, -0.001, float("nan")])
async def test_call_without_time_is_refused_before_it_is_sent(
    stage: Stage, shape: Shape, own_s: float
) -> None:
    """Core sends it, and most often it even succeeds."""
    heard, channel = await listening(stage, shape), stage.guarded()
    for _ in range(20):
        with pytest.raises(AioRpcError) as caught:
            begin(channel, shape, within=own_s)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert info(caught.value).metadata["bound"] == "own timeout"
    await call(channel, shape)
    assert len(heard) == 1
    assert len(await stage.records()) == 1


async def test_call_whose_budget_is_spent_is_refused_before_it_is_sent(stage: Stage, shape: Shape) -> None:
    heard, channel = await listening(stage, shape), stage.guarded()
    serving(Deadline(time.monotonic() + 0.009, "contract max"))
    with pytest.raises(AioRpcError) as caught:
        begin(channel, shape, within=5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert info(caught.value).reason == "DEADLINE_PASSED"
    assert info(caught.value).metadata["bound"] == "contract max"
    assert info(caught.value).metadata["trace_id"] == TRACE.trace_id
    assert not heard


async def test_budget_of_the_call_being_served_bounds_the_one_it_makes(stage: Stage, shape: Shape) -> None:
    await listening(stage, shape)
    channel = stage.guarded()
    serving(Deadline(time.monotonic() + 3, "caller"))
    assert begin(channel, shape, within=None).time_remaining() <= 2.99
    assert begin(channel, shape, within=60).time_remaining() <= 2.99
    assert begin(channel, shape, within=1).time_remaining() <= 1
    serving(None)
    assert begin(channel, shape, within=None).time_remaining() is None


@pytest.mark.parametrize(
    "own",
    [None, (), [("x-own", "1")], (("x-own", "1"),), grpc.aio.Metadata(("x-own", "1"))],
    ids=["none", "empty", "list", "tuple", "metadata"],
)
async def test_trace_goes_with_the_callers_own_metadata(
    stage: Stage, shape: Shape, own: Metadata | None
) -> None:
    heard, channel = await listening(stage, shape), stage.guarded(to="orders")
    serving(None)
    await call(channel, shape, metadata=own)
    assert heard[0]["traceparent"] == TRACE.header()
    assert heard[0]["hauberk-to"] == "orders"
    assert heard[0].get("x-own") == ("1" if own else None)


async def test_callers_own_traceparent_stays_and_its_own_destination_does_not(
    stage: Stage, shape: Shape
) -> None:
    heard = await listening(stage, shape)
    own = (("traceparent", TRACE.header()), ("hauberk-to", "payments"))
    await call(stage.guarded(to="orders"), shape, metadata=own)
    await call(stage.guarded(), shape, metadata=own)
    assert [metadata["hauberk-to"] for metadata in heard] == ["orders", "payments"]
    assert [metadata["traceparent"] for metadata in heard] == [TRACE.header()] * 2
    assert [record["parent.id"] for record in await stage.records(2)] == [TRACE.span_id] * 2


async def test_call_from_nowhere_begins_a_trace(stage: Stage, shape: Shape) -> None:
    heard, channel = await listening(stage, shape), stage.guarded()
    await call(channel, shape)
    await call(channel, shape)
    traces = [TraceContext.parse(metadata["traceparent"]) for metadata in heard]
    assert None not in traces
    assert traces[0] != traces[1]
    assert "hauberk-to" not in heard[0]


async def test_hint_is_appended_to_what_went_wrong(stage: Stage, shape: Shape) -> None:
    explained: list[AioRpcError] = []

    def explain(error: AioRpcError) -> str:
        explained.append(error)
        return "ask the operators"

    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "orders"))})
    with pytest.raises(AioRpcError) as caught:
        await call(stage.guarded(explain=explain), shape)
    (original,) = explained
    error = caught.value
    assert error.details() == f"{original.details()} (ask the operators)"
    assert error.code() is original.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error.trailing_metadata() == original.trailing_metadata()
    assert error.initial_metadata() == original.initial_metadata()


async def test_error_without_a_hint_is_cores_own(stage: Stage, shape: Shape) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "orders"))})
    with pytest.raises(AioRpcError) as caught:
        await call(stage.guarded(explain=lambda error: None), shape)
    assert info(caught.value).reason == "CALLER_NOT_ALLOWED"


async def stuck(stage: Stage, shape: Shape) -> tuple[Any, grpc.aio.Channel]:
    """A call that hangs in its method, and its channel."""
    begun = asyncio.Event()

    async def one(request: Any, context: Any) -> bytes:
        begun.set()
        await asyncio.Event().wait()
        return b""

    async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield await one(request, context)

    await stage.serve({"Echo": (shape, many if shape.replies_stream else one, policy("Echo", shape, "*"))})
    channel = stage.guarded()
    made = begin(channel, shape)
    await begun.wait()
    return made, channel


async def outcome(made: Any, shape: Shape) -> Any:
    return await (made.read() if shape.replies_stream else made)


async def test_call_ended_by_closing_the_channel_is_unavailable_not_cancelled(
    stage: Stage, shape: Shape
) -> None:
    """Core raises CancelledError, as if the caller's own task were being cancelled."""
    made, channel = await stuck(stage, shape)
    waiting = asyncio.create_task(outcome(made, shape))
    await asyncio.sleep(0)
    await channel.close()
    with pytest.raises(AioRpcError) as caught:
        await waiting
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert info(caught.value).reason == "CHANNEL_CLOSED"


async def test_call_its_caller_cancelled_is_cancelled(stage: Stage, shape: Shape) -> None:
    made, _ = await stuck(stage, shape)
    waiting = asyncio.create_task(outcome(made, shape))
    await asyncio.sleep(0)
    assert made.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert made.cancelled()
    assert made.done()
    assert not waiting.cancelling()


async def test_cancelled_caller_cancels_its_call(stage: Stage, shape: Shape) -> None:
    made, _ = await stuck(stage, shape)
    waiting = asyncio.create_task(outcome(made, shape))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert made.cancelled()
    (record,) = await stage.records()
    assert record["grpc.status"] == "CANCELLED"


async def test_timeout_around_a_call_is_a_timeout(stage: Stage, shape: Shape) -> None:
    made, _ = await stuck(stage, shape)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await outcome(made, shape)


async def test_call_is_still_a_call(stage: Stage, shape: Shape) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "*"))})
    made = begin(stage.guarded(), shape)
    kind = getattr(grpc.aio, "".join(part.title() for part in shape.name.split("_")) + "Call")
    assert issubclass(type(made), kind)
    assert issubclass(kind, grpc.aio.Call)
    ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    made.add_done_callback(ended.set_result)
    if shape.replies_stream:
        assert [reply async for reply in made] == [b"hello"]
    else:
        assert await made == b"hello"
        assert await made == b"hello"
    assert await ended is made
    assert await made.code() is grpc.StatusCode.OK
    assert await made.details() == ""
    assert await made.initial_metadata() == grpc.aio.Metadata()
    assert await made.trailing_metadata() == grpc.aio.Metadata()
    assert made.done()
    assert not made.cancelled()
    assert not made.cancel()


@pytest.mark.parametrize("shape", [Shape.STREAM_UNARY, Shape.STREAM_STREAM])
async def test_requests_may_be_written_one_by_one(stage: Stage, shape: Shape) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "*"))})
    made = begin(stage.guarded(), shape, requests=None)
    await made.write(b"one")
    if shape.replies_stream:
        assert await made.read() == b"one"
    await made.write(b"two")
    await made.done_writing()
    if not shape.replies_stream:
        assert await made == b"onetwo"
        return
    assert await made.read() == b"two"
    assert await made.read() is grpc.aio.EOF


@pytest.mark.parametrize("shape", [Shape.STREAM_UNARY, Shape.STREAM_STREAM])
async def test_write_to_a_call_that_was_refused_raises_the_refusal(stage: Stage, shape: Shape) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "orders"))})
    made = begin(stage.guarded(explain=lambda error: "hint"), shape, requests=None)
    assert await made.code() is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises((AioRpcError, asyncio.InvalidStateError)):
        await made.write(b"one")


class Catalog(catalog_pb2_grpc.CatalogServicer):
    async def GetProduct(self, request: Any, context: Any) -> catalog_pb2.Product:  # noqa: N802
        return catalog_pb2.Product(sku=request.sku)


async def test_generated_stubs_take_the_channel(stage: Stage) -> None:
    service, guard = catalog_pb2.DESCRIPTOR.services_by_name["Catalog"], stage.new_guard()
    methods = generated(catalog_pb2_grpc.add_CatalogServicer_to_server, Catalog())  # type: ignore[abstract]
    guard.add(service.full_name, methods, policies_of(service))
    await stage.start(guard)
    stub = catalog_pb2_grpc.CatalogStub(stage.guarded("gateway"))
    product = await stub.GetProduct(request=catalog_pb2.GetProductRequest(sku="B-7"), timeout=5)
    assert product.sku == "B-7"
    none: Iterator[catalog_pb2.ImportProductsRequest] = iter(())
    with pytest.raises(AioRpcError) as caught:
        await stub.ImportProducts(request_iterator=none, timeout=5)
    assert info(caught.value).reason == "METHOD_NOT_IMPLEMENTED"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (None, "NoneType"),
        ("a product", "str"),
        (catalog_pb2.GetProductRequest(), "shop.catalog.v1.GetProductRequest"),
    ],
    ids=["none", "text", "another message"],
)
async def test_reply_of_another_type_is_named_beside_the_one_promised(
    stage: Stage, caplog: pytest.LogCaptureFixture, wrong: Any, named: str
) -> None:
    """In the server's log alone: a message of another type would even be sent."""

    class Wrong(Catalog):
        async def GetProduct(self, request: Any, context: Any) -> Any:  # noqa: N802
            return wrong

    service, guard = catalog_pb2.DESCRIPTOR.services_by_name["Catalog"], stage.new_guard()
    methods = generated(catalog_pb2_grpc.add_CatalogServicer_to_server, Wrong())  # type: ignore[abstract]
    guard.add(service.full_name, methods, policies_of(service))
    await stage.start(guard)
    stub = catalog_pb2_grpc.CatalogStub(stage.guarded("gateway"))
    with pytest.raises(AioRpcError) as caught:
        await stub.GetProduct(request=catalog_pb2.GetProductRequest(sku="B-7"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    said = f"/shop.catalog.v1.Catalog/GetProduct returned {named}, its contract says shop.catalog.v1.Product"
    assert said in caplog.text
    assert "returned" not in (caught.value.details() or "")


async def test_channel_is_a_channel(stage: Stage, shape: Shape) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "*"))})
    async with stage.guarded() as channel:
        assert isinstance(channel, grpc.aio.Channel)
        assert channel.get_state() is grpc.ChannelConnectivity.IDLE
        changed = asyncio.create_task(channel.wait_for_state_change(grpc.ChannelConnectivity.IDLE))
        assert channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.IDLE
        await asyncio.wait_for(channel.channel_ready(), 5)
        await asyncio.wait_for(changed, 5)
        assert channel.get_state() is grpc.ChannelConnectivity.READY
    assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
