"""Both kinds of client, so that one test can be about both."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import grpc
from opentelemetry.instrumentation.grpc import aio_client_interceptors, client_interceptor
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel

from hauberk.interceptors.calls_made import UNSEEN, Telemetry
from hauberk.interceptors.outbound import guarded
from hauberk.interceptors.outbound_blocking import BlockingChannel
from tests.interceptors.stage import TRUST_DOMAIN, Shape, Stage, path

KINDS = ("asyncio", "blocking")
TARGET = "xds:///mesh"
OPTIONS = (("grpc.ssl_target_name_override", f"server.{TRUST_DOMAIN}"), ("grpc.use_local_subchannel_pool", 1))
Serializers = tuple[Callable[[Any], bytes], Callable[[bytes], Any]]


class Client(Protocol):
    async def call(
        self,
        shape: Shape,
        name: str = "Echo",
        *,
        requests: Any = (b"hello",),
        within: float | None = 10,
        registered: bool = True,
        serializers: Serializers | None = None,
        **how: Any,
    ) -> list[Any]:
        """The replies of one call; raises what the stub raises."""


class AsyncioClient:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel: Any = channel

    async def call(
        self,
        shape: Shape,
        name: str = "Echo",
        *,
        requests: Any = (b"hello",),
        within: float | None = 10,
        registered: bool = True,
        serializers: Serializers | None = None,
        **how: Any,
    ) -> list[Any]:
        make = getattr(self.channel, shape.name.lower())
        method = make(path(name), *(serializers or (None, None)), _registered_method=registered)
        made = method(iter(requests) if shape.requests_stream else requests[0], timeout=within, **how)
        return [reply async for reply in made] if shape.replies_stream else [await made]


class BlockingClient:
    def __init__(self, channel: grpc.Channel) -> None:
        self.channel: Any = channel

    async def call(self, shape: Shape, name: str = "Echo", **how: Any) -> list[Any]:
        return await asyncio.to_thread(self._call, shape, name, **how)

    def _call(
        self,
        shape: Shape,
        name: str,
        *,
        requests: Any = (b"hello",),
        within: float | None = 10,
        registered: bool = True,
        serializers: Serializers | None = None,
        **how: Any,
    ) -> list[Any]:
        make = getattr(self.channel, shape.name.lower())
        method = make(path(name), *(serializers or (None, None)), _registered_method=registered)
        made = method(iter(requests) if shape.requests_stream else requests[0], timeout=within, **how)
        return list(made) if shape.replies_stream else [made]


@asynccontextmanager
async def client(
    kind: str,
    stage: Stage,
    name: str = "gateway",
    *,
    address: str = "",
    telemetry: Telemetry = UNSEEN,
    **how: Any,
) -> AsyncIterator[Client]:
    """A client of the stage's server, or of that at `address`, over a channel as the mesh hands it out."""
    credentials, address = stage.credentials(name).channel_credentials(), address or stage.address
    if kind == "asyncio":
        async with grpc.aio.secure_channel(address, credentials, OPTIONS) as channel:
            yield AsyncioClient(guarded(channel, telemetry=telemetry, target=TARGET, **how))
    else:
        made = grpc.secure_channel(address, credentials, OPTIONS)
        yield BlockingClient(BlockingChannel(lambda: made, telemetry=telemetry, target=TARGET, **how))
        await asyncio.to_thread(made.close)


@asynccontextmanager
async def instrumented(kind: str, address: str, stage: Stage, provider: Any) -> AsyncIterator[Client]:
    """A client over a bare channel with opentelemetry-instrumentation-grpc."""
    credentials = stage.credentials("gateway").channel_credentials()
    if kind == "asyncio":
        interceptors = aio_client_interceptors(tracer_provider=provider)  # type: ignore[no-untyped-call]
        async with grpc.aio.secure_channel(
            address, credentials, OPTIONS, interceptors=interceptors
        ) as channel:
            yield AsyncioClient(channel)
    else:
        made = grpc.secure_channel(address, credentials, OPTIONS)
        interceptor = client_interceptor(tracer_provider=provider)  # type: ignore[no-untyped-call]
        yield BlockingClient(intercept_channel(made, interceptor))  # type: ignore[no-untyped-call]
        await asyncio.to_thread(made.close)
