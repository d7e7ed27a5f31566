"""A child that somebody stopped is killed and started again; one that only seems to be stopped is not."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hauberk.cli.standstill import LOOK_S, LOOKS
from hauberk.cli.supervisor import Child, Supervisor
from tests.cli.processes import IDLE, command_line, pid_of, processes_of, until
from tests.cli.test_supervisor import Record, python, state_of, supervising
from tests.mesh.running import running

LONGEST_S = LOOKS * LOOK_S
BEGINS = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
HOLDS = """
import ctypes, os, sys, time
libc, pid = ctypes.CDLL(None, use_errno=True), int(sys.argv[1])
attached = libc.ptrace(16, pid, None, None) == 0  # PTRACE_ATTACH
print("held" if attached else os.strerror(ctypes.get_errno()), flush=True)
time.sleep(60)
"""


@asynccontextmanager
async def watched(record: Record) -> AsyncIterator[tuple[Supervisor, Child, int]]:
    """A child that runs and may not stand still, with its number."""
    child = python("a-1", BEGINS)
    child.may_stand_still = False
    async with supervising(record, child) as supervisor:
        await record.until(lambda: len(record.lines) == 1)
        yield supervisor, child, int(record.texts()[0])


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP], ids=lambda number: number.name)
async def test_a_child_that_stands_still_is_killed_and_started_again(number: signal.Signals) -> None:
    record = Record()
    async with watched(record) as (_, child, pid):
        began = time.monotonic()
        os.kill(pid, number)
        await record.until(lambda: bool(record.said))
        assert LONGEST_S - LOOK_S < time.monotonic() - began < LONGEST_S + 1
        await record.until(lambda: len(record.lines) == 2)
        assert (child.pid, child.deaths) == (int(record.texts()[1]), 1)
    [said] = record.said
    assert said.startswith(f"a-1 was stopped by {number.name} for 1 s, and killed; starting it again in ")
    assert child.last_ending == f"was stopped by {number.name} for 1 s, and killed"


@pytest.mark.alone
async def test_a_child_that_goes_on_in_time_lives() -> None:
    record = Record()
    async with watched(record) as (_, child, pid):
        for _ in range(3):
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(LONGEST_S / 2)
            os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(2 * LOOK_S)
        assert (child.pid, record.said) == (pid, [])


async def test_a_child_that_stands_still_is_stopped_without_its_time_of_grace() -> None:
    record = Record()
    async with watched(record) as (supervisor, _, pid), asyncio.timeout(10):
        os.kill(pid, signal.SIGSTOP)
        await supervisor.stop(["a-1"], grace_s=60)
    assert record.said == []


async def test_a_child_that_may_stand_still_is_left_alone() -> None:
    record = Record()
    child = python("a-1", BEGINS)
    async with supervising(record, child):
        await record.until(lambda: len(record.lines) == 1)
        os.kill(int(record.texts()[0]), signal.SIGSTOP)
        await asyncio.sleep(LONGEST_S + 2 * LOOK_S)
        assert record.said == []


@pytest.mark.skipif(sys.platform != "linux", reason="ptrace(2) as Linux has it")
async def test_a_child_that_a_debugger_holds_is_left_alone() -> None:
    record = Record()
    async with watched(record) as (_, child, pid):
        debugger = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOLDS, str(pid), stdout=asyncio.subprocess.PIPE
        )
        try:
            assert debugger.stdout
            told = (await debugger.stdout.readline()).decode().strip()
            if told != "held":
                pytest.skip(f"ptrace: {told}; run as root")
            await asyncio.sleep(LONGEST_S + 2 * LOOK_S)
            assert state_of(pid) == "t", "it was stopped all the while"
            assert (child.pid, record.said) == (pid, [])
        finally:
            debugger.kill()
            await debugger.wait()


def test_who_was_stopped_together_with_up_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text(IDLE)
    with running(tmp_path) as up:
        idle = pid_of(tmp_path, "600")
        for process in (up.pid, idle):
            os.kill(process, signal.SIGSTOP)
        time.sleep(2 * LONGEST_S)
        for process in (up.pid, idle):  # `up` goes on first
            os.kill(process, signal.SIGCONT)
            time.sleep(LOOK_S)
        time.sleep(LONGEST_S)
        assert pid_of(tmp_path, "600") == idle
        os.kill(idle, signal.SIGSTOP)
        until(lambda: "idle-1 was stopped by SIGSTOP for 1 s" in (tmp_path / "up.log").read_text())
        until(lambda: "600" in [word for pid in processes_of(tmp_path) for word in command_line(pid)])
        assert pid_of(tmp_path, "600") != idle
