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

from hauberk.interceptors.access_log import AccessLog, Record
from hauberk.interceptors.demands import DeadlineRule
from tests.interceptors.stage import Shape, Stage, begin, call, echo, policy

UNARY = Shape.UNARY_UNARY


def record(**other: Any) -> Record:
    facts: dict[str, Any] = {
        "at": datetime.fromisoformat("2026-11-01T12:00:00.250+00:00"),
        "method": "/lab.v1.Lab/Echo",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "span_id": "b7ad6b7169203331",
        "parent_id": None,
        "client": "spiffe://mesh.test/gateway",
        "duration_ms": 1.5,
        "budget_ms": None,
        "status": "OK",
        "reason": None,
    }
    return Record(**{**facts, **other})


def test_line_is_json_with_the_common_names() -> None:
    stream = io.StringIO()
    AccessLog(stream, "spiffe://mesh.test/orders").write(record(budget_ms=2000.0))
    assert stream.getvalue().endswith("}\n")
    assert json.loads(stream.getvalue()) == {
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
    }


def test_no_value_breaks_the_line() -> None:
    stream = io.StringIO()
    AccessLog(stream, "me").write(record(method='/a"\n\r\u2028\0/b', client="\x1b[31m"))
    (line,) = re.split(r"[\n\r\x1b\0]", stream.getvalue())[:1]
    assert json.loads(line)["rpc.method"] == '/a"\n\r\u2028\0/b'


class Broken(io.StringIO):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "disk full"), ValueError("closed file")])
async def test_stream_that_fails_costs_the_line_and_not_the_call(stage: Stage, error: Exception) -> None:
    log = AccessLog(Broken(error), "me")
    guard = stage.new_guard(access_log=log)
    await stage.serve({"Echo": (UNARY, echo(UNARY), policy("Echo", UNARY, "*"))}, guard=guard)
    channel = stage.channel()
    assert await call(channel, UNARY) == [b"hello"]
    assert await call(channel, UNARY) == [b"hello"]
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
