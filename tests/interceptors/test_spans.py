"""Spans made from records: the same as opentelemetry-instrumentation-grpc makes of the same calls."""

from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError
from opentelemetry.instrumentation.grpc import aio_server_interceptor
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hauberk.certs.credentials import server_credentials
from hauberk.certs.watch import Watch
from hauberk.interceptors.demands import DeadlineRule
from hauberk.interceptors.errors import Refused
from hauberk.interceptors.policy import Policy
from hauberk.interceptors.spans import Spans
from hauberk.interceptors.tracing import TraceContext
from tests.interceptors.stage import SERVICE, Behaviour, Shape, Stage, call, echo, method, policy
from tests.interceptors.test_access_log import record

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
OURS = {
    *("hauberk.caller", "hauberk.reason", "hauberk.authorization", "hauberk.admitted_by"),
    *("hauberk.budget_ms", "hauberk.budget_left_ms", "hauberk.deadline_bound"),
}


def attributes(span: Span) -> dict[str, Any]:
    return {
        each.key: each.value.int_value if each.value.HasField("int_value") else each.value.string_value
        for each in span.attributes
    }


def aborting(shape: Shape, code: grpc.StatusCode) -> Behaviour:
    async def one(request: Any, context: Any) -> bytes:
        await context.abort(code, "as told")
        return b""

    async def many(request: Any, context: Any) -> Any:
        await context.abort(code, "as told")
        yield b""

    return many if shape.replies_stream else one


async def by_instrumentation(
    stage: Stage, shape: Shape, behaviours: dict[str, Behaviour]
) -> list[ReadableSpan]:
    """The spans of one call of each, by a bare server with their interceptor."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    interceptor = aio_server_interceptor(tracer_provider=provider)  # type: ignore[no-untyped-call]
    server = grpc.aio.server(interceptors=[interceptor])
    handlers = {name: method(behaviour, shape) for name, behaviour in behaviours.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(Watch(stage.credentials("server"))))
    await server.start()
    await each_called(stage.channel(address=f"127.0.0.1:{port}"), shape, behaviours)
    await server.stop(None)
    return list(exporter.get_finished_spans())


async def by_records(stage: Stage, shape: Shape, behaviours: dict[str, Behaviour]) -> list[Span]:
    spans = Spans()
    records = stage.keeping(spans)
    await stage.serve(
        {name: (shape, behaviour, policy(name, shape, "*")) for name, behaviour in behaviours.items()},
        guard=stage.new_guard(records=records),
    )
    await each_called(stage.channel(), shape, behaviours)
    await stage.server.stop(5)
    records.flush()
    return spans.next(100)


async def each_called(channel: grpc.aio.Channel, shape: Shape, behaviours: dict[str, Behaviour]) -> None:
    for name in behaviours:
        try:
            await call(channel, shape, name, metadata=(("traceparent", PARENT),))
        except AioRpcError:
            assert name != "Echo"


async def test_names_and_attributes_are_those_of_the_instrumentation(stage: Stage, shape: Shape) -> None:
    behaviours = {"Echo": echo(shape)} | {
        code.name.title().replace("_", ""): aborting(shape, code)
        for code in grpc.StatusCode
        if code is not grpc.StatusCode.OK
    }
    theirs = await by_instrumentation(stage, shape, behaviours)
    ours = await by_records(stage, shape, behaviours)
    assert len(theirs) == len(ours) == len(grpc.StatusCode)
    for their, our in zip(theirs, ours, strict=True):
        assert our.name == their.name
        assert our.kind == Span.SPAN_KIND_SERVER == their.kind.value + 1
        assert our.trace_id.hex() == f"{their.context.trace_id:032x}" == PARENT[3:35]
        assert their.parent is not None
        assert our.parent_span_id.hex() == f"{their.parent.span_id:016x}"
        found, wanted = attributes(our), dict(their.attributes or {})
        assert found.keys() - OURS == wanted.keys()
        for name in wanted.keys() - {"net.peer.port"}:
            assert found[name] == wanted[name], name
        assert str(found["net.peer.port"]).isdecimal()
        # Theirs are API values: UNSET 0, OK 1, ERROR 2, as in the protocol.
        assert our.status.code == their.status.status_code.value
        assert 0 <= our.end_time_unix_nano - our.start_time_unix_nano < 60e9
        assert abs(our.start_time_unix_nano - (their.start_time or 0)) < 60e9


async def test_refusal_is_seen_with_who_and_why(stage: Stage, shape: Shape) -> None:
    spans = Spans()
    records = stage.keeping(spans)

    async def act(request: Any, context: Any) -> bytes:
        raise Refused("canary", status=grpc.StatusCode.INTERNAL, reason="ODD")

    async def many(request: Any, context: Any) -> Any:
        yield await act(request, context)

    await stage.serve(
        {
            "Echo": (shape, echo(shape), policy("Echo", shape, "gateway")),
            "Odd": (shape, many if shape.replies_stream else act, policy("Odd", shape, "*")),
        },
        guard=stage.new_guard(records=records),
    )
    for name, called in (("stranger", "Echo"), ("gateway", "Odd")):
        with pytest.raises(AioRpcError):
            await call(stage.channel(name), shape, called)
    await stage.server.stop(5)
    records.flush()
    forbidden, odd = spans.next(100)
    assert attributes(forbidden)["hauberk.reason"] == "CALLER_NOT_ALLOWED"
    assert attributes(forbidden)["hauberk.caller"] == "spiffe://mesh.test/stranger"
    assert attributes(forbidden)["hauberk.authorization"] == "refused"
    assert "hauberk.admitted_by" not in attributes(forbidden)
    assert attributes(odd)["hauberk.authorization"] == "allowed"
    assert attributes(odd)["hauberk.admitted_by"] == "*"
    assert forbidden.status.code == Status.STATUS_CODE_UNSET, "the server is not at fault"
    assert (odd.status.code, odd.status.message) == (Status.STATUS_CODE_ERROR, "ODD")
    assert b"canary" not in odd.SerializeToString()


async def test_budget_is_told_as_it_came_and_as_it_was_left(stage: Stage, shape: Shape) -> None:
    spans = Spans()
    rule, records = DeadlineRule(max_s=3), stage.keeping(spans)
    await stage.serve(
        {"Echo": (shape, echo(shape), policy("Echo", shape, "*", deadline=rule))},
        guard=stage.new_guard(records=records),
    )
    for within in (2, 30, None):
        await call(stage.channel(), shape, within=within)
    await stage.server.stop(None)
    records.flush()
    sooner, later, unbounded = map(attributes, spans.next(10))
    assert sooner["hauberk.deadline_bound"] == "caller"
    assert 0 < sooner["hauberk.budget_left_ms"] <= sooner["hauberk.budget_ms"] <= 2080
    assert later["hauberk.deadline_bound"] == unbounded["hauberk.deadline_bound"] == "contract max"
    assert later["hauberk.budget_ms"] > 20_000
    assert 0 < later["hauberk.budget_left_ms"] <= 3000
    assert "hauberk.budget_ms" not in unbounded


@pytest.mark.parametrize(
    ("header", "ratio", "sampled"),
    [(PARENT, 0.0, True), (UNSAMPLED, 1.0, False), (None, 1.0, True), (None, 0.0, False)],
)
async def test_child_is_sampled_as_its_parent_and_a_root_by_ratio(
    stage: Stage, header: str | None, ratio: float, sampled: bool
) -> None:
    shape, spans = Shape.UNARY_UNARY, Spans()
    records = stage.keeping(spans)
    guard = stage.new_guard(records=records, trace_ratio=ratio)
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "*"))}, guard=guard)
    await call(stage.channel(), shape, metadata=() if header is None else (("traceparent", header),))
    await stage.server.stop(5)
    records.flush()
    assert len(spans.next(10)) == sampled


def test_ratio_is_kept_and_goes_by_the_trace_id() -> None:
    made = [TraceContext.new(0.25) for _ in range(20_000)]
    assert 0.23 < sum(one.sampled for one in made) / len(made) < 0.27
    assert all(one.sampled == (int(one.trace_id[16:], 16) < 2**62) for one in made)


def test_full_is_dropped_and_counted_and_unknown_methods_are_not_kept() -> None:
    spans = Spans(capacity=2)
    unknown = Policy(method="", origin="built in")
    for number in range(5):
        spans.take(record(policy=unknown, method=f"/a.B/{number}", status="UNIMPLEMENTED"), 0.0)
    assert spans.dropped == 3
    assert [span.name for span in spans.next(10)] == ["/a.B/0", "/a.B/1"]
    assert spans._alike == {}
