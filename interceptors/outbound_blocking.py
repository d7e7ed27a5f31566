"""Outgoing calls of code that is not asyncio: what outbound.py is for the other kind.

Around a real channel of grpc's blocking API: a call handed to an event loop in another thread and back took
1.5 to 3 times the CPU of this one, and its streams a hop for each message.
"""

from collections.abc import Callable
from itertools import repeat
from typing import Any

import grpc
from grpc.aio import AioRpcError

from hauberk.interceptors.calls_made import UNSEEN, CallMade, Telemetry
from hauberk.interceptors.departure import Outbound, departure
from hauberk.interceptors.outgoing import Explain
from hauberk.interceptors.outgoing_blocking import Outgoing, Requests, RpcFailed, failed, timed

_ARGUMENTS = ("method", "request_serializer", "response_deserializer", "_registered_method")

Streaming = Callable[[str, Any], None]
"""Told of each call that streams, and of its path."""


class BlockingChannel(grpc.Channel):
    """For stubs in threads: each call inherits deadline and trace of the call, or web request, being served.

    Every call goes over the channel that `pick` returns at that moment; closing is for whoever owns those. A
    call for which no time is left raises RpcFailed DEADLINE_EXCEEDED at once and is not sent.
    """

    def __init__(
        self,
        pick: Callable[[], grpc.Channel],
        explain: Explain | None = None,
        to: str | None = None,
        streaming: Streaming | None = None,
        *,
        trace_ratio: float = 1.0,
        telemetry: Telemetry = UNSEEN,
        target: str = "",
    ) -> None:
        """`explain` turns an error into a hint; `to` names the workload every call is for. `telemetry` sees
        the calls, which it is told go to `target`.
        """
        self.pick = pick
        self.explain = explain
        self.streaming = streaming
        self.outbound = Outbound(
            explain=explain, to=to, trace_ratio=trace_ratio, telemetry=telemetry, target=target
        )

    def unary_unary(self, *method: Any, **how: Any) -> Any:
        return _OneReply(self, "unary_unary", method, how)

    def unary_stream(self, *method: Any, **how: Any) -> Any:
        return _ManyReplies(self, "unary_stream", method, how)

    def stream_unary(self, *method: Any, **how: Any) -> Any:
        return _OneReply(self, "stream_unary", method, how)

    def stream_stream(self, *method: Any, **how: Any) -> Any:
        return _ManyReplies(self, "stream_stream", method, how)

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:
        self.pick().subscribe(callback, bool(try_to_connect))

    def unsubscribe(self, callback: Any) -> None:
        self.pick().unsubscribe(callback)

    def close(self) -> None:
        """Nothing: see the class."""

    def __enter__(self) -> "BlockingChannel":
        return self

    def __exit__(self, *_: object) -> None:
        return None


class _Method:
    """What a stub calls.

    Where calls are noted, core is given each request together with the call that it is of, and gives each
    reply together with its size: a serializer knows of no call, and where it fails core is to say so.
    """

    def __init__(
        self, channel: BlockingChannel, shape: str, method: tuple[Any, ...], how: dict[str, Any]
    ) -> None:
        self._channel = channel
        self._shape = shape
        named = dict(zip(_ARGUMENTS, method, strict=False)) | how
        self._path: str = named["method"]
        self._contract = self._path[1:].rpartition("/")[0]
        self._registered = bool(named.get("_registered_method"))
        self._many_replies = shape.endswith("stream")
        if channel.outbound.telemetry.keep is not None:
            named["request_serializer"] = _noting(named.get("request_serializer"))
            if not self._many_replies:
                named["response_deserializer"] = _sizing(named.get("response_deserializer"))
        self._named = named
        self._made: tuple[grpc.Channel | None, Any] = (None, None)

    def _core(self) -> Any:
        """Core's own, of the channel of this moment."""
        channel = self._channel.pick()
        made = self._made
        if made[0] is not channel:
            made = self._made = (channel, getattr(channel, self._shape)(**self._named))
        return made[1]

    def _leaving(
        self, timeout: float | None, metadata: Any, options: dict[str, Any]
    ) -> tuple[dict[str, Any], CallMade | None]:
        contract = None if options.get("credentials") else self._contract
        try:
            left, leaving, made = departure(
                self._channel.outbound,
                self._path,
                timeout,
                metadata,
                contract=contract,
                registered=self._registered,
            )
        except AioRpcError as refused:
            raise RpcFailed(refused) from None
        return {**options, "timeout": left, "metadata": leaving}, made

    def _requests(self, request: Any) -> Any:
        return Requests(request) if self._shape.startswith("stream") else request

    def _begin(self, start: Callable[..., Any], requests: Any, timeout: Any, metadata: Any, more: Any) -> Any:
        """The call, which has begun, as its caller holds it."""
        options, made = self._leaving(timeout, metadata, more)
        if made is None:
            call = start(requests, **options)
        else:
            try:
                call = start(_of(made, requests), **options)
            except Exception as error:
                made.failed(error)
                raise
            made.follow_blocking(call, one_reply=not self._many_replies)
        if self._channel.streaming is not None and self._shape != "unary_unary":
            self._channel.streaming(self._path, call)
        sized = made is not None and not self._many_replies
        explain, left = self._channel.explain, options["timeout"]
        return Outgoing(call, requests, explain, self._path, left, sized=sized)


class _OneReply(_Method):
    def __call__(self, request: Any, timeout: float | None = None, metadata: Any = None, **more: Any) -> Any:
        return self.with_call(request, timeout, metadata, **more)[0]

    def with_call(self, request: Any, timeout: float | None = None, metadata: Any = None, **more: Any) -> Any:
        requests, core = self._requests(request), self._core()
        if requests is not request and self._channel.streaming is not None:
            call = self._begin(core.future, requests, timeout, metadata, more)  # can be ended from outside
            return call.result(), call
        options, made = self._leaving(timeout, metadata, more)
        try:
            if made is None:
                return core.with_call(requests, **options)
            (made.received, reply), call = core.with_call(_of(made, requests), **options)
        except grpc.RpcError as error:
            if made is not None:
                made.failed(error)
            seen = failed(error, self._channel.explain, requests)
            raise timed(seen, self._path, options["timeout"]) from None
        made.over(grpc.StatusCode.OK)
        return reply, call

    def future(self, request: Any, timeout: float | None = None, metadata: Any = None, **more: Any) -> Any:
        return self._begin(self._core().future, self._requests(request), timeout, metadata, more)


class _ManyReplies(_Method):
    def __call__(self, request: Any, timeout: float | None = None, metadata: Any = None, **more: Any) -> Any:
        return self._begin(self._core(), self._requests(request), timeout, metadata, more)


def _of(made: CallMade, requests: Any) -> Any:
    """Each of the requests together with the call that it is of."""
    return zip(repeat(made), requests, strict=False) if isinstance(requests, Requests) else (made, requests)


def _noting(write: Callable[[Any], bytes] | None) -> Callable[[tuple[CallMade, Any]], bytes]:
    def write_noted(request: tuple[CallMade, Any]) -> bytes:
        made, message = request
        written: bytes = message if write is None else write(message)
        made.sent += len(written)
        return written

    return write_noted


def _sizing(read: Callable[[bytes], Any] | None) -> Callable[[bytes], tuple[int, Any] | None]:
    def read_sized(message: bytes) -> tuple[int, Any] | None:
        reply = message if read is None else read(message)
        return None if reply is None else (len(message), reply)  # None: core takes it for a failure

    return read_sized
