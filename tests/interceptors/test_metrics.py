"""What is added up of calls: by method and status, with the bounds of gRFC A66, nothing a caller chooses."""

import asyncio
import dataclasses
from typing import Any

import pytest
from grpc.aio import AioRpcError

from hauberk.interceptors.errors import Refused
from hauberk.interceptors.metrics import DURATION_BOUNDS_S, SIZE_BOUNDS, Metrics
from hauberk.interceptors.policy import Policy
from hauberk.interceptors.tracing import TraceContext
from tests.interceptors.stage import Shape, Stage, call, echo, policy
from tests.interceptors.test_access_log import record

METHOD = "lab.v1.Lab/Echo"


def added(*records: Any) -> Metrics:
    metrics = Metrics()
    for each in records:
        metrics.take(each, 1000.0)
    return metrics


def test_bounds_are_those_of_a66() -> None:
    assert len(DURATION_BOUNDS_S) == 41
    assert (DURATION_BOUNDS_S[1], DURATION_BOUNDS_S[-1]) == (0.00001, 100.0)
    assert list(DURATION_BOUNDS_S) == sorted(set(DURATION_BOUNDS_S))
    assert tuple(SIZE_BOUNDS) == (
        *(0, 1024, 2048, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864, 268435456),
        *(1073741824, 4294967296),
    )


def test_value_on_a_bound_is_counted_below_it() -> None:
    metrics = added(record(received=1024), record(received=1025))
    (series,) = metrics.measured([]).calls.values()
    assert series.received.counts[1:3] == [1, 1]
    assert series.received.total == 2049


def test_exemplar_is_the_last_sampled_call_of_its_bucket() -> None:
    trace = TraceContext.new()
    hidden = dataclasses.replace(TraceContext.new(), sampled=False)
    metrics = added(record(trace=trace), record(trace=hidden))
    (series,) = metrics.measured([]).calls.values()
    found = [exemplar for exemplar in series.duration.exemplars if exemplar is not None]
    assert [(one.trace_id, one.span_id, one.at) for one in found] == [(trace.trace_id, trace.span_id, 1000.0)]


def test_no_caller_and_no_method_adds_series_without_end() -> None:
    unknown = Policy(method="", origin="built in")
    metrics = added(
        *(record(policy=unknown, method=f"/made.Up/{number}") for number in range(100)),
        *(record(status=f"({number}, 'odd')") for number in range(100)),
        *(record(reason=f"REASON_{number}") for number in range(1000)),
        *(record(reason=f"order {number} is gone") for number in range(100)),
        record(reason=42),
    )
    measured = metrics.measured([])
    assert set(measured.calls) == {("other", "OK"), (METHOD, "UNKNOWN"), (METHOD, "OK")}
    assert len(measured.refused) == 201
    assert measured.refused[METHOD, "other"] == 800 + 100 + 1


def test_what_has_started_is_never_told_to_be_less() -> None:
    metrics = added(record())
    assert metrics.measured([f"/{METHOD}"] * 2).started == {METHOD: 3}
    assert metrics.measured([f"/{METHOD}"]).started == {METHOD: 3}, "one ends, its record is on the way"
    metrics.take(record(), 0)
    metrics.take(record(), 0)
    assert metrics.measured([f"/{METHOD}"]).started == {METHOD: 4}


async def test_calls_are_counted_as_they_begin_and_as_they_end(stage: Stage, shape: Shape) -> None:
    metrics, going, go_on = Metrics(), asyncio.Event(), asyncio.Event()
    records = stage.keeping(metrics)

    async def one(request: Any, context: Any) -> bytes:
        going.set()
        await go_on.wait()
        raise Refused("no", reason="SOLD_OUT")

    async def many(request: Any, context: Any) -> Any:
        yield await one(request, context)

    await stage.serve(
        {
            "Echo": (shape, echo(shape), policy("Echo", shape, "*")),
            "Wait": (shape, many if shape.replies_stream else one, policy("Wait", shape, "*")),
        },
        guard=stage.new_guard(records=records),
    )
    channel = stage.channel()
    for _ in range(3):
        await call(channel, shape)
    with pytest.raises(AioRpcError):
        await call(channel, shape, "Nobody")
    waiting = asyncio.ensure_future(call(channel, shape, "Wait"))
    await going.wait()
    records.flush()
    measured = metrics.measured(records.running())
    assert measured.in_flight == {"lab.v1.Lab/Wait": 1}
    assert measured.started == {METHOD: 3, "lab.v1.Lab/Wait": 1, "other": 1}
    go_on.set()
    with pytest.raises(AioRpcError):
        await waiting
    await stage.server.stop(5)
    records.flush()
    measured = metrics.measured(records.running())
    assert measured.in_flight == {}
    assert {key: sum(series.duration.counts) for key, series in measured.calls.items()} == {
        (METHOD, "OK"): 3,
        ("lab.v1.Lab/Wait", "FAILED_PRECONDITION"): 1,
        ("other", "UNIMPLEMENTED"): 1,
    }
    assert measured.refused == {("lab.v1.Lab/Wait", "SOLD_OUT"): 1, ("other", "UNKNOWN_METHOD"): 1}
