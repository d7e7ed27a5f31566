"""Outgoing calls: what is left of the call being served goes with them, its trace, and its token where its
policy says so.

A channel of our own around core's, not client interceptors: those cost a task for each call, and one that
serves two shapes of call is used for the first only.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from hauberk.interceptors.call import current_call, passed_on
from hauberk.interceptors.deadline import budget
from hauberk.interceptors.demands import Priority
from hauberk.interceptors.errors import Refused, rpc_error
from hauberk.interceptors.metadata import AUTHORIZATION, BUDGET, LONGEST_BUDGET_S, PRIORITY, TO
from hauberk.interceptors.outgoing import (
    Explain,
    Requests,
    StreamStream,
    StreamUnary,
    UnaryStream,
    UnaryUnary,
)
from hauberk.interceptors.tracing import TRACEPARENT, TRACESTATE, TraceContext, carried

MetadataLike = grpc.aio.Metadata | Sequence[tuple[str, str | bytes]]
Serializer = Callable[[Any], bytes] | None
Deserializer = Callable[[bytes], Any] | None


def guarded(
    channel: grpc.aio.Channel,
    *,
    explain: Explain | None = None,
    to: str | None = None,
    trace_ratio: float = 1.0,
) -> grpc.aio.Channel:
    """`channel` for stubs: each call inherits deadline and trace of the call being served.

    A call for which no time is left raises AioRpcError DEADLINE_EXCEEDED at once and is not sent. `explain`
    turns an error into a hint, appended to its details; `to` names the workload every call is for. A call of
    no other begins a trace, sampled in `trace_ratio` of cases. Closing what is returned closes `channel`.
    """
    return GuardedChannel(channel, explain, to, trace_ratio)


class GuardedChannel(grpc.aio.Channel):
    """Makes guarded calls over another channel; everything else is that channel's."""

    def __init__(
        self, channel: grpc.aio.Channel, explain: Explain | None, to: str | None, trace_ratio: float
    ) -> None:
        self._channel: Any = channel  # the stubs of grpc do not know _registered_method
        self._explain = explain
        self._to = to
        self._trace_ratio = trace_ratio

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
        return _UnaryUnary(inner, UnaryUnary, self._explain, self._to, method, self._trace_ratio)

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
        return _UnaryStream(inner, UnaryStream, self._explain, self._to, method, self._trace_ratio)

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
        return _StreamUnary(inner, StreamUnary, self._explain, self._to, method, self._trace_ratio)

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
        return _StreamStream(inner, StreamStream, self._explain, self._to, method, self._trace_ratio)

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

    def __init__(
        self,
        inner: Callable[..., Any],
        shape: Callable[..., Any],
        explain: Explain | None,
        to: str | None,
        method: str,
        trace_ratio: float,
    ) -> None:
        self._contract = method[1:].rpartition("/")[0]
        self._inner = inner
        self._shape = shape
        self._explain = explain
        self._to = to
        self._trace_ratio = trace_ratio

    def _leave(
        self, request: Any, timeout: float | None, metadata: MetadataLike | None, options: Mapping[str, Any]
    ) -> Any:
        """Raises AioRpcError DEADLINE_EXCEEDED, with nothing sent, if no time is left."""
        contract = None if options.get("credentials") else self._contract
        left, leaving = departure(timeout, metadata, self._to, contract, self._trace_ratio)
        return self._shape(self._inner(request, timeout=left, metadata=leaving, **options), self._explain)


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
    pass


class _StreamUnary(_ManyRequests, grpc.aio.StreamUnaryMultiCallable[Any, Any]):
    pass


class _StreamStream(_ManyRequests, grpc.aio.StreamStreamMultiCallable[Any, Any]):
    pass


def departure(
    timeout: float | None,
    metadata: MetadataLike | None,
    to: str | None,
    contract: str | None,
    trace_ratio: float = 1.0,
) -> tuple[float | None, tuple[tuple[str, str | bytes], ...]]:
    """The seconds and the metadata that a call leaves with, from within the call being served.

    The token of that one goes along where its policy passes it on to `contract`; None: to nobody. A new
    trace is sampled in `trace_ratio` of cases. Raises AioRpcError DEADLINE_EXCEEDED if no time is left.
    """
    call = current_call()
    trace = TraceContext.new(trace_ratio) if call is None else call.trace
    try:
        left = budget(timeout, None if call is None else call.deadline, time.monotonic())
    except Refused as refused:
        raise rpc_error(refused, trace.trace_id) from None
    on = [] if call is None else carried(call.metadata, call.trace)
    token = None if contract is None else passed_on(contract)
    if token is not None:
        on.append((AUTHORIZATION, token))
    if call is not None and call.priority is not Priority.HIGH:
        on.append((PRIORITY, call.priority.name.lower()))
    return left, _leaving(metadata or (), trace, on, to, left)


def _leaving(
    metadata: MetadataLike,
    trace: TraceContext,
    on: Sequence[tuple[str, str]],
    to: str | None,
    left_s: float | None,
) -> tuple[tuple[str, str | bytes], ...]:
    """The caller's own metadata, and ours: trace, what goes `on` with it, workload and budget.

    Of trace and token, what the caller set itself stays; a workload or budget it named does not.
    """
    leaving = [pair for pair in metadata if pair[0] != BUDGET and (to is None or pair[0] != TO)]
    own = {key.lower() for key, _ in leaving}
    if TRACEPARENT not in own:
        leaving.append((TRACEPARENT, trace.header()))
    else:
        own.add(TRACESTATE)
    leaving += [pair for pair in on if pair[0] not in own or pair[0] == PRIORITY]  # the lowest is taken
    if to is not None:
        leaving.append((TO, to))
    if left_s is not None and left_s <= LONGEST_BUDGET_S:
        leaving.append((BUDGET, str(int(left_s * 1000))))
    return tuple(leaving)
