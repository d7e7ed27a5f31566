"""Spans of calls made: the same as opentelemetry-instrumentation-grpc makes of the same calls."""

import time
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hauberk.interceptors.bridge import span_around
from hauberk.interceptors.call import Call, current_call, within_call
from hauberk.interceptors.calls_made import Telemetry
from hauberk.interceptors.client_spans import ClientSpans
from hauberk.interceptors.deadline import Deadline
from hauberk.interceptors.policy import Policy
from hauberk.interceptors.spans import Spans
from hauberk.interceptors.tracing import TraceContext, is_of
from tests.interceptors.clients import KINDS, Client, client, instrumented
from tests.interceptors.stage import Behaviour, Shape, Stage, echo, policy
from tests.interceptors.test_spans import aborting, attributes

OURS = {"hauberk.reason", "hauberk.budget_ms", "hauberk.budget_left_ms"}
UNARY = Shape.UNARY_UNARY


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Seen:
    """The spans of the calls that a client made."""

    def __init__(self, stage: Stage, **how: Any) -> None:
        self._spans = Spans()
        self._records = stage.keeping(made=[ClientSpans(self._spans)])
        self.telemetry = Telemetry(keep=self._records.keep, spans=True, **how)

    def spans(self) -> list[Span]:
        self._records.flush()
        return self._spans.next(1000)


def listening(heard: list[TraceContext]) -> Behaviour:
    async def method(request: bytes, context: Any) -> bytes:
        served = current_call()
        assert served is not None
        heard.append(served.trace)
        return request

    return method


def served_call(trace_context: TraceContext) -> Call:
    return Call(
        method="/x/Y",
        policy=Policy(method="/x/Y"),
        metadata=(),
        trace=trace_context,
        started=0.0,
        time_left_s=None,
        auth_context={},
        address="",
    )


async def each_called(caller: Client, shape: Shape, behaviours: dict[str, Behaviour]) -> None:
    for name in behaviours:
        try:
            await caller.call(shape, name)
        except grpc.RpcError:
            assert name != "Echo"


async def test_names_and_attributes_are_those_of_the_instrumentation(
    stage: Stage, shape: Shape, kind: str
) -> None:
    behaviours = {"Echo": echo(shape)} | {
        code.name.title().replace("_", ""): aborting(shape, code)
        for code in grpc.StatusCode
        if code is not grpc.StatusCode.OK
    }
    await stage.serve(
        {name: (shape, behaviour, policy(name, shape, "*")) for name, behaviour in behaviours.items()}
    )
    exporter, provider, seen = InMemorySpanExporter(), TracerProvider(), Seen(stage)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with instrumented(kind, stage.address, stage, provider) as caller:
        await each_called(caller, shape, behaviours)
    theirs: list[ReadableSpan] = list(exporter.get_finished_spans())
    async with client(kind, stage, telemetry=seen.telemetry) as caller:
        await each_called(caller, shape, behaviours)
    ours = seen.spans()
    assert len(theirs) == len(ours) == len(grpc.StatusCode)
    for their, our in zip(theirs, ours, strict=True):
        assert our.name == their.name
        assert our.kind == Span.SPAN_KIND_CLIENT == their.kind.value + 1
        assert (their.parent is None, our.parent_span_id) == (True, b"")
        found, wanted = attributes(our), dict(their.attributes or {})
        assert found.keys() - OURS == wanted.keys()
        assert {name: found[name] for name in wanted} == wanted
        # Theirs are API values: UNSET 0, OK 1, ERROR 2, as in the protocol.
        assert our.status.code == their.status.status_code.value
        assert 0 < our.end_time_unix_nano - our.start_time_unix_nano < 60e9
        assert abs(our.start_time_unix_nano - (their.start_time or 0)) < 60e9


async def test_span_is_a_child_of_the_call_being_served_and_the_parent_of_the_one_it_makes(
    stage: Stage, kind: str
) -> None:
    heard: list[TraceContext] = []
    await stage.serve({"Echo": (UNARY, listening(heard), policy("Echo", UNARY, "*"))})
    seen, serving = Seen(stage), TraceContext.new()
    async with client(kind, stage, telemetry=seen.telemetry) as caller:
        with within_call(served_call(serving)):
            await caller.call(UNARY)
            await caller.call(UNARY)
    first, second = seen.spans()
    assert first.trace_id == second.trace_id == bytes.fromhex(serving.trace_id)
    assert first.parent_span_id == second.parent_span_id == bytes.fromhex(serving.span_id)
    assert [one.parent_id for one in heard] == [first.span_id.hex(), second.span_id.hex()]
    assert first.span_id != second.span_id
    assert all(is_of(one.span_id.hex(), serving.span_id) for one in (first, second))


async def test_what_is_kept_back_of_an_inherited_budget_is_told(stage: Stage, kind: str) -> None:
    await stage.serve({"Echo": (UNARY, echo(UNARY), policy("Echo", UNARY, "*"))})
    seen, serving = Seen(stage), served_call(TraceContext.new())
    serving.deadline = Deadline(time.monotonic() + 3, "caller")
    async with client(kind, stage, telemetry=seen.telemetry) as caller:
        with within_call(serving):
            await caller.call(UNARY, within=10)
            await caller.call(UNARY, within=1)
    inherits, own = map(attributes, seen.spans())
    assert inherits["hauberk.margin_ms"] == 10
    assert 2000 < inherits["hauberk.budget_ms"] <= 2990
    assert own["hauberk.budget_ms"] == 1000
    assert "hauberk.margin_ms" not in own


async def test_call_of_no_other_begins_the_trace(stage: Stage, kind: str) -> None:
    heard: list[TraceContext] = []
    await stage.serve({"Echo": (UNARY, listening(heard), policy("Echo", UNARY, "*"))})
    seen = Seen(stage)
    async with client(kind, stage, telemetry=seen.telemetry) as caller:
        await caller.call(UNARY)
    (span,), (callee,) = seen.spans(), heard
    assert (span.parent_span_id, span.span_id.hex()) == (b"", callee.parent_id)


async def test_span_of_the_sdk_is_the_parent_where_the_call_is_made_in_one(stage: Stage, kind: str) -> None:
    heard: list[TraceContext] = []
    await stage.serve({"Echo": (UNARY, listening(heard), policy("Echo", UNARY, "*"))})
    seen = Seen(stage, around=span_around)
    tracer = TracerProvider().get_tracer("shop")
    async with client(kind, stage, telemetry=seen.telemetry) as caller:
        with tracer.start_as_current_span("mine") as mine:
            await caller.call(UNARY)
        await caller.call(UNARY)
    first, second = seen.spans()
    context = mine.get_span_context()
    assert first.trace_id.hex() == trace.format_trace_id(context.trace_id)
    assert first.parent_span_id.hex() == trace.format_span_id(context.span_id)
    assert second.parent_span_id == b""
    assert [one.parent_id for one in heard] == [first.span_id.hex(), second.span_id.hex()]


async def test_trace_that_the_caller_sends_by_itself_stays_and_is_its_own_to_tell(
    stage: Stage, kind: str
) -> None:
    heard: list[TraceContext] = []
    await stage.serve({"Echo": (UNARY, listening(heard), policy("Echo", UNARY, "*"))})
    seen, mine = Seen(stage), TraceContext.new()
    async with client(kind, stage, telemetry=seen.telemetry) as caller:
        await caller.call(UNARY, metadata=(("traceparent", mine.header()),))
    assert [one.parent_id for one in heard] == [mine.span_id]
    assert seen.spans() == []


@pytest.mark.parametrize("ratio", [0.0, 1.0])
async def test_what_is_not_sampled_has_no_span_of_its_own(stage: Stage, kind: str, ratio: float) -> None:
    heard: list[TraceContext] = []
    await stage.serve({"Echo": (UNARY, listening(heard), policy("Echo", UNARY, "*"))})
    seen = Seen(stage)
    async with client(kind, stage, telemetry=seen.telemetry, trace_ratio=ratio) as caller:
        await caller.call(UNARY)
    assert len(seen.spans()) == ratio
    assert [one.sampled for one in heard] == [bool(ratio)]


async def test_refusal_is_told_by_its_reason_and_the_budget_by_what_was_left(
    stage: Stage, shape: Shape, kind: str
) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "orders"))})
    seen = Seen(stage)
    async with client(kind, stage, telemetry=seen.telemetry) as caller:
        with pytest.raises(grpc.RpcError):
            await caller.call(shape, within=5)
        with pytest.raises(grpc.RpcError):
            await caller.call(shape, within=-1)
    refused, unsent = seen.spans()
    assert attributes(refused)["hauberk.reason"] == refused.status.message == "CALLER_NOT_ALLOWED"
    assert attributes(refused)["hauberk.budget_ms"] == 5000
    assert 0 < attributes(refused)["hauberk.budget_left_ms"] <= 5000
    assert attributes(unsent)["hauberk.reason"] == "DEADLINE_PASSED"
    assert attributes(unsent)["rpc.grpc.status_code"] == 4
