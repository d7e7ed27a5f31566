"""What only a threaded server has to promise: threads are few, and none of them can be cancelled."""

import asyncio
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError

from hauberk.interceptors import workers
from hauberk.interceptors.call import current_call
from hauberk.interceptors.demands import DeadlineRule
from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.exchange import Exchange
from tests.interceptors.raw_http2 import Raw, RawConnection, Trailers, message
from tests.interceptors.stage import SERVICE, Behaviour, Shape, Stage, begin, call, info, path, policy
from tests.interceptors.stage import method as bare

SERVED_BY = ("threaded",)
UNARY = Shape.UNARY_UNARY
ME = "spiffe://mesh.test/gateway"


async def serve(stage: Stage, behaviours: dict[str, tuple[Shape, Behaviour]], **more: Any) -> Any:
    """Starts a server of these plain functions, whose deadline is at most 0.2 s (Echo: 20 s); the guard."""
    rules = dict.fromkeys(behaviours, DeadlineRule(max_s=more.pop("max_s", 0.2)))
    rules["Echo"] = DeadlineRule(max_s=20)
    guard = stage.guard = stage.new_guard(**more)
    guard.add(
        SERVICE,
        {name: bare(behaviour, shape) for name, (shape, behaviour) in behaviours.items()},
        {name: policy(name, shape, "*", deadline=rules[name]) for name, (shape, _) in behaviours.items()},
    )
    await stage.start(guard)
    return guard


def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
    return request


class Deaf:
    """A method that heeds nothing, until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.ran = threading.Semaphore(0)

    def __call__(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.ran.release()
        self.let_go.wait(20)
        return b"too late"


@pytest.mark.alone
async def test_caller_hears_at_the_deadline_though_the_method_goes_on(stage: Stage) -> None:
    deaf = Deaf()
    guard = await serve(stage, {"Deaf": (UNARY, deaf)})
    began = time.monotonic()
    with pytest.raises(AioRpcError) as caught:
        await call(stage.channel(), UNARY, "Deaf", within=10)
    assert 0.2 <= time.monotonic() - began < 1
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert info(caught.value).metadata["bound"] == "contract max"
    (record,) = await stage.records()
    assert record["grpc.status"] == "DEADLINE_EXCEEDED"
    assert (guard.in_flight.count(ME), guard.workers.left_behind) == (1, 1)
    deaf.let_go.set()
    await stage.none_in_flight(ME)
    assert guard.workers.left_behind == 0
    assert len(await stage.records()) == 1


async def test_methods_that_go_on_take_no_place_among_the_workers_and_are_bounded(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    deaf = Deaf()
    guard = await serve(stage, {"Deaf": (UNARY, deaf), "Echo": (UNARY, echo)}, workers=2)
    channel = stage.channel()
    for _ in range(2):
        calls = [begin(channel, UNARY, "Deaf") for _ in range(2)]
        assert [await made.code() for made in calls] == [grpc.StatusCode.DEADLINE_EXCEEDED] * 2
        assert "go on though their calls have ended" in caplog.text
    assert (guard.workers.threads, guard.workers.left_behind) == (4, 4)
    with pytest.raises(AioRpcError) as caught:  # nobody is left to serve it; it waits, and its time runs out
        await call(channel, UNARY, "Echo", within=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    deaf.let_go.set()
    await stage.none_in_flight(ME)
    assert await call(channel, UNARY, "Echo") == [b"hello"]
    async with asyncio.timeout(5):
        while guard.workers.threads > 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_peer_that_calls_a_stuck_method_runs_into_its_own_share(stage: Stage) -> None:
    deaf = Deaf()
    await serve(stage, {"Deaf": (UNARY, deaf), "Echo": (UNARY, echo)}, in_flight_per_peer=2)
    reasons = []
    for _ in range(3):
        with pytest.raises(AioRpcError) as caught:
            await call(stage.channel(), UNARY, "Deaf")
        reasons.append(info(caught.value).reason)
    assert reasons == ["DEADLINE_PASSED", "DEADLINE_PASSED", "TOO_MANY_IN_FLIGHT"]
    assert await call(stage.channel("other"), UNARY, "Echo") == [b"hello"]
    deaf.let_go.set()


async def test_method_learns_from_its_context(stage: Stage) -> None:
    learnt: list[float] = []

    def asking(request: bytes, context: grpc.ServicerContext) -> bytes:
        learnt.append(context.time_remaining())
        while context.is_active():
            time.sleep(0.005)
        learnt.append(context.time_remaining())
        return b""

    await serve(stage, {"Ask": (UNARY, asking)})
    with pytest.raises(AioRpcError):
        await call(stage.channel(), UNARY, "Ask", within=10)
    await stage.none_in_flight(ME)
    assert 0.1 < learnt[0] <= 0.2
    assert learnt[1] == 0


@pytest.mark.parametrize("shape", [Shape.STREAM_UNARY, Shape.STREAM_STREAM])
async def test_method_that_waits_for_a_request_is_woken_when_its_call_ends(
    stage: Stage, shape: Shape
) -> None:
    seen: list[BaseException] = []

    def one(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        try:
            for _ in requests:
                pass
        except grpc.RpcError as error:
            seen.append(error)
            raise
        return b"whole"

    def many(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield one(requests, context)

    await serve(stage, {"Wait": (shape, many if shape.replies_stream else one)})
    made = begin(stage.channel(), shape, "Wait", requests=None)
    await made.write(b"first")
    assert await made.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await stage.none_in_flight(ME)
    assert len(seen) == 1


async def test_calls_without_a_message_and_refused_ones_take_no_thread(stage: Stage, raw: Raw) -> None:
    guard = await serve(stage, {"Echo": (UNARY, echo)}, workers=1, max_s=5)

    def idle(connection: RawConnection) -> Trailers:
        for _ in range(20):
            connection.open(path("Echo"))
        connection.open(path("Unknown"))
        return connection.next_trailers(within=5)

    assert (await raw(idle))["grpc-status"] == b"12"
    assert guard.workers.threads == 0
    assert await call(stage.channel(), UNARY, "Echo") == [b"hello"]
    assert guard.workers.threads == 1


async def test_caller_that_does_not_read_costs_no_thread_after_its_deadline(stage: Stage, raw: Raw) -> None:
    """Its status waits in core for the write that it does not let through, and comes once it reads."""
    ended = threading.Event()

    def endless(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 20_000
        finally:
            ended.set()

    guard = await serve(stage, {"Endless": (Shape.UNARY_STREAM, endless)}, workers=1)

    def stalled(connection: RawConnection) -> tuple[bool, Trailers]:
        stream = connection.open(path("Endless"))
        connection.send(stream, message(b"go"))
        freed = ended.wait(5)
        connection.grant(stream, 100_000)
        return freed, connection.trailers(stream)

    freed, trailers = await raw(stalled, window=0)
    assert freed
    assert trailers["grpc-message"] == b"deadline passed: contract max"
    await stage.none_in_flight(ME)
    assert guard.workers.left_behind == 0


async def test_calls_beyond_the_workers_wait_their_turn(stage: Stage) -> None:
    at_once, most = 0, []
    lock = threading.Lock()

    def counting(request: bytes, context: grpc.ServicerContext) -> bytes:
        nonlocal at_once
        with lock:
            at_once += 1
            most.append(at_once)
        time.sleep(0.002)
        with lock:
            at_once -= 1
        served = current_call()
        assert served is not None
        assert served.peer is not None
        return request + served.peer.spiffe_id.name.encode()

    await serve(stage, {"Count": (UNARY, counting)}, workers=3, max_s=10)
    channels = {name: stage.channel(name) for name in ("one", "two")}
    made = {
        (name, n): begin(channels[name], UNARY, "Count", requests=[b"%d" % n])
        for name in channels
        for n in range(40)
    }
    replies = {key: await each for key, each in made.items()}
    assert replies == {(name, n): b"%d%s" % (n, name.encode()) for name, n in made}
    assert max(most) == 3


@pytest.mark.parametrize("shape", list(Shape), ids=lambda one: one.name.lower())
async def test_asyncio_methods_are_refused_when_they_are_added(stage: Stage, shape: Shape) -> None:
    async def coroutine(request: Any, context: Any) -> None: ...

    with pytest.raises(PolicyError, match=r"a threaded server needs a plain function: /lab.v1.Lab/Echo"):
        stage.new_guard().add(SERVICE, {"Echo": bare(coroutine, shape)}, {"Echo": policy("Echo", shape, "*")})


@pytest.mark.alone
async def test_server_lives_on_where_a_thread_cannot_be_started(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What core's one polling thread raises would end it."""

    class NoThread(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    await serve(stage, {"Echo": (UNARY, echo)})
    channel = stage.channel()
    with monkeypatch.context() as exhausted:
        exhausted.setattr(workers, "threading", SimpleNamespace(Thread=NoThread))
        with pytest.raises(AioRpcError) as caught:
            await call(channel, UNARY, within=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "no thread could be started beside 0" in caplog.text
    assert await call(channel, UNARY) == [b"hello"]


async def test_server_lives_on_where_a_call_cannot_begin(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await serve(stage, {"Echo": (UNARY, echo)})
    channel = stage.channel()
    with monkeypatch.context() as broken:
        broken.delattr(Exchange, "time_left_s")
        with pytest.raises(AioRpcError) as caught:
            await call(channel, UNARY)
    assert info(caught.value).reason == "INTERNAL"
    assert "a call could not begin" in caplog.text
    assert await call(channel, UNARY) == [b"hello"]


class NotEnough(grpc.Status):
    code = grpc.StatusCode.FAILED_PRECONDITION
    details = "not enough"
    trailing_metadata = (("grpc-status-details-bin", b"details of its own"),)


@pytest.mark.parametrize("shape", list(Shape), ids=lambda one: one.name.lower())
async def test_status_with_details_of_the_methods_own_is_sent_unchanged(stage: Stage, shape: Shape) -> None:
    def one(request: Any, context: grpc.ServicerContext) -> bytes:
        context.abort_with_status(NotEnough())
        return b""

    def many(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield one(request, context)

    await serve(stage, {"Echo": (shape, many if shape.replies_stream else one)})
    with pytest.raises(AioRpcError) as caught:
        await call(stage.channel(), shape)
    assert (caught.value.code(), caught.value.details()) == (NotEnough.code, "not enough")
    assert dict(caught.value.trailing_metadata() or ()) == dict(NotEnough.trailing_metadata)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda context: context.set_trailing_metadata(5),
        lambda context: context.set_code({}),
    ],
    ids=["no metadata", "no code"],
)
async def test_end_that_cannot_be_sent_is_an_internal_error(
    stage: Stage, spoil: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Core alone says nothing then, and the caller waits for ever."""

    def spoilt(request: bytes, context: grpc.ServicerContext) -> bytes:
        spoil(context)
        return request

    guard = await serve(stage, {"Echo": (UNARY, spoilt)}, max_s=10)
    with pytest.raises(AioRpcError) as caught:
        await call(stage.channel(), UNARY, within=5)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert info(caught.value).reason == "INTERNAL"
    assert [record["grpc.status"] for record in await stage.records()] == ["INTERNAL"]
    assert guard.in_flight.count(ME) == 0


async def test_initial_metadata_and_half_close_are_as_without_us(stage: Stage) -> None:
    shape = Shape.STREAM_STREAM

    def talks(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.send_initial_metadata((("early", "word"),))
        yield from requests
        yield b"after the last"
        context.set_trailing_metadata((("last", "word"),))

    await serve(stage, {"Echo": (shape, talks)}, max_s=10)
    made = begin(stage.channel(), shape, requests=None)
    assert dict(await made.initial_metadata()) == {"early": "word"}
    await made.write(b"1")
    assert await made.read() == b"1"
    await made.write(b"2")
    assert await made.read() == b"2"
    await made.done_writing()
    assert [await made.read(), await made.read()] == [b"after the last", grpc.aio.EOF]
    assert dict(await made.trailing_metadata()) == {"last": "word"}


async def test_stop_does_not_wait_for_a_method_that_heeds_nothing(stage: Stage) -> None:
    deaf = Deaf()
    await serve(stage, {"Deaf": (UNARY, deaf)}, max_s=10)
    made = begin(stage.channel(), UNARY, "Deaf")
    await asyncio.to_thread(deaf.ran.acquire)
    began = time.monotonic()
    await asyncio.to_thread(stage.server.stop(0.1).wait)
    assert time.monotonic() - began < 3
    assert await made.code() is grpc.StatusCode.UNAVAILABLE
    deaf.let_go.set()
