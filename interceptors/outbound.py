"""Outgoing calls: what is left of the call being served goes with them, its trace, and its token where its
policy says so.

A channel of our own around core's, not client interceptors: those cost a task for each call, and one that
serves two shapes of call is used for the first only.
"""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import grpc

from hauberk.interceptors.calls_made import UNSEEN, Telemetry
from hauberk.interceptors.departure import MetadataLike, Outbound, departure
from hauberk.interceptors.outgoing import (
    Explain,
    Requests,
    StreamStream,
    StreamUnary,
    UnaryStream,
    UnaryUnary,
)

Serializer = Callable[[Any], bytes] | None
Deserializer = Callable[[bytes], Any] | None


def guarded(
    channel: grpc.aio.Channel,
    *,
    explain: Explain | None = None,
    to: str | None = None,
    trace_ratio: float = 1.0,
    telemetry: Telemetry = UNSEEN,
    target: str = "",
) -> grpc.aio.Channel:
    """`channel` for stubs: each call inherits deadline and trace of the call being served.

    A call for which no time is left raises AioRpcError DEADLINE_EXCEEDED at once and is not sent. `explain`
    turns an error into a hint, appended to its details; `to` names the workload every call is for. A call of
    no other begins a trace, sampled in `trace_ratio` of cases. `telemetry` sees the calls, which it is told
    go to `target`. Closing what is returned closes `channel`.
    """
    return GuardedChannel(
        channel, Outbound(explain=explain, to=to, trace_ratio=trace_ratio, telemetry=telemetry, target=target)
    )


class GuardedChannel(grpc.aio.Channel):
    """Makes guarded calls over another channel; everything else is that channel's."""

    def __init__(self, channel: grpc.aio.Channel, outbound: Outbound) -> None:
        self._channel: Any = channel  # the stubs of grpc do not know _registered_method
        self._outbound = outbound

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> grpc.aio.UnaryUnaryMultiCallable[Any, Any]:
        inner = self._channel.unary_unary(
            method, request_serializer, response_deserializer, _registered_method
        )
        return _UnaryUnary(inner, UnaryUnary, self._outbound, method, bool(_registered_method))

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> grpc.aio.UnaryStreamMultiCallable[Any, Any]:
        inner = self._channel.unary_stream(
            method, request_serializer, response_deserializer, _registered_method
        )
        return _UnaryStream(inner, UnaryStream, self._outbound, method, bool(_registered_method))

    def stream_unary(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> grpc.aio.StreamUnaryMultiCallable[Any, Any]:
        inner = self._channel.stream_unary(
            method, request_serializer, response_deserializer, _registered_method
        )
        return _StreamUnary(inner, StreamUnary, self._outbound, method, bool(_registered_method))

    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> grpc.aio.StreamStreamMultiCallable[Any, Any]:
        inner = self._channel.stream_stream(
            method, request_serializer, response_deserializer, _registered_method
        )
        return _StreamStream(inner, StreamStream, self._outbound, method, bool(_registered_method))

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)  # type: ignore[no-any-return]

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    async def __aenter__(self) -> Self:
        await self._channel.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        return await self._channel.__aexit__(exc_type, exc_val, exc_tb)  # type: ignore[no-any-return]


class _MultiCallable:
    """What a stub calls: core's multicallable, whose call leaves with budget and trace."""

    _one_reply = True

    def __init__(
        self,
        inner: Callable[..., Any],
        shape: Callable[..., Any],
        outbound: Outbound,
        method: str,
        registered: bool,
    ) -> None:
        """`registered` if generated code made it."""
        self._contract = method[1:].rpartition("/")[0]
        self._inner = inner
        self._shape = shape
        self._outbound = outbound
        self._method = method
        self._registered = registered

    def _leave(
        self, request: Any, timeout: float | None, metadata: MetadataLike | None, options: Mapping[str, Any]
    ) -> Any:
        """Raises AioRpcError DEADLINE_EXCEEDED, with nothing sent, if no time is left."""
        outbound = self._outbound
        contract = None if options.get("credentials") else self._contract
        left, leaving, made = departure(
            outbound, self._method, timeout, metadata, contract=contract, registered=self._registered
        )
        try:
            call = self._inner(request, timeout=left, metadata=leaving, **options)
        except Exception as error:
            if made is not None:
                made.failed(error)
            raise
        if made is not None:
            made.follow(call, one_reply=self._one_reply)
        return self._shape(call, outbound.explain, self._method, left)


class _OneRequest(_MultiCallable):
    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        **options: Any,
    ) -> Any:
        return self._leave(request, timeout, metadata, options)


class _ManyRequests(_MultiCallable):
    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: MetadataLike | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        options = {"credentials": credentials, "wait_for_ready": wait_for_ready, "compression": compression}
        requests = None if request_iterator is None else Requests(request_iterator)
        call = self._leave(requests, timeout, metadata, options)
        call.requests = requests
        return call


class _UnaryUnary(_OneRequest, grpc.aio.UnaryUnaryMultiCallable[Any, Any]):
    pass


class _UnaryStream(_OneRequest, grpc.aio.UnaryStreamMultiCallable[Any, Any]):
    _one_reply = False


class _StreamUnary(_ManyRequests, grpc.aio.StreamUnaryMultiCallable[Any, Any]):
    pass


class _StreamStream(_ManyRequests, grpc.aio.StreamStreamMultiCallable[Any, Any]):
    _one_reply = False
