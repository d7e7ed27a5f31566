"""Calls that this process makes, noted when they are over: what records.py is for those it serves.

A call pays for one object, which is its own record: grpc.aio and grpc tell it what was sent, what came and
that it is over, in the places where they keep such things; no interceptor, no task and no copy is made. What
is not known is not told: core repeats a call by itself and says nothing of it, so there are calls here, and
no attempts.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import msgspec

from hauberk.interceptors.call import Call
from hauberk.interceptors.tracing import TraceContext

_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
_OK = 0


class CallMade(msgspec.Struct, gc=False):
    """One call from its departure to its end. `began` and `ended` are monotonic seconds; sizes are bytes of
    messages, as serialised.

    It is not for the garbage collector, so it lets go of the call that holds it when that is over.
    """

    method: str
    """Its path, "/package.Service/Method"."""
    target: str
    """What its channel was made for, as gRPC spells it."""
    named: bool
    """Whether generated code calls it: then its name is a contract's, and no caller's invention."""
    trace: TraceContext | None
    """Its own span, or that which it was made from; None where the caller has a span for it."""
    spans: bool
    """Whether the span is its own."""
    began: float
    keep: "Callable[[CallMade], None] | None"
    """Where it goes when it is over, once."""
    budget_s: float | None = None
    """What it had, None without a deadline."""
    inherits: bool = False
    """Whether that is what was left of the call it was made for."""
    ended: float = 0.0
    code: int = _OK
    trailers: Any = None
    """Trailing metadata of a call that failed."""
    sent: int = 0
    received: int = 0
    _core: Any = None
    _write: Any = None
    _read: Any = None
    _awaits: bool = False
    """Whether it is over only when its one reply has been read."""

    @property
    def status(self) -> str:
        return _NAMES.get(self.code, "UNKNOWN")

    def follow(self, call: Any, *, one_reply: bool) -> None:
        """Take note of `call`, one of grpc.aio's that has just been made. Nothing is noted where this grpcio
        is not built as we know it.
        """
        try:
            core = call._cython_call
            self._write, self._read = call._request_serializer, call._response_deserializer
            core._status  # noqa: B018 - there, or AttributeError
        except AttributeError:
            return
        self._core, self._awaits = core, one_reply
        call._request_serializer, call._response_deserializer = self.write, self.read
        core.add_done_callback(self._done)

    def follow_blocking(self, call: Any, *, one_reply: bool) -> None:
        """The same for one of grpc's blocking calls; its one reply has to come together with its size."""
        self._awaits = one_reply
        if not one_reply:
            try:
                self._read = call._response_deserializer
            except AttributeError:
                return
            call._response_deserializer = self.read
        call.add_done_callback(self._ended)

    def write(self, message: Any) -> Any:
        """Called by core for each message that is sent."""
        written = message if self._write is None else self._write(message)
        self.sent += len(written)
        return written

    def read(self, message: bytes) -> Any:
        """Called by core for each message that has come."""
        self.received += len(message)
        try:
            return message if self._read is None else self._read(message)
        finally:
            if self._awaits:
                self._awaits = False
                if self.ended:
                    self._keep()

    def over(self, code: grpc.StatusCode, trailers: Any = None) -> None:
        """It has ended so. A second time does nothing."""
        self.ended = time.monotonic()
        self.code = code.value[0]
        self.trailers = trailers if self.code else None
        self._keep()

    def failed(self, error: BaseException) -> None:
        """It has ended with what a stub raises, sent or not."""
        code = getattr(error, "code", None)
        if callable(code):
            self.over(code(), error.trailing_metadata())  # type: ignore[attr-defined]

    def _done(self) -> None:
        """Called by core when it has the status: before the one reply of a call that went well is read."""
        status, self._core = self._core._status, None
        self.ended = time.monotonic()
        if status is not None:
            self.code = status.code()
            if self.code:
                self.trailers = status.trailing_metadata()
        if self.code or not self._awaits:
            self._keep()

    def _ended(self, call: Any) -> None:
        """Called by core when a blocking call has its status."""
        code = call.code()
        if self._awaits and code is grpc.StatusCode.OK:
            self.received = call.result()[0]
        self.over(code, call.trailing_metadata())

    def _keep(self) -> None:
        keep, self.keep = self.keep, None
        if keep is not None:
            keep(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """What the channels of a process need so that their calls are seen."""

    keep: Callable[[CallMade], None] | None = None
    """Takes each call when it is over; None: nobody wants to know."""
    spans: bool = False
    """Whether calls that are sampled have a span of their own."""
    around: Callable[[Call | None], TraceContext | None] | None = None
    """Tells which span of OpenTelemetry's SDK a call is made in, within the call being served."""

    def made(self, method: str, target: str, named: bool, trace: TraceContext, began: float) -> CallMade:
        """A call that is about to be made."""
        return CallMade(method, target, named, trace, self.spans, began, self.keep)


UNSEEN = Telemetry()
