"""The queue between calls and all that is written of them: what goes in comes out, or is counted."""

import asyncio
import io
import json
import subprocess
import sys
import threading
from typing import Any

import pytest
from grpc.aio import AioRpcError

from hauberk.interceptors.access_log import AccessLog
from hauberk.interceptors.call import Call
from hauberk.interceptors.errors import Refused
from hauberk.interceptors.records import Record, Records
from hauberk.interceptors.tracing import TraceContext
from tests.interceptors.stage import Shape, Stage, call, echo, policy

UNARY = Shape.UNARY_UNARY
POLICY = policy("Echo", UNARY, "*")


def ended_call() -> Call:
    return Call(
        method=POLICY.method,
        policy=POLICY,
        metadata=(("authorization", "Bearer canary"),),
        trace=TraceContext.new(),
        started=1.0,
        time_left_s=None,
        auth_context={},
        address="ipv4:127.0.0.1:4711",
    )


class Kept:
    """Keeps what it is handed; raises for the statuses named."""

    def __init__(self, *bad: str) -> None:
        self.records: list[Record] = []
        self.settled = 0
        self._bad = bad

    def take(self, record: Record, began_at: float) -> None:
        if record.status in self._bad:
            raise ValueError(record.status)
        self.records.append(record)

    def settle(self) -> None:
        self.settled += 1


class Stuck(Kept):
    """Takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.free = threading.Event(), threading.Event()

    def settle(self) -> None:
        self.entered.set()
        self.free.wait(10)


def test_records_in_are_lines_out_from_many_threads() -> None:
    stream = io.StringIO()
    records = Records([AccessLog(stream, "me")], every_s=0.001)

    def ending() -> None:
        for _ in range(2000):
            records.end(ended_call(), "OK", None)

    threads = [threading.Thread(target=ending) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len({line["trace.id"] for line in lines}) == len(lines) == 8000
    assert (records.dropped, records.failed) == (0, 0)


def test_bad_record_costs_itself_alone() -> None:
    picky, other = Kept("BAD"), Kept()
    records = Records([picky, other])
    for status in ("OK", "BAD", "OK", "BAD", "OK"):
        records.end(ended_call(), status, None)
    records.flush()
    records.end(ended_call(), "OK", None)
    records.close()
    assert [one.status for one in picky.records] == ["OK"] * 4
    assert len(other.records) == 6
    assert records.failed == 2


def test_full_queue_drops_what_comes_counts_it_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    stuck = Stuck()
    records = Records([stuck], capacity=10, every_s=0.001)
    records.end(ended_call(), "OK", None)
    assert stuck.entered.wait(5)
    for _ in range(25):
        records.end(ended_call(), "OK", None)
    assert records.dropped == 15
    stuck.free.set()
    records.close()
    assert len(stuck.records) == 11
    assert "15 found no room" in caplog.text


def test_what_ends_after_the_close_is_written_at_once() -> None:
    kept = Kept()
    records = Records([kept])
    records.end(ended_call(), "OK", None)
    records.close()
    records.end(ended_call(), "LATE", None)
    assert [one.status for one in kept.records] == ["OK", "LATE"]


def test_thread_sleeps_while_nothing_ends_and_wakes_again() -> None:
    kept = Kept()
    records = Records([kept], every_s=0.001)
    for count in (1, 2):
        records.end(ended_call(), "OK", None)
        while len(kept.records) < count or records._awake:
            threading.Event().wait(0.005)
        settled = kept.settled
        threading.Event().wait(0.05)
        assert kept.settled <= settled + 1
    records.close()


def test_record_holds_nothing_that_the_caller_sent() -> None:
    kept = Kept()
    records = Records([kept])
    records.end(ended_call(), "OK", None)
    records.close()
    assert "canary" not in repr(kept.records)


def test_process_that_ends_without_closing_loses_nothing() -> None:
    program = (
        "import sys\n"
        "from hauberk.interceptors.access_log import AccessLog\n"
        "from hauberk.interceptors.records import Records\n"
        "from tests.interceptors.test_records import ended_call\n"
        "records = Records([AccessLog(sys.stdout, 'me')])\n"
        "for _ in range(3): records.end(ended_call(), 'OK', None)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert len(ran.stdout.splitlines()) == 3


async def test_sizes_are_those_of_the_messages(stage: Stage, shape: Shape) -> None:
    kept = Kept()
    records = stage.keeping(kept)
    await stage.serve(
        {"Echo": (shape, echo(shape), policy("Echo", shape, "*"))}, guard=stage.new_guard(records=records)
    )
    requests = [b"12345", b"1234567"] if shape.requests_stream else [b"12345"]
    replies = await call(stage.channel(), shape, requests=requests)
    await stage.server.stop(5)
    records.flush()
    (record,) = kept.records
    assert (record.received, record.sent) == (sum(map(len, requests)), sum(map(len, replies)))


async def test_load_with_every_ending_leaves_a_line_for_each_call(stage: Stage, shape: Shape) -> None:
    """200 calls, 20 at once, a third refused and a third failing: none is missing, none is twice."""

    async def odd(request: Any, context: Any) -> Any:
        raise Refused("no", reason="half: \ud83d")

    refusing = odd if not shape.replies_stream else _streaming(odd)
    await stage.serve(
        {
            "Echo": (shape, echo(shape), policy("Echo", shape, "*")),
            "Odd": (shape, refusing, policy("Odd", shape, "*")),
        }
    )
    channel = stage.channel()

    async def one(name: str) -> None:
        try:
            await call(channel, shape, name)
        except AioRpcError as error:
            if name == "Echo":
                raise AssertionError(name) from error

    for _ in range(10):
        await asyncio.gather(*(one(("Echo", "Odd", "Nobody")[number % 3]) for number in range(20)))
    await stage.server.stop(5)
    records = await stage.records(200)
    assert len({line["span.id"] for line in records}) == len(records) == 200


def _streaming(method: Any) -> Any:
    async def many(request: Any, context: Any) -> Any:
        await method(request, context)
        yield b""

    return many
