"""One of two replicas under `hauberk up` is stopped within a write to SQLite, and holds the one lock of both.

Only its going on or its death frees that lock. On PostgreSQL, see test_replica_lost.py.
"""

import asyncio
import fcntl
import os
import random
import signal
import struct
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import make_url

import hauberk
from hauberk.cli.state import State
from tests.faults.twins import SERVICES, WatchedLoad, failed, trading, twins
from tests.mesh.books import Books
from tests.mesh.fleet import eventually
from tests.mesh.running import invited, replicas, running

WRITE_LOCK = 120
"""The byte of the -shm file that a writer has locked (https://www.sqlite.org/walformat.html, 2.3.1)."""
FREED_S = 2.0
"""Within which the lock is free: what is stopped is killed after a second, later on a busy machine."""
STRUCK_S = 3.0
"""Calls that begin later and are slow have other reasons."""
BACK_S = 10.0
"""Within which another process serves in its place."""


@pytest.mark.alone
@pytest.mark.soak
@pytest.mark.timeout(240)
@pytest.mark.skipif(sys.platform != "linux", reason="who holds a lock is asked as Linux is asked")
async def test_a_replica_stopped_within_a_write_is_replaced_and_costs_its_twin_no_write(
    tmp_path: Path, soaking: bool
) -> None:
    (tmp_path / "mesh.toml").write_text(twins())
    with running(tmp_path):
        async with traded(tmp_path) as load:
            losses = []
            for service in SERVICES if soaking else ("catalog",):
                await asyncio.sleep(2)
                losses.append(await stopped_and_replaced(tmp_path, load, service))
        assert strays(load, losses) == []
        assert "does not answer" not in log(tmp_path), "a twin that waited for the lock got it"
        assert "Traceback" not in log(tmp_path)


@asynccontextmanager
async def traded(folder: Path) -> AsyncIterator[WatchedLoad]:
    """A load on the shop in `folder` while the block runs."""
    state = State.beside(folder / "mesh.toml")
    settings = await asyncio.to_thread(invited, folder, "gateway")
    async with hauberk.join(settings) as caller, trading(caller, partial(Books.of, state)) as load:
        yield load


async def stopped_and_replaced(folder: Path, load: WatchedLoad, service: str) -> tuple[float, float]:
    """Stop the first replica of `service` within a write; from when to when the lock was held."""
    replica, pid = f"{service}-1", await pid_of(folder, service)
    stopped_at = await stopped_within_a_write(folder, service, pid)
    held_s = await eventually(lambda: holder(folder, service) != pid, within=10, pause=0.005)
    await eventually(lambda: announced(folder, replica) == 2, within=BACK_S)
    back_s = time.monotonic() - stopped_at
    await asyncio.sleep(max(0.0, STRUCK_S - back_s))
    met = load.met(stopped_at, stopped_at + STRUCK_S)
    reads, writes = failed(met, reads=True), failed(met, reads=False)
    noticed_s = max((call.ended for call in met), default=stopped_at) - stopped_at
    print(
        f"{replica} stopped within a write: the lock is free after {held_s:.2f} s, all is well after "
        f"{noticed_s:.2f} s, another serves after {back_s:.2f} s; {len(met)} calls met it, {writes}"
    )
    assert held_s < FREED_S
    assert not reads
    assert f"{replica} was stopped by SIGSTOP for 1 s, and killed; starting it again" in log(folder)
    return stopped_at, stopped_at + held_s


def strays(load: WatchedLoad, losses: Iterable[tuple[float, float]]) -> list[str]:
    """What failed and had not begun before the death of a stopped process: no such call can have been its."""
    return [
        str(call)
        for call in load.called
        if call.failure and not any(since <= call.ended and call.began <= until for since, until in losses)
    ]


def announced(folder: Path, replica: str) -> int:
    """How many processes of that name have been listed so far."""
    return sum(
        line.startswith(f"{replica} | ") and "announced at" in line for line in log(folder).splitlines()
    )


async def pid_of(folder: Path, service: str) -> int:
    rows = await asyncio.to_thread(replicas, folder)
    [pid] = [row["pid"] for row in rows if row["process"] == f"{service}-1"]
    return int(pid)


async def stopped_within_a_write(folder: Path, service: str, pid: int) -> float:
    """Stop it again and again until it holds the lock; when that was."""
    async with asyncio.timeout(30):
        while True:
            os.kill(pid, signal.SIGSTOP)
            stopped_at = time.monotonic()
            await eventually(lambda: is_stopped(pid), within=1, pause=0.001)
            if holder(folder, service) == pid:
                return stopped_at
            os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(random.uniform(0.002, 0.01))


def holder(folder: Path, service: str) -> int | None:
    """The process that is writing to the service's SQLite database."""
    path = make_url(State.beside(folder / "mesh.toml").database_url(service)).database
    assert path is not None
    question = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, WRITE_LOCK, 1, 0)
    with Path(f"{path}-shm").open("rb+") as shared:
        kind, _, _, _, pid = struct.unpack("hhqqi4x", fcntl.fcntl(shared, fcntl.F_GETLK, question))
    return None if kind == fcntl.F_UNLCK else int(pid)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "T"


def log(folder: Path) -> str:
    return (folder / "up.log").read_text()
