"""A real server behind the guard, over real mTLS on port 0, and callers with names."""

import asyncio
import enum
import io
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from hauberk.certs.authority import Authority
from hauberk.certs.credentials import Credentials, server_credentials
from hauberk.certs.identity import SpiffeId
from hauberk.certs.watch import Watch
from hauberk.interceptors.access_log import AccessLog
from hauberk.interceptors.demands import DeadlineRule, TokenRule
from hauberk.interceptors.inbound import Guard
from hauberk.interceptors.outbound import guarded
from hauberk.interceptors.outgoing import Explain, _Truthful
from hauberk.interceptors.peer import PeerCheck, Trust
from hauberk.interceptors.policy import Policy, callers
from hauberk.interceptors.records import MadeSink, Records, Sink
from hauberk.interceptors.servant import RpcMethod
from hauberk.interceptors.serving import guarded_server

TRUST_DOMAIN = "mesh.test"
SERVICE = "lab.v1.Lab"

Behaviour = Callable[..., Any]
Metadata = Sequence[tuple[str, str | bytes]] | grpc.aio.Metadata


class Shape(enum.Enum):
    """The four shapes of a call: whether requests and replies stream."""

    UNARY_UNARY = (False, False)
    UNARY_STREAM = (False, True)
    STREAM_UNARY = (True, False)
    STREAM_STREAM = (True, True)

    @property
    def requests_stream(self) -> bool:
        return bool(self.value[0])

    @property
    def replies_stream(self) -> bool:
        return bool(self.value[1])


def path(method: str) -> str:
    return f"/{SERVICE}/{method}"


def method(behaviour: Behaviour, shape: Shape, *how: Any) -> RpcMethod:
    """A method that takes and gives raw bytes; or reads and writes its messages as `how` says."""
    make = getattr(grpc, f"{shape.name.lower()}_rpc_method_handler")
    return make(behaviour, *how)  # type: ignore[no-any-return]


def only(kind: str) -> Callable[[Behaviour], Behaviour]:
    """Runs a test against servers of this kind alone: what it shows the other kind does not have."""

    def marked(test: Behaviour) -> Behaviour:
        test.served_by = (kind,)  # type: ignore[attr-defined]
        return test

    return marked


def policy(
    name: str,
    shape: Shape,
    *patterns: str,
    anonymous: bool = False,
    deadline: DeadlineRule | None = None,
    token: TokenRule | None = None,
) -> Policy:
    return Policy(
        method=path(name),
        request_streaming=shape.requests_stream,
        response_streaming=shape.replies_stream,
        callers=callers(*patterns),
        anonymous=anonymous,
        deadline=deadline,
        token=token,
    )


def echo(shape: Shape, seen: list[Any] | None = None) -> Behaviour:
    """A method of this shape that gives back what it was sent; `seen` gets an entry each time it runs."""

    async def one(request: bytes, context: Any) -> bytes:
        if seen is not None:
            seen.append(request)
        return request

    async def one_many(request: bytes, context: Any) -> AsyncIterator[bytes]:
        if seen is not None:
            seen.append(request)
        yield request

    async def many_one(requests: AsyncIterator[bytes], context: Any) -> bytes:
        if seen is not None:
            seen.append(requests)
        return b"".join([request async for request in requests])

    async def many_many(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        if seen is not None:
            seen.append(requests)
        async for request in requests:
            yield request

    behaviours: dict[Shape, Behaviour] = {
        Shape.UNARY_UNARY: one,
        Shape.UNARY_STREAM: one_many,
        Shape.STREAM_UNARY: many_one,
        Shape.STREAM_STREAM: many_many,
    }
    return behaviours[shape]


async def call(
    channel: grpc.aio.Channel,
    shape: Shape,
    name: str = "Echo",
    *,
    requests: Iterable[bytes] = (b"hello",),
    within: float | None = 10,
    metadata: Metadata | None = None,
) -> list[bytes]:
    """The replies of one call, as bytes; raises what the stub raises. `name` may be a whole path."""
    made = begin(channel, shape, name, requests=requests, within=within, metadata=metadata)
    if shape.replies_stream:
        return [reply async for reply in made]
    return [await made]


def begin(
    channel: grpc.aio.Channel,
    shape: Shape,
    name: str = "Echo",
    *,
    requests: Iterable[bytes] | None = (b"hello",),
    within: float | None = 10,
    metadata: Metadata | None = None,
) -> Any:
    """The call object itself, which ends with the server's status: core's own client hides some refusals."""
    whole = name if name.startswith("/") else path(name)
    multicallable = getattr(channel, shape.name.lower())(whole)
    if requests is None:
        return multicallable(timeout=within, metadata=metadata)
    sent = iter(list(requests)) if shape.requests_stream else next(iter(requests))
    made = multicallable(sent, timeout=within, metadata=metadata)
    if shape.requests_stream and hasattr(made, "_cython_call"):
        made._cython_call = _Truthful(made._cython_call)
    return made


def info(error: grpc.aio.AioRpcError) -> ErrorInfo:
    """The ErrorInfo of a refusal; fails if it has none of ours."""
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    status = Status.FromString(details)
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    found = ErrorInfo()
    assert status.details[0].Unpack(found)
    assert found.domain == "hauberk"
    return found


class _Caught:
    """Looks like a server to generated code, and keeps what it is given."""

    def __init__(self) -> None:
        self.methods: dict[str, RpcMethod] = {}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        pass

    def add_registered_method_handlers(self, service: str, methods: dict[str, RpcMethod]) -> None:
        self.methods = methods


def generated(add: Callable[..., None], servicer: Any) -> dict[str, RpcMethod]:
    """The methods that generated code's `add_..._to_server` makes of `servicer`, by name."""
    caught = _Caught()
    add(servicer, caught)
    return caught.methods


class Lines(io.StringIO):
    """A stream that can be waited on until it holds so many lines, which another thread writes."""

    async def reach(self, count: int) -> list[str]:
        async with asyncio.timeout(10):
            while len(lines := self.getvalue().splitlines()) < count:  # noqa: ASYNC110 - a thread writes
                await asyncio.sleep(0.01)
        return lines


class Clock:
    """A wall clock that is set by hand."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


class Stage:
    """One mesh: an authority, servers behind guards, channels for whoever is named."""

    def __init__(self, folder: Path) -> None:
        """Of the authority in `folder`, which is made there unless another process has."""
        ca = folder / "ca"
        made = ca.exists()
        self.authority = (
            Authority.load(ca) if made else Authority.create(ca, TRUST_DOMAIN, now=datetime.now(UTC))
        )
        self.trust = Watch(Trust(self.authority.bundle))
        self.log = Lines()
        self.guard: Guard
        self.server: Any
        self.address = ""
        self._open = AsyncExitStack()

    def credentials(self, name: str, *, lifetime: timedelta = timedelta(hours=1)) -> Credentials:
        spiffe_id = SpiffeId.of(TRUST_DOMAIN, name)
        svid = self.authority.issue(spiffe_id, lifetime=lifetime, now=datetime.now(UTC))
        return Credentials(svid, self.authority.bundle)

    async def serve(
        self,
        methods: Mapping[str, tuple[Shape, Behaviour, Policy]],
        *,
        credentials: grpc.ServerCredentials | None = None,
        clock: Callable[[], datetime] | None = None,
        guard: Guard | None = None,
        options: Sequence[tuple[str, Any]] = (),
        **more: Any,
    ) -> str:
        """Start a server of `methods`, by name; its address. Closed with the stage."""
        self.guard = guard or self.new_guard(clock=clock, **more)
        self.guard.add(
            SERVICE,
            {name: self.method(behaviour, shape) for name, (shape, behaviour, _) in methods.items()},
            {name: said for name, (_, _, said) in methods.items()},
        )
        return await self.start(self.guard, credentials=credentials, options=options)

    def method(self, behaviour: Behaviour, shape: Shape, *how: Any) -> RpcMethod:
        """`behaviour` as this kind of server runs it."""
        return method(behaviour, shape, *how)

    def new_guard(self, *, clock: Callable[[], datetime] | None = None, **more: Any) -> Guard:
        more.setdefault("records", self.keeping(AccessLog(self.log, f"spiffe://{TRUST_DOMAIN}/server")))
        return Guard(
            self.trust,
            trust_domain=TRUST_DOMAIN,
            peer_check=PeerCheck(self.trust, clock=clock) if clock else None,
            **more,
        )

    def keeping(self, *sinks: Sink, made: Sequence[MadeSink] = ()) -> Records:
        """Records that go to `sinks`, and to `made` those of calls made; closed with the stage."""
        records = Records(sinks, made=made, every_s=0.02)
        self._open.callback(records.close)
        return records

    async def start(
        self,
        guard: Guard,
        *,
        credentials: grpc.ServerCredentials | None = None,
        insecure: bool = False,
        options: Sequence[tuple[str, Any]] = (),
    ) -> str:
        self.server = self.new_server(guard, [("grpc.so_reuseport", 0), *options])
        if insecure:
            port = self.server.add_insecure_port("127.0.0.1:0")
        else:
            tls = credentials or server_credentials(Watch(self.credentials("server")))
            port = self.server.add_secure_port("127.0.0.1:0", tls)
        await self.begin(self.server)
        self.address = f"127.0.0.1:{port}"
        return self.address

    def new_server(self, guard: Guard, options: Sequence[tuple[str, Any]]) -> Any:
        return guarded_server(guard, options)

    async def begin(self, server: Any) -> None:
        await server.start()
        self._open.push_async_callback(server.stop, 0)

    def channel(
        self,
        name: str = "gateway",
        *,
        address: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> grpc.aio.Channel:
        """A bare channel of core's, as `name`."""
        channel = grpc.aio.secure_channel(
            address or self.address,
            credentials or self.credentials(name).channel_credentials(),
            options=[
                ("grpc.ssl_target_name_override", f"server.{TRUST_DOMAIN}"),
                ("grpc.use_local_subchannel_pool", 1),
                *options,
            ],
        )
        self._open.push_async_callback(channel.close)
        return channel

    def guarded(
        self,
        name: str = "gateway",
        *,
        address: str | None = None,
        explain: Explain | None = None,
        to: str | None = None,
        **more: Any,
    ) -> grpc.aio.Channel:
        """The same, as the mesh hands it out."""
        return guarded(self.channel(name, address=address), explain=explain, to=to, **more)

    async def records(self, count: int = 1) -> list[dict[str, Any]]:
        """What the access log holds, once it has so many lines: a caller hears before the line is written."""
        return [json.loads(line) for line in await self.log.reach(count)]

    async def none_in_flight(self, peer: str) -> None:
        """Wait until each method that `peer` called has ended: in a thread, that may be after its call."""
        async with asyncio.timeout(5):
            while self.guard.in_flight.count(peer):  # noqa: ASYNC110 - the guard has no event for it
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        await self._open.aclose()
