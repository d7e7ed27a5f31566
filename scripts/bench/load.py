"""The callers: so many calls, so many at a time, on one channel; how long each took, and what failed."""

import asyncio
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from scripts.bench.contract import DEADLINE_S, STREAM, STREAMED, UNARY

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One kind of load. `calls` in all, `at_once` of them in flight."""

    name: str
    at_once: int
    calls: int
    streams: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What came of a load. Latencies in seconds; `sampled` is how many calls asked to be traced."""

    latencies: list[float]
    seconds: float
    client_cpu_ns: int
    sampled: int


class Headers:
    """The metadata of calls: token, request, trace, budget. Whoever serves is sent the same."""

    def __init__(self, token: Callable[[], str], sampled_share: float, *, ours: bool = False) -> None:
        """`token` is asked for each call, `sampled_share` of which ask to be traced.

        `ours`: trace and budget are left to our channel, which adds them while it is measured.
        """
        self._token = token
        self._share = sampled_share
        self._ours = ours
        self._random = random.Random(7)  # noqa: S311 - which call is traced is no secret

    def of_calls(self, count: int) -> tuple[list[Metadata], int]:
        """The metadata of each of so many calls, and how many of them ask to be traced."""
        sampled = [self._random.random() < self._share for _ in range(count)]
        return [self._of_call(each) for each in sampled], sum(sampled)

    def _of_call(self, sampled: bool) -> Metadata:
        bits = self._random.getrandbits(192) | 1 << 191 | 1
        digits = f"{bits:048x}"
        own = (
            ("authorization", f"Bearer {self._token()}"),
            ("x-request-id", str(uuid.UUID(int=bits & (1 << 128) - 1, version=4))),
        )
        if self._ours:
            return own
        return (
            *own,
            ("traceparent", f"00-{digits[:32]}-{digits[32:]}-0{int(sampled)}"),
            ("hauberk-budget", str(int(DEADLINE_S * 1000))),
        )


async def load(channel: grpc.aio.Channel, shape: Shape, message: bytes, headers: Headers) -> Loaded:
    """Make the calls. Every one has to succeed with all its replies; raises what the stub raises."""
    unary: Any = channel.unary_unary(UNARY)
    stream: Any = channel.unary_stream(STREAM)
    latencies: list[float] = []
    waiting, sampled = headers.of_calls(shape.calls)

    async def one_after_another() -> None:
        while waiting:
            metadata = waiting.pop()
            began = time.perf_counter()
            if shape.streams:
                replies = 0
                async for _ in stream(message, timeout=DEADLINE_S, metadata=metadata):
                    replies += 1
                if replies != STREAMED:
                    raise AssertionError(f"{replies} replies, {STREAMED} were promised")
            else:
                await unary(message, timeout=DEADLINE_S, metadata=metadata)
            latencies.append(time.perf_counter() - began)

    began, cpu = time.perf_counter(), time.process_time_ns()
    async with asyncio.TaskGroup() as group:
        for _ in range(shape.at_once):
            group.create_task(one_after_another())
    return Loaded(
        latencies=latencies,
        seconds=time.perf_counter() - began,
        client_cpu_ns=time.process_time_ns() - cpu,
        sampled=sampled,
    )
