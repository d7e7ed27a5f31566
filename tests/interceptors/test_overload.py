"""A server with more to do than it can, over real connections: who waits, who goes first, who is refused."""

import asyncio
import dataclasses
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc import StatusCode
from grpc.aio import AioRpcError

from hauberk.interceptors import concurrency, overload
from hauberk.interceptors.call import current_call
from hauberk.interceptors.demands import Priority
from hauberk.interceptors.errors import PUSHBACK_KEY
from hauberk.interceptors.metadata import PRIORITY
from hauberk.interceptors.policy import BUILT_IN, Policy
from tests.interceptors.stage import Shape, Stage, begin, call, echo, info, policy
from tests.interceptors.test_quota import found

UNARY = Shape.UNARY_UNARY


class Slow:
    """Methods of all shapes that answer when they are let, and keep the order in which they began."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.let = asyncio.Event()

    async def one(self, request: bytes, context: Any) -> bytes:
        self.begun.append(request)
        await self.let.wait()
        return request

    async def stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield await self.one(request, context)


def said(name: str, shape: Shape = UNARY, priority: Priority = Priority.NORMAL) -> Policy:
    return dataclasses.replace(policy(name, shape, "*"), priority=priority)


async def busy(stage: Stage, shape: Shape = UNARY, *, most: int = 1) -> Slow:
    """A server of one place, which a call has taken; `Echo` is of this shape, `Slow` is unary."""
    slow = Slow()
    await stage.serve(
        {
            "Slow": (UNARY, slow.one, said("Slow")),
            "Low": (UNARY, slow.one, said("Low", priority=Priority.LOW)),
            "High": (UNARY, slow.one, said("High", priority=Priority.HIGH)),
            "Stream": (Shape.STREAM_STREAM, slow.stream, said("Stream", Shape.STREAM_STREAM)),
            "Echo": (shape, echo(shape), said("Echo", shape)),
        },
        in_flight_most=most,
    )
    return slow


@pytest.fixture(autouse=True)
def shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a call may wait, of its time: longer than in earnest, so that there is time to look."""
    longer = {Priority.LOW: 0.05, Priority.NORMAL: 0.1, Priority.HIGH: 0.5}
    monkeypatch.setattr(overload, "WAIT_SHARE", longer)


async def started(stage: Stage, name: str, request: bytes, **how: Any) -> Any:
    """A call on its way, once the server has it: it is being served or it waits."""
    held = stage.guard.overload
    before = held.taken + held.waiting
    made = begin(stage.guarded(), UNARY, name, requests=[request], **how)
    async with asyncio.timeout(5):
        while held.taken + held.waiting == before:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)
    return made


@pytest.mark.alone
async def test_call_that_finds_no_place_is_refused_and_told_to_stay_away(stage: Stage, shape: Shape) -> None:
    slow = await busy(stage, shape)
    taken = await started(stage, "Slow", b"first")
    began = time.monotonic()
    with pytest.raises(AioRpcError) as caught:
        await call(stage.guarded(), shape, within=3)
    waited_s = time.monotonic() - began
    assert caught.value.code() is StatusCode.UNAVAILABLE
    assert info(caught.value).reason == "OVERLOADED"
    assert 0.25 < waited_s < 1
    wait_s = found(caught.value, RetryInfo).retry_delay.ToTimedelta().total_seconds()
    assert 0.25 <= wait_s <= 0.75
    pushback_ms = int(dict(caught.value.trailing_metadata() or ())[PUSHBACK_KEY])
    assert pushback_ms == math.ceil(round(wait_s * 1000, 3))
    slow.let.set()
    assert await taken == b"first"
    assert await call(stage.guarded(), shape) == [b"hello"]


@pytest.mark.alone
async def test_call_waits_for_a_share_of_its_time_and_no_longer(stage: Stage) -> None:
    await busy(stage)
    await started(stage, "Slow", b"first")
    for within, share in ((1.0, 0.1), (60.0, 0.5 / 60)):
        began = time.monotonic()
        with pytest.raises(AioRpcError):
            await call(stage.guarded(), UNARY, within=within)
        assert within * share * 0.9 < time.monotonic() - began < within * share + 0.3


async def test_of_those_who_wait_the_highest_priority_goes_first(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "WAIT_S", 30.0)
    slow = await busy(stage)
    names = ["Slow", "Low", "Slow", "High", "Low"]
    made = [
        await started(stage, name, f"{name} {number}".encode(), within=200)
        for number, name in enumerate(names)
    ]
    slow.let.set()
    await asyncio.gather(*made)
    assert slow.begun == [b"Slow 0", b"High 3", b"Slow 2", b"Low 1", b"Low 4"]


async def test_who_has_waited_long_lets_the_newest_pass(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "WAIT_S", 30.0)
    slow = await busy(stage)
    made = [await started(stage, "Slow", b"served", within=30), await started(stage, "Slow", b"old")]
    await asyncio.sleep(0.6)  # over half of what it may wait
    made.append(await started(stage, "Slow", b"new"))
    slow.let.set()
    await asyncio.gather(*made)
    assert slow.begun == [b"served", b"new", b"old"]


async def test_caller_can_lower_its_priority_and_never_raise_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "WAIT_S", 30.0)
    slow = await busy(stage)
    made = [await started(stage, "Slow", b"0", within=200)]
    for request, name, carried in (
        (b"lowered", "Slow", "low"),
        (b"raised", "Low", "high"),
        (b"own", "Slow", None),
        (b"highest", "High", "high"),
        (b"lowered high", "High", "normal"),
    ):
        metadata = [(PRIORITY, carried)] if carried else None
        made.append(await started(stage, name, request, within=200, metadata=metadata))
    slow.let.set()
    await asyncio.gather(*made)
    assert slow.begun == [b"0", b"highest", b"own", b"lowered high", b"lowered", b"raised"]


@pytest.mark.parametrize("carried", ["", "HIGH", "3", "urgent", "low,high"])
async def test_priority_that_is_none_is_refused(stage: Stage, carried: str) -> None:
    await busy(stage)
    with pytest.raises(AioRpcError) as caught:
        await call(stage.channel(), UNARY, metadata=[(PRIORITY, carried)])
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT
    assert info(caught.value).metadata["key"] == PRIORITY


@pytest.mark.parametrize("own", list(Priority))
async def test_priority_of_the_call_being_served_goes_with_those_it_makes(
    stage: Stage, own: Priority
) -> None:
    seen: list[Priority] = []

    async def inner(request: bytes, context: Any) -> bytes:
        served = current_call()
        assert served is not None
        seen.append(served.priority)
        return request

    async def outer(request: bytes, context: Any) -> bytes:
        for name in ("Inner", "InnerLow"):
            await call(stage.guarded("orders"), UNARY, name)
        return request

    await stage.serve(
        {
            "Outer": (UNARY, outer, said("Outer", priority=own)),
            "Inner": (UNARY, inner, said("Inner", priority=Priority.HIGH)),
            "InnerLow": (UNARY, inner, said("InnerLow", priority=Priority.LOW)),
        }
    )
    await call(stage.guarded(), UNARY, "Outer")
    assert seen == [own, Priority.LOW]


async def test_where_no_more_may_wait_the_lowest_priority_makes_room(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "MOST_WAITING", 1)
    slow = await busy(stage)
    first = await started(stage, "Slow", b"served", within=30)
    low = await started(stage, "Low", b"low", within=30)
    high = begin(stage.guarded(), UNARY, "High", requests=[b"high"], within=30)
    with pytest.raises(AioRpcError) as caught:
        await low
    assert info(caught.value).reason == "OVERLOADED"
    with pytest.raises(AioRpcError) as caught:
        await call(stage.guarded(), UNARY, "Low", within=30)
    assert info(caught.value).reason == "OVERLOADED"
    slow.let.set()
    assert (await first, await high) == (b"served", b"high")


async def test_caller_that_leaves_while_it_waits_leaves_nothing(stage: Stage) -> None:
    slow = await busy(stage)
    taken = await started(stage, "Slow", b"first")
    waiting = await started(stage, "Slow", b"second", within=30)
    waiting.cancel()
    held = stage.guard.overload
    async with asyncio.timeout(5):
        while held.waiting:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)
    slow.let.set()
    await taken
    assert await call(stage.guarded(), UNARY) == [b"hello"]
    assert (held.taken, held.waiting, slow.begun) == (0, 0, [b"first"])


async def test_caller_that_is_slow_to_send_takes_no_place(stage: Stage) -> None:
    await busy(stage)
    silent = [begin(stage.channel(), Shape.STREAM_UNARY, "Slow", requests=None) for _ in range(5)]
    await asyncio.gather(*(each.wait_for_connection() for each in silent), asyncio.sleep(0.1))
    assert await call(stage.guarded(), UNARY) == [b"hello"]
    for each in silent:
        each.cancel()


async def test_stream_takes_a_place_for_its_first_moments_only(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "STREAM_S", 0.2)
    await busy(stage)
    streams = [begin(stage.channel(), Shape.STREAM_STREAM, "Stream", requests=None, within=None)]
    await streams[0].write(b"one")
    async with asyncio.timeout(5):
        while not stage.guard.overload.taken:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)
    assert await call(stage.guarded(), UNARY, within=30) == [b"hello"]  # after waiting for a moment
    assert stage.guard.overload.taken == 0
    assert not streams[0].done()
    streams[0].cancel()


async def test_method_that_hangs_keeps_nobody_from_the_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concurrency, "UNKNOWN_S", 0.2)
    await busy(stage, most=100)
    held = stage.guard.overload
    held.limit.places = 8
    hanging = [await started(stage, "Slow", b"hangs", within=30) for _ in range(8)]
    assert held.taken == 8
    for _ in range(10):
        assert await call(stage.guarded(), UNARY) == [b"hello"]
    for each in hanging:
        each.cancel()


async def test_callers_that_ask_again_once_they_are_answered_are_never_refused(
    stage: Stage, shape: Shape
) -> None:
    """However busy the server is with them: what they wait for each other is not too long."""
    await stage.serve({"Echo": (shape, echo(shape), said("Echo", shape))})

    async def ask(name: str) -> int:
        channel = stage.guarded(name)
        return len([await call(channel, shape) for _ in range(10)])

    answered = await asyncio.gather(*(ask(f"caller-{number % 4}") for number in range(60)))
    assert sum(answered) == 600
    assert stage.guard.overload.refused == 0


async def test_what_every_server_answers_is_asked_nothing_of_overload(stage: Stage) -> None:
    slow = Slow()
    built_in = dataclasses.replace(said("Echo"), origin=BUILT_IN)
    await stage.serve(
        {"Slow": (UNARY, slow.one, said("Slow")), "Echo": (UNARY, echo(UNARY), built_in)}, in_flight_most=1
    )
    await started(stage, "Slow", b"first")
    assert await call(stage.guarded(), UNARY) == [b"hello"]


@pytest.mark.alone
async def test_server_is_stuck_once_nobody_was_answered_for_long_and_until_somebody_is(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "STUCK_S", 0.15)
    slow, told = await busy(stage), []
    held = stage.guard.overload
    held.on_stuck = lambda: told.append(held.stuck)
    taken = await started(stage, "Slow", b"first", within=30)
    for told_so_far in ([], [True], [True]):
        with pytest.raises(AioRpcError):
            await call(stage.guarded(), UNARY, within=1)
        assert told == told_so_far
    slow.let.set()
    await taken
    assert told == [True, False]


@pytest.mark.alone
async def test_server_that_is_asked_nothing_more_is_stuck_no_more(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overload, "STUCK_S", 0.1)
    await busy(stage)
    taken = await started(stage, "Slow", b"first", within=0.6)
    for _ in range(2):
        with pytest.raises(AioRpcError):
            await call(stage.guarded(), UNARY, within=1)
    assert stage.guard.overload.stuck
    with pytest.raises(AioRpcError) as caught:
        await taken
    assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(5):
        while stage.guard.overload.stuck:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)


async def test_highest_priority_takes_more_places_than_there_are_for_the_others(stage: Stage) -> None:
    slow = await busy(stage, most=100)
    stage.guard.overload.limit.places = 2
    made = [await started(stage, "Slow", b"slow", within=30) for _ in range(2)]
    made += [await started(stage, "High", b"high", within=30) for _ in range(2)]
    async with asyncio.timeout(5):
        while len(slow.begun) < 4:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)
    with pytest.raises(AioRpcError) as caught:
        await call(stage.guarded(), UNARY, "High", within=1)
    assert info(caught.value).reason == "OVERLOADED"
    slow.let.set()
    assert await asyncio.gather(*made) == [b"slow", b"slow", b"high", b"high"]
