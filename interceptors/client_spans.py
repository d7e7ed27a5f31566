"""Spans of the calls a process makes: spans.py for the other side, and with the same exporter.

Names and attributes are those of opentelemetry-instrumentation-grpc
(tests/interceptors/test_client_spans.py runs it over the same calls), and the description of an error is our
own reason, where the callee gave one. Ours besides: `hauberk.budget_ms`, what the call had when it left,
`hauberk.budget_left_ms`, what it had when it was over, `hauberk.margin_ms`, what was kept back from the call
it was made for, `hauberk.hops`, where a call that came too late was (hops.py), and `hauberk.reason`. A span
is of the whole call: what core repeats of it is seen on the callees' spans alone, each of them its child.
"""

import grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from hauberk.interceptors.calls_made import CallMade
from hauberk.interceptors.deadline import MARGIN_S
from hauberk.interceptors.error_info import error_info
from hauberk.interceptors.hops import hops_in
from hauberk.interceptors.spans import Spans, attribute, of_all_calls, of_one_call

_ERRORS = frozenset(code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK)
"""All but OK are (semantic conventions for gRPC, "Client")."""


class ClientSpans:
    """The sink that makes spans of sampled calls, and gives them to `spans`."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._alike: dict[tuple[str, str], Span] = {}

    def take(self, made: CallMade, began_at: float) -> None:
        if made.trace is not None and made.spans and made.trace.sampled and self._spans.has_room():
            self._spans.add(self._span(made, began_at))

    def settle(self) -> None:
        self._spans.settle()

    def _span(self, made: CallMade, began_at: float) -> Span:
        key = (made.method, made.status)
        alike = self._alike.get(key)
        if alike is None:
            alike = of_all_calls(*key, Span.SPAN_KIND_CLIENT, _ERRORS)
            if made.named:  # only what generated code calls: a program may make up any other
                self._alike[key] = alike
        assert made.trace is not None  # noqa: S101 - looked at before
        span = of_one_call(alike, made.trace, began_at, made.ended - made.began)
        if made.budget_s is not None:
            left_s = made.budget_s - (made.ended - made.began)
            span.attributes.append(attribute("hauberk.budget_ms", round(made.budget_s * 1000)))
            span.attributes.append(attribute("hauberk.budget_left_ms", round(left_s * 1000)))
        if made.inherits:
            span.attributes.append(attribute("hauberk.margin_ms", round(MARGIN_S * 1000)))
        info = error_info(made.trailers)
        if info is not None:
            span.attributes.append(attribute("hauberk.reason", info.reason[:256]))
            if span.status.code == Status.STATUS_CODE_ERROR:
                span.status.message = info.reason[:256]
            if hops := hops_in(info):
                span.attributes.append(attribute("hauberk.hops", hops))
        return span
