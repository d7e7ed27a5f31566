"""Each refusal, in each of the four shapes: what the caller is told, and that the method never ran."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError

from hauberk.interceptors.call import current_call
from hauberk.interceptors.demands import DeadlineRule
from hauberk.interceptors.peer import Trust
from tests.interceptors.stage import Metadata, Shape, Stage, begin, call, echo, info, path, policy

SERVED_BY = ("asyncio", "threaded")

ME = "spiffe://mesh.test/gateway"


async def refused(channel: grpc.aio.Channel, shape: Shape, **how: Any) -> AioRpcError:
    with pytest.raises(AioRpcError) as caught:
        await call(channel, shape, **how)
    return caught.value


async def serve(stage: Stage, shape: Shape, *patterns: str, **more: Any) -> list[Any]:
    """Starts a server of Echo; what is returned gets an entry each time the method runs."""
    ran: list[Any] = []
    await stage.serve({"Echo": (shape, echo(shape, ran), policy("Echo", shape, *patterns))}, **more)
    return ran


async def test_caller_on_the_list_is_served(stage: Stage, shape: Shape) -> None:
    ran = await serve(stage, shape, "orders", "gateway")
    assert await call(stage.channel("gateway"), shape) == [b"hello"]
    assert len(ran) == 1
    (record,) = await stage.records()
    assert (record["grpc.status"], record["error.reason"]) == ("OK", None)
    assert (record["client.spiffe_id"], record["rpc.method"]) == (ME, path("Echo"))


@pytest.mark.parametrize("patterns", [("orders", "gateway/*"), ()], ids=["others", "nobody"])
async def test_caller_not_on_the_list_is_forbidden(
    stage: Stage, shape: Shape, patterns: tuple[str, ...]
) -> None:
    ran = await serve(stage, shape, *patterns)
    error = await refused(stage.channel("gateway"), shape)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error.details() == f"{ME} may not call {path('Echo')}"
    assert info(error).reason == "CALLER_NOT_ALLOWED"
    assert info(error).metadata["caller"] == ME
    assert not ran
    (record,) = await stage.records()
    assert (record["grpc.status"], record["error.reason"]) == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")
    assert record["trace.id"] == info(error).metadata["trace_id"]


BAD_METADATA: dict[str, tuple[Metadata, grpc.StatusCode, str]] = {
    "too large": (
        tuple((f"x-{n}", "v" * 700) for n in range(12)),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "METADATA_TOO_LARGE",
    ),
    "too many": (
        tuple((f"x-{n}", "") for n in range(260)),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "METADATA_TOO_LARGE",
    ),
    "two authorizations": (
        (("authorization", "Bearer a"), ("authorization", "Bearer b")),
        grpc.StatusCode.INVALID_ARGUMENT,
        "METADATA_REFUSED",
    ),
}


@pytest.mark.parametrize(("metadata", "code", "reason"), BAD_METADATA.values(), ids=BAD_METADATA.keys())
async def test_bad_metadata_is_refused(
    stage: Stage, shape: Shape, metadata: Metadata, code: grpc.StatusCode, reason: str
) -> None:
    """Core's own limit lies above, as for a client that never acknowledges our SETTINGS."""
    options = [("grpc.max_metadata_size", 1 << 20), ("grpc.absolute_max_metadata_size", 1 << 20)]
    ran = await serve(stage, shape, "*", options=options)
    error = await refused(stage.channel(), shape, metadata=metadata)
    assert error.code() is code
    assert info(error).reason == reason
    assert not ran


@pytest.mark.parametrize(
    "metadata",
    [
        (("authorization", "Bearer a"),),
        (("hauberk-to", "orders"),),
        (("x-bin", bytes(range(256))),),
        (("x-text", "".join(map(chr, range(0x20, 0x7F))).strip()),),
        tuple((f"x-{n}", "v" * 700) for n in range(10)),
    ],
    ids=["one authorization", "destination", "any bytes", "all of ascii", "7 kib"],
)
async def test_good_metadata_is_accepted(stage: Stage, shape: Shape, metadata: Metadata) -> None:
    await serve(stage, shape, "*")
    assert await call(stage.channel(), shape, metadata=metadata) == [b"hello"]


async def hold(stage: Stage, shape: Shape, limit: int) -> asyncio.Event:
    """A server whose calls stay until the event is set."""
    release = asyncio.Event()

    async def one(request: Any, context: Any) -> bytes:
        await release.wait()
        return b"held"

    async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield await one(request, context)

    behaviour = many if shape.replies_stream else one
    await stage.serve({"Echo": (shape, behaviour, policy("Echo", shape, "*"))}, in_flight_per_peer=limit)
    return release


async def outcome(made: Any, shape: Shape) -> Any:
    return await (made.read() if shape.replies_stream else made)


async def test_one_peer_has_no_more_in_flight_than_its_share(stage: Stage, shape: Shape) -> None:
    release = await hold(stage, shape, limit=3)
    channel, other = stage.channel("gateway"), stage.channel("orders")
    held = [begin(channel, shape) for _ in range(3)]
    waiting = [asyncio.create_task(outcome(made, shape)) for made in held]
    async with asyncio.timeout(5):
        while stage.guard.in_flight.count(ME) < 3:  # noqa: ASYNC110 - the guard has no event for it
            await asyncio.sleep(0.005)
    error = await refused(channel, shape)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert info(error).reason == "TOO_MANY_IN_FLIGHT"
    assert info(error).metadata["limit"] == "3"
    others = asyncio.create_task(outcome(begin(other, shape), shape))
    release.set()
    assert await asyncio.gather(*waiting, others) == [b"held"] * 4
    await stage.records(5)
    assert await call(channel, shape) == [b"held"]
    await stage.records(6)
    assert stage.guard.in_flight.count(ME) == 0


async def test_refused_calls_give_their_place_back(stage: Stage, shape: Shape) -> None:
    ran: list[Any] = []
    rule = DeadlineRule(required=True)
    said = policy("Echo", shape, "gateway", deadline=rule)
    await stage.serve({"Echo": (shape, echo(shape, ran), said)}, in_flight_per_peer=1)
    channel, stranger = stage.channel("gateway"), stage.channel("stranger")
    for _ in range(3):
        assert (await refused(stranger, shape)).code() is grpc.StatusCode.PERMISSION_DENIED
        assert (await refused(channel, shape, within=None)).code() is grpc.StatusCode.FAILED_PRECONDITION
        assert (await refused(channel, shape, name="Other")).code() is grpc.StatusCode.UNIMPLEMENTED
    assert not ran
    assert await call(channel, shape) == [b"hello"]


async def test_draining_server_refuses_new_calls_and_finishes_the_others(stage: Stage, shape: Shape) -> None:
    release = await hold(stage, shape, limit=10)
    channel = stage.channel()
    waiting = asyncio.create_task(outcome(begin(channel, shape), shape))
    async with asyncio.timeout(5):
        while not stage.guard.in_flight.count(ME):  # noqa: ASYNC110 - the guard has no event for it
            await asyncio.sleep(0.005)
    assert not stage.guard.unfit
    stage.guard.unfit = "the clock is wrong"
    error = await refused(channel, shape)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert info(error).reason == "IDENTITY_UNFIT"
    assert error.details() == "the clock is wrong"
    release.set()
    assert await waiting == b"held"


async def test_checks_go_from_who_to_what(stage: Stage, shape: Shape) -> None:
    """A call wrong in every way is told the first of: peer, metadata, in flight, callers, deadline."""
    ran: list[Any] = []
    said = policy("Echo", shape, "gateway", deadline=DeadlineRule(required=True))
    await stage.serve({"Echo": (shape, echo(shape, ran), said)})
    channel, wrong = stage.channel("stranger"), (("hauberk-role", "admin"),)
    stage.trust.set(Trust(stage.authority.bundle, frozenset({"spiffe://mesh.test/stranger"})))
    assert info(await refused(channel, shape, within=None, metadata=wrong)).reason == "REVOKED"
    stage.trust.set(Trust(stage.authority.bundle))
    assert info(await refused(channel, shape, within=None, metadata=wrong)).reason == "METADATA_REFUSED"
    assert info(await refused(channel, shape, within=None)).reason == "CALLER_NOT_ALLOWED"
    assert info(await refused(stage.channel(), shape, within=None)).reason == "DEADLINE_REQUIRED"
    assert not ran


async def test_method_sees_who_calls_it(stage: Stage, shape: Shape) -> None:
    seen: list[tuple[str, str, str | bytes]] = []

    async def one(request: Any, context: Any) -> bytes:
        served = current_call()
        assert served is not None
        assert served.peer is not None
        seen.append((str(served.peer.spiffe_id), served.method, dict(served.metadata)["x-own"]))
        return b"seen"

    async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
        yield await one(request, context)

    behaviour = many if shape.replies_stream else one
    await stage.serve({"Echo": (shape, behaviour, policy("Echo", shape, "*"))})
    await call(stage.channel("gateway"), shape, metadata=(("x-own", "1"),))
    assert seen == [(ME, path("Echo"), "1")]
    assert current_call() is None
