"""OpenTelemetry's context inside a method: the call being served is its current span.

So spans that a method makes with the SDK, or instrumentation of other libraries does, are children of ours,
and what is injected into other requests names the call. No SDK span is made for it: the context is built when
somebody asks, and costs nothing else. The span of a call records nothing: attributes set on it are lost.
"""

from contextvars import Token

from opentelemetry import context as api
from opentelemetry import trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context.context import Context, _RuntimeContext

from hauberk.interceptors.call import Call, current_call
from hauberk.interceptors.tracing import BAGGAGE, TRACESTATE, TraceContext, carried

_CALL = api.create_key("hauberk-call")


def install() -> None:
    """Put it in front of the context that OpenTelemetry uses in this process; a second time does nothing."""
    if not isinstance(api._RUNTIME_CONTEXT, Bridge):
        api._RUNTIME_CONTEXT = Bridge(api._RUNTIME_CONTEXT)


def span_around(call: Call | None) -> TraceContext | None:
    """The SDK's span that a call made now is made in, within `call`, which is being served; None: there is
    none, or it is the span of that call.
    """
    runtime = api._RUNTIME_CONTEXT
    found = runtime._inner.get_current() if isinstance(runtime, Bridge) else runtime.get_current()
    if not found or (call is not None and found.get(_CALL) is not call and not _is_of_the_web(call)):
        return None
    span = trace.get_current_span(found).get_span_context()
    if not span.is_valid:
        return None
    return TraceContext(
        trace_id=f"{span.trace_id:032x}", span_id=f"{span.span_id:016x}", sampled=span.trace_flags.sampled
    )


class Bridge(_RuntimeContext):
    """Another runtime context, seen from within a call."""

    def __init__(self, inner: _RuntimeContext) -> None:
        self._inner = inner

    def attach(self, context: Context) -> Token[Context]:
        return self._inner.attach(context)

    def detach(self, token: Token[Context]) -> None:
        self._inner.detach(token)

    def get_current(self) -> Context:
        found, call = self._inner.get_current(), current_call()
        if call is None or found.get(_CALL) is call:  # made within the call: it knows better
            return found
        if _is_of_the_web(call) and trace.get_current_span(found).get_span_context().is_valid:
            return found
        return api.set_value(_CALL, call, _context_of(call, found))


def _is_of_the_web(call: Call) -> bool:
    """Whether it stands for a web request. That may have a span of the SDK, but never has one of ours."""
    return call.policy.origin == "web"


def _context_of(call: Call, around: Context) -> Context:
    headers = dict(carried(call.metadata, call.trace))
    span = trace.NonRecordingSpan(
        trace.SpanContext(
            trace_id=int(call.trace.trace_id, 16),
            span_id=int(call.trace.span_id, 16),
            is_remote=False,
            trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED if call.trace.sampled else 0),
            trace_state=trace.TraceState.from_header([headers.get(TRACESTATE, "")]),
        )
    )
    made = trace.set_span_in_context(span, around)
    return W3CBaggagePropagator().extract(headers, made) if BAGGAGE in headers else made
