"""Spans of the calls a process serves, made from their records as OTLP has them, never in a call's own time.

Names and attributes are those of opentelemetry-instrumentation-grpc (tests/interceptors/test_spans.py runs it
over the same calls), and the description of an error is the reason, where theirs is the status message: that
is a method's to write. Ours besides: `hauberk.caller`, `hauberk.authorization`, the entry of `callers` it
goes by, `hauberk.admitted_by`, why a call was refused, `hauberk.reason`, or would be, `hauberk.would_refuse`,
what the caller's deadline left on arrival, `hauberk.budget_ms`, what was left when it was over,
`hauberk.budget_left_ms`, and whose deadline that was, `hauberk.deadline_bound`. Needs the extra `telemetry`.
Source: opentelemetry-proto, trace.proto.
"""

import threading
from collections import deque
from collections.abc import Container
from typing import Any
from urllib.parse import unquote

import grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from hauberk.interceptors.access_log import WOULD_REFUSE
from hauberk.interceptors.records import Record
from hauberk.interceptors.tracing import TraceContext

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
        if record.trace.sampled and self.has_room():
            self.add(self._span(record, began_at))

    def has_room(self) -> bool:
        """Whether one more can be kept; who has none, is told to forget it, which is counted."""
        if len(self._waiting) >= self._capacity:
            self.dropped += 1
            return False
        return True

    def add(self, span: Span) -> None:
        self._waiting.append(span)

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
            alike = of_all_calls(record.method, record.status, Span.SPAN_KIND_SERVER, _ERRORS)
            if record.policy.method:  # only what is served: a caller may make up any other
                self._alike[key] = alike
        span = of_one_call(alike, record.trace, began_at, record.ended - record.began)
        span.attributes.extend(_own(record))
        if record.reason is not None and span.status.code == Status.STATUS_CODE_ERROR:
            span.status.message = _reason(record.reason)
        return span


def of_all_calls(method: str, status: str, kind: Span.SpanKind.ValueType, errors: Container[str]) -> Span:
    """What all spans of this method, a path, and status have in common; `errors` are statuses."""
    service, _, name = method.removeprefix("/").partition("/")
    code = grpc.StatusCode.__members__.get(status, grpc.StatusCode.UNKNOWN)
    span = Span(name=method, kind=kind, flags=1)
    span.attributes.extend(
        [
            attribute("rpc.system", "grpc"),
            attribute("rpc.grpc.status_code", code.value[0]),
            attribute("rpc.method", name or service),
            attribute("rpc.service", service if name else ""),
        ]
    )
    if code.name in errors:
        span.status.code = Status.STATUS_CODE_ERROR
    return span


def of_one_call(alike: Span, trace: TraceContext, began_at: float, seconds: float) -> Span:
    """A copy of `alike`, for one call."""
    span = Span()
    span.CopyFrom(alike)
    span.trace_id = bytes.fromhex(trace.trace_id)
    span.span_id = bytes.fromhex(trace.span_id)
    if trace.parent_id is not None:
        span.parent_span_id = bytes.fromhex(trace.parent_id)
    span.start_time_unix_nano = int(began_at * 1e9)
    span.end_time_unix_nano = int((began_at + seconds) * 1e9)
    return span


def _own(record: Record) -> list[KeyValue]:
    """What is this call's alone."""
    found = []
    kind, _, address = record.address.partition(":")
    if kind in ("ipv4", "ipv6"):
        ip, _, port = address.partition(",")[0].rpartition(":")
        ip = unquote(ip)
        found += [attribute("net.peer.ip", ip), attribute("net.peer.port", port)]
        if ip in _LOCAL:
            found.append(attribute("net.peer.name", "localhost"))
    if isinstance(record.user_agent, str):
        found.append(attribute("rpc.user_agent", record.user_agent[:256]))
    if record.client is not None:
        found.append(attribute("hauberk.caller", str(record.client)))
    if (decision := record.authorization) is not None:
        found.append(attribute("hauberk.authorization", decision))
    if record.admitted_by is not None:
        found.append(attribute("hauberk.admitted_by", record.admitted_by))
    if record.time_left_s is not None:
        found.append(attribute("hauberk.budget_ms", round(record.time_left_s * 1000)))
    if record.deadline is not None:
        left_s = record.deadline.left(record.ended)
        found.append(attribute("hauberk.budget_left_ms", round(left_s * 1000)))
        found.append(attribute("hauberk.deadline_bound", record.deadline.bound))
    if record.reason is not None:
        found.append(attribute("hauberk.reason", _reason(record.reason)))
    if record.tried is not None:
        found.append(attribute(WOULD_REFUSE, record.tried))
    return found


def attribute(key: str, value: Any) -> KeyValue:
    held = AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value)
    return KeyValue(key=key, value=held)


def _reason(reason: object) -> str:
    """As protobuf takes it: a method may have chosen it."""
    return str(reason)[:256].encode("utf-8", "replace").decode()
