"""How much memory this process uses: no new calls while that is too much, and what was freed is given back.

The kernel ends a process that asks for more than there is, and every call in it; one that refuses new calls
first finishes those it has. Linux only (proc(5), cgroups(7)); elsewhere nothing is measured.
"""

import asyncio
import ctypes
import gc
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from hauberk.certs.watch import Watch

_log = logging.getLogger(__name__)

SHARE = 0.8
"""Of the memory there is: the rest is for the calls in flight, and for what grows between two looks."""
ENOUGH = 0.9
"""Of the limit: calls are taken again below it, so one that comes and goes changes nothing."""
LOOK_S = 0.2
TIDY_S = 2.0
TIDY_SHARE = 0.01
"""The most of all time that giving memory back may take. A trim may hold up whoever allocates: for a
millisecond mostly; 47 ms were measured on 800 MB in which every second block of 3 KB was free.
"""
MOVED = 8 * 1024 * 1024
"""A change of so many bytes is worth a collection of garbage: 10 to 20 ms in a process of the shop."""
MIB = 1024 * 1024


class Memory:
    """This process's memory. `keep` must be running."""

    def __init__(
        self,
        limit: int,
        *,
        used: Callable[[], int | None] | None = None,
        trim: Callable[[], object] | None = None,
    ) -> None:
        """`limit` and what `used` tells are bytes; None where it cannot be told."""
        self.limit = limit
        self.short = Watch(False)
        """Whether new calls should be refused."""
        self._used = used or resident
        self._trim = trim or _trim

    async def keep(self) -> None:
        """Look a few times a second, for ever; returns at once where nothing can be told."""
        if (settled := self._used()) is None:
            return
        before, tidy_at = settled, time.monotonic() + TIDY_S
        while True:
            used = self._used() or 0
            self._judge(used)
            began = time.monotonic()
            if began >= tidy_at and used - before < MIB:  # not while it grows: there is enough to do then
                settled = await self._tidied(settled)
                tidy_at = began + max(TIDY_S, (time.monotonic() - began) / TIDY_SHARE)
            before = used
            await asyncio.sleep(LOOK_S)

    async def _tidied(self, settled: int) -> int:
        """Give back what is free; bytes in use after the last collection of garbage, if need be this one.

        grpc.aio leaves each call's headers in a circle of references, and older circles are collected only
        when there are a quarter more objects, however much memory those are.
        """
        await asyncio.to_thread(self._trim)
        if abs((self._used() or 0) - settled) < MOVED or not gc.isenabled():
            return settled
        gc.collect()
        await asyncio.to_thread(self._trim)
        return self._used() or 0

    def _judge(self, used: int) -> None:
        if not self.short.value and used > self.limit:
            _log.error(
                "new calls are refused: this process uses %d MiB of memory, more than %d",
                used // MIB,
                self.limit // MIB,
            )
            self.short.set(True)
        elif self.short.value and used < ENOUGH * self.limit:
            _log.info("calls are taken again: this process uses %d MiB of memory", used // MIB)
            self.short.set(False)


def resident() -> int | None:
    """Bytes of memory that this process occupies; None where the kernel does not tell."""
    try:
        with Path("/proc/self/statm").open("rb") as told:
            return int(told.read().split()[1]) * _PAGE
    except OSError:
        return None


def default_limit() -> int:
    """Bytes: SHARE of what the machine has, or of what our control group may use where that is less."""
    machine = os.sysconf("SC_PHYS_PAGES") * _PAGE
    return int(SHARE * min([machine, *_group_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]))


def _group_limits(groups: Path, mounted: Path) -> Iterable[int]:
    """Of each control group we are in, and of those around it."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = mounted, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = mounted / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = Path(path.lstrip("/"))
        for each in (group, *group.parents):
            try:
                said = (root / each / name).read_text().strip()
            except OSError:
                continue
            if said.isdecimal():  # "max" is none
                yield int(said)


def few_heaps() -> None:
    """Tell glibc to make two heaps at most. Before gRPC is used, whose threads would get one each.

    A heap keeps what is freed in it, and there are up to eight for each processor. After twice 240 MB of
    metadata 99 MB stayed for good; 48 MB with a trim; 16 MB with two heaps as well. MALLOC_MMAP_THRESHOLD_
    keeps still less, but each large block then costs page faults, and all else waits for them.
    """
    if (mallopt := _c_function("mallopt")) is not None:
        mallopt(_M_ARENA_MAX, 2)


def _trim() -> None:
    if (malloc_trim := _c_function("malloc_trim")) is not None:
        malloc_trim(0)


def _c_function(name: str) -> Callable[..., object] | None:
    """None where the C library is not glibc."""
    try:
        found: Callable[..., object] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):
        return None
    return found


_M_ARENA_MAX = -8  # malloc.h
_PAGE = os.sysconf("SC_PAGE_SIZE")
