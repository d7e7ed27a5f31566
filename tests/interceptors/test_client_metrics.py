"""What is added up of calls made: each one once, with what was sent and came, however it ends."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from hauberk.interceptors.calls_made import CallMade, Telemetry
from hauberk.interceptors.client_metrics import ClientMetrics
from hauberk.interceptors.metrics import Series
from tests.interceptors.clients import KINDS, TARGET, AsyncioClient, BlockingClient, client
from tests.interceptors.stage import Shape, Stage, echo, path, policy

UNARY = Shape.UNARY_UNARY
METHOD = "lab.v1.Lab/Echo"
OK = (METHOD, TARGET, "OK")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Seen:
    def __init__(self, stage: Stage) -> None:
        self._metrics = ClientMetrics()
        self.made: list[CallMade] = []
        self._records = stage.keeping(made=[self._metrics])
        self.telemetry = Telemetry(keep=self._keep)

    def _keep(self, made: CallMade) -> None:
        self.made.append(made)
        self._records.keep(made)

    def measured(self) -> dict[tuple[str, str, str], Series]:
        self._records.flush()
        return dict(self._metrics.measured())

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.made) < count:  # noqa: ASYNC110 - core's threads tell
                await asyncio.sleep(0.005)


async def test_bytes_of_all_messages_are_counted_as_they_are_serialised(
    stage: Stage, shape: Shape, kind: str
) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "*"))})
    seen = Seen(stage)
    texts = ["one", "three", "four more"] if shape.requests_stream else ["one"]
    serializers = (lambda text: text.encode() + b"!", lambda raw: raw.decode())
    async with client(kind, stage, telemetry=seen.telemetry) as caller:
        for _ in range(3):
            replies = await caller.call(shape, requests=texts, serializers=serializers)
            assert "".join(replies) == "".join(f"{text}!" for text in texts)
        await seen.reach(3)
    assert [(one.sent, one.received) for one in seen.made] == [(sum(map(len, texts)) + len(texts),) * 2] * 3
    (series,) = seen.measured().values()
    assert (sum(series.duration.counts), series.sent.total) == (3, 3 * (sum(map(len, texts)) + len(texts)))
    assert list(seen.measured()) == [OK]


async def test_call_that_fails_is_counted_once_by_its_status(stage: Stage, shape: Shape, kind: str) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "orders"))})
    seen = Seen(stage)
    async with client(kind, stage, telemetry=seen.telemetry) as caller:
        for within in (5, -1):
            with pytest.raises(grpc.RpcError):
                await caller.call(shape, within=within)
        await seen.reach(2)
    statuses = {key[2]: sum(series.duration.counts) for key, series in seen.measured().items()}
    assert statuses == {"PERMISSION_DENIED": 1, "DEADLINE_EXCEEDED": 1}


async def test_what_is_read_of_a_stream_that_breaks_is_counted(stage: Stage, kind: str) -> None:
    async def broken(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"four"
        yield b"four"
        raise ValueError

    shape = Shape.UNARY_STREAM
    await stage.serve({"Echo": (shape, broken, policy("Echo", shape, "*"))})
    seen = Seen(stage)
    async with client(kind, stage, telemetry=seen.telemetry) as caller:
        with pytest.raises(grpc.RpcError):
            await caller.call(shape)
        await seen.reach(1)
    (made,) = seen.made
    assert (made.status, made.sent, made.received) == ("INTERNAL", 5, 8)


async def test_only_what_generated_code_calls_is_named(stage: Stage, kind: str) -> None:
    await stage.serve({"Echo": (UNARY, echo(UNARY), policy("Echo", UNARY, "*"))})
    seen = Seen(stage)
    async with client(kind, stage, telemetry=seen.telemetry) as caller:
        await caller.call(UNARY)
        for number in range(20):
            with pytest.raises(grpc.RpcError):
                await caller.call(UNARY, f"Made{number}", registered=False)
    assert list(seen.measured()) == [OK, ("other", TARGET, "UNIMPLEMENTED")]


async def waiting(stage: Stage, shape: Shape) -> asyncio.Event:
    """A server whose method begins and does not end."""
    begun = asyncio.Event()

    async def one(request: Any, context: Any) -> bytes:
        begun.set()
        await asyncio.sleep(20)
        return b""

    async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield await one(request, context)

    await stage.serve({"Echo": (shape, many if shape.replies_stream else one, policy("Echo", shape, "*"))})
    return begun


async def test_cancelled_call_is_counted(stage: Stage, shape: Shape) -> None:
    begun, seen = await waiting(stage, shape), Seen(stage)
    async with client("asyncio", stage, telemetry=seen.telemetry) as caller:
        calling = asyncio.create_task(caller.call(shape))
        await begun.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await seen.reach(1)
    assert [one.status for one in seen.made] == ["CANCELLED"]


async def test_blocking_call_that_is_cancelled_is_counted(stage: Stage, shape: Shape) -> None:
    begun, seen = await waiting(stage, shape), Seen(stage)
    async with client("blocking", stage, telemetry=seen.telemetry) as caller:
        assert isinstance(caller, BlockingClient)
        method = getattr(caller.channel, shape.name.lower())(path("Echo"))
        start = method if shape.replies_stream else method.future
        made = start(iter([b"x"]) if shape.requests_stream else b"x", timeout=10)
        await begun.wait()
        made.cancel()
        await seen.reach(1)
    assert [one.status for one in seen.made] == ["CANCELLED"]


async def test_call_that_nobody_awaits_is_counted(stage: Stage) -> None:
    await stage.serve({"Echo": (UNARY, echo(UNARY), policy("Echo", UNARY, "*"))})
    seen = Seen(stage)
    async with client("asyncio", stage, telemetry=seen.telemetry) as caller:
        assert isinstance(caller, AsyncioClient)
        kept = caller.channel.unary_unary(path("Echo"))(b"hello", timeout=5)
        await seen.reach(1)
        assert kept.done()
        caller.channel.unary_unary(path("Echo"))(b"dropped", timeout=5)
        gc.collect()
        await seen.reach(2)
    assert [(one.status, one.received) for one in seen.made] == [("OK", 5), ("OK", 7)]


async def test_future_has_its_reply_and_is_counted(stage: Stage) -> None:
    await stage.serve({"Echo": (UNARY, echo(UNARY), policy("Echo", UNARY, "*"))})
    seen = Seen(stage)
    async with client("blocking", stage, telemetry=seen.telemetry) as caller:
        assert isinstance(caller, BlockingClient)
        future = caller.channel.unary_unary(path("Echo")).future(b"hello", timeout=5)
        assert await asyncio.to_thread(future.result, 5) == b"hello"
        reply, call = await asyncio.to_thread(caller.channel.unary_unary(path("Echo")).with_call, b"hi")
        assert (reply, call.code()) == (b"hi", grpc.StatusCode.OK)
        await seen.reach(2)
    assert [one.received for one in seen.made] == [5, 2]


@pytest.mark.parametrize("shape", [Shape.STREAM_UNARY, Shape.STREAM_STREAM])
async def test_requests_written_one_by_one_are_counted(stage: Stage, shape: Shape) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "*"))})
    seen = Seen(stage)
    async with client("asyncio", stage, telemetry=seen.telemetry) as caller:
        assert isinstance(caller, AsyncioClient)
        made = getattr(caller.channel, shape.name.lower())(path("Echo"))(timeout=5)
        for _ in range(3):
            await made.write(b"four")
        await made.done_writing()
        if shape.replies_stream:
            while await made.read() is not grpc.aio.EOF:
                pass
        else:
            assert await made == b"four" * 3
        await seen.reach(1)
    assert [(one.sent, one.received) for one in seen.made] == [(12, 12)]


async def test_serializer_that_fails_ends_the_call_as_without_us(stage: Stage, kind: str) -> None:
    await stage.serve({"Echo": (UNARY, echo(UNARY), policy("Echo", UNARY, "*"))})
    seen = Seen(stage)

    def fails(raw: bytes) -> Any:
        raise ValueError

    async with client(kind, stage, telemetry=seen.telemetry) as caller:
        if kind == "asyncio":  # core gives its caller nothing, and the status OK
            assert await caller.call(UNARY, serializers=(bytes, fails)) == [None]
        else:
            with pytest.raises(grpc.RpcError, match="Exception deserializing response"):
                await caller.call(UNARY, serializers=(bytes, fails))
        await seen.reach(1)
    assert [one.status for one in seen.made] == ["OK" if kind == "asyncio" else "INTERNAL"]


async def test_nothing_is_kept_of_calls_that_are_over(stage: Stage, kind: str) -> None:
    await stage.serve({"Echo": (UNARY, echo(UNARY), policy("Echo", UNARY, "*"))})
    seen = Seen(stage)
    async with client(kind, stage, telemetry=seen.telemetry) as caller:
        for _ in range(20):
            await caller.call(UNARY)
        await seen.reach(20)
        assert all(one._core is None and one.keep is None for one in seen.made)
