"""One line for each call, when it is over.

Names follow the Elastic Common Schema and OpenTelemetry's semantic conventions where they have one. Nothing
of a message, and no header, is ever in a line.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from hauberk.interceptors.records import Record

AT_ONCE = 4096
"""Bytes of whole lines written at once: a pipe takes so many undivided (Linux, PIPE_BUF), whoever else
writes.
"""

WOULD_REFUSE = "hauberk.would_refuse"
"""Why an override that is only tried would have refused the call: in its line, and on its span."""

_encoder = msgspec.json.Encoder()


class AccessLog:
    """Writes records as JSON lines. A stream that fails costs the lines, never a call; `dropped` counts
    them.
    """

    def __init__(self, stream: TextIO, service_name: str) -> None:
        """`service_name` is this process's own SPIFFE ID. The stream stays the caller's to close."""
        self._stream = stream
        self._service_name = service_name
        self._lines: list[bytes] = []
        self.dropped = 0

    def take(self, record: Record, began_at: float) -> None:
        self._lines.append(encoded(facts(record, began_at, self._service_name)))

    def settle(self) -> None:
        lines, self._lines = self._lines, []
        for count, text in _pieces(lines):
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):  # closed, full, gone
                self.dropped += count


def facts(record: Record, began_at: float, service_name: str) -> dict[str, Any]:
    """What a line tells of a call."""
    trace, left_s = record.trace, record.time_left_s
    tried = {} if record.tried is None else {WOULD_REFUSE: record.tried}
    return {
        "@timestamp": datetime.fromtimestamp(began_at, UTC),
        "trace.id": trace.trace_id,
        "span.id": trace.span_id,
        "parent.id": trace.parent_id,
        "rpc.method": record.method,
        "service.name": service_name,
        "client.spiffe_id": None if record.client is None else str(record.client),
        "event.duration_ms": round((record.ended - record.began) * 1000, 3),
        "hauberk.budget_ms": None if left_s is None else round(left_s * 1000, 3),
        "grpc.status": record.status,
        "error.reason": record.reason,
        **tried,
        "hauberk.authorization": record.authorization,
        "hauberk.admitted_by": record.admitted_by,
    }


def encoded(line: Mapping[str, Any]) -> bytes:
    """`line` as JSON with a line end. A reason is a method's to choose: none keeps the line from being
    written.
    """
    try:
        return _encoder.encode(line) + b"\n"
    except (TypeError, ValueError):
        return _encoder.encode({name: _spelled(value) for name, value in line.items()}) + b"\n"


def _spelled(value: Any) -> Any:
    if value is None or isinstance(value, int | float | datetime):
        return value
    return str(value).encode("utf-8", "replace").decode()


def _pieces(lines: list[bytes]) -> Iterator[tuple[int, str]]:
    """The lines joined to pieces of at most AT_ONCE bytes, a longer line by itself; how many are in each."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > AT_ONCE:
            yield len(piece), b"".join(piece).decode()
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield len(piece), b"".join(piece).decode()
