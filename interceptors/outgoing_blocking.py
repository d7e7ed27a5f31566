"""One outgoing call of a blocking stub as its caller holds it: what outgoing.py is for the other kind."""

import contextvars
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc

from hauberk.interceptors.errors import ChannelClosed, Draining, rpc_error
from hauberk.interceptors.hops import hop
from hauberk.interceptors.outgoing import BROKEN_OFF, Explain

_CLOSED = ("Channel closed!", "Locally cancelled by application!")
"""The details core gives a call that was ended on our side."""


class RpcFailed(grpc.RpcError, grpc.Call):
    """A call that failed, as whoever made it should see it. It is over, and so the simplest of calls."""

    hop = ""
    """Which call it was that had no time left, and what it had: see hops.py."""

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

    def __init__(
        self,
        call: Any,
        requests: Any,
        explain: Explain | None,
        method: str,
        budget_s: float | None,
        *,
        sized: bool = False,
    ) -> None:
        """`call` is of `method`, and has `budget_s` seconds, None without a deadline; `sized` if core gives
        the one reply together with its size.
        """
        self._call = call
        self._requests = requests
        self._explain = explain
        self._method = method
        self._budget_s = budget_s
        self._sized = sized
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
            reply = self._call.result(timeout)
        except grpc.RpcError as error:
            raise self._failed(error) from None
        return reply[1] if self._sized else reply

    def exception(self, timeout: float | None = None) -> BaseException | None:
        error = self._call.exception(timeout)
        return self._failed(error) if isinstance(error, grpc.RpcError) else error

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._call.add_done_callback(lambda _: callback(self))

    def _failed(self, error: Any) -> Exception:
        seen = failed(error, self._explain, self._requests, cancelled=self._cancelled)
        return timed(seen, self._method, self._budget_s)


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


def timed(error: Exception, method: str, budget_s: float | None) -> Exception:
    """`error`, which says what the call of `method` had where it had too little."""
    if isinstance(error, RpcFailed) and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        error.hop = hop(method, budget_s)
    return error
