"""How old the connections of processes get, as the kernel shows them to anybody who asks from outside."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

ESTABLISHED, LISTENING = "01", "0A"
SAMPLE_S = 0.25


@dataclass(frozen=True, slots=True)
class _Socket:
    """One TCP socket: what names it, among all that use the same ports later, is its inode."""

    local: int
    remote: int
    state: str
    inode: str


class Connections:
    """The accepted connections of the processes that `pids` names, sampled until cancelled."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self._seen: dict[_Socket, tuple[float, float]] = {}

    @property
    def count(self) -> int:
        return len(self._seen)

    @property
    def oldest_s(self) -> float:
        """How long the one that was seen longest was seen; it was older by at most two samples."""
        return max((last - first for first, last in self._seen.values()), default=0.0)

    async def watch(self) -> None:
        while True:
            await asyncio.to_thread(self._sample)
            await asyncio.sleep(SAMPLE_S)

    def _sample(self) -> None:
        now = time.monotonic()
        for pid in self._pids():
            mine = _inodes(pid)
            sockets = [socket for socket in _sockets(pid) if socket.inode in mine]
            ports = {socket.local for socket in sockets if socket.state == LISTENING}
            for socket in sockets:
                if socket.state == ESTABLISHED and socket.local in ports:
                    first, _ = self._seen.get(socket, (now, now))
                    self._seen[socket] = first, now


def _inodes(pid: int) -> set[str]:
    """The sockets that a process has open."""
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                named = str(descriptor.readlink())
                if named.startswith("socket:["):
                    found.add(named[len("socket:[") : -1])
    return found


def _sockets(pid: int) -> list[_Socket]:
    """Those of its network namespace (proc(5), /proc/net/tcp)."""
    found = []
    for family in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
                fields = line.split()
                local, remote = (int(field.rpartition(":")[2], 16) for field in fields[1:3])
                found.append(_Socket(local, remote, fields[3], fields[9]))
    return found
