"""What one call costs: servers as processes of their own on one core, their callers on another, by turns.

In each round every variant is put under every load once, in an order that is drawn anew. What is compared is
compared within a round: this machine's own mood does not stay the same for longer than that.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc

from hauberk.interceptors.calls_made import Telemetry
from hauberk.interceptors.client_metrics import ClientMetrics
from hauberk.interceptors.client_spans import ClientSpans
from hauberk.interceptors.outbound import guarded
from hauberk.interceptors.records import Records
from hauberk.interceptors.spans import Spans
from scripts.bench.contract import CLIENT, contract, request
from scripts.bench.load import Headers, Loaded, Shape, load
from scripts.bench.materials import TRUST_DOMAIN, Materials
from scripts.bench.measures import Cell, Table
from scripts.bench.processes import CLIENT_CORE, Process, Void, address_of, module, started
from scripts.bench.sink import counted

LEAST_CPU_US = 30.0
"""A call that costs a server less than this was served by somebody else."""
SETTLED_S = 0.03
RECORDED_S = 5.0
"""How long after the last call its line and its span may still be missing."""

UNARY_32 = "unary x32"
UNARY_1 = "unary x1"
STREAM_32 = "stream of 10 x32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to serve and to call."""

    name: str
    server: str
    """The process that serves; what several variants share is begun once."""
    kind: str = "bare"
    loop: str = "uvloop"
    methods: int = 2
    sampled: float = 0.01
    our_channel: bool = False
    our_headers: bool = False
    logs: bool = False
    """Whether each call leaves a line."""
    spans: bool = False
    """Whether each sampled call leaves a span."""


@dataclass(slots=True, kw_only=True)
class Target:
    """A variant that listens."""

    variant: Variant
    channel: grpc.aio.Channel
    processes: Sequence[Process]
    headers: Headers
    lines: Callable[[], int] | None = None
    spans: Callable[[], int] | None = None


@dataclass(slots=True)
class Lines:
    """Counts the lines about calls in a log that grows."""

    log: Path
    _offset: int = 0
    _count: int = 0
    _rest: bytes = field(default=b"")

    def __call__(self) -> int:
        with self.log.open("rb") as log:
            log.seek(self._offset)
            read = log.read()
        self._offset += len(read)
        *whole, self._rest = (self._rest + read).split(b"\n")
        self._count += sum(b"bench.v1.Bench/" in line for line in whole)
        return self._count


async def measure(
    variants: Sequence[Variant],
    shapes: Sequence[Shape],
    rounds: int,
    folder: Path,
    tokens: list[str],
    others: Sequence[Callable[[Materials, AsyncExitStack], Target]] = (),
    told: Callable[[str], None] = lambda _: None,
) -> Table:
    """Every variant under every load in every round; the first round warms up and is forgotten.

    Raises Void where something was not done that ought to have been.
    """
    materials = Materials.create(folder)
    message = request(contract())
    async with AsyncExitStack() as stack:
        sink = stack.enter_context(started("sink", module("sink", str(folder)), folder, core=CLIENT_CORE))
        address_of(sink, folder)
        servers: dict[str, tuple[Process, str]] = {}
        targets = [_target(each, servers, materials, stack, tokens) for each in variants]
        targets += [make(materials, stack) for make in others]
        table, dice = Table(), random.Random(3)  # noqa: S311
        for number in range(rounds + 1):
            order = [(target, shape) for target in targets for shape in shapes]
            dice.shuffle(order)
            for target, shape in order:
                cell = await _cell(target, shape, message)
                if number:
                    table.add(target.variant.name, shape.name, cell)
            told(f"round {number} of {rounds}" if number else "warmed up")
    return table


def _target(
    variant: Variant,
    servers: dict[str, tuple[Process, str]],
    materials: Materials,
    stack: AsyncExitStack,
    tokens: list[str],
) -> Target:
    folder = materials.folder
    if variant.server not in servers:
        arguments = (variant.kind, str(folder), variant.server, str(variant.methods), variant.loop)
        process = stack.enter_context(started(variant.server, module("servers", *arguments), folder))
        servers[variant.server] = process, address_of(process, folder)
    process, address = servers[variant.server]
    options = [
        ("grpc.ssl_target_name_override", f"server.{TRUST_DOMAIN}"),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if variant.kind == "insecure":
        channel = grpc.aio.insecure_channel(address, options[1:])
    else:
        credentials = materials.credentials(CLIENT).channel_credentials()
        channel = grpc.aio.secure_channel(address, credentials, options)
    stack.push_async_callback(channel.close)
    return Target(
        variant=variant,
        channel=_ours(channel, variant.sampled, stack) if variant.our_channel else channel,
        processes=(process,),
        headers=Headers(tokens, variant.sampled, trace=not variant.our_channel, budget=variant.our_headers),
        lines=Lines(process.log) if variant.logs else None,
        spans=partial(counted, folder, variant.server) if variant.spans else None,
    )


def _ours(channel: grpc.aio.Channel, sampled: float, stack: AsyncExitStack) -> grpc.aio.Channel:
    """`channel` as the mesh hands it out, with metrics and spans of the calls."""
    records = Records([], made=[ClientMetrics(), ClientSpans(Spans())])
    stack.callback(records.close)
    return guarded(channel, trace_ratio=sampled, telemetry=Telemetry(keep=records.keep, spans=True))


async def _cell(target: Target, shape: Shape, message: bytes) -> Cell:
    lines = target.lines() if target.lines else 0
    spans = target.spans() if target.spans else 0
    before = sum(process.cpu_ns() for process in target.processes)
    try:
        loaded = await load(target.channel, shape, message, target.headers)
    except* grpc.aio.AioRpcError as errors:
        raise Void(f"{target.variant.name}, {shape.name}: calls failed: {errors.exceptions[0]}") from errors
    await asyncio.sleep(SETTLED_S)
    await _recorded(target, shape, loaded, lines, spans)
    server_us = (sum(process.cpu_ns() for process in target.processes) - before) / 1000 / shape.calls
    if server_us < LEAST_CPU_US:
        raise Void(f"{target.variant.name} was called at {server_us:.1f} us a call: somebody else served")
    ordered = sorted(loaded.latencies)
    return Cell(
        server_us=server_us,
        client_us=loaded.client_cpu_ns / 1000 / shape.calls,
        rps=shape.calls / loaded.seconds,
        p50_ms=ordered[len(ordered) // 2] * 1000,
        latencies=loaded.latencies,
    )


async def _recorded(target: Target, shape: Shape, loaded: Loaded, lines: int, spans: int) -> None:
    """Wait until every call has left what it has to leave; that work is measured, too."""
    for what, count, wanted in (
        ("lines", target.lines, lines + shape.calls),
        ("spans", target.spans, spans + loaded.sampled),
    ):
        ends_at = time.monotonic() + RECORDED_S
        while count is not None and (found := count()) != wanted:
            if found > wanted or time.monotonic() > ends_at:
                raise Void(f"{target.variant.name}, {shape.name}: {found - wanted:+d} {what} of {wanted}")
            await asyncio.sleep(0.02)
