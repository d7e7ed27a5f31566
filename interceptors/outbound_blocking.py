"""Outgoing calls of code that is not asyncio: what outbound.py is for the other kind.

Around a real channel of grpc's blocking API: a call handed to an event loop in another thread and back took
1.5 to 3 times the CPU of this one, and its streams a hop for each message.
"""

import contextvars
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
from grpc.aio import AioRpcError

from hauberk.interceptors.errors import ChannelClosed, Draining, rpc_error
from hauberk.interceptors.outbound import departure
from hauberk.interceptors.outgoing import BROKEN_OFF, Explain

_CLOSED = ("Channel closed!", "Locally cancelled by application!")
"""The details core gives a call that was ended on our side."""

Streaming = Callable[[str, Any], None]
"""Told of each call that streams, and of its path."""


class RpcFailed(grpc.RpcError, grpc.Call):
    """A call that failed, as whoever made it should see it. It is over, and so the simplest of calls."""

    def __init__(self, error: Any, details: str | None = None) -> None:
        """Of `error`, which has a status; `details` in place of its own."""
        said = error.details() if details is None else details
        super().__init__(f"{error.code().name}: {said}")
        self._error = error
        self._details = said

    def code(self) -> grpc.StatusCode:
        return self._error.code()  # type: ignore[no-any-return]

    def details(self) -> str:
        return self._details or ""

    def initial_metadata(self) -> Any:
        return tuple(self._error.initial_metadata() or ())

    def trailing_metadata(self) -> Any:
        return tuple(self._error.trailing_metadata() or ())

    def debug_error_string(self) -> str:
        return str(self._error.debug_error_string())

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float:
        return 0.0

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: Any) -> bool:
        return False


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
    ) -> None:
        """`explain` turns an error into a hint; `to` names the workload every call is for."""
        self.pick = pick
        self.explain = explain
        self.to = to
        self.streaming = streaming
        self.trace_ratio = trace_ratio

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
    """What a stub calls."""

    def __init__(
        self, channel: BlockingChannel, shape: str, method: tuple[Any, ...], how: dict[str, Any]
    ) -> None:
        self._channel = channel
        self._shape = shape
        self._method = method
        self._how = how
        self._path: str = method[0] if method else how["method"]
        self._contract = self._path[1:].rpartition("/")[0]
        self._made: tuple[grpc.Channel | None, Any] = (None, None)

    def _core(self) -> Any:
        """Core's own, of the channel of this moment."""
        channel = self._channel.pick()
        made = self._made
        if made[0] is not channel:
            made = self._made = (channel, getattr(channel, self._shape)(*self._method, **self._how))
        return made[1]

    def _leaving(self, timeout: float | None, metadata: Any, options: dict[str, Any]) -> dict[str, Any]:
        try:
            contract = None if options.get("credentials") else self._contract
            left, leaving = departure(
                timeout, metadata, self._channel.to, contract, self._channel.trace_ratio
            )
        except AioRpcError as refused:
            raise RpcFailed(refused) from None
        return {**options, "timeout": left, "metadata": leaving}

    def _requests(self, request: Any) -> Any:
        return Requests(request) if self._shape.startswith("stream") else request

    def _begun(self, call: Any, requests: Any) -> Any:
        if self._channel.streaming is not None and self._shape != "unary_unary":
            self._channel.streaming(self._path, call)
        return Outgoing(call, requests, self._channel.explain)


class _OneReply(_Method):
    def __call__(self, request: Any, timeout: float | None = None, metadata: Any = None, **more: Any) -> Any:
        return self.with_call(request, timeout, metadata, **more)[0]

    def with_call(self, request: Any, timeout: float | None = None, metadata: Any = None, **more: Any) -> Any:
        requests, core = self._requests(request), self._core()
        options = self._leaving(timeout, metadata, more)
        if requests is request or self._channel.streaming is None:
            try:
                return core.with_call(requests, **options)
            except grpc.RpcError as error:
                raise failed(error, self._channel.explain, requests) from None
        call = self._begun(core.future(requests, **options), requests)  # one that can be ended from outside
        return call.result(), call

    def future(self, request: Any, timeout: float | None = None, metadata: Any = None, **more: Any) -> Any:
        requests, core = self._requests(request), self._core()
        return self._begun(core.future(requests, **self._leaving(timeout, metadata, more)), requests)


class _ManyReplies(_Method):
    def __call__(self, request: Any, timeout: float | None = None, metadata: Any = None, **more: Any) -> Any:
        requests, core = self._requests(request), self._core()
        return self._begun(core(requests, **self._leaving(timeout, metadata, more)), requests)


class Requests:
    """The requests of a call as its caller makes them, in its context though in core's thread.

    What the making raised is kept: core would drop that.
    """

    def __init__(self, made: Iterable[Any]) -> None:
        self._made = iter(made)
        self._context = contextvars.copy_context()
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return self._context.run(next, self._made)
        except StopIteration:
            raise
        except Exception as error:
            self.error = error
            raise


class Outgoing:
    """One call as its caller holds it: core's own, whose errors say more."""

    def __init__(self, call: Any, requests: Any, explain: Explain | None) -> None:
        self._call = call
        self._requests = requests
        self._explain = explain
        self._cancelled = False

    def cancel(self) -> bool:
        self._cancelled = True
        return bool(self._call.cancel())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __iter__(self) -> "Outgoing":
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise self._failed(error) from None

    def result(self, timeout: float | None = None) -> Any:
        try:
            return self._call.result(timeout)
        except grpc.RpcError as error:
            raise self._failed(error) from None

    def exception(self, timeout: float | None = None) -> BaseException | None:
        error = self._call.exception(timeout)
        return self._failed(error) if isinstance(error, grpc.RpcError) else error

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._call.add_done_callback(lambda _: callback(self))

    def _failed(self, error: Any) -> Exception:
        return failed(error, self._explain, self._requests, cancelled=self._cancelled)


grpc.Call.register(Outgoing)
grpc.Future.register(Outgoing)


def failed(
    error: Any, explain: Explain | None, requests: Any = None, *, cancelled: bool = False
) -> Exception:
    """What the caller should see for `error`, which core raised; `cancelled` if the caller wished it."""
    if isinstance(requests, Requests) and requests.error is not None:
        return requests.error
    if error.code() is grpc.StatusCode.CANCELLED and not cancelled:
        if error.details() == BROKEN_OFF:
            broken_off = Draining("the server broke the call off: it is leaving", reason="BROKEN_OFF")
            return RpcFailed(rpc_error(broken_off))
        if error.details() in _CLOSED:
            return RpcFailed(rpc_error(ChannelClosed("channel was closed while the call was in flight")))
    hint = None if explain is None else explain(error)
    return RpcFailed(error, f"{error.details()} ({hint})" if hint else None)
