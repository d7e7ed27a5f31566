"""Spans of the calls a process serves, made from their records as OTLP has them, never in a call's own time.

Names and attributes are those of opentelemetry-instrumentation-grpc (tests/interceptors/test_spans.py runs it
over the same calls), and the description of an error is the reason, where theirs is the status message: that
is a method's to write. Ours besides: `hauberk.caller`, `hauberk.reason`, `hauberk.would_refuse`,
`hauberk.budget_ms`. Needs the extra `telemetry`. Source: opentelemetry-proto, trace.proto.
"""

import threading
from collections import deque
from typing import Any
from urllib.parse import unquote

import grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from hauberk.interceptors.access_log import WOULD_REFUSE
from hauberk.interceptors.records import Record

CAPACITY = 10_000
"""Spans of about 1 kB that wait to be sent."""

_ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""Where the server is at fault (semantic conventions for gRPC, "Server")."""
_LOCAL = frozenset({"127.0.0.1", "[::1]"})


class Spans:
    """The sink that makes spans of sampled calls, and keeps them until somebody takes them to send."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._alike: dict[tuple[str, str], Span] = {}
        self._waiting: deque[Span] = deque()
        self.ready = threading.Event()
        """Set when spans came in."""
        self.dropped = 0
        """Spans that found no room, or could not be sent."""

    def take(self, record: Record, began_at: float) -> None:
        if not record.trace.sampled:
            return
        if len(self._waiting) >= self._capacity:
            self.dropped += 1
            return
        self._waiting.append(self._span(record, began_at))

    def settle(self) -> None:
        if self._waiting:
            self.ready.set()

    def next(self, most: int) -> list[Span]:
        """Up to `most` spans, the oldest first; they are no longer kept."""
        self.ready.clear()
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def _span(self, record: Record, began_at: float) -> Span:
        key = (record.method, record.status)
        alike = self._alike.get(key)
        if alike is None:
            alike = _alike(record)
            if record.policy.method:  # only what is served: a caller may make up any other
                self._alike[key] = alike
        span, trace = Span(), record.trace
        span.CopyFrom(alike)
        span.trace_id = bytes.fromhex(trace.trace_id)
        span.span_id = bytes.fromhex(trace.span_id)
        if trace.parent_id is not None:
            span.parent_span_id = bytes.fromhex(trace.parent_id)
        span.start_time_unix_nano = int(began_at * 1e9)
        span.end_time_unix_nano = int((began_at + record.ended - record.began) * 1e9)
        span.attributes.extend(_own(record))
        if record.reason is not None and span.status.code == Status.STATUS_CODE_ERROR:
            span.status.message = str(record.reason)[:256].encode("utf-8", "replace").decode()
        return span


def _alike(record: Record) -> Span:
    """What all spans of this method and status have in common."""
    service, _, method = record.method.removeprefix("/").partition("/")
    code = grpc.StatusCode.__members__.get(record.status, grpc.StatusCode.UNKNOWN)
    span = Span(name=record.method, kind=Span.SPAN_KIND_SERVER, flags=1)
    span.attributes.extend(
        [
            _attribute("rpc.system", "grpc"),
            _attribute("rpc.grpc.status_code", code.value[0]),
            _attribute("rpc.method", method or service),
            _attribute("rpc.service", service if method else ""),
        ]
    )
    if code.name in _ERRORS:
        span.status.code = Status.STATUS_CODE_ERROR
    return span


def _own(record: Record) -> list[KeyValue]:
    """What is this call's alone."""
    found = []
    kind, _, address = record.address.partition(":")
    if kind in ("ipv4", "ipv6"):
        ip, _, port = address.partition(",")[0].rpartition(":")
        ip = unquote(ip)
        found += [_attribute("net.peer.ip", ip), _attribute("net.peer.port", port)]
        if ip in _LOCAL:
            found.append(_attribute("net.peer.name", "localhost"))
    if record.user_agent is not None:
        found.append(_attribute("rpc.user_agent", record.user_agent))
    if record.client is not None:
        found.append(_attribute("hauberk.caller", str(record.client)))
    if record.time_left_s is not None:
        found.append(_attribute("hauberk.budget_ms", round(record.time_left_s * 1000)))
    if record.reason is not None:
        found.append(
            _attribute("hauberk.reason", str(record.reason)[:256].encode("utf-8", "replace").decode())
        )
    if record.tried is not None:
        found.append(_attribute(WOULD_REFUSE, record.tried))
    return found


def _attribute(key: str, value: Any) -> KeyValue:
    held = AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value)
    return KeyValue(key=key, value=held)
