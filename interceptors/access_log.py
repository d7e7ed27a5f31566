"""One line for each call, when it is over.

Names follow the Elastic Common Schema and OpenTelemetry's semantic conventions where they have one.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self, TextIO

import msgspec

from hauberk.interceptors.call import Call


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One finished call. Times in milliseconds; `budget_ms` is what the caller's deadline left at arrival."""

    at: datetime
    """When it began."""
    method: str
    trace_id: str
    span_id: str
    parent_id: str | None
    client: str | None
    """The caller's SPIFFE ID; None if it could not be told."""
    duration_ms: float
    budget_ms: float | None
    status: str
    reason: str | None
    """Why we refused it; None if we did not."""

    @classmethod
    def of(cls, call: Call, *, status: str, reason: str | None) -> Self:
        """What is known of `call`, which is over now."""
        seconds = time.monotonic() - call.started
        return cls(
            at=datetime.fromtimestamp(time.time() - seconds, UTC),
            method=call.method,
            trace_id=call.trace.trace_id,
            span_id=call.trace.span_id,
            parent_id=call.trace.parent_id,
            client=None if call.peer is None else str(call.peer.spiffe_id),
            duration_ms=round(seconds * 1000, 3),
            budget_ms=None if call.time_left_s is None else round(call.time_left_s * 1000, 3),
            status=status,
            reason=reason,
        )


class AccessLog:
    """Writes records as JSON lines. A stream that fails costs the line, never the call; `dropped` counts
    them.
    """

    def __init__(self, stream: TextIO, service_name: str) -> None:
        """`service_name` is this process's own SPIFFE ID. The stream stays the caller's to close."""
        self._stream = stream
        self._service_name = service_name
        self.dropped = 0

    def write(self, record: Record) -> None:
        line = {
            "@timestamp": record.at,
            "trace.id": record.trace_id,
            "span.id": record.span_id,
            "parent.id": record.parent_id,
            "rpc.method": record.method,
            "service.name": self._service_name,
            "client.spiffe_id": record.client,
            "event.duration_ms": record.duration_ms,
            "hauberk.budget_ms": record.budget_ms,
            "grpc.status": record.status,
            "error.reason": record.reason,
        }
        try:
            self._stream.write(msgspec.json.encode(line).decode() + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # closed, full, gone
            self.dropped += 1
