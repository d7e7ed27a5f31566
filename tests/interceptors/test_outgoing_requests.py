"""Calls with many requests: the server's status is what the caller sees, and so is its own mistake."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError

from hauberk.interceptors.outgoing import _Truthful
from tests.interceptors.stage import Shape, Stage, echo, path, policy

SHAPES = pytest.mark.parametrize(
    "shape", [Shape.STREAM_UNARY, Shape.STREAM_STREAM], ids=lambda shape: shape.name.lower()
)


class Mistake(Exception):
    """The caller's own."""


async def serve(stage: Stage, shape: Shape) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "gateway"))})


async def ended(channel: grpc.aio.Channel, shape: Shape, requests: Any) -> None:
    """One call with these requests, to its end."""
    made = getattr(channel, shape.name.lower())(path("Echo"))(requests, timeout=10)
    if shape.replies_stream:
        async for _ in made:
            pass
    else:
        await made


@SHAPES
async def test_a_refusal_that_meets_a_write_is_still_that_refusal(stage: Stage, shape: Shape) -> None:
    """Core's own channel answered INTERNAL to a quarter of such calls."""
    await serve(stage, shape)
    channel = stage.guarded("stranger")
    codes: Counter[grpc.StatusCode] = Counter()

    async def requests() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x"
            await asyncio.sleep(0)

    async def one() -> None:
        with pytest.raises(AioRpcError) as caught:
            await ended(channel, shape, requests())
        codes[caught.value.code()] += 1

    for _ in range(10):
        await asyncio.gather(*(one() for _ in range(10)))
    assert codes == {grpc.StatusCode.PERMISSION_DENIED: 100}


@SHAPES
async def test_what_the_requests_raise_reaches_the_caller(stage: Stage, shape: Shape) -> None:
    await serve(stage, shape)

    async def later() -> AsyncIterator[bytes]:
        yield b"one"
        raise Mistake

    def at_once() -> Iterator[bytes]:
        yield b"one"
        raise Mistake

    for requests in (later(), at_once()):
        with pytest.raises(Mistake):
            await ended(stage.guarded(), shape, requests)


def test_an_operation_that_core_never_began_ends_the_call() -> None:
    """Then no status is on its way that could be waited for."""
    told: list[str] = []

    class Inner:
        def set_internal_error(self, error: str) -> None:
            told.append(error)

    truthful = _Truthful(Inner())
    truthful.set_internal_error('Failed "execute_batch": (the call had ended)')
    assert told == []
    truthful.set_internal_error("Failed grpc_call_start_batch: 8 with grpc_call_error value")
    assert len(told) == 1
