"""Calls of three priorities at a fixed rate, whatever becomes of them, from one core; says how they ended.

Its arguments are those of tests/faults/eight_slots.py, the seconds at a tenth of its capacity, and those at
three times as much.
"""

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import uvloop

from hauberk.certs.store import CredentialStore
from hauberk.interceptors.demands import Priority
from hauberk.interceptors.outbound import guarded
from tests.faults.eight_slots import CALLERS, SLOTS
from tests.interceptors.stage import TRUST_DOMAIN, path

SHARES = {Priority.HIGH: 0.2, Priority.NORMAL: 0.5, Priority.LOW: 0.3}
UNLOADED, OVERLOADED = 0.1, 3.0
"""Of the capacity."""
DEADLINE = 50
"""Times what a call takes."""


@dataclass(slots=True)
class Load:
    """What became of the calls."""

    ended: dict[Priority, Counter[str]] = field(
        default_factory=lambda: {each: Counter() for each in Priority}
    )
    ms: list[float] = field(default_factory=list)
    """Of those that were answered."""
    late_s: float = 0.0
    """The most that a call left later than it should have."""


async def offer(
    stubs: list[dict[Priority, Callable[..., Any]]], call_s: float, share: float, seconds: float
) -> Load:
    per_s = SLOTS / call_s * share
    load, chance = Load(), random.Random(1)
    began, sent = time.monotonic(), 0
    async with asyncio.TaskGroup() as calls:
        while (passed := time.monotonic() - began) < seconds:
            while sent < passed * per_s:
                load.late_s = max(load.late_s, passed - sent / per_s)
                (priority,) = chance.choices(list(SHARES), list(SHARES.values()))
                calls.create_task(ask(stubs[sent % len(stubs)][priority], priority, call_s * DEADLINE, load))
                sent += 1
            await asyncio.sleep(0.002)
    return load


async def ask(stub: Callable[..., Any], priority: Priority, within: float, load: Load) -> None:
    began = time.monotonic()
    try:
        await stub(b"work", timeout=within)
    except grpc.aio.AioRpcError as error:
        load.ended[priority][f"{error.code().name}: {error.details()}"] += 1
    else:
        load.ended[priority]["OK"] += 1
        load.ms.append((time.monotonic() - began) * 1000)


def channel(folder: Path, name: str) -> grpc.aio.Channel:
    credentials = CredentialStore(folder / name).load()
    assert credentials is not None
    return guarded(
        grpc.aio.secure_channel(
            (folder / "address").read_text(encoding="ascii"),
            credentials.channel_credentials(),
            options=[
                ("grpc.ssl_target_name_override", f"server.{TRUST_DOMAIN}"),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
    )


async def main(folder: Path, call_s: float, unloaded_s: float, overloaded_s: float) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    channels = [channel(folder, name) for name in CALLERS]
    stubs: list[dict[Priority, Callable[..., Any]]]
    stubs = [{each: opened.unary_unary(path(each.name)) for each in Priority} for opened in channels]
    await asyncio.gather(*(opened.channel_ready() for opened in channels))
    await offer(stubs, call_s, UNLOADED, 1.0)
    told = [
        {
            "seconds": seconds,
            "ended": {each.name: counts for each, counts in load.ended.items()},
            "p50_ms": percentile(load.ms, 0.5),
            "p99_ms": percentile(load.ms, 0.99),
            "late_ms": round(load.late_s * 1000, 1),
        }
        for share, seconds in ((UNLOADED, unloaded_s), (OVERLOADED, overloaded_s))
        for load in [await offer(stubs, call_s, share, seconds)]
    ]
    print(json.dumps({"phases": told, "cpu_s": round(time.process_time(), 2)}))
    await asyncio.gather(*(opened.close() for opened in channels))


def percentile(ms: list[float], share: float) -> float:
    return round(sorted(ms)[int(len(ms) * share)], 1)


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1]), *map(float, sys.argv[2:])))
