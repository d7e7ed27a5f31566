"""One child process of `hauberk up`: started with its secrets in pipes, its output read line by line, stopped
within a bound; and the process group that none of them outlives.
"""

import asyncio
import errno
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

LONGEST_LINE = 64 * 1024
_READ_BYTES = 64 * 1024
_NO_PROGRAM = {
    errno.ENOENT: "is no program here",
    errno.ENOTDIR: "is no program here",
    errno.EACCES: "may not be run",
    errno.ENOEXEC: "is nothing that can be run",
}
_REAPER = Path(__file__).with_name("reaper.py")


class NoProgram(Exception):
    """A command that can start nothing, however often it is tried; `str()` says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What one start of a process takes."""

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    """By variable: the child finds in it the number of a descriptor from which the secret is read, once."""


@asynccontextmanager
async def process_group() -> AsyncIterator[int]:
    """A process group for children; leaving the block, or the death of this process, ends all that is in
    it.
    """
    reaper = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", str(_REAPER), stdin=asyncio.subprocess.PIPE, process_group=0
    )
    try:
        yield reaper.pid
    finally:
        if reaper.returncode is None:
            os.killpg(reaper.pid, signal.SIGKILL)
        await reaper.wait()


class Process:
    """A running child. Its output goes to `on_line(stream, line)`, stream being "out" or "err"."""

    def __init__(
        self,
        child: asyncio.subprocess.Process,
        streams: Mapping[str, int],
        on_line: Callable[[str, str], None],
    ) -> None:
        """Use `start`."""
        self._child = child
        self._streams = streams
        self._on_line = on_line
        self.ended = asyncio.Event()
        """Set once it has ended and all it printed was read."""

    @classmethod
    async def start(cls, launch: Launch, group: int, on_line: Callable[[str, str], None]) -> "Process":
        """Start it in the process group `group`. Raises NoProgram, or OSError."""
        environment = dict(launch.environment)
        out, err = os.pipe(), os.pipe()
        reading, theirs = {"out": out[0], "err": err[0]}, [out[1], err[1]]
        try:
            secrets = []
            for variable, secret in launch.secrets.items():
                secrets.append(descriptor := pipe_holding(secret))
                environment[variable] = str(descriptor)
            theirs += secrets
            # The pipes are our own: asyncio's would keep wait() waiting for whoever else inherited them.
            child = await asyncio.create_subprocess_exec(
                *launch.command,
                env=environment,
                cwd=launch.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out[1],
                stderr=err[1],
                pass_fds=secrets,
                process_group=group,
            )
        except BaseException as error:
            _close(reading.values())
            if isinstance(error, OSError) and (why := _NO_PROGRAM.get(error.errno or 0)):
                raise NoProgram(f"{launch.command[0]!r} {why}: correct command in mesh.toml") from error
            raise
        finally:
            _close(theirs)
        return cls(child, reading, on_line)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def stopped_by(self) -> signal.Signals | None:
        """The signal that has stopped it; None if it runs, has ended, or the system cannot tell (macOS)."""
        if self._child.returncode is not None or not hasattr(os, "waitid"):
            return None
        try:
            # WNOWAIT: we only look. Its end stays for asyncio to find.
            found = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return None
        return signal.Signals(found.si_status) if found else None

    async def wait(self) -> int:
        """Read its output until it has ended; its exit code, negative for a signal. Call it once.

        What it leaves behind may hold its pipes open: they are read for a second more, no longer.
        """
        async with asyncio.TaskGroup() as tasks:
            pumps = [tasks.create_task(self._pump(name, end)) for name, end in self._streams.items()]
            code = await self._child.wait()
            await asyncio.wait(pumps, timeout=1.0)
            for pump in pumps:
                pump.cancel()
        self.ended.set()
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self._child.returncode is None:
            self._child.send_signal(number)

    async def _pump(self, stream: str, descriptor: int) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
        )
        rest = b""
        try:
            while read := await reader.read(_READ_BYTES):
                *lines, rest = (rest + read).split(b"\n")
                if len(rest) > LONGEST_LINE:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    self._on_line(stream, line.decode("utf-8", "replace").rstrip("\r"))
        finally:
            transport.close()
            if rest:
                self._on_line(stream, rest.decode("utf-8", "replace"))


def pipe_holding(secret: str) -> int:
    """The read end of a pipe with `secret` in it; the write end is closed."""
    read_end, write_end = os.pipe()
    try:
        with os.fdopen(write_end, "wb", closefd=True) as writer:
            writer.write(secret.encode("ascii"))
    except BaseException:
        os.close(read_end)
        raise
    return read_end


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
