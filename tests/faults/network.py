"""Network namespaces that a test makes and removes: a process in one is cut off as if its cable were pulled.

Packets are dropped where they come in, on both ends of the pair of veth interfaces, so neither side is told
anything: no reset, no unreachable, no error from send.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import pytest

ADDRESSES = "198.18"
"""For tests of networks, by RFC 2544; nobody on the Internet has one of these."""


class Cable:
    """One namespace and its connection to us; `address` is its own, `host` ours at the other end."""

    def __init__(self, name: str, address: str, host: str) -> None:
        self.address = address
        self.host = host
        self._name = name
        self._ours, self._theirs = f"{name}a", f"{name}b"

    @property
    def command(self) -> Sequence[str]:
        """Put before the command of a process that should run in the namespace."""
        return ("ip", "netns", "exec", self._name)

    def cut(self, ports: Collection[int] = ()) -> None:
        """Drop every packet, in both directions; with `ports`, only TCP to and from these ports of ours."""
        self._drop(self._ours, "dport", ports)
        self._drop(self._theirs, "sport", ports)

    def mend(self) -> None:
        """Let everything through again."""
        for device in (self._ours, self._theirs):
            with contextlib.suppress(subprocess.CalledProcessError):  # it was not cut
                self._nft(device, "delete table netdev hauberk_" + device)

    @contextmanager
    def laid(self) -> Iterator["Cable"]:
        """It exists while the block runs. Whatever runs in it must have ended before."""
        _run("ip", "netns", "add", self._name)
        try:
            _run("ip", "link", "add", self._ours, "type", "veth", "peer", self._theirs, "netns", self._name)
            _run("ip", "addr", "add", f"{self.host}/30", "dev", self._ours)
            _run("ip", "link", "set", self._ours, "up")
            _run("ip", "-n", self._name, "addr", "add", f"{self.address}/30", "dev", self._theirs)
            _run("ip", "-n", self._name, "link", "set", self._theirs, "up")
            _run("ip", "-n", self._name, "link", "set", "lo", "up")
            _run("ip", "-n", self._name, "route", "add", "default", "via", self.host)
            yield self
        finally:
            self.mend()
            with contextlib.suppress(subprocess.CalledProcessError):  # it was not made
                _run("ip", "link", "del", self._ours)  # now; with its namespace it would go some time later
            _run("ip", "netns", "del", self._name)

    def _drop(self, device: str, port: str, ports: Collection[int]) -> None:
        table = f"netdev hauberk_{device}"
        policy = "accept" if ports else "drop"
        hook = f"{{ type filter hook ingress device {device} priority 0; policy {policy}; }}"
        self._nft(device, f"add table {table}")
        self._nft(device, f"add chain {table} cut {hook}")
        for number in ports:
            self._nft(device, f"add rule {table} cut tcp {port} {number} drop")

    def _nft(self, device: str, command: str) -> None:
        _run(*(self.command if device == self._theirs else ()), "nft", command)


@contextmanager
def cables(count: int) -> Iterator[list[Cable]]:
    """So many namespaces; a process in any of them reaches each of our addresses."""
    if missing := _missing():
        pytest.skip(missing)
    third = os.getpid() % 250
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                Cable(
                    f"hbk{os.getpid() % 1_000_000}{chr(ord('p') + number)}",
                    f"{ADDRESSES}.{third}.{4 * number + 2}",
                    f"{ADDRESSES}.{third}.{4 * number + 1}",
                ).laid()
            )
            for number in range(count)
        ]


def _missing() -> str | None:
    """Why no namespace can be made here, with the remedy; None if one can."""
    for program, package in (("ip", "iproute2"), ("nft", "nftables")):
        if shutil.which(program) is None:
            return f"{program} is not installed: apt-get install {package}"
    if os.geteuid() != 0:
        return "network namespaces are for root: run this test as root"
    probe = f"hbkprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"no network namespace can be made here ({made.stderr.strip()}): give CAP_SYS_ADMIN"
    _run("ip", "netns", "del", probe)
    return None


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
