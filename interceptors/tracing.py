"""The trace a call belongs to.

Source: W3C Trace Context (Level 1), sections 3.2 "Traceparent Header" and 4 "Processing Model".
"""

import re
import secrets
from dataclasses import dataclass
from typing import Self

TRACEPARENT = "traceparent"

_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.{0,400})?", re.ASCII)
_SAMPLED = 0x01


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """One span: 32 hex digits of trace, 16 of span, and the span it was called from, if any."""

    trace_id: str
    span_id: str
    parent_id: str | None = None
    sampled: bool = True

    @classmethod
    def new(cls) -> Self:
        """The first span of a new trace."""
        return cls(trace_id=_hex(16), span_id=_hex(8))

    @classmethod
    def parse(cls, header: str) -> Self | None:
        """The caller's span, or None if the header is not a traceparent (section 3.2.2).

        A version we do not know is read as version 00, whatever follows its four fields (section 4.3).
        """
        match = _HEADER.fullmatch(header)
        if match is None:
            return None
        version, trace_id, span_id, flags, rest = match.groups()
        if version == "ff" or (version == "00" and rest is not None):
            return None
        if not trace_id.strip("0") or not span_id.strip("0"):
            return None
        return cls(trace_id=trace_id, span_id=span_id, sampled=bool(int(flags, 16) & _SAMPLED))

    @classmethod
    def arriving(cls, metadata: "tuple[tuple[str, str | bytes], ...]") -> Self:
        """The span of a call that came with `metadata`: the caller's child, or the first of a new trace.

        An unreadable header, or a second one, is as good as none (section 4.2): tracing refuses no call.
        """
        headers = [value for key, value in metadata if key == TRACEPARENT]
        caller = cls.parse(headers[0]) if len(headers) == 1 and isinstance(headers[0], str) else None
        return cls.new() if caller is None else caller.child()

    def child(self) -> Self:
        """A new span called from this one."""
        return type(self)(
            trace_id=self.trace_id, span_id=_hex(8), parent_id=self.span_id, sampled=self.sampled
        )

    def header(self) -> str:
        """The traceparent of calls made from this span."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def _hex(size: int) -> str:
    """Random bytes as hex, never all zero."""
    while not (digits := secrets.token_hex(size)).strip("0"):
        pass
    return digits
