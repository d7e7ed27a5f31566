"""OpenTelemetry as a method sees it: the call is its current span, and the parent of the spans it makes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry import baggage, propagate, trace
from opentelemetry import context as api
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hauberk.interceptors import bridge
from hauberk.interceptors.call import current_call, within_call
from hauberk.interceptors.tracing import BAGGAGE, MOST_BYTES, TRACESTATE, TraceContext, carried
from hauberk.web_request import WebRequests
from tests.interceptors.stage import Behaviour, Metadata, Shape, Stage, call, policy

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    before = api._RUNTIME_CONTEXT
    if isinstance(before, bridge.Bridge):  # of a mesh that was joined here
        before = api._RUNTIME_CONTEXT = before._inner
    bridge.install()
    bridge.install()
    assert api._RUNTIME_CONTEXT._inner is before  # type: ignore[attr-defined]
    yield
    api._RUNTIME_CONTEXT = before


class Traced:
    """A method that uses the SDK as its author would."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("shop")
        self.seen: list[trace.SpanContext] = []
        self.injected: list[dict[str, str]] = []
        self.baggage: list[Any] = []
        self.calls: list[TraceContext] = []

    async def act(self) -> None:
        served = current_call()
        assert served is not None
        self.calls.append(served.trace)
        self.seen.append(trace.get_current_span().get_span_context())
        headers: dict[str, str] = {}
        propagate.inject(headers)
        self.injected.append(headers)
        self.baggage.append(dict(baggage.get_all()))
        with self.tracer.start_as_current_span("outer"):
            await asyncio.create_task(self.inner())
        self.seen.append(trace.get_current_span().get_span_context())

    async def inner(self) -> None:
        with self.tracer.start_as_current_span("inner"):
            await asyncio.sleep(0)

    def behaviour(self, shape: Shape) -> Behaviour:
        async def one(request: Any, context: Any) -> bytes:
            await self.act()
            return b""

        async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
            await self.act()
            yield b""

        return many if shape.replies_stream else one

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


async def traced(stage: Stage, shape: Shape, metadata: Metadata) -> Traced:
    made = Traced()
    await stage.serve({"Echo": (shape, made.behaviour(shape), policy("Echo", shape, "*"))})
    await call(stage.channel(), shape, metadata=metadata)
    return made


async def test_spans_of_a_method_are_children_of_the_call(stage: Stage, shape: Shape) -> None:
    found = await traced(
        stage, shape, (("traceparent", PARENT), ("tracestate", "shop=1"), ("baggage", "user=bob,tier=gold"))
    )
    (ours,) = found.calls
    for seen in found.seen:
        assert f"{seen.trace_id:032x}" == ours.trace_id == PARENT[3:35]
        assert f"{seen.span_id:016x}" == ours.span_id
        assert seen.trace_state.get("shop") == "1"
    spans = found.spans()
    outer, inner = spans["outer"], spans["inner"]
    assert outer.parent is not None
    assert inner.parent is not None
    assert f"{outer.parent.span_id:016x}" == ours.span_id
    assert inner.parent.span_id == outer.context.span_id
    assert inner.context.trace_id == int(ours.trace_id, 16)
    assert found.injected == [
        {"traceparent": ours.header(), "tracestate": "shop=1", "baggage": "user=bob,tier=gold"}
    ]
    assert found.baggage == [{"user": "bob", "tier": "gold"}]


async def test_what_is_not_sampled_is_not_for_the_sdk_either(stage: Stage, shape: Shape) -> None:
    found = await traced(stage, shape, (("traceparent", UNSAMPLED),))
    assert found.spans() == {}
    assert not found.seen[0].trace_flags.sampled


async def test_outside_of_a_call_everything_is_as_without_us() -> None:
    assert trace.get_current_span() is trace.INVALID_SPAN
    token = api.attach(api.set_value("a", 1))
    assert api.get_value("a") == 1
    api.detach(token)
    assert api.get_value("a") is None


def test_span_of_a_web_request_is_the_parent_of_what_is_made_in_it() -> None:
    """Whoever instruments the web framework has a span for each request, and we have none."""
    tracer = TracerProvider().get_tracer("web")
    request = WebRequests().call("GET /", (("traceparent", PARENT),), "127.0.0.1")
    with tracer.start_as_current_span("request") as span, within_call(request):
        assert trace.get_current_span() is span
        around = bridge.span_around(request)
        assert around is not None
        assert (around.trace_id, around.span_id) == (
            trace.format_trace_id(span.get_span_context().trace_id),
            trace.format_span_id(span.get_span_context().span_id),
        )
    with within_call(request):
        assert bridge.span_around(request) is None
        assert (
            trace.format_span_id(trace.get_current_span().get_span_context().span_id) == request.trace.span_id
        )


async def test_span_around_the_server_is_not_the_parent_of_its_calls(stage: Stage, shape: Shape) -> None:
    tracer = TracerProvider().get_tracer("main")
    with tracer.start_as_current_span("main"):
        found = await traced(stage, shape, ())
    (ours,) = found.calls
    assert f"{found.seen[0].span_id:016x}" == ours.span_id


async def test_state_and_baggage_go_on_with_outgoing_calls(stage: Stage, shape: Shape) -> None:
    heard: list[dict[str, Any]] = []

    async def last(request: bytes, context: Any) -> bytes:
        served = current_call()
        assert served is not None
        heard.append(dict(served.metadata))
        return b""

    async def first(request: bytes, context: Any) -> bytes:
        await call(stage.guarded(), Shape.UNARY_UNARY, "Last")
        await call(stage.guarded(), Shape.UNARY_UNARY, "Last", metadata=(("baggage", "own=1"),))
        return b""

    unary = Shape.UNARY_UNARY
    await stage.serve(
        {
            "Echo": (unary, first, policy("Echo", unary, "*")),
            "Last": (unary, last, policy("Last", unary, "*")),
        }
    )
    metadata = (("traceparent", PARENT), ("tracestate", "shop=1"), ("baggage", "user=bob"))
    await call(stage.channel(), unary, metadata=metadata)
    assert [(one["tracestate"], one["baggage"]) for one in heard] == [
        ("shop=1", "user=bob"),
        ("shop=1", "own=1"),
    ]
    assert all(one["traceparent"].startswith(PARENT[:35]) for one in heard)


@pytest.mark.parametrize(
    ("metadata", "goes_on"),
    [
        ((), []),
        (((TRACESTATE, "a=1"), (BAGGAGE, "b=1")), [(TRACESTATE, "a=1"), (BAGGAGE, "b=1")]),
        (((BAGGAGE, "a=1"), (BAGGAGE, "b=1")), [(BAGGAGE, "a=1,b=1")]),
        (((BAGGAGE, "x" * MOST_BYTES[BAGGAGE]),), [(BAGGAGE, "x" * MOST_BYTES[BAGGAGE])]),
        (((BAGGAGE, "x" * (MOST_BYTES[BAGGAGE] + 1)), (TRACESTATE, "x" * 513)), []),
        (((BAGGAGE, ""), ("authorization", "x")), []),
    ],
    ids=["none", "both", "split", "most", "more", "empty"],
)
def test_what_is_carried_on_is_bounded(metadata: Any, goes_on: list[tuple[str, str]]) -> None:
    child = TraceContext.arriving((("traceparent", PARENT),))
    assert carried(metadata, child) == goes_on


def test_state_without_its_trace_goes_nowhere() -> None:
    assert carried(((TRACESTATE, "a=1"), (BAGGAGE, "b=1")), TraceContext.new()) == [(BAGGAGE, "b=1")]
