"""One JSON line for each call, whatever became of it."""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
from grpc.aio import AioRpcError

from hauberk.certs.identity import SpiffeId
from hauberk.interceptors.access_log import AT_ONCE, AccessLog
from hauberk.interceptors.demands import DeadlineRule
from hauberk.interceptors.records import Record
from hauberk.interceptors.tracing import TraceContext
from tests.interceptors.stage import Shape, Stage, begin, call, echo, policy

UNARY = Shape.UNARY_UNARY
BEGAN_AT = datetime.fromisoformat("2026-11-01T12:00:00.250+00:00").timestamp()


def record(**other: Any) -> Record:
    facts: dict[str, Any] = {
        "policy": policy("Echo", UNARY, "*"),
        "method": "/lab.v1.Lab/Echo",
        "trace": TraceContext(trace_id="0af7651916cd43dd8448eb211c80319c", span_id="b7ad6b7169203331"),
        "client": SpiffeId.of("mesh.test", "gateway"),
        "address": "ipv4:127.0.0.1:4711",
        "began": 100.0,
        "ended": 100.0015,
        "time_left_s": None,
        "status": "OK",
        "reason": None,
        "received": 5,
        "sent": 5,
    }
    return Record(**{**facts, **other})


def written(*records: Record, service_name: str = "me") -> str:
    stream = io.StringIO()
    log = AccessLog(stream, service_name)
    for each in records:
        log.take(each, BEGAN_AT)
    log.settle()
    return stream.getvalue()


def test_line_is_json_with_the_common_names() -> None:
    line = written(record(time_left_s=2.0), service_name="spiffe://mesh.test/orders")
    assert line.endswith("}\n")
    assert json.loads(line) == {
        "@timestamp": "2026-11-01T12:00:00.250000Z",
        "trace.id": "0af7651916cd43dd8448eb211c80319c",
        "span.id": "b7ad6b7169203331",
        "parent.id": None,
        "rpc.method": "/lab.v1.Lab/Echo",
        "service.name": "spiffe://mesh.test/orders",
        "client.spiffe_id": "spiffe://mesh.test/gateway",
        "event.duration_ms": 1.5,
        "hauberk.budget_ms": 2000.0,
        "grpc.status": "OK",
        "error.reason": None,
        "hauberk.authorization": None,
        "hauberk.admitted_by": None,
    }


def test_no_value_breaks_the_line() -> None:
    line = written(record(method='/a"\n\r\u2028\0/b', reason="\x1b[31m"))
    (first,) = re.split(r"[\n\r\x1b\0]", line)[:1]
    assert json.loads(first)["rpc.method"] == '/a"\n\r\u2028\0/b'


@pytest.mark.parametrize("reason", ["half: \ud83d", 42, KeyError("x"), b"\xff"], ids=repr)
def test_no_reason_a_method_gives_costs_the_line(reason: Any) -> None:
    assert isinstance(json.loads(written(record(reason=reason)))["error.reason"], str | int)


class Pieces(io.StringIO):
    """Remembers what each write was."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return super().write(text)


def test_lines_go_out_whole_and_in_pieces_that_a_pipe_takes_undivided() -> None:
    stream = Pieces()
    log = AccessLog(stream, "me")
    for number in range(100):
        log.take(record(reason="x" * number), BEGAN_AT)
    log.settle()
    assert len(stream.writes) < 20
    assert all(piece.endswith("\n") and len(piece.encode()) <= AT_ONCE for piece in stream.writes)
    reasons = [json.loads(line)["error.reason"] for line in stream.getvalue().splitlines()]
    assert reasons == ["x" * number for number in range(100)]


class Broken(io.StringIO):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "disk full"), ValueError("closed file")])
async def test_stream_that_fails_costs_the_line_and_not_the_call(stage: Stage, error: Exception) -> None:
    log = AccessLog(Broken(error), "me")
    records = stage.keeping(log)
    guard = stage.new_guard(records=records)
    await stage.serve({"Echo": (UNARY, echo(UNARY), policy("Echo", UNARY, "*"))}, guard=guard)
    channel = stage.channel()
    assert await call(channel, UNARY) == [b"hello"]
    assert await call(channel, UNARY) == [b"hello"]
    await stage.server.stop(5)
    records.flush()
    assert log.dropped == 2


async def test_every_call_leaves_one_line(stage: Stage, shape: Shape) -> None:
    await stage.serve({"Echo": (shape, echo(shape), policy("Echo", shape, "gateway"))})
    channel, stranger = stage.channel("gateway"), stage.channel("stranger")
    for _ in range(5):
        await call(channel, shape, within=5)
        for name in ("Echo", "Other"):
            with pytest.raises(AioRpcError):
                await call(stranger, shape, name, within=5)
    records = await stage.records(15)
    assert len(records) == 15
    statuses = [one["grpc.status"] for one in records]
    assert {status: statuses.count(status) for status in statuses} == {
        "OK": 5,
        "PERMISSION_DENIED": 5,
        "UNIMPLEMENTED": 5,
    }
    for one in records:
        assert 0 <= one["event.duration_ms"] < 5300
        assert 0 < one["hauberk.budget_ms"] <= 5300
        assert datetime.fromisoformat(one["@timestamp"]).tzinfo is not None
    assert len({one["trace.id"] for one in records}) == 15


async def test_call_whose_caller_left_before_it_was_told_the_deadline_was_cancelled(stage: Stage) -> None:
    """The status waits for a write that nobody reads."""
    ended = asyncio.Event()

    async def flood(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(1024 * 1024)
        finally:
            ended.set()

    streams = Shape.UNARY_STREAM
    rule = DeadlineRule(max_s=0.1)
    await stage.serve({"Echo": (streams, flood, policy("Echo", streams, "*", deadline=rule))})
    made = begin(stage.channel(), streams)
    await ended.wait()
    assert stage.log.getvalue() == ""
    made.cancel()
    (line,) = await stage.records()
    assert (line["grpc.status"], line["error.reason"]) == ("CANCELLED", "DEADLINE_PASSED")
