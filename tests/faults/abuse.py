"""What holds while a process of the mesh is being abused, for the one who calls it all the while."""

import asyncio
import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from hauberk.protos.shop.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from hauberk.protos.shop.money.v1 import money_pb2
from tests.mesh.fleet import Fleet, fleet
from tests.mesh.running import REPOSITORY, shop

VICTIM = "catalog-1"
SHOPS = "hauberk.services.catalog.main"
"""What the victim runs."""
ATTACKER = "orders"
BYSTANDER = "gateway"
NOTHING: Mapping[str, str] = {}
RATE = 50
"""Calls of the bystander in a second."""
AROUND_S = 30
ALONE_S = 10.0
STALL_MS = 500.0
LEAST_P99_MS = 100.0
PEAK_MB = 200.0
KEPT_MB = 20.0
BACK_S = 10.0


@dataclass(slots=True)
class Seen:
    """Latencies in milliseconds of the calls of a while, and what failed."""

    ms: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def p99(self) -> float:
        ordered = sorted(self.ms)
        return ordered[int(0.99 * len(ordered))]

    def around(self, unloaded: "Seen") -> "Seen":
        """The 30 s around an attack, where fewer were watched: the rest of them is as before it."""
        rest = itertools.islice(itertools.cycle(unloaded.ms), max(0, AROUND_S * RATE - len(self.ms)))
        return Seen([*self.ms, *rest], self.failed)

    def __str__(self) -> str:
        return f"{len(self.ms)} calls, p99 {self.p99:.1f} ms, longest {max(self.ms):.1f} ms"


class Scene:
    """A catalog in a process of its own, a bystander who calls it, and the attacker's certificate."""

    def __init__(self, mesh: Fleet, bystander: "catalog_pb2_grpc.CatalogAsyncStub", address: str) -> None:
        self.mesh = mesh
        self.address = address
        self._bystander = bystander
        self.unloaded = Seen()

    @property
    def pid(self) -> int:
        return self.mesh.pid(VICTIM)

    @property
    def rss_mb(self) -> float:
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - counted, not walked

    async def warm_up(self) -> None:
        """Let it open what it keeps open: threads, connections to its database."""
        for _ in range(3):
            await asyncio.gather(*(self._read_all() for _ in range(30)))

    async def _read_all(self) -> None:
        async for _ in self._bystander.ListProducts(catalog_pb2.ListProductsRequest(), timeout=10):
            pass

    async def watch(self, seconds: float) -> Seen:
        """Call for that long, at a fixed rate whatever the answers take."""
        seen = Seen()
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(round(seconds * RATE)):
                await asyncio.sleep(began + number / RATE - time.monotonic())
                group.create_task(self._call(seen))
        return seen

    async def _call(self, seen: Seen) -> None:
        began = time.perf_counter()
        try:
            await self._bystander.GetProduct(catalog_pb2.GetProductRequest(sku="SOLD-1"), timeout=5)
        except grpc.aio.AioRpcError as error:
            seen.failed.append(f"{error.code().name}: {error.details()}")
        seen.ms.append(1000 * (time.perf_counter() - began))

    async def attacked(self, attack: str, *, seconds: float) -> dict[str, Any]:
        """What the attack said. AssertionError where the bystander, memory or descriptors notice too much."""
        rss, descriptors = self.rss_mb, self.descriptors
        peak = rss

        async def sample() -> None:
            nonlocal peak
            while True:
                peak = max(peak, self.rss_mb)
                await asyncio.sleep(0.02)

        sampling = asyncio.create_task(sample())
        watching = asyncio.create_task(self.watch(seconds))
        await asyncio.sleep(0.5)
        told = await self.attack(attack)
        seen = await watching
        back = await self._recovered(rss, descriptors)
        sampling.cancel()
        around = seen.around(self.unloaded)
        report = (
            f"{attack}: {seen}; p99 of 30 s {around.p99:.1f} ms; unloaded {self.unloaded}; "
            f"memory {rss:.0f} MB, +{peak - rss:.0f} MB at most, +{self.rss_mb - rss:.0f} MB after; "
            f"descriptors {descriptors}, {self.descriptors} after; {told}"
        )
        print(report)
        assert not seen.failed, (seen.failed[:3], report)
        if seconds >= ALONE_S:  # the short version runs in the company of other tests, which stall it too
            assert max(seen.ms) < STALL_MS, report
            assert around.p99 <= max(3 * self.unloaded.p99, LEAST_P99_MS), report
        assert peak - rss <= PEAK_MB, report
        assert back, f"not back after {BACK_S:g} s: {report}"
        return told

    async def attack(self, attack: str) -> dict[str, Any]:
        """What the attack said at its end."""
        folder = self.mesh.state.workload(ATTACKER, "test") / "current"
        command = [sys.executable, "-m", "tests.faults.attackers", attack, self.address, str(folder)]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(40):
                out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, attack
        return dict(json.loads(out))

    async def _recovered(self, rss: float, descriptors: int) -> bool:
        """Whether memory and descriptors come back in time."""
        ends = time.monotonic() + BACK_S
        while time.monotonic() < ends:
            if self.rss_mb <= rss + KEPT_MB and self.descriptors <= descriptors:
                return True
            await asyncio.sleep(0.1)
        return False


@asynccontextmanager
async def scene(
    folder: Path, *, unloaded_s: float, catalog: str = SHOPS, environment: Mapping[str, str] = NOTHING
) -> AsyncIterator[Scene]:
    """A catalog, that of the shop with goods in it, measured so many seconds before anybody attacks it."""
    text = shop().replace(SHOPS, catalog)

    def prepare(mesh: Fleet) -> None:
        mesh.environment[VICTIM] = {"PYTHONPATH": str(REPOSITORY), **environment}

    async with fleet(folder, text, start=[VICTIM], prepare=prepare) as mesh:
        await mesh.member(ATTACKER)
        bystander = catalog_pb2_grpc.CatalogStub((await mesh.member(BYSTANDER)).channel)
        (row,) = await mesh.serving(VICTIM)
        made = Scene(mesh, bystander, row.address)
        if catalog == SHOPS:
            await bystander.ImportProducts(_goods(500), timeout=10)
            await made.warm_up()
        with contextlib.suppress(grpc.aio.AioRpcError):  # the audit log of refusals stays open too
            await bystander.GetProduct(catalog_pb2.GetProductRequest(sku="none"), timeout=10)
        await made.watch(1.0)
        made.unloaded = await made.watch(unloaded_s)
        assert not made.unloaded.failed
        yield made


async def _goods(count: int) -> AsyncIterator[catalog_pb2.ImportProductsRequest]:
    price = money_pb2.Money(currency="EUR", minor_units=100)
    for number in range(count):
        own = catalog_pb2.Product(sku=f"SOLD-{number}", name="Goods " * 33, price=price, stock=1)
        yield catalog_pb2.ImportProductsRequest(product=own)
