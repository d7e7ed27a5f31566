"""Deadlines over real calls: whose bound it was, what the method has left, and what its own calls inherit."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError

from hauberk.interceptors.call import current_call
from hauberk.interceptors.demands import DeadlineRule
from tests.interceptors.stage import Behaviour, Shape, Stage, begin, call, echo, info, policy

SERVED_BY = ("asyncio", "threaded")


def telling(shape: Shape) -> Behaviour:
    """A method that replies with the seconds it has left and whose bound that is."""

    def told() -> bytes:
        served = current_call()
        assert served is not None
        if served.deadline is None:
            return b"none"
        return f"{served.deadline.left(time.monotonic())} {served.deadline.bound}".encode()

    async def one(request: Any, context: Any) -> bytes:
        return told()

    async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield told()

    return many if shape.replies_stream else one


def acting(shape: Shape, act: Callable[[], Awaitable[None]]) -> Behaviour:
    async def one(request: Any, context: Any) -> bytes:
        await act()
        return b"done"

    async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
        await act()
        yield b"done"

    return many if shape.replies_stream else one


async def serve(
    stage: Stage, shape: Shape, behaviour: Behaviour, rule: DeadlineRule | None
) -> grpc.aio.Channel:
    await stage.serve({"Echo": (shape, behaviour, policy("Echo", shape, "*", deadline=rule))})
    return stage.channel()


async def refused(channel: grpc.aio.Channel, shape: Shape, within: float | None) -> AioRpcError:
    with pytest.raises(AioRpcError) as caught:
        await call(channel, shape, within=within)
    return caught.value


@pytest.mark.parametrize(
    ("rule", "within", "left", "bound"),
    [
        (None, 5.0, 5.0, "caller"),
        (DeadlineRule(max_s=3), 5.0, 3.0, "contract max"),
        (DeadlineRule(max_s=7), 5.0, 5.0, "caller"),
        (DeadlineRule(max_s=3), None, 3.0, "contract max"),
        (DeadlineRule(default_s=2, max_s=3), None, 2.0, "contract default"),
        (DeadlineRule(default_s=2), 5.0, 5.0, "caller"),
        (DeadlineRule(required=True, max_s=7), 5.0, 5.0, "caller"),
    ],
)
async def test_method_has_the_sooner_of_caller_and_contract(
    stage: Stage, shape: Shape, rule: DeadlineRule | None, within: float | None, left: float, bound: str
) -> None:
    (told,) = await call(await serve(stage, shape, telling(shape), rule), shape, within=within)
    seconds, _, whose = told.decode().partition(" ")
    assert whose == bound
    assert 0 < float(seconds) <= left + 0.3  # core rounds the caller's up


async def test_method_without_any_limit_has_none(stage: Stage, shape: Shape) -> None:
    channel = await serve(stage, shape, telling(shape), None)
    assert await call(channel, shape, within=None) == [b"none"]


@pytest.mark.parametrize(
    ("rule", "bound"),
    [(DeadlineRule(max_s=0.05), "contract max"), (DeadlineRule(default_s=0.05), "contract default")],
)
async def test_method_is_cancelled_at_the_contracts_bound(
    stage: Stage, shape: Shape, served_by: str, rule: DeadlineRule, bound: str
) -> None:
    cancelled = asyncio.Event()

    async def act() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    error = await refused(await serve(stage, shape, acting(shape, act), rule), shape, within=None)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (info(error).reason, info(error).metadata["bound"]) == ("DEADLINE_PASSED", bound)
    if served_by == "threaded":  # where the method hears when its caller does
        await asyncio.wait_for(cancelled.wait(), 5)
    assert cancelled.is_set()
    assert (await stage.records())[0]["error.reason"] == "DEADLINE_PASSED"


async def test_reply_that_ignored_the_deadline_is_not_sent(stage: Stage, shape: Shape) -> None:
    async def act() -> None:
        with contextlib.suppress(asyncio.CancelledError):  # what no method should do
            await asyncio.Event().wait()

    rule = DeadlineRule(max_s=0.05)
    error = await refused(await serve(stage, shape, acting(shape, act), rule), shape, within=None)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert info(error).metadata["bound"] == "contract max"


async def test_failure_of_a_method_that_is_out_of_time_is_the_passed_deadline(
    stage: Stage, shape: Shape
) -> None:
    async def act() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            raise ValueError("cleaning up failed") from error

    rule = DeadlineRule(max_s=0.05)
    error = await refused(await serve(stage, shape, acting(shape, act), rule), shape, within=None)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_timeout_of_the_methods_own_is_an_internal_error(stage: Stage, shape: Shape) -> None:
    async def act() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    error = await refused(
        await serve(stage, shape, acting(shape, act), DeadlineRule(max_s=5)), shape, within=None
    )
    assert error.code() is grpc.StatusCode.INTERNAL


async def test_streamed_replies_before_the_bound_arrive(stage: Stage) -> None:
    shape = Shape.UNARY_STREAM

    async def dripping(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"
        await asyncio.Event().wait()

    channel = await serve(stage, shape, dripping, DeadlineRule(max_s=1))
    replies = begin(channel, shape, within=None)
    assert [await replies.read(), await replies.read()] == [b"one", b"two"]
    with pytest.raises(AioRpcError) as caught:
        await replies.read()
    assert info(caught.value).metadata["bound"] == "contract max"


async def test_request_stream_that_stalls_is_ended_at_the_bound(stage: Stage) -> None:
    shape = Shape.STREAM_UNARY
    channel = await serve(stage, shape, echo(shape), DeadlineRule(max_s=0.1))
    sending = begin(channel, shape, requests=None, within=None)
    await sending.write(b"one")
    with pytest.raises(AioRpcError) as caught:
        await sending
    assert info(caught.value).metadata["bound"] == "contract max"


async def test_expired_call_never_reaches_the_method(stage: Stage, shape: Shape) -> None:
    """gRPC may deliver a call late; here it arrives with nothing left, as its header says."""
    ran: list[Any] = []
    channel = await serve(stage, shape, echo(shape, ran), None)
    for _ in range(20):
        with pytest.raises(AioRpcError) as caught:
            await call(channel, shape, within=5, metadata=(("hauberk-budget", "0"),))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert info(caught.value).metadata["bound"] == "caller"
    assert not ran


class Hop:
    """A server in the middle: it calls the next one and notes what both had left."""

    def __init__(
        self, onward: grpc.aio.Channel | None, *, spawns: bool = False, own_s: float | None = None
    ) -> None:
        self.left: float | None = None
        self.trace = ""
        self._onward, self._spawns, self._own_s = onward, spawns, own_s

    async def __call__(self, request: bytes, context: Any) -> bytes:
        served = current_call()
        assert served is not None
        self.left = served.time_left_s
        self.trace = served.trace.trace_id
        if self._onward is None:
            return request
        if self._spawns:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(self._next(request))
            return task.result()
        return await self._next(request)

    async def _next(self, request: bytes) -> bytes:
        assert self._onward is not None
        (reply,) = await call(self._onward, Shape.UNARY_UNARY, requests=[request], within=self._own_s)
        return reply


@pytest.mark.parametrize("spawns", [False, True], ids=["itself", "in a task"])
async def test_each_hop_has_no_more_than_what_is_left(stage: Stage, spawns: bool) -> None:
    shape = Shape.UNARY_UNARY
    last = Hop(None)
    end = await stage.serve({"Echo": (shape, last, policy("Echo", shape, "orders"))})
    first = Hop(stage.guarded("orders", address=end), spawns=spawns)
    await stage.serve({"Echo": (shape, first, policy("Echo", shape, "gateway"))})
    assert await call(stage.guarded("gateway"), shape, within=2) == [b"hello"]
    assert first.left is not None
    assert last.left is not None
    assert 0 < last.left < first.left - 0.009 < 2
    assert first.trace == last.trace
    lines = {line["client.spiffe_id"]: line for line in await stage.records(2)}
    behind, ahead = lines["spiffe://mesh.test/orders"], lines["spiffe://mesh.test/gateway"]
    assert (behind["trace.id"], behind["parent.id"]) == (ahead["trace.id"], ahead["span.id"])
    assert behind["hauberk.budget_ms"] < ahead["hauberk.budget_ms"] <= 2000


async def test_own_timeout_of_a_hop_counts_where_it_is_sooner(stage: Stage) -> None:
    shape = Shape.UNARY_UNARY
    last = Hop(None)
    end = await stage.serve({"Echo": (shape, last, policy("Echo", shape, "*"))})
    first = Hop(stage.guarded("orders", address=end), own_s=3)
    await stage.serve({"Echo": (shape, first, policy("Echo", shape, "*"))})
    await call(stage.guarded("gateway"), shape, within=30)
    assert last.left is not None
    assert last.left <= 3


async def test_contracts_bound_is_inherited_too(stage: Stage) -> None:
    shape = Shape.UNARY_UNARY
    last = Hop(None)
    end = await stage.serve({"Echo": (shape, last, policy("Echo", shape, "*"))})
    first = Hop(stage.guarded("orders", address=end))
    rule = DeadlineRule(max_s=3)
    await stage.serve({"Echo": (shape, first, policy("Echo", shape, "*", deadline=rule))})
    await call(stage.guarded("gateway"), shape, within=None)
    assert first.left is None
    assert last.left is not None
    assert last.left <= 2.99


async def test_call_that_ran_out_of_time_further_on_is_a_passed_deadline_here(stage: Stage) -> None:
    shape = Shape.UNARY_UNARY

    async def stuck(request: bytes, context: Any) -> bytes:
        await asyncio.Event().wait()
        return request

    end = await stage.serve({"Echo": (shape, stuck, policy("Echo", shape, "*"))})
    first = Hop(stage.guarded("orders", address=end), spawns=True)
    rule = DeadlineRule(max_s=0.2)
    await stage.serve({"Echo": (shape, first, policy("Echo", shape, "*", deadline=rule))})
    error = await refused(stage.guarded("gateway"), shape, within=None)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert info(error).metadata["bound"] == "contract max"
