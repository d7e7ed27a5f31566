"""The processes that are measured: begun, bound to a core, their CPU read to the nanosecond, ended."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

CLIENT_CORE, SERVER_CORE = 0, 1
START_S = 30.0
"""How long a process may take to listen."""


class Void(Exception):
    """A run that proves nothing: work was not done, calls failed, or somebody else did it."""


@dataclass(frozen=True, slots=True)
class Process:
    """One measured process."""

    name: str
    running: "subprocess.Popen[bytes]"
    log: Path

    def cpu_ns(self) -> int:
        """CPU time of all its threads so far, from the clock that the kernel keeps of each process."""
        if self.running.poll() is not None:
            raise Void(f"{self.name} has ended, see {self.log}: {self.log.read_text('utf-8')[-2000:]}")
        return time.clock_gettime_ns(~self.running.pid << 3 | 2)  # CPUCLOCK_SCHED, clock_getcpuclockid(3)

    def rss_kib(self) -> int:
        """Resident memory."""
        for line in Path(f"/proc/{self.running.pid}/status").read_text("ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        return 0


@contextmanager
def started(
    name: str, command: Sequence[str], folder: Path, *, core: int | None = SERVER_CORE
) -> Iterator[Process]:
    """A process of `command`, its output in FOLDER/NAME.log; ended with the block.

    Those of ours end with their stdin; others are told by SIGTERM.
    """
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        running = _run(command, output, core)
    try:
        yield Process(name, running, log)
    finally:
        if running.stdin is not None:
            running.stdin.close()
        if command[0] != sys.executable:
            running.terminate()
        try:
            running.wait(5)
        except subprocess.TimeoutExpired:
            running.terminate()
            try:
                running.wait(5)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module of the benchmark."""
    return [sys.executable, "-m", f"scripts.bench.{name}", *arguments]


def address_of(process: Process, folder: Path) -> str:
    """Where `process` says it listens."""
    said = folder / f"{process.name}.address"
    ends_at = time.monotonic() + START_S
    while not said.exists():
        process.cpu_ns()  # raises if it has ended
        if time.monotonic() > ends_at:
            raise Void(f"{process.name} does not listen, see {process.log}")
        time.sleep(0.02)
    return said.read_text("utf-8")


def await_port(process: Process, port: int) -> None:
    """Wait until `process` listens there."""
    ends_at = time.monotonic() + START_S
    while True:
        process.cpu_ns()  # raises if it has ended
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError as error:
            if time.monotonic() > ends_at:
                raise Void(f"{process.name} does not listen, see {process.log}") from error
        time.sleep(0.05)


def bind_to(core: int) -> None:
    """Keep this process, and what it starts, on one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core % (os.cpu_count() or 1)})


def _run(command: Sequence[str], output: IO[bytes], core: int | None) -> "subprocess.Popen[bytes]":
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)  # noqa: S603
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(running.pid, {core % (os.cpu_count() or 1)})
    return running
