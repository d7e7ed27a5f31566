"""The trace a call belongs to.

Source: W3C Trace Context (Level 1), sections 3.2 "Traceparent Header" and 4 "Processing Model".
"""

import itertools
import random
import re
import threading
from dataclasses import dataclass
from typing import Any, Self

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
BAGGAGE = "baggage"
MOST_BYTES = {TRACESTATE: 512, BAGGAGE: 2048}
"""What is carried on of each; more is dropped whole. All headers of a call may be 8 KiB."""

Metadata = tuple[tuple[str, str | bytes], ...]

_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.{0,400})?", re.ASCII)
_SAMPLED = 0x01
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_TOLD = frozenset({"trace_id", "span_id", "parent_id", "sampled"})
_telling = threading.Lock()
_KEPT = 11
"""Digits, of 16: that two spans of one trace share so many by chance is one in 10^13."""
_numbers = itertools.count(1)
_random = random.Random()  # noqa: S311 - IDs only have to differ; seeded by the system, whatever the program seeds


@dataclass(slots=True, kw_only=True)  # one is made for each call, and a frozen one takes three times as long
class TraceContext:
    """One span: 32 hex digits of trace, 16 of span, and the span it was called from, if any."""

    trace_id: str
    span_id: str
    parent_id: str | None = None
    sampled: bool = True

    @classmethod
    def new(cls, ratio: float = 1.0) -> Self:
        """The first span of a new trace, sampled in `ratio` of cases, by the trace id alone.

        Source: OpenTelemetry SDK, "TraceIdRatioBased": its lower half against that part of the range.
        """
        trace_id = f"{_random.getrandbits(128) or 1:032x}"
        sampled = ratio >= 1.0 or int(trace_id[16:], 16) < ratio * 2**64
        return cls(trace_id=trace_id, span_id=_span_id(), sampled=sampled)

    @classmethod
    def parse(cls, header: str) -> Self | None:
        """The caller's span, or None if the header is not a traceparent (section 3.2.2).

        A version we do not know is read as version 00, whatever follows its four fields (section 4.3).
        """
        read = _read(header)
        if read is None:
            return None
        trace_id, span_id, sampled = read
        return cls(trace_id=trace_id, span_id=span_id, sampled=sampled)

    @classmethod
    def arriving(cls, metadata: "Metadata", ratio: float = 1.0) -> Self:
        """The span of a call that came with `metadata`: the caller's child, or the first of a new trace.

        A child is sampled where its parent is, a first one in `ratio` of cases.

        An unreadable header, or a second one, is as good as none (section 4.2): tracing refuses no call.
        """
        headers = [value for key, value in metadata if key == TRACEPARENT]
        read = _read(headers[0]) if len(headers) == 1 and isinstance(headers[0], str) else None
        if read is None:
            return cls.new(ratio)
        trace_id, parent_id, sampled = read
        return cls(trace_id=trace_id, span_id=_span_id(), parent_id=parent_id, sampled=sampled)

    def child(self) -> "TraceContext":
        """A new span called from this one."""
        return TraceContext(
            trace_id=self.trace_id, span_id=_span_id(), parent_id=self.span_id, sampled=self.sampled
        )

    def keep(self, headers: "Metadata") -> None:
        """Of all that the call brought, only these are traceparents."""

    def let_go(self) -> None:
        """Keep nothing that the caller sent beyond those."""

    def of_a_call(self) -> "TraceContext":
        """A new span for a call made from this one.

        Its id begins as ours does: so who has the logs of servers alone, in which such spans are not, can
        tell from whose span a call came (`is_of`). It ends with a number of this process's.
        """
        span_id = f"{self.span_id[:_KEPT]}{next(_numbers) & 0xFFFFF or 1:05x}"
        return TraceContext(
            trace_id=self.trace_id, span_id=span_id, parent_id=self.span_id, sampled=self.sampled
        )

    def header(self) -> str:
        """The traceparent of calls made from this span."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


class ArrivingTrace(TraceContext):
    """`TraceContext.arriving`, told when somebody asks: most calls are over by then.

    To read a header and to make up an identifier takes 25 us of a call's own time, and 2 where a thread does
    it for many at once (records.py).
    """

    __slots__ = ("_metadata", "_ratio")

    def __init__(self, metadata: Metadata, ratio: float) -> None:
        self._metadata: Metadata | None = metadata
        self._ratio = ratio

    def __getattr__(self, name: str) -> Any:
        """Asked for what is not there yet."""
        if name not in _TOLD:
            raise AttributeError(name)
        with _telling:
            if self._metadata is not None:
                told = TraceContext.arriving(self._metadata, self._ratio)
                self.trace_id, self.span_id = told.trace_id, told.span_id
                self.parent_id, self.sampled = told.parent_id, told.sampled
                self._metadata = None
        return getattr(self, name)

    def keep(self, headers: Metadata) -> None:
        if self._metadata is not None:
            self._metadata = headers

    def let_go(self) -> None:
        if self._metadata is not None and len(self._metadata) > 1:
            self.__getattr__("trace_id")


def is_of(span_id: str, parent_id: str) -> bool:
    """Whether one may be the id of a call made from the other's span, or is the same."""
    return span_id[:_KEPT] == parent_id[:_KEPT]


def carried(metadata: Metadata, trace: TraceContext) -> list[tuple[str, str]]:
    """What calls made while serving one that came with `metadata` bring besides its trace, unread by us.

    Vendors' state goes with the traceparent it came with, or not at all (Trace Context, section 3.3; W3C
    Baggage, section 3.3). Headers that were split are joined.
    """
    found: dict[str, str] = {}
    for key, value in metadata:
        if key in MOST_BYTES and isinstance(value, str):
            found[key] = f"{found[key]},{value}" if key in found else value
    if trace.parent_id is None:
        found.pop(TRACESTATE, None)
    return [(key, value) for key, value in found.items() if value and len(value) <= MOST_BYTES[key]]


def _read(header: str) -> tuple[str, str, bool] | None:
    """Trace, span and whether it is sampled."""
    match = _HEADER.fullmatch(header)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return trace_id, span_id, bool(int(flags, 16) & _SAMPLED)


def _span_id() -> str:
    """Eight random bytes as hex, never all zero."""
    return f"{_random.getrandbits(64) or 1:016x}"
