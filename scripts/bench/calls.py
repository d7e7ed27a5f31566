"""What one call costs: servers as processes of their own on one core, their callers on another, by turns.

In each round every variant is put under every load once, in an order that is drawn anew. What is compared is
compared within a round: this machine's own mood does not stay the same for longer than that.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import grpc

from scripts.bench.contract import request
from scripts.bench.load import Loaded, Shape, load
from scripts.bench.measures import Cell, Table
from scripts.bench.processes import CLIENT_CORE, Void, address_of, module, started
from scripts.bench.proof import check_metrics, prove
from scripts.bench.targets import Run, Target

LEAST_CPU_US = 30.0
"""A call that costs a server less than this was served by somebody else."""
RECORDED_S = 6.0
"""How long after the last call its line and its span may still be missing."""

Make = Callable[[Run], Target]


async def measure(
    plan: Mapping[Make, Mapping[Shape, int]],
    rounds: int,
    folder: Path,
    told: Callable[[str], None] = lambda _: None,
) -> Table:
    """Every variant under its loads, in every so many rounds; the first round warms up and is forgotten.

    Raises Void where something was not done that ought to have been.
    """
    async with AsyncExitStack() as stack:
        sink = stack.enter_context(started("sink", module("sink", str(folder)), folder, core=CLIENT_CORE))
        address_of(sink, folder)
        run = Run.begin(folder, stack)
        message = request(run.contract)
        targets = [(make(run), under) for make, under in plan.items()]
        await prove([target for target, _ in targets], run)
        cells = [(target, shape, every) for target, under in targets for shape, every in under.items()]
        table, dice = Table(), random.Random(3)  # noqa: S311
        for number in range(rounds + 1):
            dice.shuffle(cells)
            for target, shape, every in cells:
                if number % every == 0:
                    cell = await _cell(target, shape, message)
                    if number:
                        table.add(target.variant.name, shape.name, number, cell)
            told(f"round {number} of {rounds}" if number else "warmed up")
        for target, _ in targets:
            check_metrics(target)
    return table


async def _cell(target: Target, shape: Shape, message: bytes) -> Cell:
    lines = target.lines.read() if target.lines else 0
    spans = target.spans() if target.spans else 0
    before = sum(process.cpu_ns() for process in target.processes)
    try:
        loaded = await load(target.channel, shape, message, target.headers)
    except* grpc.aio.AioRpcError as errors:
        raise Void(f"{target.variant.name}, {shape.name}: calls failed: {errors.exceptions[0]}") from errors
    own = _other_threads_ns()
    await asyncio.sleep(target.settled_s)
    await _recorded(target, shape, loaded, lines, spans)
    client_ns = loaded.client_cpu_ns + _other_threads_ns() - own
    server_us = (sum(process.cpu_ns() for process in target.processes) - before) / 1000 / shape.calls
    if server_us < LEAST_CPU_US:
        raise Void(f"{target.variant.name} was called at {server_us:.1f} us a call: somebody else served")
    ordered = sorted(loaded.latencies)
    return Cell(
        server_us=server_us,
        client_us=client_ns / 1000 / shape.calls,
        rps=shape.calls / loaded.seconds,
        p50_ms=ordered[len(ordered) // 2] * 1000,
        latencies=loaded.latencies,
    )


def _other_threads_ns() -> int:
    """CPU of this process but for the thread that asks: what our channels write down of their calls."""
    return time.process_time_ns() - time.thread_time_ns()


async def _recorded(target: Target, shape: Shape, loaded: Loaded, lines: int, spans: int) -> None:
    """Wait until every call has left what it has to leave; that work is measured, too."""
    where = f"{target.variant.name}, {shape.name}"
    if target.lines is not None:
        await _await(f"{where}: lines", target.lines.read, lines + shape.calls)
    if target.spans is not None:
        sampled = loaded.sampled
        if target.variant.our_channel:
            assert target.lines is not None  # noqa: S101 - which traces were begun is told by lines alone
            sampled = target.lines.begun_sampled(lines, target.variant.sampled)
        await _await(f"{where}: spans", target.spans, spans + sampled * target.spans_each)


async def _await(what: str, count: Callable[[], int], wanted: int) -> None:
    ends_at = time.monotonic() + RECORDED_S
    while (found := count()) != wanted:
        if found > wanted or time.monotonic() > ends_at:
            raise Void(f"{what}: {found - wanted:+d} of {wanted}")
        await asyncio.sleep(0.02)
