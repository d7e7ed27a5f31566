"""A call in flight ends when its peer would be let in no more, with what a new call would be told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError

from hauberk.certs.authority import Authority
from hauberk.certs.credentials import anonymous_server_credentials, pinned_channel_credentials
from hauberk.certs.watch import Watch
from hauberk.interceptors.errors import Draining
from hauberk.interceptors.peer import Trust
from tests.interceptors.stage import Behaviour, Clock, Shape, Stage, begin, call, echo, info, only, policy

SERVED_BY = ("asyncio", "threaded")
SOON_S = 3.0


class Method:
    """One that runs until it is cancelled; of what it then does, `cancelled` is told."""

    def __init__(self) -> None:
        self.running = asyncio.Event()
        self.cancelled = asyncio.Event()

    def of(self, shape: Shape, *, streaming: bool = False) -> Behaviour:
        async def wait(request: Any, context: Any) -> bytes:
            self.running.set()
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            return b"too late"

        async def stream(request: Any, context: Any) -> AsyncIterator[bytes]:
            yield b"first"
            yield await wait(request, context)

        return stream if shape.replies_stream else wait


async def under_way(
    stage: Stage, shape: Shape, name: str = "gateway", *, clock: Clock | None = None, **more: Any
) -> tuple[grpc.aio.Channel, Any, Method]:
    """A call that its method is busy with: the connection, the call, the method."""
    method = Method()
    behaviours = {"Wait": (shape, method.of(shape), policy("Wait", shape, "*"))}
    await stage.serve(
        behaviours | {"Echo": (shape, echo(shape), policy("Echo", shape, "*"))}, clock=clock, **more
    )
    channel = stage.channel(name)
    made = begin(channel, shape, "Wait", within=None)
    await until(method.running)
    return channel, made, method


async def until(event: asyncio.Event, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        await event.wait()


async def ended(made: Any, shape: Shape, within: float = 5) -> AioRpcError:
    """How the call ends."""

    async def answered() -> object:
        return [reply async for reply in made] if shape.replies_stream else await made

    with pytest.raises(AioRpcError) as caught:
        await asyncio.wait_for(answered(), within)
    return caught.value


def revoke(stage: Stage, name: str) -> None:
    trust = stage.trust.value
    stage.trust.set(Trust(trust.bundle, trust.revoked | {f"spiffe://mesh.test/{name}"}))


async def as_a_new_call(error: AioRpcError, channel: grpc.aio.Channel, shape: Shape) -> None:
    """A new call over the same connection is told the same."""
    with pytest.raises(AioRpcError) as caught:
        await call(channel, shape)
    new = caught.value
    assert (error.code(), error.details()) == (new.code(), new.details())
    assert info(error).reason == info(new).reason
    assert info(error).metadata["caller"] == info(new).metadata["caller"]


async def test_call_of_a_revoked_peer_ends_at_once(stage: Stage, shape: Shape) -> None:
    channel, made, method = await under_way(stage, shape)
    revoke(stage, "gateway")
    error = await ended(made, shape, SOON_S)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert info(error).reason == "REVOKED"
    await until(method.cancelled)
    await as_a_new_call(error, channel, shape)
    records = await stage.records(2)
    assert {record["error.reason"] for record in records} == {"REVOKED"}
    await stage.none_in_flight("spiffe://mesh.test/gateway")


async def test_call_ends_when_the_root_of_its_peer_is_retired(
    stage: Stage, shape: Shape, tmp_path: Path
) -> None:
    channel, made, method = await under_way(stage, shape)
    other = Authority.create(tmp_path / "other", "mesh.test", now=datetime.now(UTC))
    stage.trust.set(Trust(other.bundle))
    error = await ended(made, shape, SOON_S)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert info(error).reason == "UNTRUSTED_ISSUER"
    await until(method.cancelled)
    await as_a_new_call(error, channel, shape)


async def test_call_ends_with_the_certificate_it_came_with(stage: Stage, shape: Shape) -> None:
    clock = Clock()
    channel, made, method = await under_way(stage, shape, clock=clock)
    clock.now += timedelta(hours=2)
    error = await ended(made, shape, 2)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert info(error).reason == "SVID_EXPIRED"
    await until(method.cancelled)
    await as_a_new_call(error, channel, shape)


async def test_calls_of_others_go_on(stage: Stage, shape: Shape) -> None:
    channel, made, method = await under_way(stage, shape)
    revoke(stage, "somebody")
    stage.trust.set(stage.trust.value)
    await asyncio.sleep(0.1)
    assert not method.cancelled.is_set()
    assert await call(channel, shape) == [b"hello"]
    made.cancel()
    await until(method.cancelled)


async def test_call_with_a_deadline_is_told_of_the_revocation_not_of_the_deadline(
    stage: Stage, shape: Shape
) -> None:
    method = Method()
    await stage.serve({"Wait": (shape, method.of(shape), policy("Wait", shape, "*"))})
    made = begin(stage.channel(), shape, "Wait", within=10)
    await until(method.running)
    revoke(stage, "gateway")
    assert info(await ended(made, shape, SOON_S)).reason == "REVOKED"


async def test_call_whose_caller_does_not_read_is_cancelled_too(stage: Stage) -> None:
    """It waits in a write; its status can leave only once that has."""
    cancelled = asyncio.Event()

    async def flood(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 100_000
        finally:
            cancelled.set()

    shape = Shape.UNARY_STREAM
    await stage.serve({"Flood": (shape, flood, policy("Flood", shape, "*"))})
    made = begin(stage.channel(), shape, "Flood", within=None)
    await anext(aiter(made))
    await asyncio.sleep(0.2)
    revoke(stage, "gateway")
    await until(cancelled, SOON_S)
    assert info(await ended(made, shape)).reason == "REVOKED"


async def test_call_whose_message_never_came_ends(stage: Stage) -> None:
    shape = Shape.STREAM_UNARY
    method = Method()
    await stage.serve({"Wait": (shape, method.of(shape), policy("Wait", shape, "*"))})
    made = begin(stage.channel(), shape, "Wait", requests=None, within=None)
    await until(method.running)
    revoke(stage, "gateway")
    assert info(await ended(made, shape, SOON_S)).reason == "REVOKED"


def swallows(reply: Callable[[], Any]) -> Behaviour:
    async def method(request: bytes, context: Any) -> Any:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return reply()

    return method


def fails() -> bytes:
    raise ValueError("secret")


@pytest.mark.parametrize("reply", [lambda: b"an answer", fails], ids=["answers", "fails"])
async def test_method_that_swallows_its_end_gives_no_answer(stage: Stage, reply: Callable[[], Any]) -> None:
    shape = Shape.UNARY_UNARY
    await stage.serve({"Wait": (shape, swallows(reply), policy("Wait", shape, "*"))})
    made = begin(stage.channel(), shape, "Wait", within=None)
    async with asyncio.timeout(5):
        while not stage.guard.in_flight.count("spiffe://mesh.test/gateway"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    revoke(stage, "gateway")
    assert info(await ended(made, shape, SOON_S)).reason == "REVOKED"


@only("asyncio")
async def test_call_within_a_time_limit_of_its_method_s_own_ends_after_that(stage: Stage) -> None:
    """The method is being cancelled then, but not because its caller has left; and it would go on."""
    in_limit, limit_may_end, goes_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def limited(request: bytes, context: Any) -> bytes:
        try:
            async with asyncio.timeout(0.01):
                try:
                    await asyncio.sleep(30)
                finally:
                    in_limit.set()
                    await limit_may_end.wait()
        except TimeoutError:
            goes_on.set()
        await asyncio.sleep(30)
        return b"too late"

    shape = Shape.UNARY_UNARY
    await stage.serve({"Wait": (shape, limited, policy("Wait", shape, "*"))})
    made = begin(stage.channel(), shape, "Wait", within=None)
    await until(in_limit)
    revoke(stage, "gateway")
    await asyncio.sleep(0.05)
    limit_may_end.set()
    await until(goes_on)
    assert info(await ended(made, shape, SOON_S)).reason == "REVOKED"
    assert not stage.guard.standing._to_cancel


async def test_caller_that_has_left_is_told_nothing_more(stage: Stage) -> None:
    shape = Shape.UNARY_UNARY
    left, may_end = asyncio.Event(), asyncio.Event()

    async def lingers(request: bytes, context: Any) -> bytes:
        try:
            await asyncio.sleep(30)
        finally:
            left.set()
            await may_end.wait()
        return b""

    await stage.serve({"Wait": (shape, lingers, policy("Wait", shape, "*"))})
    made = begin(stage.channel(), shape, "Wait", within=None)
    await asyncio.sleep(0.2)
    made.cancel()
    await until(left)
    revoke(stage, "gateway")
    await asyncio.sleep(0.05)
    may_end.set()
    (record,) = await stage.records(1)
    assert record["grpc.status"] == "CANCELLED"
    assert not stage.guard.standing._calls


async def test_caller_without_a_certificate_is_left_alone(stage: Stage, shape: Shape) -> None:
    method = Method()
    await stage.serve(
        {"Wait": (shape, method.of(shape), policy("Wait", shape, anonymous=True))},
        credentials=anonymous_server_credentials(Watch(stage.credentials("server"))),
    )
    pinned = pinned_channel_credentials(stage.authority.bundle)
    made = begin(stage.channel(credentials=pinned), shape, "Wait", within=None)
    await until(method.running)
    revoke(stage, "gateway")
    await asyncio.sleep(0.05)
    assert not method.cancelled.is_set()
    made.cancel()
    await until(method.cancelled)


async def test_all_in_flight_can_be_ended_with_one_status(stage: Stage, shape: Shape) -> None:
    _, made, method = await under_way(stage, shape)
    stage.guard.standing.end(Draining("this process serves no more"))
    error = await ended(made, shape, SOON_S)
    assert (error.code(), info(error).reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    await until(method.cancelled)


async def test_nothing_runs_or_listens_where_no_call_is_in_flight(stage: Stage, served_by: str) -> None:
    shape = Shape.UNARY_UNARY
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "*"))})
    for _ in range(2):
        await call(stage.channel(), shape)
        assert stage.trust._callbacks
        async with asyncio.timeout(5):
            while stage.trust._callbacks:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert served_by == "threaded" or stage.guard.standing._tick is None
        assert not stage.guard.standing._calls
