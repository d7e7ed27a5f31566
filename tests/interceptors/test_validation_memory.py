"""What one hostile message costs a server that validates: its process is one of its own, and watched."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import grpc
import pytest
from grpc.aio import AioRpcError

from hauberk.protos.shop.orders.v1 import orders_pb2
from tests.interceptors.ruled_server import LARGEST, METHODS
from tests.interceptors.stage import Stage, call, info

REPOSITORY = Path(__file__).resolve().parents[2]

LINE = orders_pb2.OrderLine(sku="A-1", quantity=1)
FINE = orders_pb2.PlaceOrderRequest(idempotency_key="k", customer="ann", lines=[LINE]).SerializeToString()


class Process:
    """A server in a process of its own, and how much memory it has needed."""

    def __init__(self, pid: int, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self._proc = Path(f"/proc/{pid}")
        self._warm_mb = self._mb("VmRSS")

    async def cost_mb(self, name: str, requests: Iterable[bytes]) -> tuple[float, AioRpcError]:
        """By how much a call took its memory beyond what it held when warm, and how the call was refused."""
        (self._proc / "clear_refs").write_text("5")  # the peak begins anew (proc(5))
        with pytest.raises(AioRpcError) as caught:
            await call(self.channel, METHODS[name], name, requests=requests)
        return self._mb("VmHWM") - self._warm_mb, caught.value

    def _mb(self, what: str) -> float:
        (line,) = [
            line for line in (self._proc / "status").read_text().splitlines() if line.startswith(f"{what}:")
        ]
        return int(line.split()[1]) * 1024 / 1e6


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "tests.interceptors.ruled_server", str(tmp_path)],
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
        stage = Stage(tmp_path)
        try:
            channel = stage.channel(address=address)
            for name, shape in METHODS.items():
                for _ in range(20):
                    await call(channel, shape, name, requests=[FINE])
            yield Process(process.pid, channel)
        finally:
            await stage.close()
    finally:
        process.stdin.close()
        await asyncio.wait_for(process.wait(), 20)


def filled(part: bytes) -> bytes:
    return part * (LARGEST // len(part))


EMPTY, UNKNOWN = filled(b"\x1a\x00"), filled(b"\x7a\x00")
LONG = b"\x0a\x80\x80\x80\x02" + filled(b"x")
LINES = filled(b"\x1a\x80\x40\x0a\xfd\x3f" + b"A" * 8189)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux: /proc/PID/clear_refs")
@pytest.mark.parametrize(
    ("name", "requests", "reason", "most_mb"),
    [
        ("One", [EMPTY], "TOO_MANY_ITEMS", 20),
        ("Many", [FINE, EMPTY], "TOO_MANY_ITEMS", 20),
        ("One", [UNKNOWN], "TOO_MANY_ITEMS", 20),
        ("One", [LONG], "MESSAGE_INVALID", 40),
        ("One", [LINES], "MESSAGE_INVALID", 40),
    ],
    ids=["empty parts", "empty parts, streamed", "unknown parts", "one long text", "lines with long texts"],
)
async def test_message_of_4_mib_that_is_refused_costs_little_memory(
    server: Process, name: str, requests: list[bytes], reason: str, most_mb: float
) -> None:
    """Of nothing but empty sub-messages it is refused unparsed; for a rule it has to be parsed."""
    cost_mb, error = await server.cost_mb(name, requests)
    print(f"{cost_mb:.1f} MB")
    assert info(error).reason == reason
    assert cost_mb < most_mb
